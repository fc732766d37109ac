//! Floods of connections, silent ones and others: nobody else is kept waiting, and the log has files left. Clients that are gone
//! without a word leave nothing behind.

use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, stream};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::lease_client::LeaseClient;
use keelson_server::proto::etcdserverpb::watch_client::WatchClient;
use keelson_server::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
    watch_request::RequestUnion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use super::common::authority::{Authority, Leaf};
use super::common::{Member, eventually};
use super::{channel, channel_to, raw, ready};

/// Files that the member may have open, connections included.
const FILES: usize = 512;
/// Half of them can be connections of clients, and half of those can be silent.
const SILENT: usize = FILES / 4;
/// Connections from peers at once.
const PEERS: usize = 128;

/// A member that may have so many files, with a port under TLS beside the usual one.
async fn bounded() -> (Member, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut member = Member::new("one");
    member.program.splice(0..0, ["prlimit".into(), format!("--nofile={FILES}:{FILES}").into()]);
    let pair = Authority::new("ca").issue(&Leaf::new("server", &[&member.address().to_string()]));
    std::fs::write(path("cert"), &pair.cert).expect("written");
    std::fs::write(path("key"), &pair.key).expect("written");
    member.start(&[
        &format!("--initial-cluster=one={}", member.peer_url()),
        &format!("--listen-client-urls={},https://{}", member.client_url(), secure(&member)),
        &format!("--cert-file={}", path("cert")),
        &format!("--key-file={}", path("key")),
    ]);
    ready(&member).await;
    (member, folder)
}

fn secure(member: &Member) -> String {
    format!("{}:2382", member.address())
}

fn open_files(member: &Member) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", member.pid())).expect("a running process").count()
}

/// Connections on which this is said.
async fn flood(address: &str, count: usize, said: &[u8]) -> Vec<TcpStream> {
    let connect = |_| async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(said).await.expect("sent");
        stream
    };
    join_all((0..count).map(connect)).await
}

/// Less than the time of a newcomer.
const SOON: Duration = Duration::from_secs(8);

/// HTTP/2's preface and settings: as far as a client comes that has nothing to ask yet.
const IDLE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A client that comes now writes before any silent connection's time is over. One that was sent away in the crowd comes again, as
/// clients do.
async fn is_served(member: &Member) {
    let work = eventually("a client is served", || async {
        let put = PutRequest { key: "a".into(), value: vec![7; 1 << 10].into(), ..PutRequest::default() };
        KvClient::connect(member.client_url()).await.ok()?.put(put).await.ok()
    });
    tokio::time::timeout(SOON, work).await.expect("served in time");
}

#[tokio::test]
async fn silent_connections_make_room() {
    let (member, _folder) = bounded().await;
    let plain = member.client_url().replace("http://", "");
    let peers = member.peer_url().replace("http://", "");
    for (address, said) in [
        (&plain, &b""[..]),
        (&plain, b"PRI * HTTP/2.0\r\n"),
        (&secure(&member), b""),
        // The beginning of a handshake.
        (&secure(&member), b"\x16\x03\x01\x02"),
        (&peers, b""),
    ] {
        let flood = flood(address, FILES, said).await;
        is_served(&member).await;
        assert!(open_files(&member) < FILES, "{address} {said:?}");
        // The oldest are closed at once, the others later.
        let closed = |mut stream: TcpStream| async move { !matches!(stream.read(&mut [0; 64]).await, Ok(1..)) };
        let mut closing: futures::stream::FuturesUnordered<_> = flood.into_iter().map(closed).collect();
        for _ in SILENT..FILES {
            let next = futures::StreamExt::next(&mut closing);
            let ended = tokio::time::timeout(SOON, next).await;
            assert_eq!(ended.expect("soon"), Some(true), "{address} {said:?}");
        }
    }
}

#[tokio::test]
async fn silent_connections_make_room_beside_many_that_speak() {
    let (member, _folder) = bounded().await;
    let plain = member.client_url().replace("http://", "");
    let _idle = flood(&plain, FILES / 2 - 8, IDLE).await;
    for address in [&plain, &secure(&member)] {
        let _silent = flood(address, SILENT, b"").await;
        is_served(&member).await;
    }
}

#[tokio::test]
async fn connections_that_speak_leave_files_for_the_member() {
    let (member, _folder) = bounded().await;
    let mut client = KvClient::new(channel(&member).await);
    let put = PutRequest { key: "a".into(), value: vec![7; 100 << 10].into(), ..PutRequest::default() };
    // Until it has spoken, it may be closed as those are that say nothing.
    client.put(put.clone()).await.expect("put");
    let address = member.client_url().replace("http://", "");
    // No more at a time than may be silent: all of a part are heard.
    let mut idle = Vec::new();
    for part in 1..=FILES / SILENT {
        idle.extend(flood(&address, SILENT, IDLE).await);
        let taken = (part * SILENT).min(FILES / 2);
        eventually("the places are taken", || async { (open_files(&member) > taken).then_some(()) }).await;
    }
    for _ in 0..100 {
        client.put(put.clone()).await.expect("put");
    }
    assert!(open_files(&member) < FILES);
    assert_eq!(member.get("/readyz").await.map(|(code, _)| code), Some(200));
    drop(idle);
    is_served(&member).await;
    assert!(!member.log().contains("could not be accepted"), "{}", member.log());
}

/// Connections from peers that speak, as long as no certificate is asked for: anyone can be one.
#[tokio::test]
async fn peers_that_speak_leave_files_for_the_member() {
    let (member, _folder) = bounded().await;
    let address = member.peer_url().replace("http://", "");
    let before = open_files(&member);
    let idle = flood(&address, FILES, IDLE).await;
    // All but the newest are closed.
    let closed =
        |mut stream: TcpStream| async move { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
    let mut closing: futures::stream::FuturesUnordered<_> = idle.into_iter().map(closed).collect();
    for _ in 0..FILES - PEERS {
        let next = futures::StreamExt::next(&mut closing);
        assert!(tokio::time::timeout(SOON, next).await.expect("soon").is_some());
    }
    assert!(open_files(&member) <= before + PEERS + 1);
    is_served(&member).await;
    // A member that comes now is heard.
    let mut peer = raw::client(&channel_to(member.peer_url()).await).await.expect("ready");
    let cluster = "/keelson.peer.Peer/Cluster".parse().expect("a path");
    peer.unary(tonic::Request::new(bytes::Bytes::new()), cluster, raw::Raw).await.expect("answered");
    assert!(!member.log().contains("accepting a peer's connection failed"), "{}", member.log());
}

/// A way to the member. Once it is cut, nothing comes back, though no connection is closed: so is a client whose machine has lost
/// its power, or its network.
async fn cuttable(member: &Member) -> (Channel, oneshot::Sender<()>) {
    let listener = TcpListener::bind((member.address(), 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let address = member.client_url().replace("http://", "");
    let (cut, is_cut) = oneshot::channel();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("a client");
        let (mut from_client, mut to_client) = near.into_split();
        let (mut from_member, mut to_member) = TcpStream::connect(address).await.expect("connected").into_split();
        let there = tokio::io::copy(&mut from_client, &mut to_member);
        let back = async {
            tokio::select! {
                _ = is_cut => {}
                _ = tokio::io::copy(&mut from_member, &mut to_client) => {}
            }
        };
        let _ = tokio::join!(there, back);
        std::future::pending::<()>().await;
    });
    // As much as it is sent is in flight at once.
    let endpoint = Channel::from_shared(url).expect("a URL").initial_stream_window_size(1 << 30);
    (endpoint.initial_connection_window_size(1 << 30).connect().await.expect("connected"), cut)
}

async fn watch_streams(member: &Member) -> Option<u64> {
    let (_, metrics) = member.get("/metrics").await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watch_stream_total "));
    line.and_then(|count| count.parse().ok())
}

/// How many clients' connections stand, as the kernel knows.
fn connections(member: &Member) -> usize {
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(member.address().octets()), 2379);
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("read");
    let stands = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("01")
    };
    sockets.lines().filter(stands).count()
}

/// With calls that wait, and with answers that are on their way and taken by nobody.
#[tokio::test]
async fn clients_that_answer_no_pings_lose_their_connections() {
    let flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=2s"];
    let member = super::member(Member::new("one"), &flags).await;
    let way = channel(&member).await;
    let mut client = KvClient::new(way.clone());
    // More than sockets hold on both sides.
    for n in 0..24u8 {
        let put = PutRequest { key: vec![n].into(), value: vec![7; 1_000_000].into(), ..PutRequest::default() };
        client.put(put).await.expect("put");
    }
    let lease = LeaseGrantRequest { ttl: 600, id: 77 };
    LeaseClient::new(way).lease_grant(lease).await.expect("granted");
    assert_eq!(connections(&member), 1);
    let mut held = Vec::new();
    for takes_answers in [true, false] {
        let (way, cut) = cuttable(&member).await;
        let created = WatchCreateRequest { key: "a".into(), ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(created)) };
        let requests = stream::iter([request]).chain(stream::pending());
        let mut watch = WatchClient::new(way.clone()).watch(requests).await.expect("a stream").into_inner();
        watch.message().await.expect("a message").expect("created");
        let requests = stream::iter([LeaseKeepAliveRequest { id: 77 }]).chain(stream::pending());
        let leases = LeaseClient::new(way.clone()).lease_keep_alive(requests).await.expect("a stream").into_inner();
        cut.send(()).expect("it was not cut");
        let range = (!takes_answers).then(|| {
            let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
            let mut client = KvClient::new(way);
            tokio::spawn(async move { client.range(all).await })
        });
        held.push((watch, leases, range));
    }
    eventually("the watches are gone", || async { (watch_streams(&member).await == Some(0)).then_some(()) }).await;
    eventually("the connections are closed", || async { (connections(&member) == 1).then_some(()) }).await;
    // That of a client that has been as quiet, but answers.
    client.put(PutRequest { key: "a".into(), ..PutRequest::default() }).await.expect("put");
    drop(held);
}
