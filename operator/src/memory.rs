//! What the operator remembers of a cluster between passes. All of it may be lost: it decides when to look again and whether to
//! apply once more, never what is planned.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The memory of all clusters, by uid.
#[derive(Debug, Default)]
pub struct Memory {
    clusters: Mutex<BTreeMap<String, Remembered>>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Passes that came to nothing, one after the other, and the text of the last failure.
    failures: u32,
    failure: Option<String>,
    /// What is waited for, and since when.
    waiting: Option<(String, Instant)>,
    /// The edition of each child as it was after it was applied.
    children: BTreeMap<String, String>,
}

impl Memory {
    fn of<T>(&self, uid: &str, look: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        look(clusters.entry(uid.to_string()).or_default())
    }

    /// A pass succeeded.
    pub fn succeeded(&self, uid: &str) {
        self.of(uid, |it| (it.failures, it.failure) = (0, None));
    }

    /// A pass failed.
    pub fn failed(&self, uid: &str, failure: String) {
        self.of(uid, |it| {
            it.failures += 1;
            it.failure = Some(failure);
        });
    }

    /// A pass came to nothing because somebody else was faster.
    pub fn was_late(&self, uid: &str) {
        self.of(uid, |it| it.failures += 1);
    }

    /// How many passes came to nothing since the last success.
    pub fn failures(&self, uid: &str) -> u32 {
        self.of(uid, |it| it.failures)
    }

    /// The last failure, unless a pass succeeded since.
    pub fn failure(&self, uid: &str) -> Option<String> {
        self.of(uid, |it| it.failure.clone())
    }

    /// For how long the very same has been waited for; zero when a step was taken (`None`) or something else is waited for now.
    pub fn waited(&self, uid: &str, waiting_for: Option<&str>, now: Instant) -> Duration {
        self.of(uid, |it| {
            let same = it.waiting.as_ref().filter(|(what, _)| Some(what.as_str()) == waiting_for);
            let since = same.map_or(now, |(_, since)| *since);
            it.waiting = waiting_for.map(|what| (what.to_string(), since));
            now.saturating_duration_since(since)
        })
    }

    /// A child was applied and is at this edition now.
    pub fn applied(&self, uid: &str, child: &str, edition: String) {
        self.of(uid, |it| it.children.insert(child.to_string(), edition));
    }

    /// Whether a child is still as it was applied.
    pub fn is_as_applied(&self, uid: &str, child: &str, edition: &str) -> bool {
        self.of(uid, |it| it.children.get(child).is_some_and(|applied| applied == edition))
    }

    /// All other clusters are gone.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|uid, _| is_there(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_wait_grows_and_another_starts_anew() {
        let memory = Memory::default();
        let start = Instant::now();
        let waited = |what, seconds| {
            let now = start + Duration::from_secs(seconds);
            memory.waited("u", what, now).as_secs()
        };
        assert_eq!(waited(Some("a"), 0), 0);
        assert_eq!(waited(Some("a"), 5), 5);
        assert_eq!(waited(Some("a"), 9), 9);
        assert_eq!(waited(Some("b"), 10), 0);
        assert_eq!(waited(None, 11), 0, "a step was taken");
        assert_eq!(waited(Some("b"), 12), 0);
        assert_eq!(waited(Some("b"), 13), 1);
    }

    #[test]
    fn a_child_that_was_edited_or_never_applied_is_not_as_applied() {
        let memory = Memory::default();
        assert!(!memory.is_as_applied("u", "Service a", "uid/1"));
        memory.applied("u", "Service a", "uid/1".into());
        assert!(memory.is_as_applied("u", "Service a", "uid/1"));
        assert!(!memory.is_as_applied("u", "Service a", "uid/2"));
        memory.keep(|uid| uid != "u");
        assert!(!memory.is_as_applied("u", "Service a", "uid/1"));
    }
}
