//! Calls that wait for their turn in a queue of keys: Lock and Campaign. They run in the background until whatever is before
//! them in the queue is gone, as the queue's keys show; so nothing here depends on time.

use std::time::Duration;

use keelson_server::proto::etcdserverpb::{RangeRequest, RangeResponse};
use keelson_server::proto::mvccpb::KeyValue;
use prost_reflect::DynamicMessage;
use tokio::task::JoinHandle;
use tonic::Status;

use super::caller::Caller;
use super::pair::Pair;
use super::server::DEADLINE;
use super::side::Side;
use super::step::Step;
use super::wire;

/// How often a queue is looked at.
const LOOK: Duration = Duration::from_millis(5);

type Call = JoinHandle<Result<Vec<DynamicMessage>, Status>>;

/// A call that waits on both servers.
pub struct Waiting {
    step: Step,
    place: Place,
    calls: [Call; 2],
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    prefix: Vec<u8>,
    key: Vec<u8>,
    /// 0 while the key is not there.
    create_revision: i64,
}

/// A queue's keys, or why they cannot be seen.
type Queue = Result<Vec<KeyValue>, String>;

impl Place {
    /// Where the session of a request goes.
    fn of(step: &Step) -> Self {
        let name = step.request.get_field_by_name("name").and_then(|value| value.as_bytes().cloned());
        let lease = session_of(step).unwrap_or(0);
        let prefix = queue(&name.unwrap_or_default());
        let sign = if lease < 0 { "-" } else { "" };
        let key = [&prefix[..], format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat();
        Self { prefix, key, create_revision: 0 }
    }

    /// Whether somebody is before it.
    fn is_behind(&self, queue: &[KeyValue]) -> bool {
        queue.iter().any(|kv| self.create_revision == 0 || kv.create_revision < self.create_revision)
    }

    fn find(&mut self, queue: &[KeyValue]) {
        let own = queue.iter().find(|kv| kv.key == self.key);
        self.create_revision = own.map_or(0, |kv| kv.create_revision);
    }
}

/// The lease of the session that a step belongs to. With 0 the servers make a lease, whose id is part of keys then and is
/// another one on each; such steps are not sent.
pub fn session_of(step: &Step) -> Option<i64> {
    let lease = |message: &DynamicMessage| message.get_field_by_name("lease").and_then(|value| value.as_i64());
    match &*step.name() {
        "Lock/Lock" | "Election/Campaign" => lease(&step.request),
        "Election/Proclaim" | "Election/Resign" if step.request.has_field_by_name("leader") => {
            step.request.get_field_by_name("leader").and_then(|leader| leader.as_message().and_then(lease))
        }
        _ => None,
    }
}

/// The prefix of a queue's keys.
pub fn queue(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The keys of a queue.
pub fn keys_of(name: &[u8]) -> RangeRequest {
    let key = queue(name);
    // The byte behind the slash.
    RangeRequest { range_end: [name, b"0"].concat().into(), key: key.into(), ..Default::default() }
}

impl Pair {
    /// A call that may have to wait. It is not sent if it would wait in a way that says too little: without rights to be seen
    /// in the queue, or for a session that is in the queue already, so that it does not show whether the call has arrived.
    pub(super) async fn enter(&mut self, step: &Step) -> Result<(), Vec<String>> {
        let mut place = Place::of(step);
        let [ours, etcd] = &self.sides;
        let queue = ours.queue(&place).await;
        let other = etcd.queue(&place).await;
        if queue != other {
            return Err(vec![format!("the queue {place:?}: ours {queue:?}, etcd's {other:?}")]);
        }
        let Ok(queue) = queue else { return Ok(()) };
        place.find(&queue);
        let waits = place.is_behind(&queue);
        if waits && (place.create_revision != 0 || self.guarded) {
            return Ok(());
        }
        let mut calls = self.sides.each_ref().map(|side| side.begin(step));
        let arrived = async {
            let [one, other] = &mut calls;
            tokio::join!(ours.arrival(&place, one), etcd.arrival(&place, other))
        };
        let arrived = tokio::time::timeout(DEADLINE, arrived).await;
        match arrived.map_err(|_| vec!["neither an answer nor a place in the queue".to_owned()])? {
            (Some(place), Some(other)) if place == other => {
                self.revision = self.revision.max(place.create_revision);
                self.waiting.push(Waiting { step: step.clone(), place, calls });
                Ok(())
            }
            (None, None) => self.answered(step, calls).await,
            (ours, etcd) => Err(vec![format!("waiting: ours {ours:?}, etcd's {etcd:?}")]),
        }
    }

    /// Compares the answers of calls whose turn it is now. The others must not have answered.
    pub(super) async fn turns(&mut self) -> Result<(), Vec<String>> {
        for Waiting { step, place, calls } in std::mem::take(&mut self.waiting) {
            let queue = self.sides[0].queue(&place).await;
            let waits = queue.as_ref().map_or(true, |queue| place.is_behind(queue));
            let early = calls.each_ref().map(|call| waits && call.is_finished());
            if early != [false; 2] {
                return Err(vec![format!("{step} was answered too early (ours, etcd's): {early:?}, behind {queue:?}")]);
            }
            match waits {
                true => self.waiting.push(Waiting { step, place, calls }),
                false => self.answered(&step, calls).await.map_err(|differences| {
                    differences.into_iter().map(|difference| format!("{step}: {difference}")).collect::<Vec<_>>()
                })?,
            }
        }
        Ok(())
    }

    async fn answered(&mut self, step: &Step, [one, other]: [Call; 2]) -> Result<(), Vec<String>> {
        let answers = tokio::time::timeout(DEADLINE, async { tokio::join!(one, other) }).await;
        let (got, wanted) = answers.map_err(|_| vec!["no answer in time".to_owned()])?;
        let [ours, etcd] = &self.sides;
        let got = ours.show(step, got.expect("a call does not panic"));
        let wanted = etcd.show(step, wanted.expect("a call does not panic"));
        self.compare(step, got, wanted)
    }
}

impl Side {
    fn begin(&self, step: &Step) -> Call {
        let (channel, method) = (self.server.channel.clone(), step.method.clone());
        let (request, credentials) = (self.request(step), self.credentials(step.caller));
        tokio::spawn(async move { wire::call(&channel, &method, &request, &credentials).await })
    }

    /// Where the call has got its place behind others, or nothing if it was answered.
    async fn arrival(&self, place: &Place, call: &mut Call) -> Option<Place> {
        let mut place = place.clone();
        while !call.is_finished() {
            if let Ok(queue) = self.queue(&place).await {
                place.find(&queue);
                if place.create_revision != 0 && place.is_behind(&queue) {
                    return Some(place);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    async fn queue(&self, place: &Place) -> Queue {
        self.queue_of(&place.prefix[..place.prefix.len() - 1]).await
    }

    /// A queue as root sees it.
    pub(super) async fn queue_of(&self, name: &[u8]) -> Queue {
        let look = Step::new("etcdserverpb.KV/Range", &keys_of(name)).by(Caller::User("root"));
        let answers =
            wire::call(&self.server.channel, &look.method, &look.request, &self.credentials(look.caller)).await;
        let answers = answers.map_err(|status| status.message().to_owned())?;
        let answer: RangeResponse = answers[0].transcode_to().expect("an answer of the method's type");
        Ok(answer.kvs)
    }
}
