//! The same random programs on this server and on a real etcd: every answer must be the same.
//!
//! Runs against the etcd (3.4 to 3.7) that KEELSON_REFERENCE_ETCD names, as make sets it, or the one on PATH; without one
//! the test says so and passes. A failure prints its seed; KEELSON_TEST_SEED runs that one alone.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_server::proto::etcdserverpb::compare::TargetUnion;
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::lease_client::LeaseClient;
use keelson_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_server::proto::etcdserverpb::request_op::Request as Op;
use keelson_server::proto::etcdserverpb::response_op::Response as Answer;
use keelson_server::proto::etcdserverpb::watch_client::WatchClient;
use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;
use keelson_server::proto::mvccpb::Event;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;
use tonic::{Response, Status};

const SEEDS: u64 = 6;
const STEPS: usize = 250;
const DEADLINE: Duration = Duration::from_secs(30);

/// A server with a client, killed when dropped.
struct Server {
    process: Child,
    channel: Channel,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start(binary: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [client, peer] = free_urls();
        let process = Command::new(binary)
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args(["--name=one", "--log-level=error"])
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=one={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let channel = Channel::from_shared(client).unwrap().connect_lazy();
        let server = Self { process, channel, _dir: dir };
        let deadline = Instant::now() + DEADLINE;
        let request = RangeRequest { key: bytes("a"), ..Default::default() };
        while let Err(status) = KvClient::new(server.channel.clone()).range(request.clone()).await {
            assert!(Instant::now() < deadline, "{} does not get ready: {status}", binary.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_urls() -> [String; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| format!("http://{}", listener.local_addr().unwrap()))
}

fn etcd() -> Option<PathBuf> {
    let named = std::env::var_os("KEELSON_REFERENCE_ETCD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    named.into_iter().chain(on_path).find(|file| file.is_file())
}

/// One request of a program.
#[derive(Debug, Clone)]
enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    HashKv,
}

/// An answer in a form that can be compared: what depends on the server's identity or clock is left out.
async fn answer(server: &Server, step: &Step) -> Result<String, (i32, String)> {
    let mut kv = KvClient::new(server.channel.clone());
    let mut leases = LeaseClient::new(server.channel.clone());
    match step.clone() {
        Step::Range(request) => {
            let keys_only = request.keys_only;
            show(kv.range(request).await, |answer| range_answer(answer, keys_only))
        }
        Step::Put(request) => show(kv.put(request).await, |answer| plain(&mut answer.header)),
        Step::DeleteRange(request) => show(kv.delete_range(request).await, |answer| plain(&mut answer.header)),
        Step::Txn(request) => show(kv.txn(request).await, txn_answer),
        Step::Compact(request) => show(kv.compact(request).await, |answer| plain(&mut answer.header)),
        Step::Grant(request) => show(leases.lease_grant(request).await, |answer| plain(&mut answer.header)),
        Step::Revoke(request) => show(leases.lease_revoke(request).await, |answer| plain(&mut answer.header)),
        Step::TimeToLive(request) => show(leases.lease_time_to_live(request).await, |answer| {
            plain(&mut answer.header);
            answer.ttl = answer.ttl.signum();
            answer.keys.sort();
        }),
        Step::HashKv => {
            let mut maintenance = MaintenanceClient::new(server.channel.clone());
            show(maintenance.hash_kv(HashKvRequest { revision: 0 }).await, |answer| {
                plain(&mut answer.header);
                // New in etcd 3.6.
                answer.hash_revision = 0;
            })
        }
    }
}

fn show<T: std::fmt::Debug>(
    answer: Result<Response<T>, Status>,
    normalize: impl FnOnce(&mut T),
) -> Result<String, (i32, String)> {
    match answer {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            normalize(&mut answer);
            Ok(format!("{answer:?}"))
        }
        Err(status) => Err((status.code() as i32, status.message().to_owned())),
    }
}

fn plain(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        *header = ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

fn range_answer(answer: &mut RangeResponse, keys_only: bool) {
    plain(&mut answer.header);
    if keys_only {
        // Without leases since etcd 3.7.
        answer.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
}

fn txn_answer(answer: &mut TxnResponse) {
    plain(&mut answer.header);
    for response in &mut answer.responses {
        match &mut response.response {
            Some(Answer::ResponseRange(range)) => {
                let keys_only = range.kvs.iter().all(|kv| kv.value.is_empty());
                range_answer(range, keys_only);
            }
            Some(Answer::ResponsePut(put)) => plain(&mut put.header),
            Some(Answer::ResponseDeleteRange(delete)) => plain(&mut delete.header),
            Some(Answer::ResponseTxn(txn)) => txn_answer(txn),
            None => {}
        }
    }
}

/// Makes programs of few keys, so that requests meet.
struct Programmer {
    random: StdRng,
    revision: i64,
    keys: i64,
}

impl Programmer {
    fn step(&mut self) -> Step {
        match self.random.random_range(0..40) {
            0..12 => Step::Put(self.put()),
            12..17 => Step::DeleteRange(self.delete()),
            17..25 => Step::Range(self.range()),
            25..33 => Step::Txn(self.txn(1)),
            33 => Step::Compact(CompactionRequest {
                revision: self.random.random_range(0..self.revision + 2) * 3 / 4,
                physical: true,
            }),
            34..36 => Step::Grant(LeaseGrantRequest { id: self.random.random_range(1..4), ttl: 6000 }),
            36 => Step::Revoke(LeaseRevokeRequest { id: self.random.random_range(1..5) }),
            37..39 => Step::TimeToLive(LeaseTimeToLiveRequest { id: self.random.random_range(1..5), keys: true }),
            _ => Step::HashKv,
        }
    }

    fn flag(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn key(&mut self) -> Bytes {
        match self.flag(60) {
            true => Bytes::new(),
            false => bytes(["a", "aa", "b", "bb", "c", "d\0"][self.random.random_range(0..6)]),
        }
    }

    fn end(&mut self) -> Bytes {
        match self.random.random_range(0..8) {
            0..4 => Bytes::new(),
            4 => bytes("\0"),
            _ => self.key(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.flag(10), self.flag(10));
        let large = self.flag(8);
        let value = "v".repeat(self.random.random_range(0..if large { 3000 } else { 4 }));
        let lease = if self.flag(3) { self.random.random_range(1..5) } else { 0 };
        // A value or a lease beside the flag that ignores it is an error; once in a while.
        PutRequest {
            key: self.key(),
            value: if ignore_value && !self.flag(5) { Bytes::new() } else { value.into() },
            lease: if ignore_lease && !self.flag(5) { 0 } else { lease },
            prev_kv: self.flag(2),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.flag(2) }
    }

    fn range(&mut self) -> RangeRequest {
        let revision = if self.flag(2) { self.random.random_range(-1..self.revision + 3) } else { 0 };
        let mut bound = |one_in| match self.flag(one_in) {
            true => self.random.random_range(0..self.revision + 1),
            false => 0,
        };
        let bounds = [bound(8), bound(8), bound(8), bound(8)];
        // Equal ones keep the order of their keys, in etcd only because there are so few.
        let (sort_order, sort_target) = match self.flag(2) {
            true => (self.random.random_range(0..3), self.random.random_range(0..5)),
            false => (0, 0),
        };
        RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: self.random.random_range(0..4),
            revision,
            sort_order,
            sort_target,
            serializable: self.flag(2),
            keys_only: self.flag(6),
            count_only: self.flag(6),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        let compares = self.random.random_range(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth),
            failure: self.branch(depth),
        }
    }

    fn branch(&mut self, depth: usize) -> Vec<RequestOp> {
        let operations = self.random.random_range(0..4);
        let operation = |_| {
            let request = match self.random.random_range(0..8) {
                0..3 => Op::RequestPut(self.put()),
                // etcd does not see that a put is in a range without an end; we refuse the txn.
                3..5 => Op::RequestDeleteRange(match self.delete() {
                    delete if delete.range_end == "\0" => DeleteRangeRequest { range_end: Bytes::new(), ..delete },
                    delete => delete,
                }),
                5..7 => Op::RequestRange(RangeRequest { keys_only: false, ..self.range() }),
                _ if depth > 0 => Op::RequestTxn(self.txn(depth - 1)),
                _ => Op::RequestPut(self.put()),
            };
            RequestOp { request: Some(request) }
        };
        (0..operations).map(operation).collect()
    }

    fn compare(&mut self) -> Compare {
        let number = self.random.random_range(0..self.revision + 1);
        let (target, union) = match self.random.random_range(0..5) {
            0 => (0, TargetUnion::Version(number % 3)),
            1 => (1, TargetUnion::CreateRevision(number)),
            2 => (2, TargetUnion::ModRevision(number)),
            3 => (3, TargetUnion::Value(bytes(["", "v", "vv"][number as usize % 3]))),
            _ => (4, TargetUnion::Lease(number % 3)),
        };
        Compare {
            result: self.random.random_range(0..4),
            target,
            key: self.key(),
            range_end: self.end(),
            target_union: Some(union),
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Everything that a watcher of all keys sees from a revision on, up to a last put.
async fn history(server: &Server, start_revision: i64, last: &Bytes) -> Vec<Event> {
    let create = WatchCreateRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        start_revision,
        prev_kv: true,
        ..Default::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut responses = WatchClient::new(server.channel.clone()).watch(requests).await.unwrap().into_inner();
    let mut events: Vec<Event> = Vec::new();
    let done = |events: &[Event]| events.last().and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.key == last);
    while !done(&events) {
        let response = tokio::time::timeout(DEADLINE, responses.message()).await.expect("in time");
        let response = response.unwrap().expect("an open stream");
        assert!(!response.canceled, "{response:?}");
        events.extend(response.events);
    }
    events
}

/// Of several reasons to refuse a put or a txn, etcd 3.7 names the first operation's, a lease before a key; earlier ones
/// have another order.
fn both_refuse_a_checked_txn(
    step: &Step,
    got: &Result<String, (i32, String)>,
    wanted: &Result<String, (i32, String)>,
) -> bool {
    let reasons = ["lease not found", "key not found", "has been compacted", "a future revision"];
    let refused = |answer: &Result<String, (i32, String)>| {
        answer.as_ref().is_err_and(|(_, text)| reasons.iter().any(|reason| text.ends_with(reason)))
    };
    matches!(step, Step::Put(_) | Step::Txn(_)) && refused(got) && refused(wanted)
}

async fn run_program(seed: u64, ours: &Path, etcd: &Path) {
    let (ours, etcd) = (Server::start(ours).await, Server::start(etcd).await);
    let mut programmer = Programmer { random: StdRng::seed_from_u64(seed), revision: 1, keys: 0 };
    let mut compacted = 1;
    for number in 0..STEPS {
        let step = programmer.step();
        if matches!(step, Step::HashKv) && programmer.keys == 0 {
            // The one sum that deletions at the compacted revision are part of.
            continue;
        }
        let (got, wanted) = (answer(&ours, &step).await, answer(&etcd, &step).await);
        if !both_refuse_a_checked_txn(&step, &got, &wanted) {
            let context = format!("KEELSON_TEST_SEED={seed}, step {number}: {step:#?}");
            assert_eq!(got, wanted, "{context}");
        }
        if let (Step::Compact(request), Ok(_)) = (&step, &got) {
            compacted = request.revision.max(1);
        }
        let probe = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), count_only: true, ..Default::default() };
        let probe = KvClient::new(ours.channel.clone()).range(probe).await;
        let probe = probe.unwrap().into_inner();
        programmer.revision = probe.header.unwrap().revision;
        programmer.keys = probe.count;
    }
    let last = PutRequest { key: bytes("last"), ..Default::default() };
    for server in [&ours, &etcd] {
        KvClient::new(server.channel.clone()).put(last.clone()).await.unwrap();
    }
    // Deletions at the compacted revision itself are kept since etcd 3.6.
    let got = history(&ours, compacted + 1, &last.key).await;
    let wanted = history(&etcd, compacted + 1, &last.key).await;
    assert_eq!(got, wanted, "KEELSON_TEST_SEED={seed}");
}

#[tokio::test]
async fn random_programs_get_etcds_answers() {
    let Some(etcd) = etcd() else {
        eprintln!("SKIPPED: no etcd, neither KEELSON_REFERENCE_ETCD nor on PATH (Debian: etcd-server)");
        return;
    };
    let seeds = match std::env::var("KEELSON_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEELSON_TEST_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    for seed in seeds {
        run_program(seed, Path::new(env!("CARGO_BIN_EXE_keelson-server")), &etcd).await;
    }
}
