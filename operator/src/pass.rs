//! What passes have in common: what the log says of whose they are, how they are measured, how they fail, and when they are tried
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::controller::{self, Action as Requeue};
use kube::runtime::watcher;
use tracing::{Instrument, Span};

use crate::client::retry_after;
use crate::metrics::Metrics;

/// A pass after the first one that failed. Each failure in a row doubles it.
const RETRY: Duration = Duration::from_secs(3);
/// The longest pause after failures in a row, unless the API server asks for a longer one.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The API server refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}: {1}")]
pub struct Error(&'static str, Box<kube::Error>);

/// Says what was being done.
pub fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |error| Error(what, Box::new(error))
}

/// Whether somebody else was only faster.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(answer) if answer.code == 409)
}

/// The pause after this many failures in a row, where `first` is the one after the first.
pub fn backoff(first: Duration, failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(16);
    first.saturating_mul(doubled).min(LONGEST_BACKOFF)
}

/// What every line of the log says that comes out of a pass over an object of this kind, which belongs to `cluster`.
pub fn span(kind: &'static str, object: &impl ResourceExt, cluster: &str) -> Span {
    let (namespace, object) = (object.namespace().unwrap_or_default(), object.name_any());
    tracing::info_span!("pass", kind, namespace, object, cluster)
}

/// Goes on with passes until there are no more. Watches that fail are begun again by themselves: it is logged and counted. `gone`
/// is told the namespace and name of what is not there any more.
pub async fn attend<T, E: std::error::Error + 'static>(
    passes: impl Stream<Item = Result<T, controller::Error<E, watcher::Error>>>,
    metrics: &Metrics,
    mut gone: impl FnMut(&str, &str),
) {
    let each = passes.for_each(|outcome| {
        match outcome {
            Err(controller::Error::QueueError(error)) => {
                tracing::warn!(%error, "a watch failed");
                metrics.failure("watch");
            }
            Err(controller::Error::ObjectNotFound(object)) => {
                gone(object.namespace.as_deref().unwrap_or_default(), &object.name);
            }
            _ => {}
        }
        std::future::ready(())
    });
    each.await;
}

/// The passes over objects of a kind that is not EtcdCluster.
pub struct Passes {
    kind: &'static str,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Failures in a row, by the object's uid.
    failures: Mutex<BTreeMap<String, u32>>,
}

impl Passes {
    /// None yet.
    pub fn new(kind: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { kind, metrics, failures: Mutex::default() }
    }

    /// Makes a pass over an object that belongs to `cluster`: it is counted and its time is taken, and a failure is logged and
    /// counted, unless somebody else was only faster.
    pub async fn measured<T>(
        &self,
        object: &impl ResourceExt,
        cluster: &str,
        pass: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (span, started) = (span(self.kind, object, cluster), Instant::now());
        let result = pass.instrument(span.clone()).await;
        self.metrics.pass(self.kind, started.elapsed().as_secs_f64());
        match &result {
            Ok(_) => drop(self.failures().remove(&object.uid().unwrap_or_default())),
            Err(error) if is_conflict(&error.1) => {}
            Err(error) => {
                span.in_scope(|| tracing::warn!(%error, "the pass failed"));
                self.metrics.failure(self.kind);
            }
        }
        result
    }

    /// When the next pass is made over an object after one that failed.
    pub fn again(&self, object: &impl ResourceExt, error: &Error) -> Requeue {
        let mut failures = self.failures();
        let count = failures.entry(object.uid().unwrap_or_default()).or_default();
        *count += 1;
        Requeue::requeue(backoff(RETRY, *count).max(retry_after(&error.1)))
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use crate::crd::EtcdUser;

    fn refused(code: u16, retry_after: u32) -> Error {
        let status = json!({"status": "Failure", "code": code, "details": {"retryAfterSeconds": retry_after}});
        let status: Status = serde_json::from_value(status).unwrap();
        Error("trying", Box::new(kube::Error::Api(status.boxed())))
    }

    #[tokio::test]
    async fn pauses_double_until_a_pass_succeeds_and_are_as_long_as_the_api_server_asks_for() {
        let passes = Passes::new("user", Arc::default());
        let user: EtcdUser =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"cluster": "c"}})).unwrap();
        let again = |error| passes.again(&user, &error);
        let seconds = |seconds| Requeue::requeue(Duration::from_secs(seconds));
        for pause in [3, 6, 12, 24, 30, 30] {
            assert_eq!(again(refused(500, 0)), seconds(pause));
        }
        assert_eq!(again(refused(429, 90)), seconds(90));
        passes.measured(&user, "c", async { Ok(()) }).await.unwrap();
        assert_eq!(again(refused(500, 0)), seconds(3));
        assert_eq!(again(refused(503, 8)), seconds(8));
    }
}
