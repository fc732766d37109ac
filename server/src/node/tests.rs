//! Members in one process, over loopback.

mod fuzz;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::mvcc::View;
use crate::mvcc::range::{range, unbounded};
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest};
use crate::proto::peer as pb;

const LIMIT: Duration = Duration::from_secs(30);

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A member that can be stopped and started again.
struct Host {
    config: NodeConfig,
    node: Option<Node>,
    _dir: TempDir,
}

impl Host {
    fn new(name: &str, url: &str, cluster: &BTreeMap<String, Vec<String>>) -> Host {
        let dir = TempDir::new().unwrap();
        let config = NodeConfig {
            name: name.into(),
            data_dir: dir.path().join("data"),
            listen_peer_urls: vec![url.into()],
            initial_advertise_peer_urls: vec![url.into()],
            advertise_client_urls: vec![format!("http://{name}:2379")],
            initial_cluster: cluster.clone(),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(500),
            snapshot_catchup_entries: 10,
            wal_segment_bytes: 256 << 10,
            ..NodeConfig::default()
        };
        Host { config, node: None, _dir: dir }
    }

    async fn start(&mut self) {
        let start = Instant::now();
        loop {
            match Node::start(self.config.clone()).await {
                Ok(node) => return self.node = Some(node),
                // The threads of the one that was dropped may still be on their way out.
                Err(error) if start.elapsed() > LIMIT => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Ends the member as a crash would, as far as a process can do that to a part of itself.
    fn drop_node(&mut self) {
        self.node = None;
    }
}

async fn cluster(size: usize) -> Vec<Host> {
    let urls: Vec<String> = (0..size).map(|_| free_url()).collect();
    let members = urls.iter().enumerate().map(|(n, url)| (format!("m{n}"), vec![url.clone()])).collect();
    let mut hosts: Vec<Host> =
        urls.iter().enumerate().map(|(n, url)| Host::new(&format!("m{n}"), url, &members)).collect();
    for host in &mut hosts {
        host.start().await;
    }
    for host in &hosts {
        tokio::time::timeout(LIMIT, host.node().wait_ready()).await.unwrap().unwrap();
    }
    hosts
}

fn put(key: &str, value: &str) -> Command {
    let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    Command { op: Some(Op::Put(request)), ..Default::default() }
}

/// Proposes until it is acknowledged; says nothing about how often it was written.
async fn put_surely(node: &Node, key: &str, value: &str) {
    let start = Instant::now();
    while let Err(error) = node.propose(put(key, value)).await {
        assert!(start.elapsed() < LIMIT, "{error}");
    }
}

fn get(node: &Node, key: &str) -> Option<String> {
    let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let found = range(&node.view(), &request, &mut unbounded).unwrap().kvs;
    found.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn read(node: &Node, key: &str) -> Option<String> {
    node.linearize().await.unwrap();
    get(node, key)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn leader_of(hosts: &[Host]) -> Option<usize> {
    hosts.iter().position(|host| host.node.as_ref().is_some_and(|node| node.status().is_leader()))
}

async fn wait_leader(hosts: &[Host]) -> usize {
    until("a leader", || leader_of(hosts).is_some()).await;
    leader_of(hosts).unwrap()
}

#[tokio::test]
async fn commands_for_which_there_is_no_memory_are_refused_but_leases_end() {
    let url = free_url();
    let mut host = Host::new("m0", &url, &BTreeMap::from([("m0".to_string(), vec![url.clone()])]));
    let requests = Budget::new(64 << 10);
    host.config.requests = requests.clone();
    host.start().await;
    let node = host.node();
    tokio::time::timeout(LIMIT, node.wait_ready()).await.unwrap().unwrap();
    let held = requests.hold(requests.limit());
    assert_eq!(node.propose(put("k", "1")).await.unwrap_err(), EtcdError::RequestTooManyRequests);
    let revoke = Command { op: Some(Op::LeaseRevoke(LeaseRevokeRequest { id: 7 })), ..Default::default() };
    assert_eq!(node.propose(revoke).await.unwrap_err(), EtcdError::LeaseNotFound);
    drop(held);
    // More than there is in all: what was applied gives its memory back, but for the newest of the log.
    for n in 0..20 {
        node.propose(put(&format!("k{n}"), &"v".repeat(8 << 10))).await.unwrap();
    }
    until("the rest is free", || requests.left() >= requests.limit() * 3 / 4).await;
}

#[tokio::test]
async fn a_single_member_keeps_what_it_acknowledged() {
    let mut hosts = cluster(1).await;
    let member_id = hosts[0].node().status().member_id;
    for n in 0..50 {
        hosts[0].node().propose(put(&format!("k{n}"), "v")).await.unwrap();
    }
    let revision = hosts[0].node().view().revision();
    hosts[0].drop_node();
    // It needs nobody's vote, and waits for none.
    hosts[0].config.election_timeout = 4 * LIMIT;
    hosts[0].start().await;
    let node = hosts[0].node();
    tokio::time::timeout(LIMIT, node.wait_ready()).await.expect("soon").expect("ready");
    assert_eq!(read(node, "k49").await.as_deref(), Some("v"));
    assert_eq!((node.view().revision(), node.status().member_id), (revision, member_id));
    node.shutdown().await;
    assert_eq!(node.propose(put("k", "v")).await, Err(EtcdError::Stopped));
}

#[tokio::test]
async fn every_member_writes_and_reads_linearizably() {
    let hosts = cluster(3).await;
    for (n, host) in hosts.iter().enumerate() {
        let key = format!("k{n}");
        host.node().propose(put(&key, "v")).await.unwrap();
        assert_eq!(get(host.node(), &key).as_deref(), Some("v"), "a write is seen where it was made");
        for other in &hosts {
            assert_eq!(read(other.node(), &key).await.as_deref(), Some("v"));
        }
    }
    let names: Vec<String> = hosts[1].node().members().into_iter().map(|member| member.name).collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.starts_with('m')), "{names:?}");
}

#[tokio::test]
async fn the_cluster_outlives_its_leader_and_takes_it_back() {
    let mut hosts = cluster(3).await;
    put_surely(hosts[0].node(), "before", "1").await;
    let old = wait_leader(&hosts).await;
    hosts[old].drop_node();
    let survivor = (old + 1) % 3;
    put_surely(hosts[survivor].node(), "during", "2").await;
    hosts[old].start().await;
    for key in ["before", "during"] {
        assert!(read(hosts[old].node(), key).await.is_some(), "{key}");
    }
}

#[tokio::test]
async fn leadership_moves_on_request_and_at_shutdown() {
    let hosts = cluster(3).await;
    let old = wait_leader(&hosts).await;
    let target = hosts[(old + 1) % 3].node().status().member_id;
    assert_eq!(hosts[(old + 1) % 3].node().transfer_leadership(target).await, Err(EtcdError::NotLeader));
    assert_eq!(hosts[old].node().transfer_leadership(77).await, Err(EtcdError::BadLeaderTransferee));
    hosts[old].node().transfer_leadership(target).await.unwrap();
    until("the target leads", || leader_of(&hosts) == Some((old + 1) % 3)).await;
    hosts[(old + 1) % 3].node().shutdown().await;
    let another_leads = || hosts[old].node().status().leader.is_some_and(|leader| leader != target);
    until("another leads", another_leads).await;
    hosts[old].node().propose(put("k", "v")).await.unwrap();
}

#[tokio::test]
async fn a_leader_without_quorum_answers_neither_writes_nor_reads() {
    let mut hosts = cluster(3).await;
    let leader = wait_leader(&hosts).await;
    for n in 1..3 {
        hosts[(leader + n) % 3].drop_node();
    }
    let node = hosts[leader].node();
    until("the leader notices", || node.status().leader.is_none()).await;
    let (write, read) = tokio::join!(node.propose(put("k", "v")), node.linearize());
    for error in [write.err(), read.err()] {
        assert!(matches!(error, Some(EtcdError::Timeout | EtcdError::TimeoutDueToLeaderFail)), "{error:?}");
    }
    for n in 1..3 {
        hosts[(leader + n) % 3].start().await;
    }
    put_surely(hosts[leader].node(), "k", "after").await;
}

#[tokio::test]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let mut hosts = cluster(3).await;
    let leader = wait_leader(&hosts).await;
    let behind = (leader + 1) % 3;
    let stopped_at = hosts[behind].node().status().applied_index;
    hosts[behind].drop_node();
    for n in 0..100 {
        put_surely(hosts[leader].node(), &format!("k{n}"), &"v".repeat(1000)).await;
    }
    for host in hosts.iter().filter(|host| host.node.is_some()) {
        let raft = &host.node().inner.raft;
        raft.trigger().snapshot().await.unwrap();
        let purged = || openraft::async_runtime::watch::WatchReceiver::borrow_watched(&raft.metrics()).purged;
        until("the log is purged", || purged().is_some_and(|purged| purged.index > stopped_at)).await;
    }
    hosts[behind].start().await;
    assert_eq!(read(hosts[behind].node(), "k99").await.map(|value| value.len()), Some(1000));
    assert_eq!(hosts[behind].node().view().revision(), hosts[leader].node().view().revision());
    // It holds what it got: after a restart, too, and takes part.
    hosts[behind].drop_node();
    hosts[behind].start().await;
    put_surely(hosts[behind].node(), "more", "1").await;
    assert_eq!(get(hosts[behind].node(), "k0").map(|value| value.len()), Some(1000));
}

#[tokio::test]
async fn members_join_as_learners_are_promoted_and_removed() {
    let mut hosts = cluster(1).await;
    put_surely(hosts[0].node(), "old", "1").await;
    let url = free_url();
    let (added, members) = hosts[0].node().member_add(vec![url.clone()], true).await.unwrap();
    assert!(added.is_learner && members.len() == 2);
    assert_eq!(hosts[0].node().member_add(vec![url.clone()], false).await.err(), Some(EtcdError::PeerURLExist));
    assert_eq!(hosts[0].node().member_promote(added.id).await, Err(EtcdError::LearnerNotReady));

    let mut all = hosts[0].config.initial_cluster.clone();
    all.insert("joiner".into(), vec![url.clone()]);
    let mut joiner = Host::new("joiner", &url, &all);
    joiner.config.initial_cluster_state = InitialClusterState::Existing;
    joiner.start().await;
    joiner.node().wait_ready().await.unwrap();
    assert_eq!((joiner.node().status().member_id, joiner.node().status().is_learner()), (added.id, true));
    assert_eq!(read(joiner.node(), "old").await.as_deref(), Some("1"));

    // Asked at the learner, done by the leader.
    let start = Instant::now();
    while let Err(error) = joiner.node().member_promote(added.id).await {
        assert!(error == EtcdError::LearnerNotReady && start.elapsed() < LIMIT, "{error}");
    }
    until("it votes", || !joiner.node().status().is_learner()).await;
    // Also while what is kept for others to wait for is a moment old.
    joiner.node().inner.status.send_modify(|status| status.role = Role::Learner);
    assert!(!joiner.node().is_learner());
    put_surely(joiner.node(), "new", "2").await;
    assert_eq!(read(hosts[0].node(), "new").await.as_deref(), Some("2"));

    let moved = vec![free_url()];
    assert_eq!(hosts[0].node().member_update(7, moved.clone()).await, Err(EtcdError::MemberNotFound));
    hosts.push(joiner);
    let members = hosts[0].node().member_remove(added.id).await.unwrap();
    assert_eq!(members.len(), 1);
    let mut status = hosts[1].node().watch_status();
    tokio::time::timeout(LIMIT, status.wait_for(|status| status.removed)).await.unwrap().unwrap();
    put_surely(hosts[0].node(), "alone", "3").await;
}

#[tokio::test]
async fn what_a_newcomer_would_be_sent_of_the_log_goes_with_its_addition() {
    let hosts = cluster(1).await;
    let node = hosts[0].node();
    for n in 0..100 {
        put_surely(node, &format!("k{n}"), "1").await;
    }
    node.member_add(vec![free_url()], true).await.expect("added");
    let metrics = node.inner.raft.metrics();
    let purged = || openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics).purged;
    let gone = until("only its last entries are left", || purged().is_some_and(|purged| purged.index > 80));
    // Some time later it would go anyway.
    tokio::time::timeout(LIMIT / 2, gone).await.expect("at once");
}

#[tokio::test]
async fn a_member_that_lost_its_data_is_refused() {
    let mut hosts = cluster(3).await;
    let gone = TempDir::new().unwrap();
    hosts[2].drop_node();
    hosts[2].config.data_dir = gone.path().join("data");
    let start = Instant::now();
    let error = loop {
        match Node::start(hosts[2].config.clone()).await {
            Ok(_) => panic!("it must not start"),
            Err(StartError::Io { .. }) if start.elapsed() < LIMIT => {}
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("its data directory is gone"), "{error}");
}

#[tokio::test]
async fn what_is_no_command_does_not_get_into_the_log() {
    let hosts = cluster(1).await;
    let inner = &hosts[0].node().inner;
    let mut caller = inner.peers.caller(inner.member_id, &hosts[0].config.listen_peer_urls);
    let refused = caller.propose(pb::ProposeRequest { command: vec![0xff; 9].into() }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, "malformed message: command"));
    put_surely(hosts[0].node(), "a", "1").await;
}

#[tokio::test]
async fn leases_expire_unless_renewed_anywhere() {
    let hosts = cluster(3).await;
    for (id, key) in [(1, "renewed"), (2, "left")] {
        let grant = LeaseGrantRequest { id, ttl: 1 };
        hosts[0].node().propose(Command { op: Some(Op::LeaseGrant(grant)), ..Default::default() }).await.unwrap();
        let request = PutRequest { key: key.into(), lease: id, ..Default::default() };
        hosts[1].node().propose(Command { op: Some(Op::Put(request)), ..Default::default() }).await.unwrap();
    }
    let start = Instant::now();
    while read(hosts[2].node(), "left").await.is_some() {
        assert!(start.elapsed() < LIMIT);
        assert_eq!(hosts[1].node().lease_renew(1).await, Ok(1));
    }
    assert!(read(hosts[2].node(), "renewed").await.is_some());
    assert_eq!(hosts[0].node().lease_renew(2).await, Err(EtcdError::LeaseNotFound));
    let ttl = hosts[2].node().lease_time_to_live(1, true).await.unwrap();
    assert_eq!((ttl.granted_ttl, ttl.keys), (1, vec!["renewed".into()]));
}
