//! Which watchers look at a key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::mvcc::KeyRange;

/// Watchers by what they look at. Those of one key are found by hashing, those of a prefix by hashing as much of the key for
/// each length that any prefix has. Other ranges are kept once however many watch them, and looked through from the
/// first up to the key: hardly any client watches one.
#[derive(Debug)]
pub struct Index<T> {
    keys: HashMap<Bytes, Vec<T>>,
    prefixes: HashMap<Bytes, Vec<T>>,
    /// How many of the prefixes are so long.
    lengths: BTreeMap<usize, usize>,
    /// By start, then end; no end is the largest.
    ranges: BTreeMap<(Bytes, End), Vec<T>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

/// Where a watcher is kept.
enum Place {
    Key(Bytes),
    Prefix(Bytes),
    Range((Bytes, End)),
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        let (keys, prefixes) = (HashMap::new(), HashMap::new());
        Self { keys, prefixes, lengths: BTreeMap::new(), ranges: BTreeMap::new() }
    }
}

impl<T: PartialEq> Index<T> {
    /// Adds a watcher.
    pub fn insert(&mut self, range: &KeyRange, watcher: T) {
        match Place::of(range) {
            Place::Key(key) => self.keys.entry(key).or_default().push(watcher),
            Place::Prefix(prefix) => {
                let length = prefix.len();
                let watchers = self.prefixes.entry(prefix).or_default();
                if watchers.is_empty() {
                    *self.lengths.entry(length).or_default() += 1;
                }
                watchers.push(watcher);
            }
            Place::Range(range) => self.ranges.entry(range).or_default().push(watcher),
        }
    }

    /// Removes a watcher that was added with this range.
    pub fn remove(&mut self, range: &KeyRange, watcher: &T) {
        match Place::of(range) {
            Place::Key(key) => {
                if self.keys.get_mut(&key).is_some_and(|watchers| take(watchers, watcher)) {
                    self.keys.remove(&key);
                }
            }
            Place::Prefix(prefix) => {
                if self.prefixes.get_mut(&prefix).is_some_and(|watchers| take(watchers, watcher)) {
                    self.prefixes.remove(&prefix);
                    self.forget_length(prefix.len());
                }
            }
            Place::Range(range) => {
                if self.ranges.get_mut(&range).is_some_and(|watchers| take(watchers, watcher)) {
                    self.ranges.remove(&range);
                }
            }
        }
    }

    fn forget_length(&mut self, length: usize) {
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// Visits the watchers that look at a key.
    pub fn each<'a>(&'a self, key: &Bytes, mut visit: impl FnMut(&'a T)) {
        let mut visit_all = |watchers: &'a [T]| watchers.iter().for_each(&mut visit);
        visit_all(self.keys.get(key).map_or(&[], Vec::as_slice));
        for (length, _) in self.lengths.range(..=key.len()) {
            visit_all(self.prefixes.get(&key[..*length]).map_or(&[], Vec::as_slice));
        }
        for ((_, end), watchers) in self.ranges.range(..=(key.clone(), End::Never)) {
            let inside = match end {
                End::Before(end) => key < end,
                End::Never => true,
            };
            if inside {
                visit_all(watchers);
            }
        }
    }
}

/// Takes a watcher out; tells whether none is left.
fn take<T: PartialEq>(watchers: &mut Vec<T>, watcher: &T) -> bool {
    watchers.retain(|other| other != watcher);
    watchers.is_empty()
}

impl Place {
    fn of(range: &KeyRange) -> Self {
        match range {
            KeyRange::One(key) => Place::Key(key.clone()),
            KeyRange::Span(start, end) if ends_prefix(start, end) => Place::Prefix(start.clone()),
            KeyRange::Span(start, end) => Place::Range((start.clone(), End::Before(end.clone()))),
            KeyRange::From(start) => Place::Range((start.clone(), End::Never)),
        }
    }
}

/// Whether `end` is the first key behind all that begin with `prefix`.
fn ends_prefix(prefix: &[u8], end: &[u8]) -> bool {
    let Some((last, before)) = end.split_last() else {
        return false;
    };
    // What is behind the last byte that can grow is cut off: the key after a/\xff is b.
    let (kept, cut) = match prefix.split_at_checked(end.len()) {
        Some(parts) => parts,
        None => return false,
    };
    kept.starts_with(before)
        && kept.last().is_some_and(|kept| kept.checked_add(1) == Some(*last))
        && cut.iter().all(|byte| *byte == u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(b'a'), Just(b'b'), Just(254), Just(255)];
        prop::collection::vec(byte, 1..4).prop_map(Bytes::from)
    }

    fn ranges() -> impl Strategy<Value = KeyRange> {
        let prefix = bytes().prop_map(|prefix| {
            let mut end = prefix.to_vec();
            while end.last() == Some(&u8::MAX) {
                end.pop();
            }
            match end.last_mut() {
                Some(last) => {
                    *last += 1;
                    KeyRange::Span(prefix, end.into())
                }
                None => KeyRange::From(prefix),
            }
        });
        prop_oneof![
            bytes().prop_map(KeyRange::One),
            prefix,
            (bytes(), bytes()).prop_map(|(start, end)| KeyRange::Span(start, end)),
            bytes().prop_map(KeyRange::From),
        ]
    }

    proptest! {
        /// Whoever looks at a key is found, and nobody else, also when others have left.
        #[test]
        fn watchers_are_those_whose_range_has_the_key(
            watchers in prop::collection::vec((ranges(), any::<bool>()), 0..20),
            key in bytes(),
        ) {
            let mut index = Index::default();
            for (at, (range, _)) in watchers.iter().enumerate() {
                index.insert(range, at);
            }
            let mut wanted = Vec::new();
            for (at, (range, stays)) in watchers.iter().enumerate() {
                if !stays {
                    index.remove(range, &at);
                } else if range.contains(&key) {
                    wanted.push(at);
                }
            }
            let mut found = Vec::new();
            index.each(&key, |at| found.push(*at));
            found.sort_unstable();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn prefixes_are_told_from_other_ranges() {
        for (start, end, is) in [
            (&b"a"[..], &b"b"[..], true),
            (b"a/", b"a0", true),
            (b"a\xff", b"b", true),
            (b"a", b"c", false),
            (b"ab", b"b", false),
            (b"a", b"b\0", false),
            (b"\xff", b"", false),
        ] {
            assert_eq!(ends_prefix(start, end), is, "{start:?} to {end:?}");
        }
    }
}
