//! Requests that are too large, too deep, never complete, or too many at once.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::request_op::Request as Operation;
use keelson_server::proto::etcdserverpb::watch_client::WatchClient;
use keelson_server::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::common::{Cluster, Member, eventually, refusal, single};
use super::{Memory, in_time, narrow};

/// Requests at once.
const MANY: usize = 64;

type Body = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn body(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))).boxed())
}

/// A piece again and again, for ever.
fn endless(piece: &'static [u8]) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::repeat(Bytes::from_static(piece))
}

/// A client over plain HTTP/2, or HTTP/1.1.
fn http_client(http2: bool) -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

/// A call of Put whose message is said to be so long, and goes on like this.
fn put(member: &Member, length: u32, rest: impl Stream<Item = Bytes> + Send + 'static) -> Request<Body> {
    let prefix = Bytes::from([&[0][..], &length.to_be_bytes()].concat());
    let request = Request::post(format!("{}/etcdserverpb.KV/Put", member.client_url()));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.body(body(stream::iter([prefix]).chain(rest))).expect("a request")
}

fn status(response: &Response<Incoming>) -> (Code, String) {
    let status = Status::from_header_map(response.headers()).expect("a status");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_by_the_length_they_tell() {
    static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    let (member, mut client) = single().await;
    let memory = Memory::of(&member);
    let http = http_client(true);
    for length in [(2 << 20) + 1, u32::MAX] {
        let answers = future::join_all((0..MANY).map(|_| http.request(put(&member, length, endless(&ZEROS)))));
        for answer in in_time("the answers", answers).await {
            let message = format!("grpc: received message larger than max ({length} vs. 2097152)");
            assert_eq!(status(&answer.expect("an answer")), (Code::ResourceExhausted, message));
        }
    }
    // As long as allowed, but never there.
    let begun = || stream::iter([Bytes::from_static(b"\x0a\x01k")]).chain(stream::pending());
    let waiting: Vec<_> = (0..MANY * 8).map(|_| tokio::spawn(http.request(put(&member, 2 << 20, begun())))).collect();
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    let grown = memory.grown_mib();
    assert!(grown < 100, "grown by {grown} MiB");
    assert!(waiting.iter().all(|call| !call.is_finished()));
}

/// A txn in which so many others are, one in another.
fn nested(levels: usize) -> TxnRequest {
    (1..levels).fold(TxnRequest::default(), |txn, _| {
        let operation = RequestOp { request: Some(Operation::RequestTxn(txn)) };
        TxnRequest { success: vec![operation], ..TxnRequest::default() }
    })
}

#[tokio::test]
async fn txns_with_too_much_in_them_are_refused() {
    let (member, mut client) = single().await;
    let mut kv = KvClient::new(narrow(&member).await);
    kv.txn(nested(32)).await.expect("done");
    let puts = |count: usize| {
        let put = |n| PutRequest { key: format!("k{n}").into(), ..PutRequest::default() };
        let success = (0..count).map(|n| RequestOp { request: Some(Operation::RequestPut(put(n))) }).collect();
        TxnRequest { success, ..TxnRequest::default() }
    };
    kv.txn(puts(128)).await.expect("done");
    let too_many = "etcdserver: too many operations in txn request";
    for txn in [nested(33), nested(120), nested(2000), puts(129), puts(60_000)] {
        let refused = in_time("an answer", kv.txn(txn)).await.expect_err("refused");
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, too_many));
    }
    client.put("k", "1", None).await.expect("put");
}

#[tokio::test]
async fn names_that_no_snapshot_can_hold_are_refused() {
    let (_member, mut client) = single().await;
    let name = |bytes| "n".repeat(bytes);
    let too_large = (3, "etcdserver: request is too large".to_owned());
    assert_eq!(refusal(client.user_add(name(32_769), "pw", None).await), too_large);
    assert_eq!(refusal(client.role_add(name(32_769)).await), too_large);
    client.user_add(name(32_768), "pw", None).await.expect("added");
    client.role_add(name(32_768)).await.expect("added");
    let mut snapshot = client.snapshot().await.expect("a snapshot");
    while snapshot.message().await.expect("a piece").is_some() {}
}

#[tokio::test]
async fn writes_without_memory_for_them_are_refused() {
    writes_are_refused(100, 100, 16, 1 << 20).await;
}

#[tokio::test]
#[ignore = "for minutes"]
async fn ten_thousand_large_writes_that_wait_take_what_they_may() {
    writes_are_refused(10_000, 1000, 100, 1_500_000).await;
}

/// So many writes, many at once, that wait for a majority which is not there, where `most` MiB are for all requests.
async fn writes_are_refused(writes: usize, at_once: usize, most: usize, bytes: usize) {
    let cluster = Cluster::start_with(3, &[&format!("--max-inflight-request-bytes={}", most << 20)]);
    let (clients, leader) = (cluster.clients().await, cluster.leader().await);
    let others: Vec<&Member> = (0..3).filter(|n| *n != leader).map(|n| &cluster.members[n]).collect();
    others.iter().for_each(|member| member.pause(true));
    let memory = Memory::of(&cluster.members[leader]);
    // A connection on which very many are refused in the middle is closed by HTTP/2.
    let channels = future::join_all((0..writes.div_ceil(100)).map(|_| narrow(&cluster.members[leader]))).await;
    let put = PutRequest { key: "k".into(), value: vec![7; bytes].into(), ..PutRequest::default() };
    let puts = (0..writes).map(|n| {
        let (mut kv, put) = (KvClient::new(channels[n % channels.len()].clone()), put.clone());
        async move { kv.put(put).await }
    });
    let mut answers = stream::iter(puts).buffer_unordered(at_once);
    // Each that waits has taken its bytes.
    let (waiting, mut refused) = ((most << 20) / bytes, 0);
    while refused < (writes - waiting) * 9 / 10 {
        let answer = in_time("an answer", answers.next()).await.expect("more were refused");
        let status = answer.expect_err("there is no majority");
        match status.code() {
            Code::ResourceExhausted => assert_eq!(status.message(), "etcdserver: too many requests"),
            code => assert_eq!(code, Code::Unavailable, "its time is over: {status}"),
        }
        refused += usize::from(status.code() == Code::ResourceExhausted);
    }
    drop(answers);
    let grown = memory.grown_mib();
    println!("{writes} writes took {grown} MiB of {most}");
    assert!(grown < 2 * most as u64 + 64, "{writes} writes took {grown} MiB");

    others.iter().for_each(|member| member.pause(false));
    eventually("a put is answered again", || async { clients[leader].kv_client().put("l", "1", None).await.ok() })
        .await;
}

#[tokio::test]
async fn json_without_an_end_is_refused() {
    static LETTERS: [u8; 16 << 10] = [b'A'; 16 << 10];
    let (member, mut client) = single().await;
    let memory = Memory::of(&member);
    let http = http_client(true);
    let request = |path: &str, begin: &'static str, piece: &'static [u8]| {
        let request = Request::post(format!("{}/v3/{path}", member.client_url()));
        let pieces = stream::iter([Bytes::from_static(begin.as_bytes())]).chain(endless(piece));
        http.request(request.body(body(pieces)).expect("a request"))
    };
    let too_large = "grpc: received message larger than max";
    for (begin, piece, expected, message) in
        [("{\"key\":\"", &LETTERS[..], 429, too_large), ("", &[b'['; 4096][..], 400, "a message is an object")]
    {
        let answers = future::join_all((0..MANY / 2).map(|_| request("kv/put", begin, piece)));
        for answer in in_time("the answers", answers).await {
            let (head, body) = answer.expect("an answer").into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = String::from_utf8_lossy(&body);
            assert_eq!(head.status, expected, "{body}");
            assert!(body.contains(message), "{body}");
        }
    }
    // A stream ends at what cannot be read, as at the end of the body.
    for (begin, piece) in [("{\"ID\":\"", &LETTERS[..]), ("", &[b'['; 4096][..])] {
        let answers = future::join_all((0..MANY / 2).map(|_| request("lease/keepalive", begin, piece)));
        for answer in in_time("the answers", answers).await {
            assert_eq!(answer.expect("an answer").status(), 200);
        }
    }
    in_time("a put", client.put("l", "1", None)).await.expect("put");
    let grown = memory.grown_mib();
    assert!(grown < 250, "grown by {grown} MiB");
}

#[tokio::test]
async fn a_connection_has_no_more_streams_than_it_may() {
    let mut member = Member::new("single");
    let flags = [format!("--initial-cluster=single={}", member.peer_url()), "--max-concurrent-streams=8".into()];
    member.start(&flags.each_ref().map(String::as_str));
    let mut client = member.client().await;
    let channel = narrow(&member).await;
    let open = || {
        let mut watch = WatchClient::new(channel.clone());
        let (requests, sent) = mpsc::channel::<WatchRequest>(1);
        async move { (watch.watch(ReceiverStream::new(sent)).await.expect("a stream"), requests) }
    };
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(in_time("a stream", open()).await);
    }
    let mut ninth = Box::pin(open());
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut ninth).await.is_err());
    in_time("another connection", client.put("k", "1", None)).await.expect("put");
    streams.pop();
    in_time("the ninth stream", ninth).await;
}

#[tokio::test]
async fn streams_that_do_nothing_take_little() {
    const STREAMS: usize = 4000;
    let (member, mut client) = single().await;
    let memory = Memory::of(&member);
    let channel = narrow(&member).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut watch = WatchClient::new(channel.clone());
        let stream = in_time("a stream", watch.watch(stream::pending::<WatchRequest>())).await;
        streams.push(stream.expect("a stream"));
    }
    in_time("a put", client.put("k", "1", None)).await.expect("put");
    let grown = memory.grown_mib();
    assert!(grown < 200, "{STREAMS} streams took {grown} MiB");
}
