//! The history read from the store for watchers that are behind.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;

use super::watcher::Interest;
use crate::mvcc::range::version_at;
use crate::mvcc::{Event, EventType, KeyValue, RevKey, RevRecord, View, ViewError};

/// Changes looked at in one go.
const MAX_CHANGES: usize = 10_000;
/// Bytes looked at in one go, and of the events that are found, previous versions included.
pub const MAX_BYTES: usize = 4 << 20;

/// A watcher that is behind.
#[derive(Debug, Clone)]
pub struct Behind {
    /// Which events it wants.
    pub interest: Arc<Interest>,
    /// It wants previous versions too.
    pub prev_kv: bool,
    /// The first revision it misses.
    pub from: i64,
}

/// What one go through the history found.
#[derive(Debug, Default)]
pub struct Found {
    /// Watchers whose next revision is compacted away.
    pub compacted: Vec<i64>,
    /// The compacted revision.
    pub compact_revision: i64,
    /// Watchers' events, a revision after the other.
    pub events: Vec<(i64, i64, Vec<Event>)>,
    /// What they take in memory.
    pub bytes: usize,
    /// All events up to this revision were found.
    pub through: i64,
}

/// Reads the history once for all watchers that are behind, from where the last of them is, as far as one go takes,
/// but not beyond `until`, nor above `most` bytes of events; but one revision at least.
pub fn read<V: View>(view: &V, behind: &BTreeMap<i64, Behind>, until: i64, most: usize) -> Result<Found, ViewError> {
    let compact_revision = view.compact_revision();
    let (compacted, readable): (Vec<_>, Vec<_>) =
        behind.iter().map(|(id, watcher)| (*id, watcher)).partition(|(_, watcher)| watcher.from < compact_revision);
    let mut found = Found {
        compacted: compacted.into_iter().map(|(id, _)| id).collect(),
        compact_revision,
        events: Vec::new(),
        bytes: 0,
        through: until,
    };
    let Some(first) = readable.iter().map(|(_, watcher)| watcher.from).min() else {
        return Ok(found);
    };
    let (mut changes, mut bytes, mut last) = (0, 0, first - 1);
    view.history(first, &mut |place, record| {
        let main = place.revision.main;
        let full = changes >= MAX_CHANGES || bytes >= MAX_BYTES || found.bytes > most;
        if main > until || (main > last && full) {
            found.through = if main > until { until } else { last };
            return Ok(ControlFlow::Break(()));
        }
        (changes, last) = (changes + 1, main);
        bytes += record.kv.len();
        found.bytes += add(view, &readable, &mut found.events, place, &record)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The version of the revision before, also if the key was changed twice at this one; none of a key that was created.
fn before<V: View>(view: &V, kv: &KeyValue, revision: i64, record: &RevRecord) -> Result<Option<KeyValue>, ViewError> {
    // Gone if the change itself is at the compacted revision; etcd shows none then either.
    if kv.create_revision == revision || revision <= view.compact_revision() {
        return Ok(None);
    }
    let previous = match record.previous {
        Some(own) if own.revision.main == revision => version_at(view, own, revision - 1)?,
        before => before,
    };
    match previous.filter(|previous| !previous.tombstone) {
        Some(previous) => view.record(previous)?.map(|record| record.key_value()).transpose(),
        None => Ok(None),
    }
}

/// Adds one change for the watchers that want it; returns the bytes of the events that were made.
fn add<V: View>(
    view: &V,
    behind: &[(i64, &Behind)],
    events: &mut Vec<(i64, i64, Vec<Event>)>,
    place: RevKey,
    record: &RevRecord,
) -> Result<usize, ViewError> {
    let revision = place.revision.main;
    let mut kv = record.key_value()?;
    kv.mod_revision = revision;
    let kind = if place.tombstone { EventType::Delete } else { EventType::Put };
    let mut event = Event { r#type: kind.into(), kv: Some(kv.clone()), prev_kv: None };
    let wants = |watcher: &Behind| {
        watcher.from <= revision
            && watcher.interest.range.contains(&kv.key)
            && watcher.interest.accepts(revision, &event)
    };
    let wanting: Vec<_> = behind.iter().filter(|(_, watcher)| wants(watcher)).collect();
    if wanting.iter().any(|(_, watcher)| watcher.prev_kv) {
        event.prev_kv = before(view, &kv, revision, record)?;
    }
    let bytes = wanting.len() * (size_of::<Event>() + event.encoded_len());
    for (id, _) in wanting {
        match events.iter_mut().rev().take_while(|(_, last, _)| *last == revision).find(|(other, ..)| other == id) {
            Some((_, _, of_revision)) => of_revision.push(event.clone()),
            None => events.push((*id, revision, vec![event.clone()])),
        }
    }
    Ok(bytes)
}
