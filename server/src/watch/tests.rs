use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::mvcc::view::Nothing;
use crate::mvcc::{Event, EventType, Overlay, Source, View};
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::*;
use crate::state;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A store in memory with its hub.
struct Memory {
    state: Mutex<Overlay<Nothing>>,
    hub: Arc<Hub>,
}

impl Source for Memory {
    type View = Overlay<Nothing>;

    fn view(&self) -> Overlay<Nothing> {
        self.state.lock().unwrap().clone()
    }
}

impl Memory {
    fn new(options: HubOptions) -> Arc<Self> {
        let state = Mutex::new(Overlay::new(Nothing));
        Arc::new(Self { state, hub: Hub::new(1, options) })
    }

    /// Commits without telling the hub; the revision and its events.
    fn commit(&self, op: Op) -> (i64, Vec<Event>) {
        let mut state = self.state.lock().unwrap();
        let applied = state::apply(&*state, &Command { op: Some(op), ..Default::default() }).unwrap();
        assert_eq!(applied.outcome.refusal(), None);
        state.effects_mut().merge(applied.effects);
        (state.revision(), applied.events)
    }

    fn write(&self, op: Op) {
        let (revision, events) = self.commit(op);
        if !events.is_empty() {
            self.hub.publish(vec![(revision, events.into())]);
        }
    }

    fn put(&self, key: &str, value: &str) {
        self.write(put(key, value));
    }

    fn compact(&self, revision: i64) {
        self.write(Op::Compact(CompactionRequest { revision, physical: false }));
        self.hub.compacted(revision);
    }
}

/// A client's end of a stream.
struct Client {
    requests: mpsc::Sender<WatchRequest>,
    responses: mpsc::Receiver<Result<Outgoing, crate::error::EtcdError>>,
}

impl Client {
    fn open(memory: &Arc<Memory>) -> Self {
        let (requests, inbound) = mpsc::channel(16);
        let (out, responses) = mpsc::channel(1);
        let stream = memory.hub.open(Arc::clone(memory));
        tokio::spawn(stream.run(ReceiverStream::new(inbound).map(Asked::from), out));
        Self { requests, responses }
    }

    async fn ask(&self, union: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    /// Asks for a watcher and takes the answer.
    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let created = self.next().await;
        assert!(created.created && created.events.is_empty(), "{created:?}");
        created
    }

    async fn progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn next(&mut self) -> WatchResponse {
        let response = tokio::time::timeout(DEADLINE, self.responses.recv()).await;
        response.expect("a response in time").expect("an open stream").expect("no error").response
    }

    /// Takes responses with events until there are so many.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.events.is_empty(), "{response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(PutRequest { key: bytes(key), value: bytes(value), ..Default::default() })
}

fn delete(key: &str) -> Op {
    Op::DeleteRange(DeleteRangeRequest { key: bytes(key), ..Default::default() })
}

fn on(key: &str, end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), range_end: bytes(end), start_revision, ..Default::default() }
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.unwrap().revision
}

fn values(events: &[Event]) -> Vec<String> {
    let value = |event: &Event| String::from_utf8(event.kv.clone().unwrap().value.to_vec()).unwrap();
    events.iter().map(value).collect()
}

#[tokio::test]
async fn events_of_the_watched_keys_come_after_created_with_what_was_asked_for() {
    let memory = Memory::new(HubOptions::default());
    memory.put("a", "1");
    let mut client = Client::open(&memory);
    let created = client.create(WatchCreateRequest { prev_kv: true, ..on("a", "", 0) }).await;
    assert_eq!((created.watch_id, revision(&created), created.canceled), (0, 2, false));
    memory.put("b", "not watched");
    memory.put("a", "2");
    let response = client.next().await;
    assert_eq!((response.watch_id, revision(&response)), (0, 4));
    assert_eq!(values(&response.events), ["2"]);
    assert_eq!(response.events[0].prev_kv.as_ref().unwrap().value, "1");
    memory.write(delete("a"));
    let response = client.next().await;
    assert_eq!(response.events[0].r#type(), EventType::Delete);
    let kv = response.events[0].kv.as_ref().unwrap();
    assert_eq!((kv.mod_revision, kv.create_revision, kv.version), (5, 0, 0));
    memory.put("a", "3");
    assert_eq!(client.next().await.events[0].prev_kv, None, "a creation");
}

#[tokio::test]
async fn ids_are_given_from_zero_and_bad_requests_are_refused_in_band() {
    let memory = Memory::new(HubOptions::default());
    let mut client = Client::open(&memory);
    assert_eq!(client.create(on("a", "", 0)).await.watch_id, 0);
    let chosen = WatchCreateRequest { watch_id: 1, ..on("a", "", 0) };
    assert_eq!(client.create(chosen.clone()).await.watch_id, 1);
    assert_eq!(client.create(on("a", "", 0)).await.watch_id, 2);
    let reasons = [
        (chosen, "mvcc: duplicate watch ID provided on the WatchStream"),
        (on("b", "a", 0), "mvcc: watcher range is empty"),
        (on("b", "b", 0), "mvcc: watcher range is empty"),
        (on("a", "", -1), "etcdserver: mvcc: required revision has been compacted"),
    ];
    for (request, reason) in reasons {
        let refused = client.create(request).await;
        assert_eq!((refused.watch_id, refused.canceled), (-1, true));
        assert_eq!(refused.cancel_reason, reason);
    }
    // An unknown id gets no answer, a known one does.
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 9 })).await;
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 1 })).await;
    let canceled = client.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (1, true, false));
    memory.put("a", "1");
    let mut ids = [client.next().await.watch_id, client.next().await.watch_id];
    ids.sort_unstable();
    assert_eq!(ids, [0, 2]);
}

#[tokio::test]
async fn the_past_comes_from_the_history_whole_revisions_in_order() {
    let memory = Memory::new(HubOptions::default());
    memory.commit(put("a", "1"));
    memory.commit(put("b", "1"));
    memory.commit(put("a", "2"));
    memory.commit(delete("a"));
    memory.hub.reset(5);
    let mut client = Client::open(&memory);
    client.create(WatchCreateRequest { prev_kv: true, ..on("", "\0", 3) }).await;
    let response = client.next().await;
    assert_eq!(revision(&response), 5);
    assert_eq!(values(&response.events), ["1", "2", ""]);
    let previous = |at: usize| response.events[at].prev_kv.as_ref().map(|kv| kv.value.clone());
    assert_eq!((previous(0), previous(1), previous(2)), (None, Some(bytes("1")), Some(bytes("2"))));
    memory.put("c", "now");
    assert_eq!(values(&client.events(1).await), ["now"]);

    let filters = vec![FilterType::Nodelete.into()];
    client.create(WatchCreateRequest { filters, watch_id: 7, ..on("a", "", 4) }).await;
    assert_eq!(values(&client.events(1).await), ["2"]);
    let filters = vec![FilterType::Noput.into()];
    client.create(WatchCreateRequest { filters, ..on("a", "", 2) }).await;
    assert_eq!(client.events(1).await[0].r#type(), EventType::Delete);
}

/// Wherever the past comes from: the hub, the history as a whole, a piece of it.
#[tokio::test]
async fn headers_tell_where_the_store_is_while_a_watcher_catches_up() {
    let memory = Memory::new(HubOptions::default());
    memory.put("a", "1");
    memory.put("a", "2");
    memory.put("b", "1");
    let mut client = Client::open(&memory);
    client.create(on("a", "", 2)).await;
    assert_eq!(revision(&client.next().await), 4);
    memory.hub.reset(4);
    client.create(on("a", "", 2)).await;
    assert_eq!(revision(&client.next().await), 4);
    // More than one go through the history takes.
    let mut last = 4;
    for n in 0..10_100 {
        last = memory.commit(put("c", &n.to_string())).0;
    }
    memory.hub.reset(last);
    client.create(on("c", "", 2)).await;
    let mut events = 0;
    while events < 10_100 {
        let response = client.next().await;
        assert_eq!(revision(&response), last, "{events} of the events before");
        events += response.events.len();
    }
}

#[tokio::test]
async fn a_compacted_start_cancels_the_watcher_but_the_compacted_revision_itself_is_there() {
    let memory = Memory::new(HubOptions::default());
    for value in ["1", "2", "3"] {
        memory.put("a", value);
    }
    memory.compact(3);
    let mut client = Client::open(&memory);
    client.create(on("a", "", 2)).await;
    let canceled = client.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (0, true, 3));
    client.create(on("a", "", 3)).await;
    assert_eq!(values(&client.events(2).await), ["2", "3"]);

    // Until the client cancels it too, its id is taken, and progress is not told.
    client.progress().await;
    let duplicate = client.create(WatchCreateRequest { watch_id: 0, ..on("a", "", 0) }).await;
    assert_eq!(duplicate.watch_id, 2);
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    let canceled = client.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (0, true));
    client.progress().await;
    assert_eq!(client.next().await.watch_id, -1);
}

#[tokio::test]
async fn progress_is_told_behind_all_events_and_not_below_a_start_in_the_future() {
    let memory = Memory::new(HubOptions::default());
    let mut client = Client::open(&memory);
    client.progress().await;
    client.create(on("a", "", 0)).await;
    for n in 0..10 {
        memory.put("a", &n.to_string());
    }
    memory.put("b", "not watched");
    client.progress().await;
    assert_eq!(client.events(10).await.len(), 10);
    let progress = client.next().await;
    assert_eq!((progress.watch_id, revision(&progress), progress.events.len()), (-1, 12, 0));

    client.create(on("z", "", 14)).await;
    client.progress().await;
    memory.put("b", "13");
    memory.put("z", "14");
    let response = client.next().await;
    assert_eq!((response.watch_id, response.events.len(), revision(&response)), (1, 1, 14));
    // Who asked too early asks again.
    client.progress().await;
    let response = client.next().await;
    assert_eq!((response.watch_id, response.events.len(), revision(&response)), (-1, 0, 14));
}

#[tokio::test]
async fn idle_watchers_that_want_it_are_told_the_revision_now_and_then() {
    let options = HubOptions { progress_interval: Duration::from_millis(100), ..Default::default() };
    let memory = Memory::new(options);
    let mut client = Client::open(&memory);
    client.create(on("a", "", 0)).await;
    client.create(WatchCreateRequest { progress_notify: true, ..on("a", "", 0) }).await;
    memory.put("b", "1");
    let progress = client.next().await;
    assert_eq!((progress.watch_id, revision(&progress), progress.events.len()), (1, 2, 0));
}

#[tokio::test]
async fn large_responses_are_split_where_that_was_asked_for() {
    let options = HubOptions { fragment_bytes: 1000, ..Default::default() };
    let memory = Memory::new(options);
    let mut client = Client::open(&memory);
    client.create(WatchCreateRequest { fragment: true, ..on("a", "z", 0) }).await;
    client.create(on("a", "z", 0)).await;
    let success = (0..6)
        .map(|n| {
            let put = PutRequest { key: bytes(&format!("k{n}")), value: vec![b'x'; 400].into(), ..Default::default() };
            RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        })
        .collect();
    memory.write(Op::Txn(TxnRequest { success, ..Default::default() }));
    let mut parts = Vec::new();
    for _ in 0..4 {
        let response = client.next().await;
        parts.push((response.watch_id, response.events.len(), response.fragment));
    }
    assert_eq!(parts, [(0, 2, true), (0, 2, true), (0, 2, false), (1, 6, false)]);
}

#[tokio::test]
async fn a_replaced_store_and_missing_revisions_are_made_up_from_the_history() {
    let memory = Memory::new(HubOptions::default());
    let mut client = Client::open(&memory);
    client.create(on("a", "", 0)).await;
    memory.put("a", "1");
    memory.commit(put("a", "2"));
    let (last, _) = memory.commit(put("a", "3"));
    memory.hub.reset(last);
    memory.commit(put("a", "4"));
    memory.put("a", "5");
    assert_eq!(values(&client.events(5).await), ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_client_that_does_not_read_falls_behind_and_misses_nothing() {
    let memory = Memory::new(HubOptions::default());
    let mut client = Client::open(&memory);
    client.create(on("a", "", 0)).await;
    let count = 20_000;
    for n in 0..count {
        memory.put("a", &n.to_string());
    }
    client.progress().await;
    let events = client.events(count).await;
    assert!(values(&events).iter().enumerate().all(|(n, value)| *value == n.to_string()));
    let progress = client.next().await;
    assert_eq!((progress.watch_id, revision(&progress)), (-1, count as i64 + 1));
}

/// Random watchers on random writes, with a client that sometimes does not read: each watcher gets each event of its
/// keys from its start on, once and in order.
#[tokio::test]
async fn every_watcher_gets_each_of_its_events_once_and_in_order() {
    for seed in 0..20 {
        println!("seed {seed}");
        check_random_watchers(StdRng::seed_from_u64(seed)).await;
    }
}

async fn check_random_watchers(mut random: StdRng) {
    let memory = Memory::new(HubOptions::default());
    let mut client = Client::open(&memory);
    let mut watchers = BTreeMap::new();
    let mut received: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    let mut all: Vec<Event> = Vec::new();
    for _ in 0..400 {
        let key = format!("k{}", random.random_range(0..8));
        match random.random_range(0..20) {
            0..12 => all.extend(commit_and_publish(&memory, put(&key, "v"), &mut random)),
            12..14 => all.extend(commit_and_publish(&memory, delete(&key), &mut random)),
            14 => {
                let end = ["", "\0", "k5"][random.random_range(0..3)];
                let start = random.random_range(0..memory.hub.revision() + 3);
                let request = WatchCreateRequest { prev_kv: true, ..on(&key, end, start) };
                client.ask(RequestUnion::CreateRequest(request.clone())).await;
                let created = loop {
                    let response = client.next().await;
                    if response.created {
                        break response;
                    }
                    received.entry(response.watch_id).or_default().extend(response.events);
                };
                let from = if start == 0 { revision(&created) + 1 } else { start };
                if !created.canceled {
                    watchers.insert(created.watch_id, WatchCreateRequest { start_revision: from, ..request });
                }
            }
            _ => {
                while let Ok(response) = client.responses.try_recv() {
                    let response = response.unwrap().response;
                    received.entry(response.watch_id).or_default().extend(response.events);
                }
            }
        }
    }
    // Past every start in the future, so that progress can be told.
    for _ in 0..3 {
        all.extend(commit_and_publish(&memory, put("end", ""), &mut random));
    }
    memory.hub.reset(memory.view().revision());
    if watchers.is_empty() {
        return;
    }
    client.progress().await;
    loop {
        let response = client.next().await;
        if response.watch_id == -1 {
            assert_eq!(revision(&response), memory.view().revision());
            break;
        }
        received.entry(response.watch_id).or_default().extend(response.events);
    }
    for (id, request) in watchers {
        let range = crate::mvcc::KeyRange::new(request.key, request.range_end);
        let wanted: Vec<_> = all
            .iter()
            .filter(|event| {
                let kv = event.kv.as_ref().unwrap();
                range.contains(&kv.key) && kv.mod_revision >= request.start_revision
            })
            .cloned()
            .collect();
        assert_eq!(received.remove(&id).unwrap_or_default(), wanted, "watcher {id}");
    }
}

/// Mostly as it should be; sometimes the hub is not told, as after a snapshot.
fn commit_and_publish(memory: &Memory, op: Op, random: &mut StdRng) -> Vec<Event> {
    let (revision, events) = memory.commit(op);
    if !events.is_empty() && random.random_range(0..10) > 0 {
        memory.hub.publish(vec![(revision, events.clone().into())]);
    }
    events
}
