//! The node agent's door for the API server: logs and exec over HTTP/1.1 on a unix socket.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path as UrlPath, Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use tokio::net::UnixListener;

use super::Pods;
use super::exec::{self, ExecOptions, PROTOCOLS};
use super::logs::{self, Log, LogOptions};
use super::pod::PodRun;

/// Serves until the process ends.
pub async fn serve(socket: &Path, pods: Arc<Pods>) -> anyhow::Result<()> {
    drop(tokio::fs::remove_file(socket).await);
    let listener = UnixListener::bind(socket)?;
    let router = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(exec_in_container))
        .with_state(pods);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the node agent's socket ended");
        }
    });
    Ok(())
}

type Place = UrlPath<(String, String, String)>;

fn find(pods: &Pods, namespace: &str, name: &str, container: &str) -> Result<Arc<PodRun>, Refusal> {
    let pod = pods.find(namespace, name).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "the pod is not on this node"))?;
    let known = {
        let object = pod.pod.borrow();
        let spec = object.spec.as_ref();
        spec.is_some_and(|spec| {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init).any(|c| c.name == container)
        })
    };
    match known {
        true => Ok(pod),
        false => Err(refuse(StatusCode::BAD_REQUEST, &format!("container {container} is not valid for pod {name}"))),
    }
}

/// Status and message of an answer that says no.
type Refusal = (StatusCode, String);

fn refuse(status: StatusCode, message: &str) -> Refusal {
    (status, message.to_owned())
}

async fn container_logs(
    State(pods): State<Arc<Pods>>,
    UrlPath((namespace, name, container)): Place,
    Query(options): Query<LogOptions>,
) -> Response {
    let pod = match find(&pods, &namespace, &name, &container) {
        Ok(pod) => pod,
        Err(refusal) => return refusal.into_response(),
    };
    let current = pod.run_number(&container);
    let directory = pod.log_directory(&container);
    let live = pod.live(&container).filter(|_| !options.previous);
    // Between two runs, the latest log is that of the run that has ended.
    let exists = |run: &i32| *run >= 0 && Log::path(&directory, *run).exists();
    let latest = [current, current - 1].into_iter().find(exists);
    let run = match options.previous {
        true => latest.map(|run| run - 1).filter(exists),
        false => latest,
    };
    let Some(run) = run else {
        let what = if options.previous { "previous terminated" } else { "started" };
        let message = format!("{what} container {container:?} in pod {name:?} not found");
        return refuse(StatusCode::BAD_REQUEST, &message).into_response();
    };
    let stream = logs::read(Log::path(&directory, run), options, live.map(|live| live.log)).await;
    ([("content-type", "text/plain")], Body::from_stream(stream)).into_response()
}

async fn exec_in_container(
    State(pods): State<Arc<Pods>>,
    UrlPath((namespace, name, container)): Place,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    let pod = match find(&pods, &namespace, &name, &container) {
        Ok(pod) => pod,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(live) = pod.live(&container) else {
        return refuse(StatusCode::NOT_FOUND, &format!("container {container} is not running")).into_response();
    };
    let options = ExecOptions::parse(query.as_deref().unwrap_or_default());
    upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| exec::serve(socket, live, options))
}
