//! How many instructions the pure rooms and the codecs take, as callgrind counts them: the same on a busy machine.
//!
//! `make instructions` fails where one takes more than 5 % above what is written here. A change that is worth more, or another
//! compiler, brings its own figures; one that saves instructions lowers them. Counted on x86-64 with rustc 1.95.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use keelson_server::mvcc::counts::{Blocks, KeyCounts};
use keelson_server::mvcc::view::Nothing;
use keelson_server::mvcc::{Event, KeyRange, KeyRecord, Overlay, RevKey, RevRecord, Source, View, keys, range};
use keelson_server::proto::command::Command;
use keelson_server::proto::command::command::Op;
use keelson_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_server::proto::etcdserverpb::request_op::Request;
use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;
use keelson_server::proto::peer;
use keelson_server::raft::log::segment::{self, Kind, Tail};
use keelson_server::raft::types::{Entry, entry_from_wire, entry_to_wire};
use keelson_server::state;
use keelson_server::watch::{Asked, Hub, HubOptions};
use prost::Message;

/// The server's own: what the system's takes depends on what was freed before.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keys in the store, each with a value of 256 bytes.
const KEYS: usize = 1000;

/// A benchmark that takes this many instructions, and fails with 5 % more.
fn takes(instructions: u64) -> LibraryBenchmarkConfig {
    let most = instructions + instructions / 20;
    let mut callgrind = Callgrind::default();
    if cfg!(target_arch = "x86_64") {
        callgrind.hard_limits([(EventKind::Ir, most)]);
    }
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// Does this a hundred times: what only the first time takes, as the allocator's beginning, hardly counts.
fn repeat<T>(mut work: impl FnMut() -> T) {
    (0..100).for_each(|_| drop(black_box(work())));
}

type Store = Overlay<Nothing>;

fn key(number: usize) -> Bytes {
    format!("/registry/pods/default/{number:09}").into()
}

fn put(number: usize) -> PutRequest {
    PutRequest { key: key(number), value: vec![b'v'; 256].into(), ..PutRequest::default() }
}

fn command(op: Op) -> Command {
    Command { op: Some(op), ..Command::default() }
}

/// A store with its keys.
fn store() -> Store {
    let mut store = Overlay::new(Nothing);
    for number in 0..KEYS {
        let applied = state::apply(&store, &command(Op::Put(put(number)))).expect("a store that can be read");
        store.effects_mut().merge(applied.effects);
    }
    store
}

/// All keys.
fn everything() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..RangeRequest::default() }
}

fn with(op: Op) -> (Store, Vec<u8>) {
    (store(), command(op).encode_to_vec())
}

fn a_put() -> (Store, Vec<u8>) {
    with(Op::Put(put(KEYS / 2)))
}

/// What a Kubernetes API server writes with.
fn a_txn() -> (Store, Vec<u8>) {
    let revision = KEYS as i64 / 2;
    let number = revision as usize - 2;
    let unchanged = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key(number),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    };
    let get = RangeRequest { key: key(number), ..RangeRequest::default() };
    with(Op::Txn(TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp { request: Some(Request::RequestPut(put(number))) }],
        failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
    }))
}

fn a_deletion() -> (Store, Vec<u8>) {
    with(Op::DeleteRange(DeleteRangeRequest { key: key(KEYS / 2), ..DeleteRangeRequest::default() }))
}

#[library_benchmark]
#[bench::put(args = (), setup = a_put, config = takes(504_000))]
#[bench::txn(args = (), setup = a_txn, config = takes(958_400))]
#[bench::deletion(args = (), setup = a_deletion, config = takes(456_700))]
fn apply((store, command): (Store, Vec<u8>)) -> Store {
    repeat(|| {
        let command = Command::decode(&command[..]).expect("a command");
        state::apply(&store, &command).expect("a store that can be read")
    });
    store
}

fn a_get() -> (Store, Vec<u8>) {
    let get = RangeRequest { key: key(KEYS / 2), ..RangeRequest::default() };
    (store(), get.encode_to_vec())
}

fn a_range() -> (Store, Vec<u8>) {
    (store(), everything().encode_to_vec())
}

#[library_benchmark]
#[bench::get(args = (), setup = a_get, config = takes(355_700))]
#[bench::of_1000_keys(args = (), setup = a_range, config = takes(217_400_000))]
fn answer_range((store, request): (Store, Vec<u8>)) -> Store {
    repeat(|| {
        let request = RangeRequest::decode(&request[..]).expect("a request");
        let response = range::range(&store, &request, &mut range::unbounded).expect("a store that can be read");
        response.encode_to_vec()
    });
    store
}

/// What one put leaves in the store.
fn records() -> (RevKey, RevRecord, KeyRecord) {
    let (store, command) = a_put();
    let applied = state::apply(&store, &Command::decode(&command[..]).expect("a command")).expect("applied");
    let (place, version) = applied.effects.history.into_iter().next().expect("a version");
    let (_, newest) = applied.effects.keys.into_iter().next().expect("a key");
    (place, version, newest)
}

#[library_benchmark]
#[bench::of_a_put(args = (), setup = records, config = takes(62_900))]
fn records_as_bytes(records: (RevKey, RevRecord, KeyRecord)) -> (RevKey, RevRecord, KeyRecord) {
    repeat(|| encoded(&records));
    records
}

fn encoded((place, version, newest): &(RevKey, RevRecord, KeyRecord)) -> (Vec<u8>, Bytes, Vec<u8>) {
    (place.encode(), keys::encode_rev_record(version).into(), keys::encode_key_record(newest))
}

fn bytes_of_records() -> (Vec<u8>, Bytes, Vec<u8>) {
    encoded(&records())
}

#[library_benchmark]
#[bench::of_a_put(args = (), setup = bytes_of_records, config = takes(107_400))]
fn records_of_bytes((place, version, newest): (Vec<u8>, Bytes, Vec<u8>)) -> Bytes {
    repeat(|| {
        let place = RevKey::decode(&place).expect("a place");
        let key_value = keys::decode_rev_record(version.clone()).expect("a version").key_value().expect("a key-value");
        let (stamp, value) = keys::decode_key_record(&newest).expect("a newest version");
        place.revision.main + key_value.version + stamp.version + value.map_or(0, <[u8]>::len) as i64
    });
    version
}

/// Of the log's segment.
const SEGMENT: segment::Key = segment::Key { number: 9, salt: 0x0123_4567_89ab_cdef };

/// So many entries of the log, each a put.
fn entries(count: u64) -> Vec<Entry> {
    let command = Bytes::from(command(Op::Put(put(0))).encode_to_vec());
    let entry = |index| peer::Entry { term: 3, index, payload: Some(peer::entry::Payload::Command(command.clone())) };
    (0..count).map(|index| entry_from_wire(entry(index)).expect("an entry")).collect()
}

fn an_entry() -> Vec<Entry> {
    entries(1)
}

fn a_batch_of_entries() -> Vec<Entry> {
    entries(100)
}

/// The bytes that the log's thread writes for them.
fn written(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        segment::put(&mut bytes, SEGMENT, 0, 0, Kind::Entry, &entry_to_wire(entry).encode_to_vec());
    }
    bytes
}

#[library_benchmark]
#[bench::of_a_put(args = (), setup = an_entry, config = takes(360_300))]
#[bench::of_100_puts(args = (), setup = a_batch_of_entries, config = takes(22_850_000))]
fn log_as_bytes(entries: Vec<Entry>) -> Vec<Entry> {
    repeat(|| written(&entries));
    entries
}

fn bytes_of_an_entry() -> Vec<u8> {
    written(&an_entry())
}

fn bytes_of_a_batch() -> Vec<u8> {
    written(&a_batch_of_entries())
}

#[library_benchmark]
#[bench::of_a_put(args = (), setup = bytes_of_an_entry, config = takes(212_300))]
#[bench::of_100_puts(args = (), setup = bytes_of_a_batch, config = takes(19_900_000))]
fn log_of_bytes(bytes: Vec<u8>) -> Vec<u8> {
    repeat(|| {
        let mut entries = Vec::new();
        let tail = segment::scan(&bytes, SEGMENT, |record| {
            let entry = peer::Entry::decode(Bytes::copy_from_slice(record.payload)).expect("an entry");
            entries.push(entry_from_wire(entry).expect("an entry"));
            Ok::<_, Infallible>(())
        });
        assert!(matches!(tail, Ok(Tail::Clean { .. })), "{tail:?}");
        entries
    });
    bytes
}

/// A hub with a stream of so many watchers, and a commit of 100 revisions.
struct Watched {
    hub: Arc<Hub>,
    /// A served stream: its watchers end with it.
    _serving: std::pin::Pin<Box<dyn Future<Output = ()>>>,
    committed: Vec<(i64, Arc<[Event]>)>,
}

struct Memory(Store);

impl Source for Memory {
    type View = Store;

    fn view(&self) -> Store {
        self.0.clone()
    }
}

fn watched(create: impl Fn(usize) -> WatchCreateRequest, watchers: usize) -> Watched {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let mut store = store();
    let hub = Hub::new(store.revision(), HubOptions::default());
    let stream = hub.open(Arc::new(Memory(store.clone())));
    let creates: Vec<_> = (0..watchers)
        .map(|number| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create(number))) })
        .map(Asked::from)
        .collect();
    let requests = futures::StreamExt::chain(futures::stream::iter(creates), futures::stream::pending());
    let (out, mut responses) = tokio::sync::mpsc::channel(watchers + 1);
    let mut serving = Box::pin(async move { stream.run(requests, out).await });
    let mut created = 0;
    while created < watchers {
        assert!((&mut serving).now_or_never().is_none(), "the stream goes on");
        while responses.try_recv().is_ok() {
            created += 1;
        }
    }
    let mut committed = Vec::new();
    for number in 0..100 {
        let applied = state::apply(&store, &command(Op::Put(put(number)))).expect("a store that can be read");
        store.effects_mut().merge(applied.effects);
        committed.push((store.revision(), applied.events.into()));
    }
    // The channel's other end stays open until the process ends.
    std::mem::forget((runtime, responses));
    Watched { hub, _serving: serving, committed }
}

fn keys_watched() -> Watched {
    watched(|number| WatchCreateRequest { key: key(number), ..WatchCreateRequest::default() }, KEYS)
}

fn all_watched() -> Watched {
    let everything = || Bytes::from_static(b"\0");
    watched(|_| WatchCreateRequest { key: everything(), range_end: everything(), ..WatchCreateRequest::default() }, 8)
}

#[library_benchmark]
#[bench::to_1000_keys(args = (), setup = keys_watched, config = takes(90_900))]
#[bench::to_8_of_everything(args = (), setup = all_watched, config = takes(251_400))]
fn publish_100(mut watched: Watched) -> Watched {
    watched.hub.publish(std::mem::take(&mut watched.committed));
    watched
}

/// 100,000 keys in their blocks.
fn counts() -> KeyCounts {
    let mut blocks = Blocks::new(Bytes::new());
    (0..100_000).for_each(|number| blocks.add(&key(number)));
    KeyCounts::new(blocks)
}

#[library_benchmark]
#[bench::within(args = (), setup = counts, config = takes(7_670))]
fn count(counts: KeyCounts) -> (KeyCounts, i64) {
    let (whole, rest) = counts.within(&KeyRange::Span(key(100), key(99_900)));
    (counts, whole + rest.len() as i64)
}

#[library_benchmark]
#[bench::of_100_keys(args = (), setup = counts, config = takes(137_700))]
fn count_changes(mut counts: KeyCounts) -> KeyCounts {
    for number in 0..100 {
        counts.change(&key(number * 1000), 1);
    }
    counts
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [
        apply,
        answer_range,
        records_as_bytes,
        records_of_bytes,
        log_as_bytes,
        log_of_bytes,
        publish_100,
        count,
        count_changes
    ]
);

main!(library_benchmark_groups = instructions);
