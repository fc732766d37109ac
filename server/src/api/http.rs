//! The HTTP side of the port: probes, version, metrics.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::Api;
use super::maintenance::STORAGE_VERSION;
use crate::config::ETCD_VERSION;
use crate::mvcc::View;
use crate::proto::etcdserverpb::AlarmType;

/// Everything that is served over HTTP.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().route("/version", get(version)).merge(metrics_router(api))
}

/// Metrics and probes alone, as `--listen-metrics-urls` has them.
pub fn metrics_router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/livez/{check}", get(one_livez))
        .route("/readyz", get(readyz))
        .route("/readyz/{check}", get(one_readyz))
        .route("/metrics", get(metrics))
        .with_state(api)
}

/// Answers one request by a router, as a connection asks for it.
pub async fn answer<B>(
    mut router: Router,
    request: axum::http::Request<B>,
) -> Result<Response, std::convert::Infallible>
where
    B: hyper::body::Body<Data = bytes::Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    tower::Service::call(&mut router, request).await
}

async fn version() -> impl IntoResponse {
    Json(json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": STORAGE_VERSION,
        "storage": STORAGE_VERSION,
    }))
}

async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let text = api.metrics.render(&api.observed());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

type Queries = Query<Vec<(String, String)>>;

/// The old probe: one answer for leader, alarms and a read; `serializable=true` leaves the quorum out.
async fn health(State(api): State<Arc<Api>>, Query(queries): Queries) -> Response {
    let serializable = queries.iter().any(|(name, value)| name == "serializable" && value == "true");
    let reason = api.sickness(serializable, &excluded(&queries)).await;
    let (code, healthy) = match reason {
        None => (StatusCode::OK, "true"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "false"),
    };
    let reason = reason.unwrap_or_default();
    let body = format!("{{\"health\":\"{healthy}\",\"reason\":{}}}", json!(reason));
    // The type that etcd's clients see: Go guesses it.
    (code, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

fn excluded(queries: &[(String, String)]) -> Vec<&str> {
    let excluded = queries.iter().filter(|(name, _)| name == "exclude");
    excluded.map(|(_, value)| value.as_str()).collect()
}

/// One thing that a probe looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// Alive: this member can read. It must not depend on the others, or a lost quorum would restart all members.
const LIVEZ: &[Check] = &[Check::SerializableRead];

/// Ready: this member can serve clients.
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

async fn livez(State(api): State<Arc<Api>>, Query(queries): Queries) -> Response {
    api.probe(LIVEZ, &queries).await
}

async fn readyz(State(api): State<Arc<Api>>, Query(queries): Queries) -> Response {
    api.probe(READYZ, &queries).await
}

async fn one_livez(State(api): State<Arc<Api>>, Path(name): Path<String>, Query(queries): Queries) -> Response {
    api.probe_one(LIVEZ, &name, &queries).await
}

async fn one_readyz(State(api): State<Arc<Api>>, Path(name): Path<String>, Query(queries): Queries) -> Response {
    api.probe_one(READYZ, &name, &queries).await
}

impl Api {
    /// Why this member is not healthy, if so.
    async fn sickness(&self, serializable: bool, excluded: &[&str]) -> Option<String> {
        let alarms = match self.read(false, |view| Ok(view.alarms()?)).await {
            Ok(alarms) => alarms,
            Err(status) => return Some(format!("RANGE ERROR:{}", status.message())),
        };
        let raised = alarms.iter().map(|alarm| alarm.alarm().as_str_name()).find(|name| !excluded.contains(name));
        if let Some(name) = raised {
            return Some(format!("ALARM {name}"));
        }
        if !serializable && self.node.status().leader.is_none() {
            return Some("RAFT NO LEADER".to_owned());
        }
        let read = self.linearize(serializable).await;
        read.err().map(|error| format!("RANGE ERROR:{error}"))
    }

    async fn check(&self, check: Check) -> Result<(), String> {
        match check {
            Check::SerializableRead => self
                .read(false, |view| Ok(view.key(b"health")?))
                .await
                .map(drop)
                .map_err(|status| status.message().to_owned()),
            Check::LinearizableRead => self.node.linearize().await.map_err(|error| error.to_string()),
            Check::DataCorruption => {
                let alarms = self.read(false, |view| Ok(view.alarms()?)).await;
                let alarms = alarms.map_err(|status| status.message().to_owned())?;
                match alarms.iter().any(|alarm| alarm.alarm() == AlarmType::Corrupt) {
                    true => Err("alarm activated: CORRUPT".to_owned()),
                    false => Ok(()),
                }
            }
            Check::NonLearner => match self.node.status().is_learner() {
                true => Err("not supported for learner".to_owned()),
                false => Ok(()),
            },
        }
    }

    async fn probe(&self, checks: &[Check], queries: &[(String, String)]) -> Response {
        let verbose = queries.iter().any(|(name, _)| name == "verbose");
        let excluded = excluded(queries);
        let (mut lines, mut healthy) = (String::new(), true);
        for check in checks {
            let name = check.name();
            if excluded.contains(&name) {
                continue;
            }
            match self.check(*check).await {
                Ok(()) => lines += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    healthy = false;
                    lines += &format!("[-]{name} failed: {reason}\n");
                }
            }
        }
        match (healthy, verbose) {
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, lines).into_response(),
            (true, true) => (lines + "ok\n").into_response(),
            (true, false) => "ok\n".into_response(),
        }
    }

    async fn probe_one(&self, checks: &[Check], name: &str, queries: &[(String, String)]) -> Response {
        match checks.iter().find(|check| check.name() == name) {
            Some(check) => self.probe(&[*check], queries).await,
            None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        }
    }
}
