//! Counts keys in the background: all of them when the member can serve or the store was replaced, later those in crowded blocks. Until the
//! first count is done, ranges are counted by a look at each key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::Store;
use super::read::ReadView;
use super::worker::Orders;
use crate::mvcc::counts::{Blocks, KeyCounts};
use crate::mvcc::{KeyRange, RevKey, RevRecord, View, ViewError};

/// Keys between two looks at whether the store was closed.
const LOOK_EVERY: usize = 1024;

/// The counts that belong to a committed state.
#[derive(Debug, Default)]
pub struct Counted {
    /// None before the first count.
    counts: Option<Arc<KeyCounts>>,
    /// What changed since the thread began to count, if it does.
    since: Option<Vec<(Bytes, i64)>>,
}

impl Counted {
    /// The counts, if there are any.
    pub fn counts(&self) -> Option<Arc<KeyCounts>> {
        self.counts.clone()
    }

    /// From here on the thread counts what is there now.
    pub fn begin(&mut self) {
        self.since = Some(Vec::new());
    }

    /// Takes over what the thread has found in the state in which it began.
    pub fn end(&mut self, found: Vec<Blocks>) {
        let since = self.since.take().unwrap_or_default();
        match &mut self.counts {
            Some(counts) => {
                let counts = Arc::make_mut(counts);
                found.into_iter().for_each(|blocks| counts.divide(blocks, &since));
            }
            None => {
                let counts = found.into_iter().next().map(KeyCounts::new).map(|mut counts| {
                    counts.change_all(&since);
                    Arc::new(counts)
                });
                self.counts = counts;
            }
        }
    }

    /// Takes over the changes of a batch; tells whether blocks have become crowded.
    pub fn change(&mut self, history: &BTreeMap<RevKey, RevRecord>) -> Result<bool, ViewError> {
        if self.counts.is_none() && self.since.is_none() {
            return Ok(false);
        }
        let mut crowded = false;
        for (place, record) in history {
            let by = record.change(*place);
            if by == 0 {
                continue;
            }
            let key = record.key_value()?.key;
            if let Some(counts) = &mut self.counts {
                crowded |= Arc::make_mut(counts).change(&key, by);
            }
            if let Some(since) = &mut self.since {
                since.push((key, by));
            }
        }
        Ok(crowded)
    }
}

/// Runs until the store is closed. Does not hold the store while it counts.
pub fn run(store: &Weak<Store>, orders: &Orders) {
    while orders.wait() {
        let Some(view) = store.upgrade().map(|open| open.begin_count()) else { return };
        let found = count(&view, orders);
        match (found, store.upgrade()) {
            (Ok(Some(found)), Some(open)) => open.end_count(&view, found),
            (Err(error), Some(open)) => {
                // Nothing depends on it but speed.
                tracing::error!(%error, "counting keys failed");
                open.end_count(&view, Vec::new());
            }
            _ => return,
        }
    }
}

/// The keys of crowded blocks in blocks of a better size; all keys if they were never counted. None if the store was closed.
fn count(view: &ReadView, orders: &Orders) -> Result<Option<Vec<Blocks>>, ViewError> {
    let ranges = view.counts().map_or_else(|| vec![KeyRange::From(Bytes::new())], |counts| counts.crowded());
    let (mut found, mut seen, mut closed) = (Vec::new(), 0, false);
    for range in ranges {
        let mut blocks = Blocks::new(range.start().clone());
        view.scan(&range, &mut |key, stamp, _| {
            if !stamp.tombstone {
                blocks.add(key);
            }
            seen += 1;
            closed = seen % LOOK_EVERY == 0 && orders.closed();
            Ok(if closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if closed {
            return Ok(None);
        }
        found.push(blocks);
    }
    Ok(Some(found))
}
