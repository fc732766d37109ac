//! The HTTP side of the port: probes, version, metrics.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde::Serialize;
use serde_json::json;

use super::Api;
use crate::config::ETCD_VERSION;
use crate::mvcc::View;
use crate::node::Role;
use crate::proto::etcdserverpb::AlarmType;
use crate::telemetry::{process, requests};

/// Everything that is served over HTTP.
pub fn router(api: Arc<Api>) -> Router {
    let more = Router::new().route("/version", get(version)).route("/debug/vars", get(variables));
    let more = more.route_layer(middleware::from_fn(only_get)).with_state(api.clone());
    more.merge(metrics_router(api))
}

/// Metrics and probes alone, as `--listen-metrics-urls` has them.
pub fn metrics_router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/livez/{check}", get(one_livez))
        .route("/readyz", get(readyz))
        .route("/readyz/{check}", get(one_readyz))
        .route_layer(middleware::from_fn(only_get))
        .route("/metrics", any(metrics))
        .fallback(not_found)
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

/// An error in plain words, as Go's server writes it.
pub fn plain_error(status: StatusCode, text: &str) -> Response {
    let mut response = plain(format!("{text}\n"));
    *response.status_mut() = status;
    response
}

fn plain(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn not_found() -> Response {
    plain_error(StatusCode::NOT_FOUND, "404 page not found")
}

async fn only_get(request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let mut response = plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// The answer of `/version`, in etcd's order.
#[derive(Serialize)]
struct Versions {
    etcdserver: &'static str,
    etcdcluster: String,
    storage: String,
}

async fn version(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let version = api.cluster_version().unwrap_or_default();
    axum::Json(Versions { etcdserver: ETCD_VERSION, etcdcluster: version.clone(), storage: version })
}

/// What Go's expvar publishes in etcd, as far as it is not about Go.
async fn variables(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let status = api.node.status();
    let arguments: Vec<String> = std::env::args_os().map(|os| os.to_string_lossy().into_owned()).collect();
    let state = match status.role {
        Role::Leader => "StateLeader",
        Role::Follower | Role::Learner => "StateFollower",
    };
    let raft = json!({
        "id": format!("{:x}", status.member_id),
        "term": status.term,
        "commit": status.committed_index,
        "lead": format!("{:x}", status.leader.unwrap_or(0)),
        "raftState": state,
        "applied": status.applied_index,
    });
    let limit = process::usage().max_fds;
    let text = format!(
        "{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {limit},\n\"raft.status\": {raft}\n}}\n",
        json!(arguments)
    );
    ([(CONTENT_TYPE, "application/json; charset=utf-8")], text)
}

async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let counts = &api.metrics.requests;
    counts.scrapes.inc();
    let text = api.metrics.render(&api.observed());
    counts.scrapes.dec();
    counts.scraped.get_or_create(&requests::Scraped { code: "200" }).inc();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores")], text)
}

type Queries = Query<Vec<(String, String)>>;

/// The old probe: one answer for leader, alarms and a read; `serializable=true` leaves the quorum out.
async fn health(State(api): State<Arc<Api>>, Query(queries): Queries) -> Response {
    let serializable = queries.iter().any(|(name, value)| name == "serializable" && value == "true");
    let sickness = api.sickness(serializable, &excluded(&queries)).await;
    let told = |healthy: &str, reason: &str| format!("{{\"health\":\"{healthy}\",\"reason\":{}}}", json!(reason));
    let counts = &api.metrics.requests;
    match sickness {
        // The type that etcd's clients see: Go guesses it.
        None => {
            counts.health_success.inc();
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], told("true", "")).into_response()
        }
        Some(reason) => {
            counts.health_failures.inc();
            let told = told("false", &reason);
            tracing::warn!(output = told, "this member is not healthy");
            plain_error(StatusCode::SERVICE_UNAVAILABLE, &told)
        }
    }
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
    api.probe("livez", LIVEZ, &queries).await
}

async fn readyz(State(api): State<Arc<Api>>, Query(queries): Queries) -> Response {
    api.probe("readyz", READYZ, &queries).await
}

async fn one_livez(State(api): State<Arc<Api>>, Path(name): Path<String>, Query(queries): Queries) -> Response {
    api.probe_one("livez", LIVEZ, &name, &queries).await
}

async fn one_readyz(State(api): State<Arc<Api>>, Path(name): Path<String>, Query(queries): Queries) -> Response {
    api.probe_one("readyz", READYZ, &name, &queries).await
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

    fn count(&self, kind: &'static str, name: &'static str, is_well: bool) {
        let counts = &self.metrics.requests;
        counts.check.get_or_create(&requests::Check { r#type: kind, name }).set(is_well.into());
        let status = if is_well { "success" } else { "error" };
        counts.checks.get_or_create(&requests::Checked { r#type: kind, name, status }).inc();
    }

    async fn probe(&self, kind: &'static str, checks: &[Check], queries: &[(String, String)]) -> Response {
        let excluded = excluded(queries);
        let checks: Vec<Check> = checks.iter().copied().filter(|check| !excluded.contains(&check.name())).collect();
        self.run(kind, &checks, queries).await
    }

    /// One check by its own path, which nothing excludes.
    async fn probe_one(
        &self,
        kind: &'static str,
        checks: &[Check],
        name: &str,
        queries: &[(String, String)],
    ) -> Response {
        match checks.iter().find(|check| check.name() == name) {
            Some(check) => self.run(kind, &[*check], queries).await,
            None => not_found().await,
        }
    }

    async fn run(&self, kind: &'static str, checks: &[Check], queries: &[(String, String)]) -> Response {
        let (mut lines, mut healthy) = (String::new(), true);
        for check in checks {
            let name = check.name();
            let checked = self.check(*check).await;
            self.count(kind, name, checked.is_ok());
            match checked {
                Ok(()) => lines += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    healthy = false;
                    lines += &format!("[-]{name} failed: {reason}\n");
                }
            }
        }
        let verbose = queries.iter().any(|(name, _)| name == "verbose");
        match (healthy, verbose) {
            (false, _) => plain_error(StatusCode::SERVICE_UNAVAILABLE, &lines),
            (true, true) => plain(lines + "ok\n"),
            (true, false) => plain("ok\n".to_owned()),
        }
    }
}
