//! What passes over objects beside clusters have in common: how they fail, and when they are tried again.

use std::time::Duration;

use kube::ResourceExt;

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

impl Error {
    /// Logs and counts the failure of a pass over an object of this kind, unless somebody else was only faster.
    pub fn tell(&self, kind: &'static str, object: &impl ResourceExt, metrics: &Metrics) {
        let conflict = matches!(&*self.1, kube::Error::Api(answer) if answer.code == 409);
        if !conflict {
            tracing::warn!(error = %self, kind, name = object.name_any(), "a pass failed");
            metrics.failure(kind);
        }
    }
}
