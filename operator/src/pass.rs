//! What passes have in common: what the log says of whose they are, how they are measured, how those over objects beside clusters
//! fail, and when they are tried again.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use tracing::{Instrument, Span};

use crate::metrics::Metrics;

/// A pass after one that failed.
pub const RETRY: Duration = Duration::from_secs(3);

/// The API server refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}: {1}")]
pub struct Error(&'static str, Box<kube::Error>);

/// Says what was being done.
pub fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |error| Error(what, Box::new(error))
}

/// What every line of the log says that comes out of a pass over an object of this kind, which belongs to `cluster`.
pub fn span(kind: &'static str, object: &impl ResourceExt, cluster: &str) -> Span {
    let (namespace, object) = (object.namespace().unwrap_or_default(), object.name_any());
    tracing::info_span!("pass", kind, namespace, object, cluster)
}

/// Makes a pass: it is counted and its time is taken, and a failure is logged and counted, unless somebody else was only faster.
pub async fn measured<T>(
    kind: &'static str,
    object: &impl ResourceExt,
    cluster: &str,
    metrics: &Metrics,
    pass: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let (span, started) = (span(kind, object, cluster), Instant::now());
    let result = pass.instrument(span.clone()).await;
    metrics.pass(kind, started.elapsed().as_secs_f64());
    result.inspect_err(|error| {
        let conflict = matches!(&*error.1, kube::Error::Api(answer) if answer.code == 409);
        if !conflict {
            span.in_scope(|| tracing::warn!(%error, "the pass failed"));
            metrics.failure(kind);
        }
    })
}
