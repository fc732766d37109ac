//! Where committed changes are published.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;

use super::index::Index;
use super::mailbox::{Delivered, Delivery, Mailbox, Picks};
use super::stream::WatchStream;
use super::watcher::Interest;
use crate::budget::{self, Budget};
use crate::mvcc::{Event, Source};
use crate::telemetry::NodeMetrics;

/// Revisions kept for those who come a little late, at most. Looking through them holds up publishing.
const RECENT_REVISIONS: usize = 1024;
/// Bytes of their events, at most.
const RECENT_BYTES: usize = 8 << 20;

/// How watches are answered.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Every how long an idle watcher that asked for it is told the revision (10 % jitter is added). Not below 100 ms.
    pub progress_interval: Duration,
    /// A response larger than this is split where the watcher asked for fragments.
    pub fragment_bytes: usize,
    /// Memory that responses may take until clients have them.
    pub budget: Arc<Budget>,
    /// Counts streams, watchers and events.
    pub metrics: Arc<NodeMetrics>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes: (1536 << 10) + (512 << 10),
            budget: Budget::new(budget::default_bytes()),
            metrics: Arc::default(),
        }
    }
}

/// Where committed changes are published and watch streams are opened.
pub struct Hub {
    options: HubOptions,
    state: Mutex<State>,
    revision: watch::Sender<i64>,
}

/// A watcher of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Address {
    stream: u64,
    watch_id: i64,
}

/// A watcher that gets what is published.
struct Synced {
    address: Address,
    interest: Arc<Interest>,
    mailbox: Arc<Mailbox>,
}

impl PartialEq for Synced {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

struct Published {
    revision: i64,
    events: Arc<[Event]>,
    bytes: usize,
}

struct State {
    /// The newest published revision.
    revision: i64,
    compact_revision: i64,
    /// All changes in (`recent_after`, `revision`].
    recent: VecDeque<Published>,
    recent_after: i64,
    recent_bytes: usize,
    index: Index<Arc<Synced>>,
    synced: HashMap<Address, Arc<Synced>>,
    streams: u64,
}

impl Hub {
    /// A hub of a store that stands at `revision`.
    pub fn new(revision: i64, options: HubOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            revision: watch::Sender::new(revision),
            state: Mutex::new(State {
                revision,
                compact_revision: -1,
                recent: VecDeque::new(),
                recent_after: revision,
                recent_bytes: 0,
                index: Index::default(),
                synced: HashMap::new(),
                streams: 0,
            }),
        })
    }

    /// How watches are answered.
    pub fn options(&self) -> &HubOptions {
        &self.options
    }

    /// Opens a client's stream, which reads what is no longer here from `source`.
    pub fn open<S: Source>(self: &Arc<Self>, source: Arc<S>) -> WatchStream<S> {
        let number = {
            let mut state = self.lock();
            state.streams += 1;
            state.streams
        };
        WatchStream::new(Arc::clone(self), source, number)
    }

    /// Revisions were committed together, each with its changes. Called in order of revisions, after the commit and before
    /// the answer; never waits for watchers. Should revisions be missing, watchers read them from the store.
    pub fn publish(&self, committed: Vec<(i64, Arc<[Event]>)>) {
        let Some((last, _)) = committed.last() else { return };
        let last = *last;
        let mut state = self.lock();
        let mut filled = Vec::new();
        for (revision, events) in committed {
            assert!(revision > state.revision, "revisions grow");
            if revision != state.revision + 1 {
                state.restart(revision - 1);
            }
            let bytes = events.iter().map(Message::encoded_len).sum();
            let published = Published { revision, events, bytes };
            state.revision = revision;
            state.deliver(&published, &mut filled);
            state.remember(published);
        }
        drop(state);
        // Once each, when everything is there: a stream that wakes up for the first revision would take that alone.
        filled.iter().for_each(|mailbox| mailbox.wake());
        self.revision.send_replace(last);
    }

    /// Revisions below this one can no longer be read.
    pub fn compacted(&self, revision: i64) {
        let mut state = self.lock();
        state.compact_revision = state.compact_revision.max(revision);
    }

    /// The store was replaced by a snapshot that stands at `revision`; watchers catch up from its history.
    pub fn reset(&self, revision: i64) {
        self.lock().restart(revision);
        self.revision.send_replace(revision);
    }

    /// The newest published revision.
    pub fn revision(&self) -> i64 {
        self.lock().revision
    }

    /// Events that wait to be taken by streams.
    pub fn pending_events(&self) -> usize {
        let mailboxes: HashMap<*const Mailbox, Arc<Mailbox>> =
            self.lock().synced.values().map(|synced| (Arc::as_ptr(&synced.mailbox), synced.mailbox.clone())).collect();
        mailboxes.values().map(|mailbox| mailbox.pending_events()).sum()
    }

    /// Tells when revisions are published.
    pub(super) fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The newest revision, if everything up to it that the stream's synced watchers look at was taken out of the
    /// mailbox.
    pub(super) fn delivered(&self, mailbox: &Mailbox) -> Option<i64> {
        let state = self.lock();
        mailbox.is_empty().then_some(state.revision)
    }

    /// Makes a watcher synced that has everything before `from`; 0 is the next revision. What it missed is put into
    /// the mailbox. False if that is not here any more, or was here before a compaction that took away the previous
    /// versions: then the history has to be read first.
    pub(super) fn join(
        &self,
        stream: u64,
        watch_id: i64,
        interest: &Arc<Interest>,
        mailbox: &Arc<Mailbox>,
        from: i64,
    ) -> bool {
        let mut state = self.lock();
        let from = if from == 0 { state.revision + 1 } else { from };
        let late = from <= state.revision;
        if late && (from <= state.recent_after || from <= state.compact_revision) {
            return false;
        }
        let address = Address { stream, watch_id };
        let skip = state.recent.partition_point(|published| published.revision < from);
        for published in state.recent.iter().skip(skip) {
            let picks = interest.picks(published.revision, &published.events);
            if picks.is_empty() {
                continue;
            }
            let delivery = published.delivery(watch_id, Picks::Some(picks));
            match mailbox.deliver(Delivery { store_revision: state.revision, ..delivery }, published.bytes) {
                Delivered::First => mailbox.wake(),
                Delivered::More => {}
                // It is behind already, and said so in the mailbox.
                Delivered::Full => return true,
            }
        }
        let synced = Arc::new(Synced { address, interest: Arc::clone(interest), mailbox: Arc::clone(mailbox) });
        state.index.insert(&interest.range, synced.clone());
        state.synced.insert(address, synced);
        true
    }

    /// Forgets a watcher.
    pub(super) fn leave(&self, stream: u64, watch_id: i64) {
        self.lock().remove(Address { stream, watch_id });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a failed assertion ends the process")
    }
}

impl Published {
    fn delivery(&self, watch_id: i64, picks: Picks) -> Delivery {
        let events = Arc::clone(&self.events);
        Delivery { watch_id, revision: self.revision, store_revision: self.revision, events, picks }
    }
}

impl State {
    /// Puts one revision's events into the mailboxes of those who look at them. Adds those that were empty to `filled`.
    fn deliver(&mut self, published: &Published, filled: &mut Vec<Arc<Mailbox>>) {
        let mut full = Vec::new();
        let mut give = |synced: &Arc<Synced>, picks| {
            let delivery = published.delivery(synced.address.watch_id, picks);
            match synced.mailbox.deliver(delivery, published.bytes) {
                Delivered::First => filled.push(synced.mailbox.clone()),
                Delivered::More => {}
                Delivered::Full => full.push(synced.address),
            }
        };
        match &*published.events {
            [event] => self.each_watcher(published.revision, event, |synced| give(synced, Picks::One(0))),
            events => {
                let mut picks: BTreeMap<Address, (&Arc<Synced>, Vec<u32>)> = BTreeMap::new();
                for (at, event) in (0..).zip(events) {
                    self.each_watcher(published.revision, event, |synced| {
                        picks.entry(synced.address).or_insert_with(|| (synced, Vec::new())).1.push(at);
                    });
                }
                picks.into_values().for_each(|(synced, picks)| give(synced, Picks::Some(picks)));
            }
        }
        full.into_iter().for_each(|address| self.remove(address));
    }

    /// Visits the watchers that want an event.
    fn each_watcher<'a>(&'a self, revision: i64, event: &Event, mut visit: impl FnMut(&'a Arc<Synced>)) {
        let Some(kv) = &event.kv else { return };
        self.index.each(&kv.key, |synced| {
            if synced.interest.accepts(revision, event) {
                visit(synced);
            }
        });
    }

    fn remember(&mut self, published: Published) {
        self.recent_bytes += published.bytes;
        self.recent.push_back(published);
        while self.recent.len() > RECENT_REVISIONS || self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= oldest.bytes;
            self.recent_after = oldest.revision;
        }
    }

    fn remove(&mut self, address: Address) {
        if let Some(synced) = self.synced.remove(&address) {
            self.index.remove(&synced.interest.range, &synced);
        }
    }

    /// Goes on from `revision`, as if everything up to it had not been seen here.
    fn restart(&mut self, revision: i64) {
        let next = self.revision + 1;
        for (address, synced) in self.synced.drain() {
            synced.mailbox.fall_behind(address.watch_id, next.max(synced.interest.start_revision));
        }
        self.index = Index::default();
        self.recent.clear();
        self.recent_bytes = 0;
        self.recent_after = revision;
        self.revision = revision;
    }
}
