//! The lock and election services, by a generated client and together with etcdctl, which makes its own queues of keys.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Member, eventually, refusal, single};
use etcd_client::{Client, CompactionOptions, GetOptions, LeaderKey, LockOptions, ProclaimOptions, ResignOptions};

const UNKNOWN: i32 = 2;

async fn lease(client: &mut Client, id: i64) {
    let options = etcd_client::LeaseGrantOptions::new().with_id(id);
    client.lease_grant(300, Some(options)).await.expect("granted");
}

async fn keys(client: &mut Client, prefix: &str) -> Vec<String> {
    let options = GetOptions::new().with_prefix().with_keys_only();
    let found = client.get(prefix, Some(options)).await.expect("read");
    found.kvs().iter().map(|kv| kv.key_str().expect("text").to_owned()).collect()
}

async fn until_keys(client: &Client, prefix: &str, expected: &[&str]) {
    let client = client.clone();
    eventually(&format!("the keys are {expected:?}"), || {
        let mut client = client.clone();
        async move { (keys(&mut client, prefix).await == expected).then_some(()) }
    })
    .await;
}

fn by(id: i64) -> Option<LockOptions> {
    Some(LockOptions::new().with_lease(id))
}

#[tokio::test]
async fn a_lock_is_handed_from_one_to_the_next() {
    let (_member, mut client) = single().await;
    for id in [0x0a, 0x0b, 0x0c] {
        lease(&mut client, id).await;
    }
    let first = client.lock("jobs", by(0x0a)).await.expect("locked");
    assert_eq!(first.key(), b"jobs/a");
    let again = client.lock("jobs", by(0x0a)).await.expect("locked already");
    assert_eq!(again.key(), b"jobs/a");
    let waiting = |id| {
        let mut client = client.clone();
        tokio::spawn(async move { client.lock("jobs", by(id)).await })
    };
    let second = waiting(0x0b);
    until_keys(&client, "jobs", &["jobs/a", "jobs/b"]).await;
    let third = waiting(0x0c);
    until_keys(&client, "jobs", &["jobs/a", "jobs/b", "jobs/c"]).await;
    assert!(!second.is_finished());
    client.unlock("jobs/a").await.expect("unlocked");
    let second = second.await.expect("no panic").expect("locked");
    assert_eq!(second.key(), b"jobs/b");
    assert!(second.header().expect("a header").revision() > first.header().expect("a header").revision());
    assert!(!third.is_finished());
    // The holder's lease ends, and with it the lock.
    client.lease_revoke(0x0b).await.expect("revoked");
    assert_eq!(third.await.expect("no panic").expect("locked").key(), b"jobs/c");
    assert_eq!(keys(&mut client, "jobs").await, ["jobs/c"]);
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_queue() {
    let (_member, mut client) = single().await;
    for id in [1, 2, 3] {
        lease(&mut client, id).await;
    }
    client.lock("jobs", by(1)).await.expect("locked");
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.lock("jobs", by(2)).await });
    until_keys(&client, "jobs", &["jobs/1", "jobs/2"]).await;
    waiting.abort();
    until_keys(&client, "jobs", &["jobs/1"]).await;

    client.campaign("lead", "a", 1).await.expect("leads");
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.campaign("lead", "b", 2).await });
    until_keys(&client, "lead", &["lead/1", "lead/2"]).await;
    waiting.abort();
    until_keys(&client, "lead", &["lead/1"]).await;

    // Its key goes while it waits: it must not think that it has the lock.
    let mut lost = client.clone();
    let lost = tokio::spawn(async move { lost.lock("jobs", by(3)).await });
    until_keys(&client, "jobs", &["jobs/1", "jobs/3"]).await;
    client.lease_revoke(3).await.expect("revoked");
    client.unlock("jobs/1").await.expect("unlocked");
    let refused = refusal(lost.await.expect("no panic"));
    assert_eq!(refused, (UNKNOWN, "mutex: session is expired".into()));
}

#[tokio::test]
async fn calls_without_a_lease_make_one_and_unknown_ones_are_refused() {
    let (_member, mut client) = single().await;
    let unknown = refusal(client.lock("jobs", by(77)).await);
    assert_eq!(unknown, (UNKNOWN, "etcdserver: requested lease not found".into()));
    let unknown = refusal(client.campaign("lead", "a", 77).await);
    assert_eq!(unknown, (UNKNOWN, "etcdserver: requested lease not found".into()));
    let locked = client.lock("jobs", None).await.expect("locked");
    let leases = client.leases().await.expect("listed");
    let id = leases.leases()[0].id();
    assert_eq!(locked.key(), format!("jobs/{id:x}").as_bytes());
    let told = client.lease_time_to_live(id, None).await.expect("told");
    assert_eq!(told.granted_ttl(), 60);
}

#[tokio::test]
async fn a_wait_outlives_compaction() {
    let (_member, mut client) = single().await;
    lease(&mut client, 1).await;
    lease(&mut client, 2).await;
    client.lock("jobs", by(1)).await.expect("locked");
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.lock("jobs", by(2)).await });
    until_keys(&client, "jobs", &["jobs/1", "jobs/2"]).await;
    let revision = client.put("other", "", None).await.expect("put").header().expect("a header").revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
    client.unlock("jobs/1").await.expect("unlocked");
    assert_eq!(waiting.await.expect("no panic").expect("locked").key(), b"jobs/2");
}

fn leader_key(name: &str, key: &str, rev: i64, lease: i64) -> LeaderKey {
    LeaderKey::new().with_name(name).with_key(key).with_rev(rev).with_lease(lease)
}

#[tokio::test]
async fn an_election() {
    let (_member, mut client) = single().await;
    lease(&mut client, 0x0a).await;
    lease(&mut client, 0x0b).await;
    assert_eq!(refusal(client.leader("e").await), (UNKNOWN, "election: no leader".into()));
    let mut observed = client.observe("e").await.expect("a stream");
    let won = client.campaign("e", "first", 0x0a).await.expect("won");
    let leader = won.leader().expect("a leader").clone();
    let rev = won.header().expect("a header").revision();
    assert_eq!((leader.name(), leader.key(), leader.rev(), leader.lease()), (&b"e"[..], &b"e/a"[..], rev, 0x0a));
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.campaign("e", "second", 0x0b).await });
    until_keys(&client, "e", &["e/a", "e/b"]).await;

    let mut next_value = async || {
        let told = observed.message().await.expect("told").expect("an open stream");
        told.kv().expect("a leader").value_str().expect("text").to_owned()
    };
    assert_eq!(next_value().await, "first");
    let proclaimed = client.proclaim("new", Some(ProclaimOptions::new().with_leader(leader.clone()))).await;
    assert!(proclaimed.expect("proclaimed").header().expect("a header").revision() > rev);
    assert_eq!(next_value().await, "new");
    let told = client.leader("e").await.expect("told");
    assert_eq!(told.kv().expect("a leader").value(), b"new");
    // A campaign of who leads already proclaims.
    client.campaign("e", "newer", 0x0a).await.expect("leads already");
    assert_eq!(next_value().await, "newer");

    assert!(!waiting.is_finished());
    client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await.expect("resigned");
    let second = waiting.await.expect("no panic").expect("won");
    assert_eq!(second.leader().expect("a leader").key(), b"e/b");
    assert_eq!(next_value().await, "second");
    let late = client.proclaim("late", Some(ProclaimOptions::new().with_leader(leader))).await;
    assert_eq!(refusal(late), (UNKNOWN, "election: not leader".into()));
    // Who does not lead resigns in vain, as in etcd.
    let other = leader_key("e", "e/b", 1, 0x0b);
    client.resign(Some(ResignOptions::new().with_leader(other))).await.expect("answered");
    assert_eq!(keys(&mut client, "e").await, ["e/b"]);
}

#[tokio::test]
async fn a_leader_must_be_named() {
    let (_member, mut client) = single().await;
    let missing = (UNKNOWN, "\"leader\" field must be provided".to_owned());
    assert_eq!(refusal(client.proclaim("v", None).await), missing);
    assert_eq!(refusal(client.resign(None).await), missing);
}

/// etcdctl as a process that goes on; it is sent away at the end.
struct Etcdctl(Child);

impl Etcdctl {
    fn start(member: &Member, arguments: &[&str]) -> Self {
        let child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &member.client_url()])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn();
        Etcdctl(child.expect("etcdctl is installed"))
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Etcdctl {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn etcdctl_waits_in_the_same_queues() {
    let (member, mut client) = single().await;
    lease(&mut client, 0x0a).await;
    let held = client.lock("jobs", by(0x0a)).await.expect("locked");
    let mut waiting = Etcdctl::start(&member, &["lock", "jobs", "env"]);
    let queue = eventually("etcdctl waits", || {
        let mut client = client.clone();
        async move { Some(keys(&mut client, "jobs").await).filter(|keys| keys.len() == 2) }
    })
    .await;
    client.unlock(held.key()).await.expect("unlocked");
    let stdout = waiting.0.stdout.take().expect("a pipe");
    let told = std::io::read_to_string(stdout).expect("text");
    let other = queue.iter().find(|key| *key != "jobs/a").expect("etcdctl's key");
    assert!(told.lines().any(|line| line == format!("ETCD_LOCK_KEY={other}")), "{told}");
    assert!(waiting.0.wait().expect("waited for").success());

    let leading = Etcdctl::start(&member, &["elect", "e", "by etcdctl"]);
    let leader = eventually("etcdctl leads", || {
        let mut client = client.clone();
        async move { client.leader("e").await.ok() }
    })
    .await;
    assert_eq!(leader.kv().expect("a leader").value(), b"by etcdctl");
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.campaign("e", "next", 0x0a).await });
    eventually("two candidates", || {
        let mut client = client.clone();
        async move { (keys(&mut client, "e").await.len() == 2).then_some(()) }
    })
    .await;
    leading.interrupt();
    let won = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
    assert_eq!(won.expect("no panic").expect("won").leader().expect("a leader").key(), b"e/a");
}
