//! Leases as the leader counts them down. Expiry only proposes; revoking is an entry of the log like any other.
//!
//! Every member keeps the table of leases as they are applied; only the leader gives them deadlines, anew when it takes
//! over: in full, or with what a checkpoint says is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::mvcc::LeaseRecord;
use crate::proto::etcdserverpb::LeaseCheckpoint;
use crate::raft::state_machine::LeaseListener;
use crate::telemetry::NodeMetrics;

/// Leases revoked in one round; etcd's limit is 1000 a second.
const REVOKES_A_ROUND: usize = 500;
/// Pause between rounds while more leases are due.
const ROUND: Duration = Duration::from_millis(500);
/// Revokes proposed at once.
const REVOKES_IN_FLIGHT: usize = 16;
/// A checkpoint tells what is left of a lease after each such time, if more than that is left (etcd's interval).
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Leases in one checkpoint.
const CHECKPOINTS_A_ROUND: usize = 1000;
/// A revoke that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// What the timer needs of the node.
pub trait Revoker: Send + Sync {
    /// Whether a majority still takes this member for the leader.
    fn confirm_leadership(&self) -> impl Future<Output = bool> + Send;
    /// Proposes to revoke a lease; tells whether it is gone.
    fn revoke(&self, id: i64) -> impl Future<Output = bool> + Send;
    /// Proposes to remember what is left of leases.
    fn checkpoint(&self, checkpoints: Vec<LeaseCheckpoint>) -> impl Future<Output = ()> + Send;
}

struct Lease {
    ttl: Duration,
    /// What was left at the last checkpoint, if there was one.
    remaining: Option<Duration>,
    deadline: Option<Instant>,
    /// When the next checkpoint is due; only on the leader.
    checkpoint: Option<Instant>,
    /// Due, and on the way to be revoked: no renewal helps any more.
    expired: bool,
}

#[derive(Default)]
struct Table {
    leases: HashMap<i64, Lease>,
    /// Deadlines in order; empty unless this member leads.
    queue: BTreeSet<(Instant, i64)>,
    /// Checkpoints in order; empty unless this member leads and makes any.
    checkpoints: BTreeSet<(Instant, i64)>,
    checkpointing: bool,
    leading: bool,
}

impl Table {
    fn grant(&mut self, record: LeaseRecord, now: Instant) {
        let remaining = (record.remaining_seconds > 0).then(|| Duration::from_secs(record.remaining_seconds as u64));
        if let Some(lease) = self.leases.get_mut(&record.id)
            && remaining.is_some()
        {
            // This leader's own checkpoint: its count goes on.
            lease.remaining = remaining;
            return;
        }
        self.revoke(record.id);
        // The maximum of etcd's API is 285 years; an Instant holds that.
        let ttl = Duration::from_secs(record.ttl_seconds.max(1) as u64);
        let lease = Lease { ttl, remaining, deadline: None, checkpoint: None, expired: false };
        self.leases.insert(record.id, lease);
        if self.leading {
            self.start(record.id, now);
        }
    }

    fn revoke(&mut self, id: i64) {
        let Some(lease) = self.leases.remove(&id) else {
            return;
        };
        if let Some(deadline) = lease.deadline {
            self.queue.remove(&(deadline, id));
        }
        if let Some(at) = lease.checkpoint {
            self.checkpoints.remove(&(at, id));
        }
    }

    /// Counts a lease down from what it has left, or from its full TTL.
    fn start(&mut self, id: i64, now: Instant) {
        if let Some(lease) = self.leases.get(&id) {
            let left = lease.remaining.unwrap_or(lease.ttl);
            self.schedule(id, now + left);
            self.schedule_checkpoint(id, now);
        }
    }

    fn schedule_checkpoint(&mut self, id: i64, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id).filter(|_| self.checkpointing) else {
            return;
        };
        let next = now + CHECKPOINT_INTERVAL;
        let due = lease.deadline.is_some_and(|deadline| deadline > next).then_some(next);
        if let Some(before) = std::mem::replace(&mut lease.checkpoint, due) {
            self.checkpoints.remove(&(before, id));
        }
        self.checkpoints.extend(due.map(|at| (at, id)));
    }

    fn schedule(&mut self, id: i64, at: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if let Some(before) = lease.deadline.replace(at) {
            self.queue.remove(&(before, id));
        }
        self.queue.insert((at, id));
    }
}

/// A lease as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive {
    /// What is left, in whole seconds.
    pub remaining_seconds: i64,
    /// What was granted.
    pub granted_seconds: i64,
}

/// The table of leases and its timer.
#[derive(Default)]
pub struct Lessor {
    table: Mutex<Table>,
    wake: Notify,
    metrics: Arc<NodeMetrics>,
}

impl LeaseListener for Lessor {
    fn changed(&self, leases: &BTreeMap<i64, Option<LeaseRecord>>) {
        let now = Instant::now();
        let mut table = self.table();
        for (id, lease) in leases {
            let known = table.leases.contains_key(id);
            match lease {
                Some(record) => {
                    if !known {
                        self.metrics.leases_granted.inc();
                        self.metrics.lease_ttl_seconds.observe(record.ttl_seconds as f64);
                    }
                    table.grant(*record, now);
                }
                None => {
                    self.metrics.leases_revoked.inc_by(known.into());
                    table.revoke(*id);
                }
            }
        }
        self.wake.notify_one();
    }

    fn replaced(&self, leases: Vec<LeaseRecord>) {
        let now = Instant::now();
        let mut table = self.table();
        table.leases.clear();
        table.queue.clear();
        table.checkpoints.clear();
        for record in leases {
            table.grant(record, now);
        }
        self.wake.notify_one();
    }
}

impl Lessor {
    /// An empty table. With `checkpointing`, the leader records what is left of long leases.
    pub fn new(checkpointing: bool, metrics: Arc<NodeMetrics>) -> Self {
        Lessor { table: Mutex::new(Table { checkpointing, ..Table::default() }), wake: Notify::new(), metrics }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }

    /// Starts to count every lease down: this member leads, and has applied what was committed before.
    pub fn promote(&self) {
        let now = Instant::now();
        let mut table = self.table();
        if table.leading {
            return;
        }
        table.leading = true;
        let all: Vec<i64> = table.leases.keys().copied().collect();
        for id in all {
            table.start(id, now);
        }
        self.wake.notify_one();
    }

    /// Stops counting: another member may lead.
    pub fn demote(&self) {
        let mut table = self.table();
        table.leading = false;
        table.queue.clear();
        table.checkpoints.clear();
        for lease in table.leases.values_mut() {
            lease.deadline = None;
            lease.checkpoint = None;
            lease.expired = false;
        }
    }

    /// Whether this member counts, and so may answer for leases.
    pub fn is_leading(&self) -> bool {
        self.table().leading
    }

    /// Whether a checkpoint says that less than the full TTL is left.
    pub fn has_checkpoint(&self, id: i64) -> bool {
        self.table().leases.get(&id).is_some_and(|lease| lease.remaining.is_some())
    }

    /// Counts down from the full TTL again. Nothing if there is no such lease, or it expired already.
    pub fn renew(&self, id: i64) -> Option<TimeToLive> {
        let mut table = self.table();
        let lease = table.leases.get(&id).filter(|lease| !lease.expired)?;
        let (ttl, now) = (lease.ttl, Instant::now());
        table.schedule(id, now + ttl);
        table.schedule_checkpoint(id, now);
        self.metrics.leases_renewed.inc();
        let seconds = ttl.as_secs() as i64;
        Some(TimeToLive { remaining_seconds: seconds, granted_seconds: seconds })
    }

    /// What is left of a lease.
    pub fn time_to_live(&self, id: i64) -> Option<TimeToLive> {
        let table = self.table();
        let lease = table.leases.get(&id)?;
        let remaining = match lease.deadline {
            Some(_) if lease.expired => Duration::ZERO,
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => lease.remaining.unwrap_or(lease.ttl),
        };
        Some(TimeToLive { remaining_seconds: remaining.as_secs() as i64, granted_seconds: lease.ttl.as_secs() as i64 })
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.table().queue.first().map(|(deadline, _)| *deadline)
    }

    fn next_checkpoint(&self) -> Option<Instant> {
        self.table().checkpoints.first().map(|(at, _)| *at)
    }

    /// What is to be remembered now; each of these leases is due again later.
    fn checkpoints(&self, now: Instant) -> Vec<LeaseCheckpoint> {
        let mut table = self.table();
        let due = table.checkpoints.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<i64> = due.take(CHECKPOINTS_A_ROUND).map(|(_, id)| *id).collect();
        let mut checkpoints = Vec::new();
        for id in due {
            table.schedule_checkpoint(id, now);
            let deadline = table.leases.get(&id).and_then(|lease| lease.deadline);
            let left = deadline.map_or(0, |deadline| deadline.saturating_duration_since(now).as_secs() as i64);
            // 0 would be the full TTL.
            checkpoints.push(LeaseCheckpoint { id, remaining_ttl: left.max(1) });
        }
        checkpoints
    }

    fn due(&self, now: Instant) -> Vec<i64> {
        let mut table = self.table();
        let due: Vec<i64> =
            table.queue.iter().take_while(|(at, _)| *at <= now).take(REVOKES_A_ROUND).map(|(_, id)| *id).collect();
        for id in &due {
            if let Some(lease) = table.leases.get_mut(id) {
                lease.expired = true;
            }
            // If the revoke fails, it is due again.
            table.schedule(*id, now + RETRY);
        }
        due
    }

    /// Revokes leases as they expire, until `stop`.
    pub async fn run(self: Arc<Self>, revoker: impl Revoker, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = until(self.next_deadline()) => {}
                () = until(self.next_checkpoint()) => {
                    let checkpoints = self.checkpoints(Instant::now());
                    if !checkpoints.is_empty() {
                        revoker.checkpoint(checkpoints).await;
                    }
                    continue;
                }
                () = self.wake.notified() => continue,
                () = stop.cancelled() => return,
            }
            // A leader that was cut off must not revoke what its successor keeps alive; its proposals would fail anyway.
            if !revoker.confirm_leadership().await {
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => continue,
                    () = stop.cancelled() => return,
                }
            }
            let due = self.due(Instant::now());
            let full = due.len() == REVOKES_A_ROUND;
            let revoked = futures::stream::iter(due).map(|id| revoker.revoke(id)).buffer_unordered(REVOKES_IN_FLIGHT);
            let failed = revoked.filter(|gone| std::future::ready(!gone)).count().await;
            if failed > 0 {
                tracing::warn!(failed, "expired leases could not be revoked yet");
            }
            if full {
                tokio::time::sleep(ROUND).await;
            }
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lessor(leases: &[(i64, i64)]) -> Lessor {
        let lessor = Lessor::default();
        lessor.replaced(leases.iter().map(|(id, ttl_seconds)| record(*id, *ttl_seconds, 0)).collect());
        lessor
    }

    fn record(id: i64, ttl_seconds: i64, remaining_seconds: i64) -> LeaseRecord {
        LeaseRecord { id, ttl_seconds, remaining_seconds }
    }

    #[test]
    fn a_new_leader_goes_on_where_the_checkpoint_says_until_the_lease_is_renewed() {
        let old = Lessor::new(true, Arc::default());
        old.replaced(vec![record(1, 1000, 0), record(2, 200, 0)]);
        old.promote();
        let now = Instant::now();
        assert!(old.checkpoints(now + Duration::from_secs(299)).is_empty());
        let made = old.checkpoints(now + Duration::from_secs(301));
        assert_eq!(made.iter().map(|made| made.id).collect::<Vec<_>>(), [1], "a short lease needs none");
        assert!((697..=699).contains(&made[0].remaining_ttl), "{made:?}");
        for seconds in [605, 910] {
            assert_eq!(old.checkpoints(now + Duration::from_secs(seconds)).len(), 1);
        }
        assert_eq!(old.next_checkpoint(), None);

        let new = Lessor::new(true, Arc::default());
        new.replaced(vec![record(1, 1000, 699)]);
        new.promote();
        assert!((697..=699).contains(&new.time_to_live(1).unwrap().remaining_seconds));
        assert!(new.has_checkpoint(1));
        // As applying the cleared checkpoint does.
        new.changed(&BTreeMap::from([(1, Some(record(1, 1000, 0)))]));
        assert!(!new.has_checkpoint(1));
        assert_eq!(new.renew(1).unwrap().remaining_seconds, 1000);
    }

    #[test]
    fn a_leaders_own_checkpoint_does_not_disturb_its_count() {
        let lessor = Lessor::new(true, Arc::default());
        lessor.replaced(vec![record(1, 1000, 0)]);
        lessor.promote();
        let deadline = lessor.next_deadline();
        lessor.changed(&BTreeMap::from([(1, Some(record(1, 1000, 5)))]));
        assert_eq!(lessor.next_deadline(), deadline);
        assert!(lessor.has_checkpoint(1));
    }

    #[test]
    fn only_the_leader_counts_and_a_new_one_starts_in_full() {
        let lessor = lessor(&[(1, 10), (2, 20)]);
        assert_eq!(lessor.next_deadline(), None);
        lessor.promote();
        assert!(lessor.due(Instant::now() + Duration::from_secs(9)).is_empty());
        assert_eq!(lessor.due(Instant::now() + Duration::from_secs(11)), [1]);
        lessor.demote();
        assert_eq!(lessor.next_deadline(), None);
        lessor.promote();
        assert_eq!(lessor.time_to_live(1).unwrap().granted_seconds, 10);
        assert!(lessor.renew(1).is_some(), "a new leader knows nothing of an expiry that was not committed");
    }

    #[test]
    fn renewing_postpones_but_not_after_expiry() {
        let lessor = lessor(&[(1, 10)]);
        lessor.promote();
        assert_eq!(lessor.renew(1), Some(TimeToLive { remaining_seconds: 10, granted_seconds: 10 }));
        assert_eq!(lessor.renew(7), None);
        assert_eq!(lessor.due(Instant::now() + Duration::from_secs(11)), [1]);
        assert_eq!(lessor.renew(1), None);
        assert_eq!(lessor.time_to_live(1).unwrap().remaining_seconds, 0);
    }

    #[test]
    fn a_failed_revoke_is_due_again_and_a_revoked_lease_is_gone() {
        let lessor = lessor(&[(1, 10)]);
        lessor.promote();
        let later = Instant::now() + Duration::from_secs(11);
        assert_eq!(lessor.due(later), [1]);
        assert!(lessor.due(later).is_empty());
        assert_eq!(lessor.due(later + RETRY), [1]);
        lessor.changed(&BTreeMap::from([(1, None)]));
        assert_eq!((lessor.next_deadline(), lessor.time_to_live(1)), (None, None));
    }

    struct Counting(Mutex<Vec<i64>>, Notify);

    impl Revoker for Arc<Counting> {
        async fn confirm_leadership(&self) -> bool {
            true
        }

        async fn checkpoint(&self, _: Vec<LeaseCheckpoint>) {}

        async fn revoke(&self, id: i64) -> bool {
            self.0.lock().unwrap().push(id);
            self.1.notify_one();
            true
        }
    }

    #[tokio::test]
    async fn the_timer_revokes_what_expires() {
        let lessor = Arc::new(lessor(&[(1, 1)]));
        let revoker = Arc::new(Counting(Mutex::default(), Notify::new()));
        let stop = CancellationToken::new();
        let timer = tokio::spawn(lessor.clone().run(revoker.clone(), stop.clone()));
        lessor.promote();
        // Due already: nobody wants to wait for a second.
        lessor.table().schedule(1, Instant::now() - Duration::from_millis(1));
        lessor.wake.notify_one();
        revoker.1.notified().await;
        stop.cancel();
        timer.await.unwrap();
        assert_eq!(*revoker.0.lock().unwrap(), [1]);
    }
}
