//! Memory that requests, answers and events may take on their way, those of each kind together.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// The least that a member gives to answers and events, and to requests, in bytes.
const LEAST_BYTES: usize = 64 << 20;

/// Who takes nothing for so long loses its connection when others wait for the memory.
const PATIENCE: Duration = Duration::from_secs(3);

const LOCK: &str = "no holder of this lock panics";

/// So many bytes, for all who take a share.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: AtomicUsize,
    /// What waits to be sent, the oldest first; only what came while memory was short.
    unsent: Mutex<BTreeMap<u64, (Instant, Taker)>>,
    next: AtomicU64,
    /// Whether somebody waits for memory, at the condition below.
    waited_for: AtomicBool,
    given_back: (Mutex<()>, Condvar),
}

impl Budget {
    /// Nobody has taken anything yet.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget {
            limit,
            taken: AtomicUsize::new(0),
            unsent: Mutex::default(),
            next: AtomicU64::new(0),
            waited_for: AtomicBool::new(false),
            given_back: Default::default(),
        })
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

    /// Whether more than half of it is taken.
    pub fn is_short(&self) -> bool {
        self.left() < self.limit / 2
    }

    /// Notes that bytes begin to wait for who takes them, if memory is short. They wait until what comes back is dropped.
    pub fn wait_for(self: &Arc<Self>, taker: &Taker) -> Option<Unsent> {
        if !self.is_short() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.unsent.lock().expect(LOCK).insert(number, (Instant::now(), taker.clone()));
        Some(Unsent { budget: Arc::clone(self), number })
    }

    /// Closes the connection of who has let bytes wait for longest, if that is too long. Others need the memory.
    pub fn close_slowest(&self) {
        self.close_slowest_at(Instant::now());
    }

    fn close_slowest_at(&self, now: Instant) {
        let mut unsent = self.unsent.lock().expect(LOCK);
        while let Some(oldest) = unsent.first_entry()
            && now.saturating_duration_since(oldest.get().0) > PATIENCE
        {
            let (_, taker) = oldest.remove();
            if taker.close() {
                return;
            }
        }
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

    /// The same for who may block its thread: one at a time waits for what others give back, so that of many who want more than
    /// there is together, some get it.
    #[must_use]
    pub fn grow_in_turn(&mut self, bytes: usize) -> bool {
        if self.grow(bytes) {
            return true;
        }
        let budget = &self.budget;
        if budget.waited_for.swap(true, Ordering::SeqCst) {
            return false;
        }
        let (lock, given_back) = &budget.given_back;
        let short = |_: &mut ()| budget.taken.load(Ordering::SeqCst) > budget.limit;
        let waited = given_back.wait_timeout_while(lock.lock().expect(LOCK), PATIENCE, short).expect(LOCK);
        budget.waited_for.store(false, Ordering::SeqCst);
        !waited.1.timed_out()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Of what it is a share.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

/// Bytes that wait to be sent.
#[derive(Debug)]
pub struct Unsent {
    budget: Arc<Budget>,
    number: u64,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.budget.unsent.lock().expect(LOCK).remove(&self.number);
    }
}

/// Who takes an answer: its connection, once that is known. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Taker(Arc<OnceLock<CancellationToken>>);

impl Taker {
    /// What closes the connection.
    pub fn is_at(&self, connection: &CancellationToken) {
        // It does not change.
        let _ = self.0.set(connection.clone());
    }

    /// False if it is closed already, or nothing is known of it.
    fn close(&self) -> bool {
        let open = self.0.get().filter(|connection| !connection.is_cancelled());
        open.inspect(|connection| connection.cancel()).is_some()
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
        if self.taken == 0 {
            return;
        }
        self.budget.taken.fetch_sub(self.taken, Ordering::SeqCst);
        if self.budget.waited_for.load(Ordering::SeqCst) {
            let (lock, given_back) = &self.budget.given_back;
            // With the lock, so that who waits has looked before that, or waits already.
            let _lock = lock.lock().expect(LOCK);
            given_back.notify_all();
        }
    }
}

/// What a member gives to answers and events if nobody says: a quarter of the memory that its process may use, in bytes.
pub fn default_bytes() -> usize {
    (memory_bytes() / 4).max(LEAST_BYTES)
}

/// What a member gives to requests if nobody says: an eighth of that memory, in bytes.
pub fn default_request_bytes() -> usize {
    (memory_bytes() / 8).max(LEAST_BYTES)
}

/// The memory that the process may use, by its control group or the machine, in bytes.
pub fn memory_bytes() -> usize {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Of the second version of control groups, or the first one; without a limit there is no number, or a huge one.
    let group = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram as u64 * u64::from(machine.mem_unit);
    let memory = group.map_or(machine, |group| group.min(machine));
    usize::try_from(memory).unwrap_or(usize::MAX)
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
    fn who_takes_nothing_for_longest_is_closed_when_memory_is_short() {
        let budget = Budget::new(100);
        let [early, first, second] = [0; 3].map(|_| (CancellationToken::new(), Taker::default()));
        for (connection, taker) in [&early, &first, &second] {
            taker.is_at(connection);
        }
        let closed = || [&early, &first, &second].map(|(connection, _)| connection.is_cancelled());
        assert!(budget.wait_for(&early.1).is_none(), "there is enough");
        let _share = budget.hold(60);
        let sent = budget.wait_for(&early.1);
        let _waiting = [&first, &first, &second].map(|(_, taker)| budget.wait_for(taker));
        drop(sent);
        budget.close_slowest();
        assert_eq!(closed(), [false; 3], "nobody has waited for long");
        let late = Instant::now() + PATIENCE;
        budget.close_slowest_at(late);
        assert_eq!(closed(), [false, true, false]);
        budget.close_slowest_at(late);
        assert_eq!(closed(), [false, true, true], "each is closed once");
    }

    #[test]
    fn less_than_a_step_costs_nothing() {
        let budget = Budget::new(100);
        let mut share = budget.share(10);
        assert!(share.grow(9) && share.is_empty());
        assert!(share.grow(1) && !share.is_empty());
        assert_eq!(budget.left(), 90);
    }

    #[test]
    fn of_many_who_want_more_than_there_is_together_one_gets_it() {
        let budget = Budget::new(100);
        let (mut first, mut second) = (budget.share(1), budget.share(1));
        assert!(first.grow(60) && second.grow(40));
        let waits = std::thread::spawn(move || first.grow_in_turn(40));
        // Until it has its turn.
        while !budget.waited_for.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(!second.grow_in_turn(1), "another one waits");
        drop(second);
        assert!(waits.join().expect("no panic"));
    }
}
