//! What the hub leaves for one stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::mvcc::Event;

/// Deliveries that wait in one mailbox, at most.
const MAX_DELIVERIES: usize = 4096;
/// Bytes of the revisions they belong to, at most. The events are shared with the hub and other mailboxes.
const MAX_BYTES: usize = 8 << 20;

/// One revision's events for one watcher.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The watcher.
    pub watch_id: i64,
    /// The revision.
    pub revision: i64,
    /// Where the store stood when this was delivered: later than the revision if it was missed first.
    pub store_revision: i64,
    /// All events of the revision.
    pub events: Arc<[Event]>,
    /// Which of them are the watcher's.
    pub picks: Vec<u32>,
}

/// What is in the mailbox: first the deliveries, then the watchers that fell behind since, with the first revision
/// each of them misses.
#[derive(Debug, Default)]
pub struct Contents {
    pub deliveries: VecDeque<Delivery>,
    pub behind: Vec<(i64, i64)>,
    bytes: usize,
}

impl Contents {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.behind.is_empty()
    }
}

/// Filled by the hub, emptied by the stream.
#[derive(Debug, Default)]
pub struct Mailbox {
    contents: Mutex<Contents>,
    filled: Notify,
}

impl Mailbox {
    /// Leaves a delivery whose revision has so many bytes; if there is no room, the watcher is behind from it on, and
    /// false is returned.
    pub fn deliver(&self, delivery: Delivery, bytes: usize) -> bool {
        let mut contents = self.lock();
        let fits = contents.deliveries.is_empty()
            || (contents.deliveries.len() < MAX_DELIVERIES && contents.bytes + bytes <= MAX_BYTES);
        if fits {
            contents.bytes += bytes;
            contents.deliveries.push_back(delivery);
        } else {
            contents.behind.push((delivery.watch_id, delivery.revision));
        }
        drop(contents);
        self.filled.notify_one();
        fits
    }

    /// The watcher gets no more from the hub, from this revision on.
    pub fn fall_behind(&self, watch_id: i64, revision: i64) {
        self.lock().behind.push((watch_id, revision));
        self.filled.notify_one();
    }

    /// Takes everything out.
    pub fn take(&self) -> Contents {
        std::mem::take(&mut *self.lock())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Events that wait.
    pub fn pending_events(&self) -> usize {
        self.lock().deliveries.iter().map(|delivery| delivery.picks.len()).sum()
    }

    /// Throws away what waits for a watcher.
    pub fn forget(&self, watch_id: i64) {
        let mut contents = self.lock();
        contents.deliveries.retain(|delivery| delivery.watch_id != watch_id);
        contents.behind.retain(|(id, _)| *id != watch_id);
    }

    /// Waits until something was left since the last call.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("nothing panics while holding it")
    }
}
