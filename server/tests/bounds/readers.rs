//! Clients that ask for much and do not read it.

use bytes::Bytes;
use etcd_client::GetOptions;
use futures::{StreamExt, stream};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::watch_client::WatchClient;
use keelson_server::proto::etcdserverpb::watch_request::RequestUnion;
use keelson_server::proto::etcdserverpb::*;
use tonic::{Code, Request, Streaming};

use super::common::{Member, eventually, single};
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
async fn rest(stream: &mut Streaming<RangeStreamResponse>) -> Result<(Vec<Bytes>, i64), tonic::Status> {
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

#[tokio::test]
async fn ranges_take_no_more_than_what_they_tell() {
    const RANGES: u64 = 12;
    let (member, mut client) = single().await;
    fill(&client, "k", 128, 64 << 10).await;
    let memory = Memory::of(&member);
    let mut stalled = Vec::new();
    for _ in 0..RANGES {
        // As a stream, of which the client takes the headers alone.
        let mut grpc = tonic::client::Grpc::new(narrow(&member).await);
        grpc.ready().await.expect("a connection");
        let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
        let answer = in_time("a range", grpc.server_streaming(Request::new(everything()), path, codec)).await;
        stalled.push(answer.expect("an answer").into_inner());
    }
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    let (grown, answer) = (memory.grown_mib(), 8);
    assert!(grown < RANGES * answer * 2, "{RANGES} answers of {answer} MiB took {grown} MiB");
}

/// A stream with one watcher of all keys that was told to be created, and whose client reads no further.
async fn stalled_watch(member: &Member, start_revision: i64) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = stream::iter([create]).chain(stream::pending());
    let watch = WatchClient::new(narrow(member).await).watch(requests).await;
    let mut responses = watch.expect("a watch").into_inner();
    let created = responses.message().await.expect("an open stream").expect("a response");
    assert!(created.created && created.events.is_empty());
    responses
}

#[tokio::test]
async fn watchers_fall_behind_and_get_everything_once_they_read() {
    const WATCHERS: usize = 4;
    const EVENTS: i64 = 320;
    let (member, client) = single().await;
    let mut stalled = Vec::new();
    for _ in 0..WATCHERS {
        stalled.push(stalled_watch(&member, 0).await);
    }
    let memory = Memory::of(&member);
    fill(&client, "k", EVENTS as usize, 128 << 10).await;
    // Others come late, and read as little.
    for _ in 0..WATCHERS {
        stalled.push(stalled_watch(&member, 2).await);
    }
    for mut responses in stalled {
        let mut next = 2;
        while next < EVENTS + 2 {
            let response = in_time("a response", responses.message()).await.expect("an open stream");
            for event in response.expect("a response").events {
                assert_eq!(event.kv.expect("a key-value").mod_revision, next);
                next += 1;
            }
        }
    }
    let grown = memory.grown_mib();
    assert!(grown < 200, "the watchers took {grown} MiB");
}
