//! Which watchers look at a key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::mvcc::KeyRange;

/// Watchers by what they look at. Those of one key are found by hashing; ranges are kept once however many watch them,
/// and looked through from the first up to the key: Kubernetes has about a hundred different ones.
#[derive(Debug)]
pub struct Index<T> {
    keys: HashMap<Bytes, Vec<T>>,
    /// By start, then end; no end is the largest.
    ranges: BTreeMap<(Bytes, End), Vec<T>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), ranges: BTreeMap::new() }
    }
}

impl<T: Copy + PartialEq> Index<T> {
    /// Adds a watcher.
    pub fn insert(&mut self, range: &KeyRange, watcher: T) {
        match place(range) {
            Ok(key) => self.keys.entry(key).or_default().push(watcher),
            Err(range) => self.ranges.entry(range).or_default().push(watcher),
        }
    }

    /// Removes a watcher that was added with this range.
    pub fn remove(&mut self, range: &KeyRange, watcher: T) {
        match place(range) {
            Ok(key) => {
                if let Some(watchers) = self.keys.get_mut(&key) {
                    watchers.retain(|other| *other != watcher);
                    if watchers.is_empty() {
                        self.keys.remove(&key);
                    }
                }
            }
            Err(range) => {
                if let Some(watchers) = self.ranges.get_mut(&range) {
                    watchers.retain(|other| *other != watcher);
                    if watchers.is_empty() {
                        self.ranges.remove(&range);
                    }
                }
            }
        }
    }

    /// Visits the watchers that look at a key.
    pub fn each(&self, key: &Bytes, mut visit: impl FnMut(T)) {
        for watcher in self.keys.get(key).into_iter().flatten() {
            visit(*watcher);
        }
        for ((_, end), watchers) in self.ranges.range(..=(key.clone(), End::Never)) {
            let inside = match end {
                End::Before(end) => key < end,
                End::Never => true,
            };
            if inside {
                watchers.iter().copied().for_each(&mut visit);
            }
        }
    }
}

/// The key, or the range's start and end.
fn place(range: &KeyRange) -> Result<Bytes, (Bytes, End)> {
    match range {
        KeyRange::One(key) => Ok(key.clone()),
        KeyRange::Span(start, end) => Err((start.clone(), End::Before(end.clone()))),
        KeyRange::From(start) => Err((start.clone(), End::Never)),
    }
}
