//! Clients that ask for much and do not read it.

use bytes::Bytes;
use etcd_client::{Client, GetOptions};
use futures::future::join_all;
use futures::{StreamExt, stream};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::watch_client::WatchClient;
use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::common::{Cluster, Member, eventually, single};
use super::{Memory, everything, fill, in_time, narrow, sample};

#[tokio::test]
async fn range_streams_hold_up_nobody() {
    // More than there are threads for what blocks.
    const STREAMS: usize = 600;
    let (member, mut client) = single().await;
    fill(&client, "k", 60, 64 << 10).await;
    let memory = Memory::of(&member);
    let mut kv = KvClient::new(narrow(&member).await);
    let mut stalled = Vec::new();
    for _ in 0..STREAMS {
        let stream = in_time("a range stream", kv.range_stream(everything())).await;
        stalled.push(stream.expect("a stream").into_inner());
    }
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    let all = || Some(GetOptions::new().with_all_keys());
    let range = in_time("a range", client.get("", all())).await.expect("a range");
    assert_eq!(range.count(), 61);
    let streamed = in_time("a range stream", async {
        let mut stream = client.kv_client().get_stream("", all()).await.expect("a stream");
        let mut streamed = 0;
        while let Some(chunk) = stream.message().await.expect("a chunk") {
            streamed += chunk.kvs().len();
        }
        streamed
    });
    assert_eq!(streamed.await, 61);
    in_time("a hash", client.hash_kv(0)).await.expect("a hash");
    let grown = memory.grown_mib();
    assert!(grown < 250, "{STREAMS} streams took {grown} MiB");

    drop((stalled, kv));
    let ended = r#"grpc_server_handled_total{grpc_type="server_stream",grpc_service="etcdserverpb.KV",grpc_method="RangeStream",grpc_code="Canceled"}"#;
    eventually("the streams end", || async { (sample(&member, ended).await? == STREAMS as f64).then_some(()) }).await;
}

/// What is left of a stream of ranges: keys and their number by the server, or the refusal.
async fn rest(stream: &mut Streaming<RangeStreamResponse>) -> Result<(Vec<Bytes>, i64), Status> {
    let (mut keys, mut count) = (Vec::new(), 0);
    while let Some(chunk) = in_time("a chunk", stream.message()).await? {
        let range = chunk.range_response.expect("a range");
        keys.extend(range.kvs.into_iter().map(|kv| kv.key));
        count = range.count;
    }
    Ok((keys, count))
}

#[tokio::test]
async fn a_range_stream_shows_one_revision_until_that_is_compacted() {
    let (member, mut client) = single().await;
    fill(&client, "k", 64, 64 << 10).await;
    let open = async || {
        let mut kv = KvClient::new(narrow(&member).await);
        kv.range_stream(everything()).await.expect("a stream").into_inner()
    };
    let (mut first, mut second) = (open().await, open().await);
    // The last keys are not read yet: the windows and what waits in the server have no room for them.
    client.delete("k0063", None).await.expect("deleted");
    client.put("k0062", "changed", None).await.expect("put");
    let put = client.put("k0070", "new", None).await.expect("put");
    let (keys, count) = rest(&mut first).await.expect("the range");
    assert_eq!((keys.len(), count), (64, 64));
    assert_eq!(keys.last().expect("a key"), "k0063");

    let revision = put.header().expect("a header").revision();
    client.compact(revision, None).await.expect("compacted");
    let refused = rest(&mut second).await.expect_err("refused");
    let message = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, message));
}

/// A range of everything whose client takes the headers of the answer alone.
async fn stalled_range(member: &Member) -> Result<Streaming<RangeResponse>, Status> {
    let mut grpc = tonic::client::Grpc::new(narrow(member).await);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
    let answer = in_time("a range", grpc.server_streaming(Request::new(everything()), path, codec)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn ranges_take_no_more_than_what_they_tell() {
    const RANGES: u64 = 12;
    let (member, mut client) = single().await;
    fill(&client, "k", 128, 64 << 10).await;
    let memory = Memory::of(&member);
    let mut stalled = Vec::new();
    for _ in 0..RANGES {
        stalled.push(stalled_range(&member).await.expect("an answer"));
    }
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    let (grown, answer) = (memory.grown_mib(), 8);
    assert!(grown < RANGES * answer * 2, "{RANGES} answers of {answer} MiB took {grown} MiB");
}

#[tokio::test]
async fn ranges_without_memory_for_them_are_refused() {
    // Half of it is for answers.
    ranges_are_refused(200, 8, 100).await;
}

#[tokio::test]
#[ignore = "for minutes"]
async fn a_thousand_ranges_of_100_mib_take_what_they_may() {
    ranges_are_refused(1000, 100, 1000).await;
}

/// Ranges of so many MiB, where `most` MiB are for all that is on its way.
async fn ranges_are_refused(ranges: usize, mib: usize, most: usize) {
    let (member, mut client) = limited(&format!("--max-inflight-bytes={}", most << 20)).await;
    fill(&client, "k", 16 * mib, 64 << 10).await;
    let memory = Memory::of(&member);
    let answers = join_all((0..ranges).map(|_| stalled_range(&member))).await;
    let (stalled, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!((1..=most / 2 / mib).contains(&stalled.len()), "{} of {ranges} were answered", stalled.len());
    for refused in refused {
        let status = refused.expect_err("refused");
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "etcdserver: too many requests"));
    }
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    in_time("a get", client.get("l", None)).await.expect("a get");
    let grown = memory.grown_mib();
    println!("{ranges} ranges of {mib} MiB took {grown} MiB of {most}");
    assert!(grown < most as u64 * 3 / 2, "{ranges} ranges took {grown} MiB");

    drop(stalled);
    eventually("a range is answered again", || async { stalled_range(&member).await.ok() }).await;
}

/// A member with a flag more.
async fn limited(flag: &str) -> (Member, Client) {
    let mut member = Member::new("single");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url()), flag]);
    let client = member.client().await;
    (member, client)
}

/// A stream with one watcher of all keys that was told to be created, and whose client reads no further.
async fn stalled_watch(channel: Channel, start_revision: i64) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = stream::iter([create]).chain(stream::pending());
    let watch = WatchClient::new(channel).watch(requests).await;
    let mut responses = watch.expect("a watch").into_inner();
    let created = responses.message().await.expect("an open stream").expect("a response");
    assert!(created.created && created.events.is_empty());
    responses
}

/// Reads on until there were so many events, one of each revision.
async fn expect_events(mut responses: Streaming<WatchResponse>, events: i64) {
    let mut next = 2;
    while next < events + 2 {
        let response = in_time("a response", responses.message()).await.expect("an open stream");
        for event in response.expect("a response").events {
            assert_eq!(event.kv.expect("a key-value").mod_revision, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn watchers_fall_behind_and_get_everything_once_they_read() {
    const WATCHERS: usize = 4;
    const EVENTS: i64 = 320;
    let (member, client) = single().await;
    let mut stalled = Vec::new();
    for _ in 0..WATCHERS {
        stalled.push(stalled_watch(narrow(&member).await, 0).await);
    }
    let memory = Memory::of(&member);
    fill(&client, "k", EVENTS as usize, 128 << 10).await;
    // Others come late, and read as little.
    for _ in 0..WATCHERS {
        stalled.push(stalled_watch(narrow(&member).await, 2).await);
    }
    for responses in stalled {
        expect_events(responses, EVENTS).await;
    }
    let grown = memory.grown_mib();
    assert!(grown < 200, "the watchers took {grown} MiB");
}

#[tokio::test]
async fn watchers_that_do_not_read_take_no_more_than_they_may() {
    let grown = stalled_watchers(300, 2, 100).await;
    assert!(grown < 300, "{grown} MiB");
}

#[tokio::test]
async fn watchers_that_do_not_read_make_room_for_those_who_do() {
    // One event of each is more than half of that.
    let grown = stalled_watchers(400, 2, 8).await;
    assert!(grown < 200, "{grown} MiB");
}

#[tokio::test]
#[ignore = "for minutes"]
async fn ten_thousand_watchers_that_do_not_read_take_no_more_than_they_may() {
    let grown = stalled_watchers(10_000, 2, 100).await;
    // What 10,000 streams cost by themselves, and the store, are beside what is on its way.
    assert!(grown < 800, "{grown} MiB");
}

/// MiB that a member grows by, which has `most` MiB for what is on its way, when watchers do not take 32 MiB of events each. Beside
/// them so many others take everything as it comes, and as many come late.
async fn stalled_watchers(watchers: usize, readers: usize, most: usize) -> u64 {
    /// Watchers of one connection.
    const TOGETHER: usize = 100;
    const EVENTS: i64 = 2000;
    let (member, client) = limited(&format!("--max-inflight-bytes={}", most << 20)).await;
    let mut stalled = Vec::new();
    for first in (0..watchers).step_by(TOGETHER) {
        let channel = narrow(&member).await;
        for _ in first..watchers.min(first + TOGETHER) {
            stalled.push(stalled_watch(channel.clone(), 0).await);
        }
    }
    let reader = async |from| tokio::spawn(expect_events(stalled_watch(narrow(&member).await, from).await, EVENTS));
    let mut reading = Vec::new();
    for _ in 0..readers {
        reading.push(reader(0).await);
    }
    let memory = Memory::of(&member);
    fill(&client, "k", EVENTS as usize, 16 << 10).await;
    for _ in 0..readers {
        reading.push(reader(2).await);
    }
    for reader in reading {
        reader.await.expect("all events");
    }
    in_time("a put", client.kv_client().put("l", "1", None)).await.expect("put");
    let grown = memory.grown_mib();
    println!("{watchers} watchers took {grown} MiB");
    grown
}

#[tokio::test]
async fn a_follower_that_stands_still_takes_no_memory_of_the_leader() {
    const MIB: usize = 200;
    // A quarter of it is for the newest of the log.
    let cluster = Cluster::start_with(3, &["--max-inflight-request-bytes=16777216"]);
    let (clients, leader) = (cluster.clients().await, cluster.leader().await);
    // What the store keeps in memory by itself is there before.
    fill(&clients[leader], "k", 2 * MIB, 128 << 10).await;
    let follower = &cluster.members[(leader + 1) % 3];
    follower.pause(true);
    let memory = Memory::of(&cluster.members[leader]);
    fill(&clients[leader], "k", 8 * MIB, 128 << 10).await;
    let grown = memory.grown_mib();
    follower.pause(false);
    assert!(grown < MIB as u64 / 2, "{grown} MiB for {MIB} MiB that one follower does not take");
}
