//! Refuses to store more than the quota allows, and raises the alarm that stops writes everywhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use super::Api;
use crate::error::EtcdError;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};

/// Asking the store for its size takes longer than a put, so the answer is used for a while.
const SIZE_VALID_FOR: Duration = Duration::from_secs(1);

/// What a key costs besides its key and value.
const OVERHEAD_BYTES: u64 = 256;

/// The store's size as last seen, and what was admitted since.
pub struct Quota {
    limit_bytes: Option<u64>,
    start: Instant,
    seen_at_ms: AtomicU64,
    size_bytes: AtomicU64,
}

impl Quota {
    /// A quota that has not looked at the store yet.
    pub fn new(limit_bytes: Option<u64>) -> Self {
        Quota {
            limit_bytes,
            start: Instant::now(),
            seen_at_ms: AtomicU64::new(u64::MAX),
            size_bytes: AtomicU64::new(0),
        }
    }

    /// The store may have shrunk.
    pub fn look_again(&self) {
        self.seen_at_ms.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether `bytes` more fit. `size` is asked now and then.
    fn admits(&self, bytes: usize, size: impl FnOnce() -> u64) -> bool {
        let Some(limit) = self.limit_bytes else {
            return true;
        };
        let now = self.start.elapsed().as_millis() as u64;
        let seen_at = self.seen_at_ms.load(Ordering::Relaxed);
        let valid_for = SIZE_VALID_FOR.as_millis() as u64;
        if seen_at == u64::MAX || now.saturating_sub(seen_at) > valid_for {
            self.seen_at_ms.store(now, Ordering::Relaxed);
            self.size_bytes.store(size(), Ordering::Relaxed);
        }
        let cost = bytes as u64 + OVERHEAD_BYTES;
        self.size_bytes.fetch_add(cost, Ordering::Relaxed) + cost <= limit
    }
}

impl Api {
    /// Refuses a write that does not fit, after raising the alarm.
    pub(super) async fn check_quota(&self, bytes: usize) -> Result<(), Status> {
        if self.quota.admits(bytes, || self.node.store().sizes().total_bytes) {
            return Ok(());
        }
        tracing::warn!(quota_bytes = self.limits.quota_bytes, "the store is full, raising the alarm");
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.node.status().member_id,
            alarm: AlarmType::Nospace.into(),
        };
        // Refused either way; without the alarm the next write tries again.
        if let Err(error) = self.propose(Op::Alarm(alarm), None).await {
            tracing::warn!(%error, "the alarm could not be raised");
        }
        Err(EtcdError::NoSpace.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_fill_the_quota_between_two_looks_at_the_store() {
        let quota = Quota::new(Some(3000));
        assert!(quota.admits(1000, || 0));
        assert!(quota.admits(1000, || panic!("the size is known")));
        assert!(!quota.admits(1000, || panic!("the size is known")));
        quota.look_again();
        assert!(quota.admits(1000, || 0), "it has shrunk");
        assert!(Quota::new(None).admits(usize::MAX, || u64::MAX));
    }
}
