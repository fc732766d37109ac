//! The operator's own metrics, and the listener for them and for probes.

mod backups;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::backups::Backups;
use crate::build;
use crate::crd::Phase;
use crate::names::Names;
use crate::plan::tls::Tls;

/// The kind of a step, of a failure, or of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    kind: String,
}

/// A request to the API server, and the status of its answer; `none` if there was none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    method: String,
    code: String,
}

/// A Secret with certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Certificates {
    namespace: String,
    cluster: String,
    secret: String,
}

/// A cluster, and the phase that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InPhase {
    namespace: String,
    cluster: String,
    phase: String,
}

/// The kinds of failures.
pub const FAILURES: [&str; 9] = ["api", "act", "unsafe", "stale", "backup", "schedule", "user", "role", "watch"];

/// The operator's metrics; `keelson_operator_` goes before each name.
pub struct Metrics {
    registry: Registry,
    passes: Family<Kind, Counter>,
    pass_seconds: Family<Kind, Histogram>,
    failures: Family<Kind, Counter>,
    actions: Family<Kind, Counter>,
    api_requests: Family<Request, Counter>,
    status_writes: Counter,
    leader: Gauge<i64, AtomicI64>,
    ready: AtomicBool,
    clusters: Gauge<i64, AtomicI64>,
    phase: Family<InPhase, Gauge<i64, AtomicI64>>,
    /// The phase of each cluster that is shown, by the cluster's uid.
    phases: Mutex<BTreeMap<String, InPhase>>,
    expiry: Family<Certificates, Gauge<i64, AtomicI64>>,
    /// Backups and schedules.
    pub backups: Backups,
    /// Those of each cluster that have a value, by the cluster's uid.
    certificates: Mutex<BTreeMap<String, Vec<Certificates>>>,
}

fn pass_seconds() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keelson_operator");
        let passes = Family::<Kind, Counter>::default();
        let pass_seconds = Family::new_with_constructor(pass_seconds as fn() -> Histogram);
        let failures = Family::<Kind, Counter>::default();
        // From zero, or Prometheus would not see the first one as an increase.
        for kind in FAILURES {
            drop(failures.get_or_create(&Kind { kind: kind.into() }));
        }
        let actions = Family::<Kind, Counter>::default();
        let api_requests = Family::<Request, Counter>::default();
        let status_writes = Counter::default();
        let leader = Gauge::default();
        let clusters = Gauge::default();
        let phase = Family::<InPhase, Gauge<i64, AtomicI64>>::default();
        let expiry = Family::<Certificates, Gauge<i64, AtomicI64>>::default();
        registry.register("reconcile_passes", "Passes, by the kind of the object", passes.clone());
        registry.register("reconcile_seconds", "Duration of a pass, by the kind of the object", pass_seconds.clone());
        registry.register("reconcile_failures", "Passes and watches that failed, by kind", failures.clone());
        registry.register("actions", "Steps taken, by kind", actions.clone());
        let help = "Requests to the API server, by the status of the answer, or none";
        registry.register("api_requests", help, api_requests.clone());
        registry.register("status_writes", "Writes of a status", status_writes.clone());
        registry.register("leader", "1 while this operator is the leader", leader.clone());
        registry.register("clusters", "Clusters seen", clusters.clone());
        registry.register("cluster_phase", "1 for the phase that a cluster is in", phase.clone());
        let help = "When the first certificate in a Secret expires, in Unix time";
        registry.register("certificate_expiry_timestamp_seconds", help, expiry.clone());
        let backups = Backups::default();
        backups.register(&mut registry);
        Self {
            registry,
            passes,
            pass_seconds,
            failures,
            actions,
            api_requests,
            status_writes,
            leader,
            ready: AtomicBool::new(false),
            clusters,
            phase,
            phases: Mutex::default(),
            expiry,
            backups,
            certificates: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A pass over an object of this kind ended after this many seconds.
    pub fn pass(&self, kind: &str, seconds: f64) {
        let kind = Kind { kind: kind.into() };
        self.passes.get_or_create(&kind).inc();
        self.pass_seconds.get_or_create(&kind).observe(seconds);
    }

    /// A pass or a watch failed.
    pub fn failure(&self, kind: &str) {
        let kind = kind.to_string();
        self.failures.get_or_create(&Kind { kind }).inc();
    }

    /// A step was taken.
    pub fn action(&self, kind: &str) {
        let kind = kind.to_string();
        self.actions.get_or_create(&Kind { kind }).inc();
    }

    /// A request to the API server ended.
    pub fn api_request(&self, method: &str, code: String) {
        self.api_requests.get_or_create(&Request { method: method.into(), code }).inc();
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// Whether this operator leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// In one of the watched namespaces there are `after` clusters where there were `before`.
    pub fn count_clusters(&self, before: usize, after: usize) {
        self.clusters.inc_by(after as i64 - before as i64);
    }

    /// The phase of a cluster.
    pub fn set_phase(&self, names: &Names, phase: Phase) {
        let mut known = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let shown =
            InPhase { namespace: names.namespace.clone(), cluster: names.cluster.clone(), phase: format!("{phase:?}") };
        if known.get(&names.uid) == Some(&shown) {
            return;
        }
        if let Some(before) = known.remove(&names.uid) {
            self.phase.remove(&before);
        }
        self.phase.get_or_create(&shown).set(1);
        known.insert(names.uid.clone(), shown);
    }

    /// The certificates of a cluster, as seen.
    pub fn set_certificates(&self, names: &Names, tls: &Tls) {
        let expiring = build::expiring(names, tls);
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if expiring.is_empty() && !known.contains_key(&names.uid) {
            return;
        }
        let labels = |secret: &String| Certificates {
            namespace: names.namespace.clone(),
            cluster: names.cluster.clone(),
            secret: secret.clone(),
        };
        for gone in known.remove(&names.uid).unwrap_or_default() {
            if !expiring.iter().any(|(secret, _)| *secret == gone.secret) {
                self.expiry.remove(&gone);
            }
        }
        for (secret, not_after) in &expiring {
            self.expiry.get_or_create(&labels(secret)).set(*not_after);
        }
        if !expiring.is_empty() {
            known.insert(names.uid.clone(), expiring.iter().map(|(secret, _)| labels(secret)).collect());
        }
    }

    /// A cluster is gone: nothing is told of it any more.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let mut known = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, shown| {
            let is_it = shown.namespace == namespace && shown.cluster == cluster;
            if is_it {
                self.phase.remove(shown);
            }
            !is_it
        });
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, secrets| {
            let is_its = |it: &Certificates| it.namespace == namespace && it.cluster == cluster;
            let (gone, kept): (Vec<_>, Vec<_>) = secrets.drain(..).partition(is_its);
            gone.iter().for_each(|secret| {
                self.expiry.remove(secret);
            });
            *secrets = kept;
            !secrets.is_empty()
        });
        self.backups.forget(namespace, cluster);
    }

    /// The API server was reached; from now on the operator is ready, as leader or as stand-by.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }
}

/// The routes `/metrics`, `/livez` and `/readyz`.
pub fn routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .with_state(metrics)
}

async fn text(State(metrics): State<Arc<Metrics>>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &metrics.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}

async fn readiness(State(metrics): State<Arc<Metrics>>) -> (StatusCode, &'static str) {
    match metrics.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the API server was not reached yet"),
    }
}

/// All metrics as a scrape shows them.
#[cfg(test)]
pub fn shown(metrics: &Metrics) -> String {
    let mut text = String::new();
    encode(&mut text, &metrics.registry).unwrap();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An alert on a phase must end with it.
    #[test]
    fn a_cluster_is_shown_in_the_phase_that_it_is_in_and_not_when_it_is_gone() {
        let metrics = Metrics::default();
        let names = Names { cluster: "c".into(), namespace: "ns".into(), uid: "u".into(), tls: false };
        let shown = || {
            let text = shown(&metrics);
            let lines = text.lines().filter_map(|line| line.strip_prefix("keelson_operator_cluster_phase"));
            lines.map(str::to_string).collect::<Vec<_>>()
        };
        for phase in [Phase::Bootstrapping, Phase::Running, Phase::Running] {
            metrics.set_phase(&names, phase);
            assert_eq!(shown(), [format!("{{namespace=\"ns\",cluster=\"c\",phase=\"{phase:?}\"}} 1")]);
        }
        metrics.forget("other", "c");
        assert_eq!(shown().len(), 1);
        metrics.forget("ns", "c");
        assert_eq!(shown(), [""; 0]);
    }

    /// An alert on a first failure needs to have seen that there was none.
    #[test]
    fn failures_are_counted_from_zero() {
        let text = shown(&Metrics::default());
        for kind in FAILURES {
            assert!(
                text.contains(&format!("keelson_operator_reconcile_failures_total{{kind=\"{kind}\"}} 0\n")),
                "{text}"
            );
        }
    }
}
