//! The history while it is made.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::history::{Hash, History, Operation, Restart, Time, Watch, WatchId, WatchResponse};

#[derive(Debug, Clone)]
pub struct Recorder {
    begun: Instant,
    history: Arc<Mutex<History>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { begun: Instant::now(), history: Arc::default() }
    }
}

impl Recorder {
    /// What happens after this history.
    pub fn continuing(history: History) -> Self {
        let last = history.operations.iter().map(|operation| operation.returned).max().unwrap_or(0);
        let begun = Instant::now() - Duration::from_nanos(last + 1);
        Self { begun, history: Arc::new(Mutex::new(history)) }
    }

    pub fn now(&self) -> Time {
        self.begun.elapsed().as_nanos() as Time
    }

    pub fn operation(&self, operation: Operation) {
        self.history().operations.push(operation);
    }

    pub fn watch(&self, watch: Watch) -> WatchId {
        let mut history = self.history();
        history.watches.push(watch);
        history.watches.len() - 1
    }

    pub fn response(&self, watch: WatchId, response: WatchResponse) {
        self.history().watches[watch].responses.push(response);
    }

    pub fn must_reach(&self, watch: WatchId, revision: i64) {
        self.history().watches[watch].must_reach = Some(revision);
    }

    /// To be called when the process has ended.
    pub fn restart(&self, member: u32) {
        let restart = Restart { member, time: self.now() };
        self.history().restarts.push(restart);
    }

    pub fn sum(&self, hash: Hash) {
        self.history().hashes.push(hash);
    }

    /// As it is by now.
    pub fn so_far(&self) -> History {
        self.history().clone()
    }

    pub fn take(&self) -> History {
        std::mem::take(&mut self.history())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
