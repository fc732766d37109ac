//! Leases as the leader counts them down. Expiry only proposes; revoking is an entry of the log like any other.
//!
//! Every member keeps the table of leases as they are applied; only the leader gives them deadlines, anew and in full
//! when it takes over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::mvcc::LeaseRecord;
use crate::raft::state_machine::LeaseListener;

/// Leases revoked in one round; etcd's limit is 1000 a second.
const REVOKES_A_ROUND: usize = 500;
/// Pause between rounds while more leases are due.
const ROUND: Duration = Duration::from_millis(500);
/// Revokes proposed at once.
const REVOKES_IN_FLIGHT: usize = 16;
/// A revoke that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// What the timer needs of the node.
pub trait Revoker: Send + Sync {
    /// Whether a majority still takes this member for the leader.
    fn confirm_leadership(&self) -> impl Future<Output = bool> + Send;
    /// Proposes to revoke a lease; tells whether it is gone.
    fn revoke(&self, id: i64) -> impl Future<Output = bool> + Send;
}

struct Lease {
    ttl: Duration,
    deadline: Option<Instant>,
    /// Due, and on the way to be revoked: no renewal helps any more.
    expired: bool,
}

#[derive(Default)]
struct Table {
    leases: HashMap<i64, Lease>,
    /// Deadlines in order; empty unless this member leads.
    queue: BTreeSet<(Instant, i64)>,
    leading: bool,
}

impl Table {
    fn grant(&mut self, record: LeaseRecord, now: Instant) {
        self.revoke(record.id);
        // The maximum of etcd's API is 285 years; an Instant holds that.
        let ttl = Duration::from_secs(record.ttl_seconds.max(1) as u64);
        self.leases.insert(record.id, Lease { ttl, deadline: None, expired: false });
        if self.leading {
            self.schedule(record.id, now + ttl);
        }
    }

    fn revoke(&mut self, id: i64) {
        if let Some(deadline) = self.leases.remove(&id).and_then(|lease| lease.deadline) {
            self.queue.remove(&(deadline, id));
        }
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
}

impl LeaseListener for Lessor {
    fn changed(&self, leases: &BTreeMap<i64, Option<LeaseRecord>>) {
        let now = Instant::now();
        let mut table = self.table();
        for (id, lease) in leases {
            match lease {
                Some(record) => table.grant(*record, now),
                None => table.revoke(*id),
            }
        }
        self.wake.notify_one();
    }

    fn replaced(&self, leases: Vec<LeaseRecord>) {
        let now = Instant::now();
        let mut table = self.table();
        table.leases.clear();
        table.queue.clear();
        for record in leases {
            table.grant(record, now);
        }
        self.wake.notify_one();
    }
}

impl Lessor {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }

    /// Starts to count every lease down from its full TTL: this member leads, and has applied what was committed before.
    pub fn promote(&self) {
        let now = Instant::now();
        let mut table = self.table();
        if table.leading {
            return;
        }
        table.leading = true;
        let all: Vec<_> = table.leases.iter().map(|(id, lease)| (*id, now + lease.ttl)).collect();
        for (id, deadline) in all {
            table.schedule(id, deadline);
        }
        self.wake.notify_one();
    }

    /// Stops counting: another member may lead.
    pub fn demote(&self) {
        let mut table = self.table();
        table.leading = false;
        table.queue.clear();
        for lease in table.leases.values_mut() {
            lease.deadline = None;
            lease.expired = false;
        }
    }

    /// Whether this member counts, and so may answer for leases.
    pub fn is_leading(&self) -> bool {
        self.table().leading
    }

    /// Counts down from the full TTL again. Nothing if there is no such lease, or it expired already.
    pub fn renew(&self, id: i64) -> Option<TimeToLive> {
        let mut table = self.table();
        let lease = table.leases.get(&id).filter(|lease| !lease.expired)?;
        let ttl = lease.ttl;
        table.schedule(id, Instant::now() + ttl);
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
            None => lease.ttl,
        };
        Some(TimeToLive { remaining_seconds: remaining.as_secs() as i64, granted_seconds: lease.ttl.as_secs() as i64 })
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.table().queue.first().map(|(deadline, _)| *deadline)
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
            let next = self.next_deadline();
            let wait = async {
                match next {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lessor(leases: &[(i64, i64)]) -> Lessor {
        let lessor = Lessor::default();
        lessor.replaced(
            leases.iter().map(|(id, ttl_seconds)| LeaseRecord { id: *id, ttl_seconds: *ttl_seconds }).collect(),
        );
        lessor
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
