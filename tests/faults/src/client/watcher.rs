//! A client that watches: one watch after the other, each on a stream of its own. Where one is cut off, another one goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::sync::watch::Receiver;
use tokio_stream::wrappers::ReceiverStream;

use super::{Phase, Recorder, connect};
use crate::bug::Bug;
use crate::history::{Span, Watch, WatchResponse};
use crate::wire::proto::etcdserverpb::watch_client::WatchClient;
use crate::wire::{progress, watch, watched};
use crate::workload::span;

/// Between two requests for a bookmark.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A stream that is silent for so long, though asked, is given up.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

pub struct Watcher {
    pub id: u32,
    pub members: Vec<SocketAddr>,
    pub recorder: Recorder,
    pub phase: Receiver<Phase>,
    /// The first watch is of everything from the first revision on, and is never left for another one.
    pub faithful: bool,
    pub bug: Option<Bug>,
}

/// What is watched next, and from where.
struct Wish {
    watch: Watch,
    /// The newest revision up to which everything was told.
    reached: i64,
}

impl Watcher {
    /// Whether everything was told that was asked for when the work was over.
    pub async fn run(mut self, seed: u64) -> bool {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut wish = self.wish(&mut rng, 0);
        while *self.phase.borrow() != Phase::Stop {
            let member = rng.random_range(0..self.members.len());
            wish.watch.member = member as u32;
            let end = Instant::now() + Duration::from_secs_f64(rng.random_range(1.0..10.0));
            if self.watch(&mut wish, end).await {
                return true;
            }
            let working = *self.phase.borrow() == Phase::Work;
            if working && !self.faithful && Instant::now() >= end && rng.random_bool(0.5) {
                wish = self.wish(&mut rng, wish.reached);
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// Something new: from the beginning, from a revision that was or will be soon, or from now on.
    fn wish(&self, rng: &mut StdRng, reached: i64) -> Wish {
        let start = match rng.random_range(0..3) {
            _ if self.faithful => 1,
            0 => 0,
            1 => (reached - rng.random_range(0..50)).max(1),
            _ => reached + rng.random_range(1..20),
        };
        let watch = Watch {
            client: self.id,
            member: 0,
            span: if self.faithful { Span::all() } else { span(rng) },
            start,
            prev_kv: rng.random(),
            no_puts: !self.faithful && rng.random_bool(0.1),
            no_deletes: !self.faithful && rng.random_bool(0.1),
            call: 0,
            must_reach: None,
            responses: Vec::new(),
        };
        Wish { watch, reached: start - 1 }
    }

    /// One watch, until its stream ends, its time is over, or it has told all that it was asked for: then `true`.
    async fn watch(&mut self, wish: &mut Wish, end: Instant) -> bool {
        let Ok(channel) = connect(self.members[wish.watch.member as usize]).await else { return false };
        wish.watch.call = self.recorder.now();
        let id = self.recorder.watch(wish.watch.clone());
        let (requests, outgoing) = mpsc::channel(8);
        let _ = requests.try_send(watch(&wish.watch));
        let mut client = WatchClient::new(channel);
        let opened = tokio::time::timeout(PATIENCE, client.watch(ReceiverStream::new(outgoing))).await;
        let Ok(Ok(stream)) = opened else { return false };
        let mut stream = stream.into_inner();
        let mut ask = tokio::time::interval(ASK_EVERY);
        let (mut created, mut heard) = (false, Instant::now());
        loop {
            let phase = *self.phase.borrow();
            if let Phase::Finish { revision } = phase {
                self.recorder.must_reach(id, revision);
            }
            match phase {
                Phase::Finish { revision } if wish.reached >= revision => return true,
                Phase::Stop => return false,
                Phase::Work if !self.faithful && Instant::now() >= end => return false,
                _ if heard.elapsed() > PATIENCE => return false,
                _ => {}
            }
            tokio::select! {
                message = stream.message() => {
                    let Ok(Some(message)) = message else { return false };
                    let mut response = watched(message, self.recorder.now());
                    if let Some(bug) = self.bug {
                        response = bug.told(response, &mut rand::rng());
                    }
                    heard = Instant::now();
                    created |= response.created;
                    let ended = wish.learn(&response);
                    self.recorder.response(id, response);
                    if ended {
                        return false;
                    }
                }
                _ = ask.tick() => if created {
                    let _ = requests.try_send(progress());
                },
                _ = self.phase.changed() => {}
            }
        }
    }
}

impl Wish {
    /// Takes note of how far the watch has come; whether it was cancelled.
    fn learn(&mut self, response: &WatchResponse) -> bool {
        if response.canceled {
            self.reached = self.reached.max(response.compact_revision - 1);
        } else if response.created && self.watch.start == 0 {
            self.reached = response.revision;
        } else if response.is_bookmark() {
            self.reached = self.reached.max(response.revision);
        }
        let newest = response.events.iter().map(|event| event.kv.mod_revision).max();
        self.reached = self.reached.max(newest.unwrap_or(0));
        if self.reached >= 0 && (self.watch.start != 0 || response.created) {
            self.watch.start = self.reached + 1;
        }
        response.canceled
    }
}
