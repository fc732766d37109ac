//! Reads the segments at start: what the log holds, where it ends, and whether it can be trusted.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use super::LogError;
use super::index::{Index, Place};
use super::salt::salt;
use super::segment::{self, Key, Kind, Record, Tail};
use super::writer::{self, Closed, Open, segment_path};
use crate::proto::peer as pb;
use crate::raft::types::{LogId, Malformed, Vote, maybe_log_id};

/// What the directory holds.
pub struct Recovered {
    /// The entries and the rest, without any entry in memory.
    pub index: Index,
    /// Sealed segments, oldest first.
    pub closed: VecDeque<Closed>,
    /// The segment to go on with, if there is any.
    pub open: Option<Open>,
    /// Key of the next segment if there is no open one.
    pub next: Key,
    /// Files for reuse.
    pub spares: Vec<PathBuf>,
}

enum Event {
    Vote(Vote),
    Entry(LogId, Place),
    Truncate(Option<u64>),
    Purge(LogId),
    Commit(LogId),
}

/// Reads all of `dir`. Cuts a torn tail; refuses what cannot be explained by a crash.
pub fn recover(dir: &Path) -> Result<Recovered, LogError> {
    let (numbers, spares) = list(dir).map_err(|source| LogError::Io { path: dir.into(), source })?;
    let salt = salt(dir, !numbers.is_empty())?;
    let (mut events, mut data) = (Vec::new(), Vec::new());
    let mut closed = VecDeque::new();
    let mut open = None;
    for (at, number) in numbers.iter().copied().enumerate() {
        let path = segment_path(dir, number);
        if at > 0 && numbers[at - 1] + 1 != number {
            return Err(LogError::Missing { path: segment_path(dir, number - 1) });
        }
        let last = at + 1 == numbers.len();
        let (found, tail) = read_segment(&path, Key { number, salt }, &mut data, &mut events)?;
        match tail {
            Tail::Sealed => closed.push_back(Closed { number, last_index: found.last_index }),
            Tail::Corrupt { end } => return Err(LogError::Corrupt { path, offset: end }),
            // The next segment was created only after this one's `End` was on disk.
            Tail::Clean { end } | Tail::Torn { end, .. } if !last => {
                return Err(LogError::Corrupt { path, offset: end });
            }
            Tail::Clean { .. } | Tail::Torn { .. } if found.allocated < least_length(&found) => {
                return Err(LogError::Short { path, length: found.allocated, least: least_length(&found) });
            }
            Tail::Clean { .. } | Tail::Torn { .. } => open = Some(resume(found, tail, &path)?),
        }
    }
    let next = Key { number: numbers.last().map_or(1, |number| number + 1), salt };
    Ok(Recovered { index: replay(events, dir)?, closed, open, next, spares })
}

fn list(dir: &Path) -> io::Result<(Vec<u64>, Vec<PathBuf>)> {
    let (mut numbers, mut spares) = (Vec::new(), Vec::new());
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("spare") => spares.push(path),
            Some("wal") => {
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                numbers.extend(u64::from_str_radix(stem, 16));
            }
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok((numbers, spares))
}

/// `data` is room for a segment, used again for the next one.
fn read_segment(path: &Path, key: Key, data: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<(Open, Tail), LogError> {
    let fail = |source| LogError::Io { path: path.into(), source };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    data.clear();
    (&file).read_to_end(data).map_err(fail)?;
    let allocated = data.len() as u64;
    let (file, last_index) = (Arc::new(file), None);
    let mut open = Open { file, key, start: 0, offset: 0, synced: 0, allocated, last_index, segment_bytes: 0 };
    let tail = segment::scan(data, key, |record| {
        if record.offset == 0 {
            open.start = record.end();
        }
        open.offset = record.end();
        open.synced = open.synced.max(record.synced);
        take(record, &mut open, events).map_err(|_| LogError::Corrupt { path: path.into(), offset: record.offset })
    })?;
    Ok((open, tail))
}

/// What the file had when its last record was written, as far as it tells.
fn least_length(open: &Open) -> u64 {
    if open.segment_bytes == 0 { 0 } else { writer::synced_length(open.synced, open.segment_bytes) }
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Malformed> {
    M::decode(payload).map_err(|_| Malformed("record"))
}

fn take(record: Record<'_>, open: &mut Open, events: &mut Vec<Event>) -> Result<(), Malformed> {
    let id = |payload: &[u8]| LogId::try_from(decode::<pb::LogId>(payload)?);
    match record.kind {
        Kind::State => {
            let state: pb::SegmentState = decode(record.payload)?;
            open.segment_bytes = state.segment_bytes;
            events.extend(state.vote.map(Vote::try_from).transpose()?.map(Event::Vote));
            events.extend(maybe_log_id(state.purged)?.map(Event::Purge));
            events.extend(maybe_log_id(state.committed)?.map(Event::Commit));
        }
        Kind::Vote => events.push(Event::Vote(decode::<pb::Vote>(record.payload)?.try_into()?)),
        Kind::Entry => {
            // Its command is looked at when it is applied or sent.
            let entry = id(record.payload)?;
            let size = (record.end() - record.offset) as usize;
            let place = Place { file: open.file.clone(), key: open.key, offset: record.offset, size };
            open.last_index = open.last_index.max(Some(entry.index));
            events.push(Event::Entry(entry, place));
        }
        Kind::Truncate => {
            let bytes: Option<[u8; 8]> = record.payload.try_into().ok();
            events.push(Event::Truncate(bytes.map(u64::from_le_bytes)));
        }
        Kind::Purge => events.push(Event::Purge(id(record.payload)?)),
        Kind::Commit => events.push(Event::Commit(id(record.payload)?)),
        Kind::End => {}
    }
    Ok(())
}

/// Makes the last segment writable again: what a lost write left behind its end must never be read as records.
fn resume(mut open: Open, tail: Tail, path: &Path) -> Result<Open, LogError> {
    let fail = |source| LogError::Io { path: path.into(), source };
    if let Tail::Torn { end, dirty } = tail {
        tracing::warn!(path = %path.display(), end, dirty, "cutting a write that a crash left incomplete");
        writer::zero(&open.file, end, dirty).map_err(fail)?;
    }
    // What was read may have been in the page cache only; it counts as promised from here on.
    open.file.sync_data().map_err(fail)?;
    open.synced = open.offset;
    Ok(open)
}

/// Applies the records in order. Entries that a later purge covers are skipped: their neighbours may be recycled.
fn replay(events: Vec<Event>, dir: &Path) -> Result<Index, LogError> {
    let mut index = Index::default();
    let purged = events.iter().filter_map(|event| match event {
        Event::Purge(id) => Some(*id),
        _ => None,
    });
    if let Some(purged) = purged.max() {
        index.purge(purged);
    }
    for event in events {
        match event {
            Event::Vote(vote) => index.vote = Some(vote),
            Event::Commit(id) => index.committed = index.committed.max(Some(id)),
            Event::Truncate(last) => index.truncate_after(last),
            Event::Purge(_) => {}
            Event::Entry(id, _) if index.purged.is_some_and(|purged| id.index <= purged.index) => {}
            Event::Entry(id, place) => {
                if !index.accepts(id.index) {
                    return Err(LogError::Hole { dir: dir.into(), index: id.index });
                }
                index.recovered(id, place);
            }
        }
    }
    Ok(index)
}
