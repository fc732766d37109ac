//! The metrics that dashboards and alerts for etcd read, one registry for each member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::node::NodeMetrics;
use super::process;
use super::requests::RequestMetrics;

/// Labels of a gRPC method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// unary, bidi_stream, ...
    pub grpc_type: &'static str,
    /// Such as `etcdserverpb.KV`.
    pub grpc_service: String,
    /// Such as `Put`.
    pub grpc_method: String,
}

/// Labels of a finished gRPC call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Handled {
    /// unary, bidi_stream, ...
    pub grpc_type: &'static str,
    /// Such as `etcdserverpb.KV`.
    pub grpc_service: String,
    /// Such as `Put`.
    pub grpc_method: String,
    /// Go's name of the status code, such as `OK` or `Unavailable`.
    pub grpc_code: &'static str,
}

/// Labels of a member and another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
struct Pair {
    Local: String,
    Remote: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterVersion {
    cluster_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerId {
    server_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerVersion {
    server_version: &'static str,
}

/// What is looked up when somebody asks for the metrics.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// This member's id.
    pub member_id: u64,
    /// A leader is known.
    pub has_leader: bool,
    /// This member leads.
    pub is_leader: bool,
    /// This member has no vote.
    pub is_learner: bool,
    /// Leaders seen since the start.
    pub leader_changes: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Bytes on disk.
    pub total_bytes: u64,
    /// Bytes on disk that hold live data.
    pub in_use_bytes: u64,
    /// Bytes above which writes are refused; below 0 without limit.
    pub quota_bytes: i64,
    /// The store's revision.
    pub revision: i64,
    /// The revision below which history is gone.
    pub compact_revision: i64,
    /// Keys that exist; 0 before they are counted.
    pub keys: i64,
    /// Counts the changes of users and roles.
    pub auth_revision: u64,
    /// Events that wait to be sent to watchers.
    pub pending_events: usize,
    /// The version that the members agree on, such as 3.7.0.
    pub cluster_version: String,
    /// Ids of the other members.
    pub peers: Vec<u64>,
    /// Those of them that this member knows to be there.
    pub active_peers: BTreeSet<u64>,
}

/// Histograms by labels.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// A member's metrics. Fields are counted where things happen; the rest is looked up by [`Metrics::render`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Calls begun.
    pub grpc_started: Family<Method, Counter>,
    /// Calls finished, by status.
    pub grpc_handled: Family<Handled, Counter>,
    /// Time of finished calls; only with `--metrics=extensive`.
    pub grpc_seconds: Option<Histograms<Method>>,
    /// Bytes of messages sent to clients.
    pub client_sent_bytes: Counter,
    /// Bytes of messages received from clients.
    pub client_received_bytes: Counter,
    /// What is counted below the doors.
    pub node: Arc<NodeMetrics>,
    /// What is counted of requests.
    pub requests: RequestMetrics,
    /// Proposals that wait for their outcome.
    pub proposals_pending: Gauge,
    /// Proposals that failed.
    pub proposals_failed: Counter,
    /// Requests that took longer than `--warning-unary-request-duration`.
    pub slow_requests: Counter,
    looked_up: LookedUp,
}

#[derive(Debug, Default)]
struct LookedUp {
    has_leader: Gauge,
    is_leader: Gauge,
    is_learner: Gauge,
    leader_changes: Counter,
    committed: Gauge,
    applied: Gauge,
    quota: Gauge,
    total_bytes: Gauge,
    in_use_bytes: Gauge,
    revision: Gauge,
    compact_revision: Gauge,
    keys: Gauge,
    auth_revision: Gauge,
    pending_events: Gauge,
    known_peers: Family<Pair, Gauge>,
    active_peers: Family<Pair, Gauge>,
    cluster_version: Family<ClusterVersion, Gauge>,
    server_id: Family<ServerId, Gauge>,
    resident: Gauge,
    virtual_bytes: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,
    open_fds: Gauge,
    max_fds: Gauge,
    os_fd_used: Gauge,
    os_fd_limit: Gauge,
    start_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// An empty registry with every metric; `extensive` adds the histograms of gRPC calls.
    pub fn new(extensive: bool) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics {
            grpc_started: add(&mut registry, "grpc_server_started", "gRPC calls begun"),
            grpc_handled: add(&mut registry, "grpc_server_handled", "gRPC calls finished"),
            grpc_seconds: extensive.then(|| {
                let family: Histograms<_> = Family::new_with_constructor(call_seconds);
                put(&mut registry, "grpc_server_handling_seconds", "Time of gRPC calls", family)
            }),
            client_sent_bytes: add(
                &mut registry,
                "etcd_network_client_grpc_sent_bytes",
                "Bytes of messages sent to clients",
            ),
            client_received_bytes: add(
                &mut registry,
                "etcd_network_client_grpc_received_bytes",
                "Bytes of messages received from clients",
            ),
            node: Arc::new(NodeMetrics::registered(&mut registry)),
            requests: RequestMetrics::registered(&mut registry),
            proposals_pending: add(
                &mut registry,
                "etcd_server_proposals_pending",
                "Proposals that wait for their outcome",
            ),
            proposals_failed: add(&mut registry, "etcd_server_proposals_failed", "Proposals that failed"),
            slow_requests: add(
                &mut registry,
                "keelson_slow_requests",
                "Requests that took longer than --warning-unary-request-duration",
            ),
            looked_up: LookedUp::register(&mut registry),
            registry,
        };
        metrics.looked_up.start_seconds.set(process::start_seconds());
        metrics
    }

    /// The text that Prometheus scrapes (format 0.0.4).
    pub fn render(&self, observed: &Observed) -> String {
        self.looked_up.set(observed);
        text_of(&self.registry)
    }
}

/// The text that Prometheus scrapes (format 0.0.4).
pub(crate) fn text_of(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut open_metrics, registry);
    plain(&open_metrics)
}

impl LookedUp {
    fn register(registry: &mut Registry) -> Self {
        let versions: Family<ServerVersion, Gauge> =
            add(registry, "etcd_server_version", "The version that clients see, as a label");
        let version = crate::config::ETCD_VERSION;
        versions.get_or_create(&ServerVersion { server_version: version }).set(1);
        LookedUp {
            has_leader: add(registry, "etcd_server_has_leader", "Whether a leader is known"),
            is_leader: add(registry, "etcd_server_is_leader", "Whether this member leads"),
            is_learner: add(registry, "etcd_server_is_learner", "Whether this member has no vote"),
            leader_changes: add(registry, "etcd_server_leader_changes_seen", "Leaders seen"),
            // etcd exports these two as gauges, in spite of their names.
            committed: add(
                registry,
                "etcd_server_proposals_committed_total",
                "Index of the last entry known to be committed",
            ),
            applied: add(registry, "etcd_server_proposals_applied_total", "Index of the last entry applied"),
            quota: add(
                registry,
                "etcd_server_quota_backend_bytes",
                "Bytes above which writes are refused, below 0 without limit",
            ),
            total_bytes: add(registry, "etcd_mvcc_db_total_size_in_bytes", "Bytes on disk"),
            in_use_bytes: add(registry, "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes on disk that hold live data"),
            revision: add(registry, "etcd_debugging_mvcc_current_revision", "The store's revision"),
            keys: add(registry, "etcd_debugging_mvcc_keys_total", "Keys that exist"),
            compact_revision: add(
                registry,
                "etcd_debugging_mvcc_compact_revision",
                "The revision below which history is gone",
            ),
            auth_revision: add(registry, "etcd_debugging_auth_revision", "Counts the changes of users and roles"),
            pending_events: add(
                registry,
                "etcd_debugging_mvcc_pending_events_total",
                "Events that wait to be sent to watchers",
            ),
            known_peers: add(registry, "etcd_network_known_peers", "The other members, by their ids"),
            active_peers: add(registry, "etcd_network_active_peers", "Whether this member knows another to be there"),
            cluster_version: add(registry, "etcd_cluster_version", "The version that the members agree on, as a label"),
            server_id: add(registry, "etcd_server_id", "The member's id, as a label"),
            resident: add(registry, "process_resident_memory_bytes", "Resident memory"),
            virtual_bytes: add(registry, "process_virtual_memory_bytes", "Virtual memory"),
            cpu_seconds: add(registry, "process_cpu_seconds", "User and system CPU time"),
            open_fds: add(registry, "process_open_fds", "Open file descriptors"),
            os_fd_used: add(registry, "os_fd_used", "Open file descriptors"),
            os_fd_limit: add(registry, "os_fd_limit", "Most file descriptors that may be open"),
            max_fds: add(registry, "process_max_fds", "Most file descriptors that may be open"),
            start_seconds: add(registry, "process_start_time_seconds", "Start since the epoch"),
        }
    }

    fn set(&self, observed: &Observed) {
        self.has_leader.set(observed.has_leader.into());
        self.is_leader.set(observed.is_leader.into());
        self.is_learner.set(observed.is_learner.into());
        self.leader_changes.inner().store(observed.leader_changes, Ordering::Relaxed);
        for (gauge, value) in [
            (&self.committed, observed.committed_index),
            (&self.applied, observed.applied_index),
            (&self.total_bytes, observed.total_bytes),
            (&self.in_use_bytes, observed.in_use_bytes),
            (&self.auth_revision, observed.auth_revision),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.quota.set(observed.quota_bytes);
        self.revision.set(observed.revision);
        self.compact_revision.set(observed.compact_revision);
        self.keys.set(observed.keys);
        self.pending_events.set(observed.pending_events as i64);
        let server_id = format!("{:x}", observed.member_id);
        self.known_peers.clear();
        self.active_peers.clear();
        for peer in &observed.peers {
            let pair = Pair { Local: server_id.clone(), Remote: format!("{peer:x}") };
            self.known_peers.get_or_create(&pair).set(1);
            // Only the leader hears of all the others.
            let active = observed.active_peers.contains(peer);
            if active || observed.is_leader {
                self.active_peers.get_or_create(&pair).set(active.into());
            }
        }
        self.server_id.get_or_create(&ServerId { server_id }).set(1);
        // As etcd's label, without the patch.
        let cluster_version = observed.cluster_version.rsplit_once('.').map_or("", |(minor, _)| minor).to_owned();
        self.cluster_version.clear();
        self.cluster_version.get_or_create(&ClusterVersion { cluster_version }).set(1);
        let usage = process::usage();
        self.resident.set(usage.resident_bytes);
        self.virtual_bytes.set(usage.virtual_bytes);
        self.open_fds.set(usage.open_fds);
        self.max_fds.set(usage.max_fds);
        self.os_fd_used.set(usage.open_fds);
        self.os_fd_limit.set(usage.max_fds);
        self.cpu_seconds.inner().store(usage.cpu_seconds.to_bits(), Ordering::Relaxed);
    }
}

fn call_seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// Registers a new metric.
pub(crate) fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    put(registry, name, help, M::default())
}

/// Registers a metric.
pub(super) fn put<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Counters that etcd names without `_total`.
const BARE: &[&str] = &[
    "etcd_server_health_success",
    "etcd_server_health_failures",
    "etcd_server_learner_promote_successes",
    "etcd_server_learner_promote_failures",
];

/// OpenMetrics names a counter without `_total` in its comments; the older format, which every scraper and script
/// reads, names the samples.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if line == "# EOF" {
            continue;
        }
        if line.starts_with("# HELP ") {
            help = line;
            continue;
        }
        let Some(kind) = line.strip_prefix("# TYPE ") else {
            match BARE.iter().find_map(|name| Some((name, line.strip_prefix(name)?.strip_prefix("_total")?))) {
                Some((name, rest)) => text.extend([name, rest, "\n"]),
                None => text.extend([line, "\n"]),
            }
            continue;
        };
        let (name, suffix) = match kind.strip_suffix(" counter") {
            Some(name) if BARE.contains(&name) => (name, ""),
            Some(name) => (name, "_total"),
            None => (kind.rsplit_once(' ').map_or(kind, |(name, _)| name), ""),
        };
        for comment in [help, line] {
            text.push_str(&comment.replacen(name, &format!("{name}{suffix}"), 1));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashboards_find_their_names() {
        let metrics = Metrics::new(true);
        metrics.client_sent_bytes.inc_by(5);
        let observed = Observed {
            has_leader: true,
            leader_changes: 3,
            committed_index: 9,
            total_bytes: 4096,
            cluster_version: "3.7.0".into(),
            ..Observed::default()
        };
        let text = metrics.render(&observed);
        for line in [
            "# TYPE etcd_server_has_leader gauge",
            "etcd_server_has_leader 1",
            "# TYPE etcd_server_leader_changes_seen_total counter",
            "etcd_server_leader_changes_seen_total 3",
            "etcd_server_proposals_committed_total 9",
            "etcd_mvcc_db_total_size_in_bytes 4096",
            "etcd_network_client_grpc_sent_bytes_total 5",
            "# TYPE etcd_disk_wal_fsync_duration_seconds histogram",
            "etcd_server_proposals_failed_total 0",
            "# TYPE etcd_server_health_success counter",
            "etcd_server_health_success 0",
            "etcd_cluster_version{cluster_version=\"3.7\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let resident =
            text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).expect("resident memory");
        assert!(resident.parse::<u64>().expect("a number") > 1 << 20);
    }
}
