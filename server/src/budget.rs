//! Memory that answers and events may take on their way to clients, together.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The least that a member gives to them, in bytes.
const LEAST_BYTES: usize = 64 << 20;

/// So many bytes, for all who take a share.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

impl Budget {
    /// Nobody has taken anything yet.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, taken: AtomicUsize::new(0) })
    }

    /// Bytes that nobody has taken.
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Bytes at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A share of so many bytes, whether or not there are as many: they are in memory already.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Share {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: Arc::clone(self), used: bytes, taken: bytes, step: 1 }
    }

    /// An empty share. It counts in steps of `step` bytes: what is smaller costs nothing.
    pub fn share(self: &Arc<Self>, step: usize) -> Share {
        Share { budget: Arc::clone(self), used: 0, taken: 0, step }
    }
}

/// What one answer has taken. It goes back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    used: usize,
    taken: usize,
    step: usize,
}

impl Share {
    /// Takes more. False if that is more than there is; what was taken before stays taken.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.used += bytes;
        let more = self.used - self.taken;
        if more < self.step {
            return true;
        }
        let before = self.budget.taken.fetch_add(more, Ordering::Relaxed);
        self.taken += more;
        before + more <= self.budget.limit
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }
}

/// Bytes that keep their share until the last of them was sent, wherever they wait.
pub fn shared(bytes: Bytes, share: impl Send + 'static) -> Bytes {
    struct Shared<S>(Bytes, S);
    impl<S> AsRef<[u8]> for Shared<S> {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Shared(bytes, share))
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.budget.taken.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

/// What a member gives to answers and events if nobody says: a quarter of the memory that its process may use, in bytes.
pub fn default_bytes() -> usize {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Of the second version of control groups, or the first one; without a limit there is no number, or a huge one.
    let group = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram as u64 * u64::from(machine.mem_unit);
    let memory = group.map_or(machine, |group| group.min(machine));
    usize::try_from(memory / 4).unwrap_or(usize::MAX).max(LEAST_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_go_back() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.share(1), budget.share(1));
        assert!(one.grow(60) && other.grow(40));
        assert_eq!(budget.left(), 0);
        assert!(!other.grow(1));
        drop(other);
        assert_eq!(budget.left(), 40);
        assert!(one.grow(40));
    }

    #[test]
    fn bytes_keep_their_share_until_the_last_of_them_is_gone() {
        let budget = Budget::new(100);
        let mut bytes = shared(Bytes::from_static(b"abcdef"), budget.hold(60));
        let sent = bytes.split_to(3);
        drop(bytes);
        assert_eq!((&sent[..], budget.left()), (&b"abc"[..], 40));
        drop(sent);
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn less_than_a_step_costs_nothing() {
        let budget = Budget::new(100);
        let mut share = budget.share(10);
        assert!(share.grow(9) && share.is_empty());
        assert!(share.grow(1) && !share.is_empty());
        assert_eq!(budget.left(), 90);
    }
}
