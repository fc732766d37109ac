//! Removing what compaction made unreadable, in the background.
//!
//! Compacting to C is compacting to any smaller revision first, so the work is done in steps that each leave a finished
//! compaction behind, and `meta::REMOVED_REVISION` tells how far it got. A step costs what changed in it:
//! - each change at or below C names the version before it, which is removed;
//! - a deletion below C is removed itself, with its entry in `key`; one exactly at C stays, as in etcd.
//!
//! So every entry of `rev` is written once and removed once, which is what SingleDelete asks for.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use prost::Message;
use rocksdb::WriteBatch;

use super::columns::{Column, Database, meta};
use super::{StorageError, Store};
use crate::mvcc::{KeyValue, RevKey, View, ViewError};

/// Changes looked at in one step. Commits wait for a step.
const STEP_CHANGES: usize = 1000;
/// A step ends early when it has looked at so much.
const STEP_BYTES: usize = 4 << 20;

/// Between two steps.
const PAUSE: Duration = Duration::from_millis(5);
/// After a step that failed.
const RETRY: Duration = Duration::from_secs(10);

/// What the background thread shall do and has done.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    wanted: i64,
    done: i64,
    closed: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Asks for versions up to `wanted` to be removed, where `done` already are.
    pub fn set(&self, wanted: i64, done: i64) {
        self.update(|state| (state.wanted, state.done) = (wanted, done));
    }

    /// Asks for more.
    pub fn want(&self, revision: i64) {
        self.update(|state| state.wanted = state.wanted.max(revision));
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.update(|state| state.closed = true);
    }

    /// Waits until versions up to `revision`, if that was ever asked for, are removed.
    pub fn wait(&self, revision: i64) {
        let waits = |state: &mut State| !state.closed && state.done < revision && revision <= state.wanted;
        drop(self.changed.wait_while(self.lock(), waits).expect("nothing panics while holding it"));
    }

    fn is_idle(&self) -> bool {
        let state = self.lock();
        state.done >= state.wanted
    }

    /// Waits for work; false when the store was closed.
    fn wait_for_work(&self) -> bool {
        let idle = |state: &mut State| !state.closed && state.done >= state.wanted;
        let state = self.changed.wait_while(self.lock(), idle).expect("nothing panics while holding it");
        !state.closed
    }
}

/// Runs until the store is closed. Holds the store only during a step.
pub fn run(store: Weak<Store>, progress: Arc<Progress>) {
    let mut begun = None;
    while progress.wait_for_work() {
        let Some(open) = store.upgrade() else { return };
        let start = *begun.get_or_insert_with(Instant::now);
        let step = open.remove_some();
        let metrics = open.options.metrics.clone();
        drop(open);
        // Commits that wait for the lock get it while this thread sleeps.
        let pause = match step {
            Ok(done) => {
                progress.update(|state| state.done = done);
                if progress.is_idle() {
                    metrics.compaction_milliseconds.observe(start.elapsed().as_millis() as f64);
                    metrics.last_compaction_seconds.set(chrono::Utc::now().timestamp());
                    begun = None;
                }
                PAUSE
            }
            // Nothing is lost by old versions that stay. A store that cannot be written fails the next commit too.
            Err(error) => {
                tracing::error!(%error, "removing compacted revisions failed; it is tried again");
                RETRY
            }
        };
        std::thread::sleep(pause);
    }
}

/// What a step removes.
struct Step {
    /// Versions before the changes looked at.
    superseded: Vec<RevKey>,
    /// Deletions looked at, with their keys.
    tombstones: Vec<(RevKey, bytes::Bytes)>,
    /// Up to here the compaction is finished after the step.
    done: i64,
}

/// Takes one step from `done` towards `wanted`; returns the write that does it and how far it gets.
pub fn step<V: View>(view: &V, database: &Database, done: i64, wanted: i64) -> Result<(WriteBatch, i64), StorageError> {
    let step = collect(view, done, wanted)?;
    let rev = database.column(Column::Rev);
    let mut batch = WriteBatch::default();
    for place in &step.superseded {
        batch.single_delete_cf(rev, place.encode());
    }
    for (place, key) in &step.tombstones {
        if place.revision.main >= step.done {
            continue;
        }
        batch.single_delete_cf(rev, place.encode());
        let newest = view.key(key)?;
        if newest.is_some_and(|newest| newest.stamp.rev_key() == *place) {
            batch.delete_cf(database.column(Column::Key), key);
        }
    }
    let reached = step.done.to_be_bytes();
    batch.put_cf(database.column(Column::Meta), meta::REMOVED_REVISION, reached);
    Ok((batch, step.done))
}

fn collect<V: View>(view: &V, done: i64, wanted: i64) -> Result<Step, ViewError> {
    let mut step = Step { superseded: Vec::new(), tombstones: Vec::new(), done: wanted };
    let (mut changes, mut bytes, mut last) = (0, 0, done);
    // The last revision is looked at again, for the deletions that stayed there.
    view.history(done, &mut |place, record| {
        let main = place.revision.main;
        if main > wanted {
            return Ok(ControlFlow::Break(()));
        }
        if main > last && (changes >= STEP_CHANGES || bytes >= STEP_BYTES) {
            step.done = last;
            return Ok(ControlFlow::Break(()));
        }
        (changes, bytes, last) = (changes + 1, bytes + record.kv.len(), main);
        // A deletion is removed on its own account, not by the put after it.
        if let Some(previous) = record.previous.filter(|previous| main > done && !previous.tombstone) {
            step.superseded.push(previous);
        }
        if place.tombstone {
            let key = KeyValue::decode(record.kv).map_err(|error| ViewError(error.to_string()))?.key;
            step.tombstones.push((place, key));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(step)
}
