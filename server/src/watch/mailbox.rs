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
    pub picks: Picks,
}

/// Which of a revision's events are meant.
#[derive(Debug, Clone)]
pub enum Picks {
    /// This one: most revisions have no other.
    One(u32),
    /// These, in order.
    Some(Vec<u32>),
}

impl Picks {
    /// Their places.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Picks::One(at) => std::slice::from_ref(at),
            Picks::Some(picks) => picks,
        }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It waits alone: the stream must be woken up.
    First,
    /// It waits with others.
    More,
    /// There is no room: the watcher is behind from it on. The stream was woken up.
    Full,
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
    /// Leaves a delivery whose revision has so many bytes, without waking the stream up.
    pub fn deliver(&self, delivery: Delivery, bytes: usize) -> Delivered {
        let mut contents = self.lock();
        let first = contents.deliveries.is_empty();
        if first || (contents.deliveries.len() < MAX_DELIVERIES && contents.bytes + bytes <= MAX_BYTES) {
            contents.bytes += bytes;
            contents.deliveries.push_back(delivery);
            return if first { Delivered::First } else { Delivered::More };
        }
        contents.behind.push((delivery.watch_id, delivery.revision));
        drop(contents);
        self.wake();
        Delivered::Full
    }

    /// Wakes the stream up.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// The watcher gets no more from the hub, from this revision on.
    pub fn fall_behind(&self, watch_id: i64, revision: i64) {
        self.lock().behind.push((watch_id, revision));
        self.wake();
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
        self.lock().deliveries.iter().map(|delivery| delivery.picks.as_slice().len()).sum()
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
