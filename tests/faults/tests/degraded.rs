//! What clients of a cluster meet that has lost members or links, or has no room left.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keelson_faults::client::{Recorder, call, connect};
use keelson_faults::cluster::{Cluster, Member};
use keelson_faults::disk::Condition;
use keelson_faults::history::{KeyValue, Request, Response, Span};
use keelson_faults::network::{Link, Network};
use tonic::{Code, Status};

/// etcd's: five seconds and two elections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
const SLACK: Duration = Duration::from_secs(2);
const ELECTION: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(30);

/// Members of one process on the loopback network have the same address.
static ALONE: Mutex<()> = Mutex::new(());

/// Ours, or etcd for comparison.
fn program() -> PathBuf {
    let ours = || Path::new(env!("CARGO_BIN_EXE_keelson-faults")).with_file_name("keelson-server");
    std::env::var_os("KEELSON_SERVER").map_or_else(ours, PathBuf::from)
}

/// Three members on a network that can be cut. In a thread of its own: it leaves the machine's network.
fn on_three_members(test: impl AsyncFnOnce(&Cluster)) {
    if !rustix::process::geteuid().is_root() {
        return println!("not tried: only root can give members a network that can be cut");
    }
    let network = Network::switched(3).expect("a network");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let (folder, recorder) = (std::env::temp_dir(), Recorder::default());
        let cluster = Cluster::start(&program(), &[], 3, &folder, network, false, &recorder).await;
        test(&cluster.expect("a cluster")).await;
    });
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn put(value: &str) -> Request {
    Request::Put { key: "k".into(), value: value.into(), lease: 0, prev_kv: false }
}

fn get(serializable: bool) -> Request {
    Request::Range { span: Span::key("k"), revision: 0, serializable, limit: 0 }
}

async fn ask(member: &Member, request: &Request) -> Result<Response, Status> {
    let channel = connect(member.client()).await.expect("a connection");
    Ok(call(channel, request).await?.1)
}

async fn value(member: &Member, serializable: bool) -> Result<String, Status> {
    match ask(member, &get(serializable)).await? {
        Response::Range { kvs, .. } => Ok(kvs.into_iter().map(|KeyValue { value, .. }| value).collect()),
        other => panic!("not a range: {other:?}"),
    }
}

/// Writes and linearizable reads are refused in etcd's words and time; what needs nobody else goes on.
async fn serves_alone(member: &Member, stored: &str) {
    let refused = |what: &'static str, request| async move {
        let begun = Instant::now();
        let status = ask(member, &request).await.expect_err(what);
        assert!(begun.elapsed() < REQUEST_TIMEOUT + SLACK, "{what}: {status} after {:?}", begun.elapsed());
        let words = ["etcdserver: request timed out", "etcdserver: no leader", "etcdserver: leader changed"];
        let is_etcds = words.iter().any(|word| status.message().starts_with(word));
        assert!(status.code() == Code::Unavailable && is_etcds, "{what}: {status:?}");
    };
    tokio::join!(refused("a put", put("never")), refused("a read", get(false)));
    assert_eq!(value(member, true).await.expect("a serializable read"), stored);
    assert_eq!(member.probe("/livez").await.expect("/livez"), 200);
    assert_eq!(member.probe("/readyz").await.expect("/readyz"), 503);
    assert_eq!(member.probe("/health?serializable=true").await.expect("/health"), 200);
}

#[test]
fn the_last_of_three_members_serves_what_needs_nobody_else() {
    on_three_members(async |cluster| {
        ask(&cluster.members[0], &put("1")).await.expect("put");
        cluster.members[1].kill().await;
        assert_eq!(value(&cluster.members[0], false).await.expect("two are a majority"), "1");
        cluster.members[2].kill().await;
        serves_alone(&cluster.members[0], "1").await;
        cluster.members[1].start("existing").await.expect("started");
        eventually("two serve again", || async { ask(&cluster.members[0], &put("2")).await.is_ok() }).await;
        assert_eq!(cluster.members[0].probe("/readyz").await.expect("/readyz"), 200);
    });
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_that_may_be_old() {
    on_three_members(async |cluster| {
        let members = &cluster.members;
        ask(&members[0], &put("old")).await.expect("put");
        let leader = cluster.leader().await.expect("a leader");
        cut_off(cluster, leader);
        let other = &members[(leader + 1) % 3];
        // From before the others can have another leader, until long after: no read is late.
        let mut refused = false;
        let begun = Instant::now();
        while !refused || value(other, false).await.is_err() {
            assert!(begun.elapsed() < DEADLINE, "the leader that is cut off goes on reading");
            match value(&members[leader], false).await {
                Ok(value) => assert_eq!(value, "old"),
                Err(_) => refused = true,
            }
        }
        ask(other, &put("new")).await.expect("a majority writes");
        serves_alone(&members[leader], "old").await;
        cluster.network.switch().expect("a switch").heal();
        eventually("it follows", || async { value(&members[leader], false).await.is_ok_and(|value| value == "new") })
            .await;
    });
}

#[test]
fn a_member_that_comes_back_does_not_disturb_a_leader() {
    on_three_members(async |cluster| {
        let members = &cluster.members;
        let leader = cluster.leader().await.expect("a leader");
        let term = members[leader].status().await.expect("a status").term;
        let follower = (leader + 1) % 3;
        cut_off(cluster, follower);
        // It stands for election again and again, as far as that goes.
        let until = Instant::now() + 4 * ELECTION;
        eventually("it has missed elections", || async {
            ask(&members[leader], &put("meanwhile")).await.expect("two are a majority");
            Instant::now() > until
        })
        .await;
        cluster.network.switch().expect("a switch").heal();
        eventually("it is back", || async { value(&members[follower], false).await.is_ok() }).await;
        for member in members {
            let status = member.status().await.expect("a status");
            assert_eq!((status.term, status.leads()), (term, member.index == leader), "{}", member.name);
        }
    });
}

/// A file system in memory, gone when this is.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.expect("mount").success());
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_is_almost_full_and_has_room_again_without_a_restart() {
    if !rustix::process::geteuid().is_root() {
        return println!("not tried: only root can mount a small file system");
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = SmallDisk::new(512);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let recorder = Recorder::default();
        let cluster = Cluster::start(&program(), &[], 1, disk.0.path(), Network::Loopback, false, &recorder).await;
        let cluster = cluster.expect("a cluster");
        let member = &cluster.members[0];
        ask(member, &put("before")).await.expect("put");
        // Someone else takes the room: all but 64 MiB, half of what the member wants to be left of this disk.
        let taken = disk.0.path().join("taken");
        std::fs::write(&taken, vec![0; 448 << 20]).expect("written");
        eventually("writes are refused", || async {
            match ask(member, &put("before")).await {
                Ok(_) => false,
                Err(status) => {
                    let words = "etcdserver: mvcc: database space exceeded";
                    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, words));
                    true
                }
            }
        })
        .await;
        assert_eq!(value(member, false).await.expect("reads go on"), "before");
        ask(member, &Request::Delete { span: Span::all(), prev_kv: false }).await.expect("deletions go on");
        let revision = member.read().await.expect("a revision");
        ask(member, &Request::Compact { revision }).await.expect("compaction goes on");
        member.defragment().await.expect("defragmentation goes on");
        member.disarm().await.expect("disarmed");
        eventually("the alarm is raised again", || async { ask(member, &put("still")).await.is_err() }).await;
        std::fs::remove_file(&taken).expect("removed");
        member.disarm().await.expect("disarmed");
        // Longer than it takes the member to look again.
        for _ in 0..20 {
            ask(member, &put("after")).await.expect("there is room again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(member.crashes().await.is_empty());
    });
}

#[test]
fn a_disk_without_room_and_one_that_cannot_be_read_end_a_member_that_has_all_when_it_comes_back() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let (folder, recorder) = (std::env::temp_dir(), Recorder::default());
        let cluster = Cluster::start(&program(), &[], 1, &folder, Network::Loopback, true, &recorder).await;
        let cluster = cluster.expect("a cluster");
        let (member, disk) = (&cluster.members[0], cluster.members[0].disk().expect("a disk of ours"));
        ask(member, &put("before")).await.expect("put");
        disk.set(Condition::Full { copies: true });
        ask(member, &put("after")).await.expect_err("there is no room for it");
        assert!(member.ends(DEADLINE).await.expect("a status"), "it goes on");
        assert!(told(member).contains("the raft log cannot be written"), "{}", told(member));
        disk.set(Condition::FailsReads { after: 0 });
        member.start("existing").await.expect("a process");
        assert!(member.ends(DEADLINE).await.expect("a status"), "it starts");
        assert!(told(member).contains("Input/output error"), "{}", told(member));
        disk.set(Condition::Sound);
        member.start("existing").await.expect("started");
        eventually("it serves again", || async { member.read().await.is_ok() }).await;
        assert_eq!(value(member, false).await.expect("a value"), "before");
        ask(member, &put("after")).await.expect("there is room again");
    });
}

/// Its log.
fn told(member: &Member) -> String {
    std::fs::read_to_string(member.log()).expect("a log")
}

/// Clients still reach it.
fn cut_off(cluster: &Cluster, member: usize) {
    let switch = cluster.network.switch().expect("a switch");
    let cut = Link { cut: true, ..Link::default() };
    for other in (0..cluster.members.len()).filter(|other| *other != member) {
        switch.set(member, other, cut);
        switch.set(other, member, cut);
    }
}
