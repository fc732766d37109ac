//! What is counted below the doors, under etcd's names. Rooms count; what is not registered counts for nobody.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::metrics::{Histograms, put};
use super::peers::PeerMetrics;
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Answer;
use crate::proto::command::{Command, Outcome};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{PutRequest, TxnRequest, TxnResponse};

/// Labels of an applied command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AppliedCommand {
    /// Of the API.
    pub version: &'static str,
    /// Such as `Put`.
    pub op: &'static str,
    /// true or false.
    pub success: &'static str,
}

/// One member's counts.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    /// Time of a sync of the Raft log.
    pub wal_fsync_seconds: Histogram,
    /// Time of a write to the Raft log.
    pub wal_write_seconds: Histogram,
    /// Bytes written to the Raft log.
    pub wal_written_bytes: Gauge,
    /// Time to write one batch of the state machine.
    pub backend_commit_seconds: Histogram,
    /// Time to apply a command.
    pub apply_seconds: Histograms<AppliedCommand>,
    /// Entries and commits that took longer than `--warning-apply-duration`.
    pub slow_applies: Counter,
    /// Snapshots that are being taken over.
    pub snapshots_being_applied: Gauge,
    /// Time to give a snapshot to a client or a member.
    pub snapshot_sent_seconds: Histogram,
    /// Time to receive a snapshot from the leader.
    pub snapshot_received_seconds: Histogram,
    /// Time of syncs of a received snapshot's files.
    pub snapshot_fsync_seconds: Histogram,
    /// What commands and reads did.
    pub operations: OperationMetrics,
    /// Leases granted.
    pub leases_granted: Counter,
    /// Leases revoked, expired ones included.
    pub leases_revoked: Counter,
    /// Leases renewed here, as the leader.
    pub leases_renewed: Counter,
    /// Leases that have expired here, as the leader.
    pub leases_expired: Counter,
    /// Times to live of leases granted.
    pub lease_ttl_seconds: Histogram,
    /// Read indexes that could not be had.
    pub read_indexes_failed: Counter,
    /// Read indexes that took long.
    pub slow_read_indexes: Counter,
    /// Messages between members.
    pub peers: PeerMetrics,
    /// Open watch streams.
    pub watch_streams: Gauge,
    /// Watchers.
    pub watchers: Gauge,
    /// Watchers that are behind.
    pub slow_watchers: Gauge,
    /// Events sent to watchers.
    pub events: Counter,
    /// Time to send events to clients.
    pub watch_loop: WatchLoopMetrics,
    /// Versions that compactions removed.
    pub compacted_keys: Counter,
    /// Time of compactions.
    pub compaction_milliseconds: Histogram,
    /// Time for which a step of a compaction held up commits.
    pub compaction_pause_milliseconds: Histogram,
    /// When the last compaction ended, since the epoch; 0 before the first.
    pub last_compaction_seconds: Gauge,
}

/// Times of a watch stream's loop.
#[derive(Debug, Clone)]
pub struct WatchLoopMetrics {
    /// A response with events.
    pub events_seconds: Histogram,
    /// The same for each of the events.
    pub event_seconds: Histogram,
    /// An answer to a request of the client's.
    pub answer_seconds: Histogram,
    /// What idle watchers are told now and then.
    pub progress_seconds: Histogram,
}

/// Operations on keys.
#[derive(Debug, Clone, Default)]
pub struct OperationMetrics {
    ranges: Counter,
    puts: Counter,
    put_bytes: Gauge,
    deletes: Counter,
    txns: Counter,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        let disk_seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        NodeMetrics {
            wal_fsync_seconds: disk_seconds(),
            wal_write_seconds: disk_seconds(),
            wal_written_bytes: Gauge::default(),
            backend_commit_seconds: disk_seconds(),
            apply_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 20))),
            slow_applies: Counter::default(),
            snapshots_being_applied: Gauge::default(),
            snapshot_sent_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 17)),
            snapshot_received_seconds: Histogram::new(exponential_buckets(0.1, 2.0, 10)),
            snapshot_fsync_seconds: disk_seconds(),
            operations: OperationMetrics::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            lease_ttl_seconds: Histogram::new(exponential_buckets(1.0, 2.0, 24)),
            read_indexes_failed: Counter::default(),
            slow_read_indexes: Counter::default(),
            peers: PeerMetrics::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            slow_watchers: Gauge::default(),
            events: Counter::default(),
            watch_loop: WatchLoopMetrics {
                events_seconds: disk_seconds(),
                event_seconds: disk_seconds(),
                answer_seconds: disk_seconds(),
                progress_seconds: disk_seconds(),
            },
            compacted_keys: Counter::default(),
            compaction_milliseconds: Histogram::new(exponential_buckets(100.0, 2.0, 14)),
            compaction_pause_milliseconds: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            last_compaction_seconds: Gauge::default(),
        }
    }
}

impl NodeMetrics {
    /// Counts that `registry` tells of.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = NodeMetrics::default();
        metrics.register_log(registry);
        metrics.register_store(registry);
        metrics.register_leases(registry);
        metrics.register_watches(registry);
        metrics.register_snapshots(registry);
        metrics.peers.register(registry);
        metrics
    }

    fn register_log(&self, to: &mut Registry) {
        let it = self.clone();
        put(to, "etcd_disk_wal_fsync_duration_seconds", "Time of a sync of the Raft log", it.wal_fsync_seconds);
        put(to, "etcd_disk_wal_write_duration_seconds", "Time of a write to the Raft log", it.wal_write_seconds);
        put(to, "etcd_disk_wal_write_bytes_total", "Bytes written to the Raft log", it.wal_written_bytes);
        put(to, "etcd_server_read_indexes_failed", "Read indexes that could not be had", it.read_indexes_failed);
        put(to, "etcd_server_slow_read_indexes", "Read indexes that took long", it.slow_read_indexes);
        put(to, "etcd_server_apply_duration_seconds", "Time to apply a command", it.apply_seconds);
        put(to, "etcd_server_slow_apply", "Commands that took long to apply", it.slow_applies);
        put(
            to,
            "etcd_server_snapshot_apply_in_progress_total",
            "Snapshots that are being taken over",
            it.snapshots_being_applied,
        );
    }

    fn register_store(&self, to: &mut Registry) {
        let it = self.clone();
        put(
            to,
            "etcd_disk_backend_commit_duration_seconds",
            "Time to write one batch of the state machine",
            it.backend_commit_seconds,
        );
        put(to, "etcd_mvcc_range", "Ranges, those in txns included", it.operations.ranges);
        put(to, "etcd_mvcc_put", "Puts, those in txns included", it.operations.puts);
        put(to, "etcd_mvcc_delete", "Deletions of ranges, those in txns included", it.operations.deletes);
        put(to, "etcd_mvcc_txn", "Txns of more than one operation", it.operations.txns);
        put(
            to,
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "Bytes of keys and values that were put",
            it.operations.put_bytes,
        );
        put(to, "etcd_debugging_mvcc_db_compaction_keys", "Versions that compactions removed", it.compacted_keys);
        put(
            to,
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Time of compactions",
            it.compaction_milliseconds,
        );
        put(
            to,
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Time for which a step of a compaction held up commits",
            it.compaction_pause_milliseconds,
        );
        put(
            to,
            "etcd_debugging_mvcc_db_compaction_last",
            "When the last compaction ended, 0 before the first",
            it.last_compaction_seconds,
        );
    }

    fn register_leases(&self, to: &mut Registry) {
        let it = self.clone();
        put(to, "etcd_debugging_lease_granted", "Leases granted", it.leases_granted);
        put(to, "etcd_debugging_lease_revoked", "Leases revoked, expired ones included", it.leases_revoked);
        put(to, "etcd_debugging_lease_renewed", "Leases renewed here, as the leader", it.leases_renewed);
        put(to, "etcd_debugging_lease_ttl_total", "Times to live of leases granted", it.lease_ttl_seconds);
        put(
            to,
            "etcd_debugging_server_lease_expired",
            "Leases that have expired here, as the leader",
            it.leases_expired,
        );
    }

    fn register_watches(&self, to: &mut Registry) {
        let it = self.clone();
        put(to, "etcd_debugging_mvcc_watch_stream_total", "Open watch streams", it.watch_streams);
        put(to, "etcd_debugging_mvcc_watcher_total", "Watchers", it.watchers);
        put(to, "etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind", it.slow_watchers);
        put(to, "etcd_debugging_mvcc_events", "Events sent to watchers", it.events);
        for (name, help, times) in [
            ("watch_stream_duration_seconds", "Time of responses with events", it.watch_loop.events_seconds),
            ("watch_stream_duration_per_event_seconds", "The same for each event", it.watch_loop.event_seconds),
            ("control_stream_duration_seconds", "Time of answers to requests", it.watch_loop.answer_seconds),
            ("progress_duration_seconds", "Time of progress told to idle watchers", it.watch_loop.progress_seconds),
        ] {
            put(to, &format!("etcd_debugging_server_watch_send_loop_{name}"), help, times);
        }
    }

    fn register_snapshots(&self, to: &mut Registry) {
        let it = self.clone();
        for (name, help, times) in [
            (
                "etcd_disk_backend_snapshot_duration_seconds",
                "Time to give a snapshot to a client or a member",
                it.snapshot_sent_seconds,
            ),
            (
                "etcd_snap_db_save_total_duration_seconds",
                "Time to receive a snapshot from the leader",
                it.snapshot_received_seconds,
            ),
            (
                "etcd_snap_db_fsync_duration_seconds",
                "Time of syncs of a received snapshot's files",
                it.snapshot_fsync_seconds,
            ),
        ] {
            put(to, name, help, times);
        }
    }

    /// A command was applied, and `deleted` keys with it.
    pub fn applied(&self, command: &Command, outcome: &Outcome, deleted: usize, took: Duration) {
        let Some(op) = &command.op else { return };
        let success = if outcome.refusal().is_none() { "true" } else { "false" };
        let labels = AppliedCommand { version: "v3", op: op_name(op), success };
        self.apply_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        self.operations.count(Operations::of(op, outcome, deleted as u64));
    }
}

/// etcd's name of an operation.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Put(_) => "Put",
        Op::DeleteRange(_) => "DeleteRange",
        Op::Txn(_) => "Txn",
        Op::Compact(_) => "Compaction",
        Op::LeaseGrant(_) => "LeaseGrant",
        Op::LeaseRevoke(_) => "LeaseRevoke",
        Op::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Op::Alarm(_) => "Alarm",
        Op::MemberAttributes(_) => "ClusterMemberAttrSet",
        Op::AuthEnable(_) => "AuthEnable",
        Op::AuthDisable(_) => "AuthDisable",
        Op::Authenticate(_) => "Authenticate",
        Op::UserAdd(_) => "AuthUserAdd",
        Op::UserDelete(_) => "AuthUserDelete",
        Op::UserChangePassword(_) => "AuthUserChangePassword",
        Op::UserGrantRole(_) => "AuthUserGrantRole",
        Op::UserRevokeRole(_) => "AuthUserRevokeRole",
        Op::RoleAdd(_) => "AuthRoleAdd",
        Op::RoleDelete(_) => "AuthRoleDelete",
        Op::RoleGrantPermission(_) => "AuthRoleGrantPermission",
        Op::RoleRevokePermission(_) => "AuthRoleRevokePermission",
        Op::Downgrade(_) => "DowngradeInfoSet",
        Op::Advance(_) => "Advance",
    }
}

/// What one command or read did, counted as etcd does: what has to be looked up for a put is a range too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations {
    /// Ranges, compares included.
    pub ranges: u64,
    /// Puts.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Deletions of ranges.
    pub deletes: u64,
}

impl Operations {
    /// Of a command that was applied.
    fn of(op: &Op, outcome: &Outcome, deleted: u64) -> Self {
        let mut operations = Operations::default();
        match (op, &outcome.result) {
            (Op::Put(request), Some(Answer::Put(_))) => operations.put(request),
            (Op::DeleteRange(request), Some(Answer::DeleteRange(_))) => operations.delete(request.prev_kv),
            (Op::Txn(request), Some(Answer::Txn(response))) => operations.txn(request, response),
            // One deletion for each key.
            (Op::LeaseRevoke(_), _) => operations.deletes = deleted,
            _ => {}
        }
        operations
    }

    /// Of a txn that was answered.
    pub fn of_txn(request: &TxnRequest, response: &TxnResponse) -> Self {
        let mut operations = Operations::default();
        operations.txn(request, response);
        operations
    }

    fn put(&mut self, request: &PutRequest) {
        self.puts += 1;
        self.put_bytes += (request.key.len() + request.value.len()) as u64;
        self.ranges += u64::from(request.prev_kv || request.ignore_value || request.ignore_lease);
    }

    fn delete(&mut self, prev_kv: bool) {
        self.deletes += 1;
        self.ranges += u64::from(prev_kv);
    }

    fn txn(&mut self, request: &TxnRequest, response: &TxnResponse) {
        self.ranges += request.compare.len() as u64;
        let branch = if response.succeeded { &request.success } else { &request.failure };
        for (operation, answer) in branch.iter().zip(&response.responses) {
            match (&operation.request, &answer.response) {
                (Some(Request::RequestRange(_)), _) => self.ranges += 1,
                (Some(Request::RequestPut(request)), _) => self.put(request),
                (Some(Request::RequestDeleteRange(request)), _) => self.delete(request.prev_kv),
                (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => {
                    self.txn(request, response);
                }
                _ => {}
            }
        }
    }
}

impl OperationMetrics {
    /// Counts what one command or read did.
    pub fn count(&self, done: Operations) {
        self.ranges.inc_by(done.ranges);
        self.puts.inc_by(done.puts);
        self.put_bytes.inc_by(done.put_bytes as i64);
        self.deletes.inc_by(done.deletes);
        if done.ranges + done.puts + done.deletes > 1 {
            self.txns.inc();
        }
    }

    /// Counts one range.
    pub fn range(&self) {
        self.count(Operations { ranges: 1, ..Operations::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutResponse, RangeRequest, RequestOp, ResponseOp, TxnResponse,
    };

    #[test]
    fn operations_are_counted_through_txns() {
        let put = PutRequest { key: "key".into(), value: "value".into(), prev_kv: true, ..PutRequest::default() };
        let outcome = Outcome { result: Some(Answer::Put(PutResponse::default())) };
        let once = Operations { ranges: 1, puts: 1, put_bytes: 8, deletes: 0 };
        assert_eq!(Operations::of(&Op::Put(put.clone()), &outcome, 0), once);
        let refused = Outcome { result: Some(Answer::Error("NoSpace".to_owned())) };
        assert_eq!(Operations::of(&Op::Put(put.clone()), &refused, 0), Operations::default());
        let op = |request| RequestOp { request: Some(request) };
        let inner = TxnRequest {
            success: vec![op(Request::RequestPut(put.clone()))],
            failure: vec![op(Request::RequestDeleteRange(DeleteRangeRequest::default()))],
            ..TxnRequest::default()
        };
        let request = TxnRequest {
            compare: vec![Compare::default()],
            success: vec![op(Request::RequestRange(RangeRequest::default())), op(Request::RequestTxn(inner))],
            failure: vec![op(Request::RequestPut(put))],
        };
        let response = TxnResponse {
            succeeded: true,
            responses: vec![
                ResponseOp::default(),
                ResponseOp {
                    response: Some(Response::ResponseTxn(TxnResponse {
                        responses: vec![ResponseOp::default()],
                        ..TxnResponse::default()
                    })),
                },
            ],
            ..TxnResponse::default()
        };
        let done = Operations::of_txn(&request, &response);
        assert_eq!(done, Operations { ranges: 2, puts: 0, put_bytes: 0, deletes: 1 });
    }
}
