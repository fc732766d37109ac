//! What of the log is known in memory: every entry's term and place on disk, and the newest entries themselves.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message;

use super::segment::{self, Key, Kind};
use crate::proto::peer as pb;
use crate::raft::types::{Entry, LogId, Vote, entry_from_wire, log_id};

/// Where a record lies on disk.
#[derive(Clone)]
pub struct Place {
    /// The segment's file.
    pub file: Arc<File>,
    /// The segment's key.
    pub key: Key,
    /// The record's offset in it.
    pub offset: u64,
    /// Length of the record with header and padding.
    pub size: usize,
}

impl Place {
    fn read(&self) -> io::Result<Entry> {
        let mut data = vec![0; self.size];
        self.file.read_exact_at(&mut data, self.offset)?;
        let record = segment::get(&data, self.key, self.offset, self.offset)
            .filter(|record| record.kind == Kind::Entry)
            .ok_or_else(|| {
                let message = format!("{:016x}.wal: no valid entry at offset {}", self.key.number, self.offset);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
        let entry = pb::Entry::decode(Bytes::copy_from_slice(record.payload)).map_err(io::Error::other)?;
        entry_from_wire(entry).map_err(io::Error::other)
    }
}

struct Slot {
    term: u64,
    place: Option<Place>,
    entry: Option<Entry>,
}

/// What an entry costs beside its command.
const ENTRY_OVERHEAD: usize = 128;

/// The log without its tail on disk: invariants are that indexes are consecutive, and start behind `purged`.
#[derive(Default)]
pub struct Index {
    /// The last saved vote.
    pub vote: Option<Vote>,
    /// The last saved commit.
    pub committed: Option<LogId>,
    /// Nothing is being written, and the writing thread does not look at `committed` by itself.
    pub writer_rests: bool,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    first: u64,
    slots: VecDeque<Slot>,
    /// Index of the oldest entry that may still be in memory.
    cached_from: u64,
    cached_bytes: usize,
    /// Written entries are dropped from memory above it.
    pub most_cached_bytes: usize,
}

fn cost(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(request) => request.0.len() + ENTRY_OVERHEAD,
        _ => ENTRY_OVERHEAD,
    }
}

impl Index {
    /// Index that the next entry must have.
    pub fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The last entry, or the last purged one if there is none.
    pub fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(log_id(slot.term, self.next() - 1)),
            None => self.purged,
        }
    }

    /// Whether an entry may come next: the log has no holes, except that an empty log starts anywhere behind `purged`.
    pub fn accepts(&self, index: u64) -> bool {
        index == self.next() || (self.slots.is_empty() && self.purged.is_none())
    }

    fn push(&mut self, term: u64, index: u64, slot: Slot) {
        assert!(self.accepts(index), "entry {index} of term {term} leaves a hole behind {:?}", self.last());
        if self.slots.is_empty() {
            self.first = index;
            self.cached_from = index;
        }
        self.slots.push_back(slot);
    }

    /// Adds an entry whose place is not known yet, and forgets old ones when memory is short.
    pub fn append(&mut self, entry: Entry) {
        self.cached_bytes += cost(&entry);
        let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
        self.push(term, index, Slot { term, place: None, entry: Some(entry) });
        self.evict();
    }

    /// Adds an entry that was found on disk.
    pub fn recovered(&mut self, id: LogId, place: Place) {
        self.push(id.leader_id.term, id.index, Slot { term: id.leader_id.term, place: Some(place), entry: None });
    }

    /// Notes where an entry was written; it may have been truncated or purged meanwhile.
    pub fn written(&mut self, id: LogId, place: Place) {
        if let Some(slot) = self.slot_mut(id.index)
            && slot.term == id.leader_id.term
        {
            slot.place = Some(place);
        }
        self.evict();
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(index.checked_sub(self.first)? as usize)
    }

    /// Drops the oldest entries from memory until the budget holds; those not yet written must stay.
    fn evict(&mut self) {
        while self.cached_bytes > self.most_cached_bytes {
            let at = self.cached_from;
            match self.slot_mut(at) {
                Some(slot) if slot.place.is_some() => {
                    let freed = slot.entry.take().map_or(0, |entry| cost(&entry));
                    self.cached_bytes -= freed;
                    self.cached_from += 1;
                }
                _ => return,
            }
        }
    }

    /// Drops the entries behind `last`.
    pub fn truncate_after(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| last.saturating_add(1).saturating_sub(self.first)) as usize;
        while self.slots.len() > keep {
            self.forget_cached(|slots| slots.pop_back());
        }
        self.cached_from = self.cached_from.min(self.next());
    }

    /// Drops the entries up to `id`.
    pub fn purge(&mut self, id: LogId) {
        while self.first <= id.index && !self.slots.is_empty() {
            self.forget_cached(|slots| slots.pop_front());
            self.first += 1;
        }
        if self.purged < Some(id) {
            self.purged = Some(id);
        }
        if self.slots.is_empty() {
            self.first = self.purged.map_or(0, |purged| purged.index + 1);
        }
        self.cached_from = self.cached_from.max(self.first);
    }

    fn forget_cached(&mut self, take: impl FnOnce(&mut VecDeque<Slot>) -> Option<Slot>) {
        let entry = take(&mut self.slots).and_then(|slot| slot.entry);
        self.cached_bytes -= entry.as_ref().map_or(0, cost);
    }

    /// The entries of `range` that exist, from memory or as places to read, up to about `max_bytes` but at least one.
    pub fn find(&self, range: Range<u64>, max_bytes: usize) -> Vec<Found> {
        let start = range.start.max(self.first);
        let end = range.end.min(self.next());
        let mut found = Vec::with_capacity(end.saturating_sub(start).min(4096) as usize);
        let mut bytes = 0;
        for index in start..end {
            let slot = &self.slots[(index - self.first) as usize];
            let (size, item) = match (&slot.entry, &slot.place) {
                (Some(entry), _) => (cost(entry), Found::Entry(entry.clone())),
                (None, Some(place)) => (place.size + ENTRY_OVERHEAD, Found::Place(place.clone())),
                (None, None) => unreachable!("entry {index} is neither in memory nor on disk"),
            };
            bytes += size;
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(item);
        }
        found
    }
}

/// An entry, or where to read it.
pub enum Found {
    /// It is in memory.
    Entry(Entry),
    /// It is on disk only.
    Place(Place),
}

impl Found {
    /// The entry, read from disk if need be.
    pub fn load(self) -> io::Result<Entry> {
        match self {
            Found::Entry(entry) => Ok(entry),
            Found::Place(place) => place.read(),
        }
    }
}
