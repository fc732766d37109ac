//! What the program tells of itself: metrics, and whether the archive is current.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ArchiveError;
use super::point::{Complete, now_ms, told_time};
use crate::telemetry::metrics::{add, text_of};

/// What the archive may be behind, besides its interval, and still be current.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is told.
#[derive(Debug)]
pub struct ArchiveMetrics {
    registry: Registry,
    revision: Gauge,
    complete_seconds: Gauge<f64, AtomicU64>,
    complete_ms: AtomicI64,
    interval: Duration,
    /// Segments that were written.
    pub segments: Counter,
    /// Their bytes.
    pub stored_bytes: Counter,
    /// What failed and is tried again.
    pub errors: Counter,
    /// Revisions that were gone before they could be archived: how often.
    pub gaps: Counter,
}

impl ArchiveMetrics {
    /// Of a program that writes at this interval.
    pub fn new(interval: Duration) -> Arc<Self> {
        let mut registry = Registry::default();
        let of = &mut registry;
        Arc::new(Self {
            revision: add(of, "keelson_archive_revision", "Everything up to this revision is archived"),
            complete_seconds: add(
                of,
                "keelson_archive_complete_timestamp_seconds",
                "Everything that was acknowledged before this time is archived",
            ),
            segments: add(of, "keelson_archive_segments", "Segments that were written"),
            stored_bytes: add(of, "keelson_archive_stored_bytes", "Bytes of the segments that were written"),
            errors: add(of, "keelson_archive_errors", "Failures after which it was tried again"),
            gaps: add(of, "keelson_archive_gaps", "How often revisions were compacted before they were archived"),
            registry,
            complete_ms: AtomicI64::default(),
            interval,
        })
    }

    /// The archive goes so far.
    pub fn set_complete(&self, complete: Complete) {
        self.revision.set(complete.revision);
        self.complete_seconds.set(complete.time_ms as f64 / 1000.0);
        self.complete_ms.store(complete.time_ms, Ordering::Relaxed);
    }

    /// Why the archive is not current, if it is not.
    fn staleness(&self, now_ms: i64) -> Option<String> {
        let complete_ms = self.complete_ms.load(Ordering::Relaxed);
        let allowed = i64::try_from((PATIENCE + 2 * self.interval).as_millis()).unwrap_or(i64::MAX);
        match complete_ms {
            0 => Some("nothing was archived since the start".into()),
            _ if now_ms - complete_ms > allowed => Some(format!("the archive ends at {}", told_time(complete_ms))),
            _ => None,
        }
    }
}

/// Serves `/metrics`, `/livez` and `/readyz` at this address, as long as the program runs.
pub async fn serve(address: &str, metrics: Arc<ArchiveMetrics>) -> Result<(), ArchiveError> {
    let failed = |error| ArchiveError::Listen(address.to_owned(), error);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(metrics);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are served no more");
        }
    });
    Ok(())
}

async fn render(State(metrics): State<Arc<ArchiveMetrics>>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    ([(CONTENT_TYPE, kind)], text_of(&metrics.registry))
}

async fn ready(State(metrics): State<Arc<ArchiveMetrics>>) -> Response {
    match metrics.staleness(now_ms()) {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_is_behind_is_not_ready() {
        let metrics = ArchiveMetrics::new(Duration::from_secs(30));
        assert!(metrics.staleness(1_000_000).is_some(), "nothing is known");
        metrics.set_complete(Complete { revision: 5, time_ms: 1_000_000 });
        assert_eq!(metrics.staleness(1_120_000), None);
        assert!(metrics.staleness(1_120_001).is_some_and(|why| why.contains("1970-01-01T00:16:40.000Z")));
        let text = text_of(&metrics.registry);
        for line in [
            "keelson_archive_revision 5",
            "keelson_archive_complete_timestamp_seconds 1000.0",
            "keelson_archive_gaps_total 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
