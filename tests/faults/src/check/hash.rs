//! In the end all members have the same data, by their own sums over it.

use std::collections::BTreeMap;

use super::violation::{Property, Violation};
use crate::history::{Hash, History};

pub fn check(history: &History) -> Vec<Violation> {
    let mut by_revision: BTreeMap<i64, Vec<&Hash>> = BTreeMap::new();
    for hash in &history.hashes {
        by_revision.entry(hash.revision).or_default().push(hash);
    }
    let differs = |hashes: &Vec<&Hash>| {
        hashes.iter().any(|hash| (hash.hash, hash.compact_revision) != (hashes[0].hash, hashes[0].compact_revision))
    };
    let told =
        |hash: &&Hash| format!("member {} has {:08x} (compacted {})", hash.member, hash.hash, hash.compact_revision);
    let violation = |(revision, hashes): (i64, Vec<&Hash>)| {
        let members: Vec<_> = hashes.iter().map(told).collect();
        Violation::new(Property::Hash, format!("at revision {revision}: {}", members.join(", ")))
    };
    by_revision.into_iter().filter(|(_, hashes)| differs(hashes)).map(violation).collect()
}
