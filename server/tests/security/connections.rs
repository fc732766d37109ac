//! Floods of connections, silent ones and others: nobody else is kept waiting, and the log has files left.

use std::time::Duration;

use futures::future::join_all;
use keelson_server::proto::etcdserverpb::PutRequest;
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    let idle = flood(&address, FILES, IDLE).await;
    eventually("all places are taken", || async { (open_files(&member) > FILES / 2).then_some(()) }).await;
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
