//! The doors: gRPC and HTTP on one port. They validate, ask the node, and put what it answers into etcd's words.

mod access;
mod auth;
mod caller;
mod cluster;
mod concurrency;
mod downgrade;
mod election;
mod errors;
pub mod gate;
mod gateway;
mod grpc_health;
mod held;
mod http;
mod kv;
mod late_flush;
mod lease;
pub mod listen;
mod lock;
mod maintenance;
mod messages;
mod quota;
mod range_stream;
mod services;
mod snapshot;
mod stalled;
mod unary;
mod unread;
mod validate;
mod watch;
mod workers;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::budget::Budget;
use crate::config::Config;
use crate::error::EtcdError;
use crate::mvcc::{ReadError, View};
use crate::node::Node;
use crate::proto::command::command::Op;
use crate::proto::command::{Caller, Command, outcome};
use crate::proto::etcdserverpb::ResponseHeader;
use crate::storage::ReadView;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Observed;
use crate::telemetry::node::op_name;
use crate::telemetry::requests::Answered;

pub use access::Access;
pub use caller::Identity;
pub use gate::Gate;
pub use http::{answer, metrics_router};

/// Bytes that a request may have on the wire above `max_request_bytes`, so that it can be refused in words.
const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// Limits that requests are held to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest command that is proposed.
    pub max_request_bytes: usize,
    /// Most operations in a txn.
    pub max_txn_ops: usize,
    /// Memory that answers may take together; ranges above it are refused.
    pub max_answer_bytes: usize,
    /// Stored bytes above which writes are refused; `None` without limit.
    pub quota_bytes: Option<u64>,
    /// The quota as status and metrics tell it: below zero without limit, as it was configured.
    pub told_quota_bytes: i64,
    /// Leases live at least this long, in seconds.
    pub min_lease_ttl_seconds: i64,
    /// Unary calls that take longer are logged.
    pub slow_request: Duration,
    /// Serve JSON under `/v3`.
    pub json_gateway: bool,
    /// Who may ask over HTTP.
    pub access: Access,
    /// Time without a leader after which streams that ask for one are cut.
    pub leader_loss: Duration,
}

impl Limits {
    /// The limits of a member with these settings.
    pub fn new(config: &Config) -> Self {
        let election_ms = config.election_timeout.as_millis() as i64;
        Limits {
            max_request_bytes: config.max_request_bytes,
            max_txn_ops: config.max_txn_ops,
            max_answer_bytes: config.inflight_bytes() / 2,
            quota_bytes: config.quota(),
            told_quota_bytes: match config.quota() {
                Some(bytes) => bytes as i64,
                None => config.quota_backend_bytes,
            },
            // Long enough to survive an election and the renewals that were lost in it.
            min_lease_ttl_seconds: (election_ms * 3 / 2 + 999) / 1000,
            slow_request: config.warning_unary_request_duration,
            json_gateway: config.enable_grpc_gateway,
            access: Access::new(config),
            leader_loss: config.election_timeout * 3,
        }
    }

    /// Largest message that is received, and largest fragment of a watch response that is sent.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes + REQUEST_OVERHEAD_BYTES
    }
}

/// What every door needs; the services are implemented on it, one file each.
pub struct Api {
    node: Node,
    identity: Identity,
    limits: Limits,
    metrics: Arc<Metrics>,
    quota: quota::Quota,
    answers: Arc<Budget>,
    snapshots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Api {
    /// Doors to `node`. Streams end when `stop` is cancelled.
    pub fn new(node: Node, identity: Identity, limits: Limits, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        let (quota, snapshots) = (quota::Quota::new(limits.quota_bytes), Arc::new(Semaphore::new(snapshot::AT_ONCE)));
        let answers = Budget::new(limits.max_answer_bytes);
        Api { quota, answers, snapshots, node, identity, limits, metrics, stop }
    }

    /// A header for an answer that was made at `revision`.
    fn header(&self, revision: i64) -> ResponseHeader {
        let (cluster_id, member_id) = self.node.ids();
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.node.term() }
    }

    /// Fills in what the pure rooms do not know; they set the revision.
    fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision));
    }

    /// Replicates a command and answers what applying it gave. A command without a caller is this member's own, or nobody
    /// said who it is.
    async fn propose(&self, op: Op, caller: Option<Caller>) -> Result<outcome::Result, Status> {
        let command = Command { op: Some(op), caller };
        if command.encoded_len() > self.limits.max_request_bytes {
            return Err(EtcdError::RequestTooLarge.into());
        }
        let mut pending = Pending::begin(&self.metrics);
        let timed = self.timed(command.op.as_ref().map_or("Unknown", op_name));
        let outcome = timed.until(pin!(self.node.propose(command))).await;
        pending.failed = matches!(&outcome, Err(error) if error.code() == crate::error::Code::Unavailable);
        match outcome.map(|outcome| outcome.result) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(errors::internal("an outcome without a result", "empty")),
            Err(error) => Err(error.into()),
        }
    }

    /// Times a request for the metrics.
    fn timed(&self, kind: &'static str) -> Timed<'_> {
        Timed { metrics: &self.metrics, kind, begun: Instant::now() }
    }

    /// Waits until a read here sees everything that was acknowledged before, unless the client does without.
    async fn linearize(&self, serializable: bool) -> Result<(), EtcdError> {
        if serializable {
            return Ok(());
        }
        if self.node.is_learner() {
            return Err(EtcdError::NotSupportedForLearner);
        }
        self.node.linearize().await
    }

    /// Reads from the store as it is now. A read that may be long (`long`) does not hold up the connections.
    async fn read<T: Send + 'static>(
        &self,
        long: bool,
        read: impl FnOnce(&ReadView) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        let view = self.node.view();
        let answer = match long {
            false => read(&view),
            true => tokio::task::spawn_blocking(move || read(&view))
                .await
                .map_err(|error| errors::internal("a read was aborted", error))?,
        };
        answer.map_err(|error| {
            if matches!(error, ReadError::Refused(EtcdError::RequestTooManyRequests)) {
                self.answers.close_slowest();
            }
            read_failed(error)
        })
    }

    /// What metrics look up.
    fn observed(&self) -> Observed {
        let status = self.node.status();
        let sizes = self.node.store().sizes();
        let view = self.node.view();
        Observed {
            member_id: status.member_id,
            has_leader: status.leader.is_some(),
            is_leader: status.is_leader(),
            is_learner: status.is_learner(),
            leader_changes: status.leader_changes,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            total_bytes: sizes.total_bytes,
            in_use_bytes: sizes.in_use_bytes,
            quota_bytes: self.limits.told_quota_bytes,
            revision: view.revision(),
            compact_revision: view.compact_revision(),
            keys: view.keys().unwrap_or(0),
            auth_revision: view.auth().revision,
            cluster_version: self.cluster_version().unwrap_or_default(),
            active_peers: self.node.active_peers(),
            pending_events: self.node.hub().pending_events(),
            peers: self.node.members().iter().map(|member| member.id).filter(|id| *id != status.member_id).collect(),
        }
    }
}

/// A request of one kind, and when it began.
struct Timed<'a> {
    metrics: &'a Metrics,
    kind: &'static str,
    begun: Instant,
}

impl Timed<'_> {
    async fn until<T, E>(self, answer: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let answer = answer.await;
        let labels = Answered { r#type: self.kind, success: truth(answer.is_ok()) };
        self.metrics.requests.seconds.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
        answer
    }
}

/// A boolean as labels have it.
fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// A proposal that waits for its outcome. One that is dropped before, because the client went away, has failed.
struct Pending<'a> {
    metrics: &'a Metrics,
    failed: bool,
}

impl<'a> Pending<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.proposals_pending.inc();
        Pending { metrics, failed: true }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.metrics.proposals_pending.dec();
        if self.failed {
            self.metrics.proposals_failed.inc();
        }
    }
}

fn read_failed(error: ReadError) -> Status {
    match error {
        ReadError::Refused(error) => error.into(),
        ReadError::View(error) => errors::unreadable(error),
    }
}

/// An outcome of another kind than the command's: a bug, but not one that may bring the member down.
fn mismatch(outcome: outcome::Result) -> Status {
    errors::internal("an outcome does not fit its command", format!("{outcome:?}"))
}
