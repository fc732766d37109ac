//! One client's stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::catch_up::{self, Behind, Found};
use super::hub::Hub;
use super::mailbox::Mailbox;
use super::watcher::{Outbox, Outgoing, Watcher, fragments, response};
use crate::budget::Share;
use crate::error::EtcdError;
use crate::mvcc::Source;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};

/// The id in answers that are not about one watcher.
const NO_WATCHER: i64 = -1;
/// Progress is not told more often than this, as in etcd.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Where responses go, in order. Errors are for whoever ends the stream; the stream itself sends none but
/// [`EtcdError::Corrupt`] when the history cannot be read, and [`EtcdError::RequestTooManyRequests`] when there is no memory.
pub type Responses = mpsc::Sender<Result<Outgoing, EtcdError>>;

/// A client that takes nothing for so long gets its events from the history, once it takes some again.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// Responses with fewer bytes of events are not counted.
const SHARE_STEP: usize = 1 << 10;
/// Of what memory is left, a stream that is behind reads this part in one go: what many streams hold never adds up to all.
const PIECES: usize = 1024;
/// Time without memory for one revision's events after which a stream is ended. Of many who take nothing, some must make room
/// after the others.
const NO_MEMORY: Duration = Duration::from_secs(60);
/// Between two looks for memory.
const LOOK: Duration = Duration::from_millis(100);

/// A request as its door hands it on.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What the client wants.
    pub request: WatchRequest,
    /// Why a watcher may not be created, if so, in the words that the client gets.
    pub refusal: Option<String>,
}

impl From<WatchRequest> for Asked {
    fn from(request: WatchRequest) -> Self {
        Asked { request, refusal: None }
    }
}

/// The client is gone.
struct Closed;

/// One client's stream of watchers. Dropping it ends them.
pub struct WatchStream<S> {
    hub: Arc<Hub>,
    source: Arc<S>,
    number: u64,
    mailbox: Arc<Mailbox>,
    watchers: BTreeMap<i64, Watcher>,
    /// Watchers that the hub does not serve, with the first revision each misses.
    behind: BTreeMap<i64, i64>,
    /// Watchers that were canceled since what they miss is compacted away. As in etcd, their ids are taken, and nobody is
    /// told the stream's progress, until the client cancels them too.
    compacted: BTreeSet<i64>,
    next_id: i64,
    /// The client asked for the progress of the whole stream.
    progress_asked: bool,
    /// Watchers that shall be told the revision.
    progress_due: BTreeSet<i64>,
    /// There was no memory for what the hub has for it: a piece of the history comes next.
    reads_pieces: bool,
    /// Watchers, and those of them that are behind, as the metrics have them.
    counted: (i64, i64),
}

impl<S: Source> WatchStream<S> {
    pub(super) fn new(hub: Arc<Hub>, source: Arc<S>, number: u64) -> Self {
        hub.options().metrics.watch_streams.inc();
        Self {
            hub,
            source,
            number,
            mailbox: Arc::default(),
            watchers: BTreeMap::new(),
            behind: BTreeMap::new(),
            compacted: BTreeSet::new(),
            next_id: 0,
            progress_asked: false,
            progress_due: BTreeSet::new(),
            reads_pieces: false,
            counted: (0, 0),
        }
    }

    /// Serves requests until the client is gone. A client that sends no more requests still gets events.
    pub async fn run(mut self, requests: impl Stream<Item = Asked>, out: Responses) {
        let mut requests = std::pin::pin!(requests.fuse());
        let mut revisions = self.hub.revisions();
        let mailbox = Arc::clone(&self.mailbox);
        let mut tick = tokio::time::interval_at(Instant::now() + self.interval(), self.interval());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let awaits_revision = self.progress_asked || !self.progress_due.is_empty();
            let result = tokio::select! {
                Some(request) = requests.next() => {
                    let begun = Instant::now();
                    let handled = self.handle(request, &out).await;
                    self.hub.options().metrics.watch_loop.answer_seconds.observe(begun.elapsed().as_secs_f64());
                    handled
                }
                () = mailbox.filled() => Ok(()),
                () = std::future::ready(()), if !self.behind.is_empty() => Ok(()),
                Ok(()) = revisions.changed(), if awaits_revision => Ok(()),
                _ = tick.tick() => {
                    self.progress_is_due();
                    Ok(())
                }
                () = out.closed() => Err(Closed),
            };
            revisions.mark_unchanged();
            self.count(self.watchers.len(), self.behind.len());
            if result.is_err() || self.serve(&out).await.is_err() {
                return;
            }
            self.count(self.watchers.len(), self.behind.len());
        }
    }

    /// Brings the metrics up to date.
    fn count(&mut self, watchers: usize, behind: usize) {
        let now = (watchers as i64, behind as i64);
        let before = std::mem::replace(&mut self.counted, now);
        let metrics = &self.hub.options().metrics;
        metrics.watchers.inc_by(now.0 - before.0);
        metrics.slow_watchers.inc_by(now.1 - before.1);
    }

    async fn handle(&mut self, asked: Asked, out: &Responses) -> Result<(), Closed> {
        match asked.request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(&request, asked.refusal, out).await,
            Some(RequestUnion::CancelRequest(request)) => {
                if self.remove(request.watch_id) || self.compacted.remove(&request.watch_id) {
                    let canceled = response(request.watch_id, self.hub.revision());
                    return send(out, WatchResponse { canceled: true, ..canceled }).await;
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                // As in etcd: who waits for a start in the future has to ask again.
                let revision = self.hub.revision();
                let reached = self.watchers.values().all(|watcher| watcher.interest.start_revision <= revision);
                self.progress_asked = reached && !self.watchers.is_empty() && self.compacted.is_empty();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(
        &mut self,
        request: &WatchCreateRequest,
        refusal: Option<String>,
        out: &Responses,
    ) -> Result<(), Closed> {
        let watcher = Watcher::new(request);
        let refusal = if request.start_revision < 0 {
            Some(EtcdError::Compacted.to_string())
        } else if refusal.is_some() {
            refusal
        } else if watcher.interest.range.is_empty() {
            Some("mvcc: watcher range is empty".to_owned())
        } else if request.watch_id != 0 && self.is_taken(request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else {
            None
        };
        let created = |id, revision| WatchResponse { created: true, ..response(id, revision) };
        if let Some(cancel_reason) = refusal {
            let refused = WatchResponse { canceled: true, cancel_reason, ..created(NO_WATCHER, self.hub.revision()) };
            return send(out, refused).await;
        }
        let id = match request.watch_id {
            0 => self.free_id(),
            id => id,
        };
        let interest = Arc::clone(&watcher.interest);
        self.watchers.insert(id, watcher);
        // What the hub delivers from now on waits in the mailbox until `created` is sent.
        if !self.hub.join(self.number, id, &interest, &self.mailbox, request.start_revision) {
            self.behind.insert(id, request.start_revision);
        }
        // Read behind the join: every event above the revision that the client is told here must reach it.
        send(out, created(id, self.hub.revision())).await
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.compacted.contains(&id)
    }

    fn free_id(&mut self) -> i64 {
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Forgets a watcher; false if there is none.
    fn remove(&mut self, id: i64) -> bool {
        self.hub.leave(self.number, id);
        self.mailbox.forget(id);
        self.behind.remove(&id);
        self.progress_due.remove(&id);
        self.watchers.remove(&id).is_some()
    }

    /// Sends what there is to send, and reads on for those who are behind.
    async fn serve(&mut self, out: &Responses) -> Result<(), Closed> {
        self.empty_mailbox(out).await?;
        if !self.behind.is_empty() {
            self.catch_up(out).await?;
        }
        self.tell_progress(out).await
    }

    async fn empty_mailbox(&mut self, out: &Responses) -> Result<(), Closed> {
        let contents = self.mailbox.take();
        self.behind.extend(contents.behind);
        let mut outbox = Outbox::default();
        for delivery in contents.deliveries {
            let Some(watcher) = self.watchers.get(&delivery.watch_id) else {
                continue;
            };
            let events = delivery.picks.as_slice().iter().map(|at| watcher.show(&delivery.events[*at as usize]));
            outbox.add(delivery.watch_id, delivery.store_revision, events.collect());
        }
        let mut responses = outbox.into_responses();
        while let Some((response, bytes)) = responses.next() {
            let mut share = self.hub.options().budget.share(SHARE_STEP);
            let fits = share.grow(bytes) && (share.is_empty() || self.has_memory());
            self.reads_pieces |= !fits;
            if !fits || !self.has_room(out).await? {
                drop(share);
                self.fall_behind(std::iter::once(response).chain(responses.map(|(response, _)| response)));
                return Ok(());
            }
            let share = (!share.is_empty()).then(|| Arc::new(share));
            self.send_events(response, share, out).await?;
        }
        Ok(())
    }

    /// Whether events may be kept for who has not taken them. Half of the memory is for those who read the history in pieces.
    fn has_memory(&self) -> bool {
        !self.hub.options().budget.is_short()
    }

    /// Waits until a response can be sent; false if the client takes none for too long.
    async fn has_room(&self, out: &Responses) -> Result<bool, Closed> {
        if out.capacity() > 0 {
            return Ok(true);
        }
        match tokio::time::timeout(STALLED_AFTER, out.reserve()).await {
            Ok(permit) => permit.map(|_| true).map_err(|_| Closed),
            Err(_) => Ok(false),
        }
    }

    /// Keeps nothing in memory of what waits: neither these responses nor what is in the mailbox. It is read from the history
    /// when the client takes it.
    fn fall_behind(&mut self, unsent: impl Iterator<Item = WatchResponse>) {
        let mut behind: BTreeMap<i64, i64> = BTreeMap::new();
        for response in unsent {
            let first = response.events.first().and_then(|event| event.kv.as_ref());
            behind.entry(response.watch_id).or_insert(first.map_or(0, |kv| kv.mod_revision));
        }
        let waiting = self.mailbox.take();
        let delivered = waiting.deliveries.iter().map(|delivery| (delivery.watch_id, delivery.revision));
        for (id, revision) in delivered.chain(waiting.behind) {
            behind.entry(id).or_insert(revision);
        }
        for (id, from) in behind {
            if self.watchers.contains_key(&id) {
                self.hub.leave(self.number, id);
                // Left there since.
                self.mailbox.forget(id);
                let first = self.behind.entry(id).or_insert(from);
                *first = from.min(*first);
            }
        }
    }

    async fn send_events(
        &mut self,
        response: WatchResponse,
        share: Option<Arc<Share>>,
        out: &Responses,
    ) -> Result<(), Closed> {
        let Some(watcher) = self.watchers.get_mut(&response.watch_id) else {
            return Ok(());
        };
        watcher.busy = true;
        let (count, begun) = (response.events.len(), Instant::now());
        self.hub.options().metrics.events.inc_by(count as u64);
        let parts = match watcher.fragment {
            true => fragments(response, self.hub.options().fragment_bytes),
            false => vec![response],
        };
        for response in parts {
            let outgoing = Outgoing { response, _share: share.clone() };
            out.send(Ok(outgoing)).await.map_err(|_| Closed)?;
        }
        let (times, took) = (&self.hub.options().metrics.watch_loop, begun.elapsed().as_secs_f64());
        times.events_seconds.observe(took);
        times.event_seconds.observe(took / count.max(1) as f64);
        Ok(())
    }

    /// Hands watchers to the hub where it has what they miss; reads a piece of the history for the others.
    async fn catch_up(&mut self, out: &Responses) -> Result<(), Closed> {
        self.all_taken(out).await?;
        let mut behind = std::mem::take(&mut self.behind);
        let (has_memory, published) = (!self.reads_pieces && self.has_memory(), self.hub.revision());
        behind.retain(|id, from| {
            let Some(watcher) = self.watchers.get(id) else {
                return false;
            };
            let may_join = has_memory || *from > published;
            !(may_join && self.hub.join(self.number, *id, &watcher.interest, &self.mailbox, *from))
        });
        if behind.is_empty() {
            return Ok(());
        }
        let wanted: BTreeMap<i64, Behind> = behind
            .iter()
            .map(|(id, from)| {
                let watcher = &self.watchers[id];
                let interest = Arc::clone(&watcher.interest);
                (*id, Behind { interest, prev_kv: watcher.prev_kv, from: *from })
            })
            .collect();
        self.behind = behind;
        let source = Arc::clone(&self.source);
        // The store may be ahead of the hub, which will deliver what it publishes next.
        let revision = self.hub.revision();
        let most = (self.hub.options().budget.left() / PIECES).min(catch_up::MAX_BYTES);
        let read = tokio::task::spawn_blocking(move || catch_up::read(&source.view(), &wanted, revision, most));
        match read.await {
            Ok(Ok(found)) => self.caught_up(found, revision, out).await,
            Ok(Err(error)) => {
                tracing::error!(%error, "a watcher's history could not be read");
                let _ = out.send(Err(EtcdError::Corrupt)).await;
                Err(Closed)
            }
            // The runtime is going down, or the reader panicked.
            Err(_) => Err(Closed),
        }
    }

    /// Waits until the client has taken all responses. Meanwhile nothing of what comes is kept, if that takes long.
    async fn all_taken(&mut self, out: &Responses) -> Result<(), Closed> {
        while out.capacity() < out.max_capacity() {
            match tokio::time::timeout(STALLED_AFTER, out.reserve_many(out.max_capacity())).await {
                Ok(permits) => return permits.map(drop).map_err(|_| Closed),
                Err(_) => self.fall_behind(std::iter::empty()),
            }
        }
        Ok(())
    }

    async fn caught_up(&mut self, found: Found, hub_revision: i64, out: &Responses) -> Result<(), Closed> {
        let mut share = self.hub.options().budget.share(SHARE_STEP);
        if !share.grow(found.bytes) {
            drop(share);
            return self.wait_for_memory(found.bytes, out).await;
        }
        for id in &found.compacted {
            self.remove(*id);
            self.compacted.insert(*id);
            // Like etcd's, the answer says nothing of the store's revision.
            let compact_revision = found.compact_revision;
            send(out, WatchResponse { canceled: true, compact_revision, ..response(*id, 0) }).await?;
        }
        for from in self.behind.values_mut() {
            *from = (*from).max(found.through + 1);
        }
        let mut outbox = Outbox::default();
        for (id, _, events) in found.events {
            let watcher = &self.watchers[&id];
            let events = events.iter().map(|event| watcher.show(event)).collect();
            // As etcd's, the header tells where the store is, though more of the history may follow.
            outbox.add(id, hub_revision, events);
        }
        self.reads_pieces = false;
        // All of it is counted until the last of it was taken.
        let share = Arc::new(share);
        for (response, _) in outbox.into_responses() {
            self.send_events(response, Some(share.clone()), out).await?;
        }
        Ok(())
    }

    /// Others have all memory: waits until there are so many bytes, or gives up. Whoever takes nothing must make room.
    async fn wait_for_memory(&self, bytes: usize, out: &Responses) -> Result<(), Closed> {
        let (budget, begun) = (&self.hub.options().budget, Instant::now());
        while budget.left() < bytes {
            if begun.elapsed() > NO_MEMORY {
                let _ = out.send(Err(EtcdError::RequestTooManyRequests)).await;
                return Err(Closed);
            }
            budget.close_slowest();
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn progress_is_due(&mut self) {
        for (id, watcher) in &mut self.watchers {
            if watcher.progress_notify && !std::mem::take(&mut watcher.busy) && !self.behind.contains_key(id) {
                self.progress_due.insert(*id);
            }
        }
    }

    /// Tells the revision to those who wait for it, if nothing before it is still to be sent.
    async fn tell_progress(&mut self, out: &Responses) -> Result<(), Closed> {
        let nobody_waits = !self.progress_asked && self.progress_due.is_empty();
        if nobody_waits || !self.behind.is_empty() {
            return Ok(());
        }
        let Some(revision) = self.hub.delivered(&self.mailbox) else {
            return Ok(());
        };
        let (due, begun) = (std::mem::take(&mut self.progress_due), Instant::now());
        let told = !due.is_empty();
        for id in due {
            // A start in the future: the client must not take a revision below it for granted.
            if self.watchers.get(&id).is_some_and(|watcher| watcher.interest.start_revision <= revision) {
                send(out, response(id, revision)).await?;
            }
        }
        if told {
            self.hub.options().metrics.watch_loop.progress_seconds.observe(begun.elapsed().as_secs_f64());
        }
        let reached = self.watchers.values().all(|watcher| watcher.interest.start_revision <= revision);
        if self.progress_asked && reached {
            self.progress_asked = false;
            send(out, response(NO_WATCHER, revision)).await?;
        }
        Ok(())
    }

    /// The interval with its jitter.
    fn interval(&self) -> Duration {
        let interval = self.hub.options().progress_interval.max(MIN_PROGRESS_INTERVAL);
        interval + interval.mul_f64(rand::rng().random_range(0.0..0.1))
    }
}

impl<S> Drop for WatchStream<S> {
    fn drop(&mut self) {
        for id in self.watchers.keys() {
            self.hub.leave(self.number, *id);
        }
        let metrics = &self.hub.options().metrics;
        metrics.watch_streams.dec();
        metrics.watchers.dec_by(self.counted.0);
        metrics.slow_watchers.dec_by(self.counted.1);
    }
}

async fn send(out: &Responses, response: WatchResponse) -> Result<(), Closed> {
    out.send(Ok(response.into())).await.map_err(|_| Closed)
}
