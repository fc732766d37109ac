//! Flags whose effect shows only in a running member.

use std::os::unix::net::UnixDatagram;

use crate::common::{Cluster, DEADLINE, Member, eventually, single};
use etcd_client::{Client, GetOptions};

fn alone(member: &Member) -> String {
    format!("--initial-cluster={}={}", member.name, member.peer_url())
}

/// All keys and values.
async fn all(client: &mut Client) -> Vec<(String, String)> {
    let response = client.get("", Some(GetOptions::new().with_all_keys())).await.expect("read");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    response.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

#[tokio::test]
async fn a_member_without_its_quorum_goes_on_alone_with_all_data() {
    let mut cluster = Cluster::start(3);
    let mut clients = cluster.clients().await;
    let lease = clients[0].lease_grant(3600, None).await.expect("granted").id();
    for n in 0..50 {
        let options = etcd_client::PutOptions::new().with_lease(lease);
        clients[n % 3].put(format!("k{n:02}"), format!("v{n}"), Some(options)).await.expect("put");
    }
    // Through the one that will survive, so that it has everything that was acknowledged.
    let before = all(&mut clients[1]).await;
    let revision = clients[1].get("k00", None).await.expect("read").header().expect("a header").revision();
    let cluster_id = clients[0].status().await.expect("status").header().expect("a header").cluster_id();
    for member in &mut cluster.members {
        member.kill();
    }

    let survivor = &mut cluster.members[1];
    survivor.start(&["--force-new-cluster"]);
    let mut client = survivor.client().await;
    assert_eq!(before.len(), 50);
    assert_eq!(all(&mut client).await, before);
    let answer = client.get("k00", None).await.expect("read");
    assert_eq!(answer.header().expect("a header").revision(), revision);
    assert_eq!(answer.header().expect("a header").cluster_id(), cluster_id);
    assert_eq!(client.leases().await.expect("listed").leases()[0].id(), lease);
    let members = client.member_list().await.expect("listed");
    assert_eq!(members.members().iter().map(etcd_client::Member::name).collect::<Vec<_>>(), ["m1"]);
    client.put("after", "1", None).await.expect("put");

    // Again, and without the flag: it stays alone, and grows when told to.
    for flags in [&["--force-new-cluster"][..], &[]] {
        let member = &mut cluster.members[1];
        assert_eq!(member.terminate().await, Some(0));
        member.start(flags);
        let mut client = member.client().await;
        assert_eq!(client.member_list().await.expect("listed").members().len(), 1);
        assert_eq!(all(&mut client).await.len(), 51);
    }
    let mut client = cluster.members[1].client().await;
    let mut list = alone(&cluster.members[1]);
    let mut joined = Vec::new();
    for name in ["second", "third"] {
        let mut joining = Member::new(name);
        client.member_add([joining.peer_url()], None).await.expect("added");
        list.push_str(&format!(",{name}={}", joining.peer_url()));
        joining.start(&[&list, "--initial-cluster-state=existing"]);
        assert_eq!(all(&mut joining.client().await).await.len(), 51);
        joined.push(joining);
    }

    // One of the lost comes back: it is told that it was removed, and the others do not follow it.
    cluster.restart(0);
    assert_eq!(cluster.members[0].exit().await, Some(1));
    assert!(cluster.members[0].log().contains("removed from the cluster"), "{}", cluster.members[0].log());
    client.put("after", "2", None).await.expect("put");

    // The cluster is one of three again: it does without its survivor.
    cluster.members[1].kill();
    let mut client = joined[1].client().await;
    eventually("the others serve", || {
        let mut client = client.clone();
        async move { client.put("after", "3", None).await.ok() }
    })
    .await;
    let left = all(&mut client).await;
    assert_eq!(left.len(), 51);
    assert!(before.iter().all(|kept| left.contains(kept)));
}

/// What a watch tells after that it exists.
async fn news(watch: &mut etcd_client::WatchStream) -> etcd_client::WatchResponse {
    loop {
        let told = watch.message().await.expect("told").expect("told");
        if !told.created() || told.canceled() {
            return told;
        }
    }
}

/// Others may have acknowledged what this member does not have: no client may see their revisions with another content.
#[tokio::test]
async fn a_member_that_goes_on_alone_passes_over_the_revisions_of_the_others() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.clients().await.remove(1);
    client.put("a", "1", None).await.expect("put");
    let revision = client.put("a", "2", None).await.expect("put").header().expect("a header").revision();
    for member in &mut cluster.members {
        member.kill();
    }
    let flags = ["--force-new-cluster", "--force-new-cluster-bump=1000000"];
    let survivor = &mut cluster.members[1];
    survivor.start(&flags);
    let mut client = survivor.client().await;
    let answer = client.get("a", None).await.expect("read");
    let bumped = answer.header().expect("a header").revision();
    assert_eq!(bumped, revision + 1_000_000);
    assert_eq!((answer.kvs()[0].value(), answer.kvs()[0].mod_revision()), (&b"2"[..], revision));
    let before = etcd_client::WatchOptions::new().with_start_revision(revision + 1);
    let mut old = client.watch("a", Some(before)).await.expect("watch");
    let told = news(&mut old).await;
    assert_eq!((told.canceled(), told.compact_revision()), (true, bumped));
    let mut new = client.watch("a", None).await.expect("watch");
    client.put("a", "3", None).await.expect("put");
    let told = news(&mut new).await;
    assert_eq!(told.events()[0].kv().expect("a key").mod_revision(), bumped + 1);

    // Once: at the second start it is alone already.
    assert_eq!(survivor.terminate().await, Some(0));
    survivor.start(&flags);
    let answer = survivor.client().await.get("a", None).await.expect("read");
    assert_eq!(answer.header().expect("a header").revision(), bumped + 1);
}

/// The operator says so to one that has started with its data in memory, which may be empty one day. Both with the flags of its first start.
#[tokio::test]
async fn a_member_that_its_initial_cluster_does_not_name_starts_only_with_its_data() {
    let unnamed = "--initial-cluster=settled=http://settled.invalid:2380";
    let (mut member, mut client) = single().await;
    client.put("k", "v", None).await.expect("put");
    for state in ["new", "existing"] {
        assert_eq!(member.terminate().await, Some(0));
        member.start(&[unnamed, &format!("--initial-cluster-state={state}")]);
        assert_eq!(all(&mut member.client().await).await.len(), 1);
    }
    // One that was told to join looks for somebody who knows it, in vain (`node/bootstrap.rs`).
    member.kill();
    std::fs::remove_dir_all(member.data_dir()).expect("removed");
    member.start(&[unnamed, "--initial-cluster-state=new"]);
    assert_eq!(member.exit().await, Some(1));
    assert!(member.log().contains("does not name this member"), "{}", member.log());
}

#[tokio::test]
async fn systemd_is_told_when_clients_can_come() {
    let mut member = Member::new("single");
    let path = member.folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("bound");
    systemd.set_read_timeout(Some(DEADLINE)).expect("set");
    let alone = alone(&member);
    member.start_with(&[&alone], &[("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))]);
    let received = tokio::task::spawn_blocking(move || {
        let mut message = [0; 64];
        let length = systemd.recv(&mut message).expect("told in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    });
    assert_eq!(received.await.expect("received").trim(), "READY=1");
    let mut client = Client::connect([member.client_url()], None).await.expect("a client");
    client.put("k", "v", None).await.expect("it is ready indeed");
}

#[tokio::test]
async fn without_fsync_the_log_is_not_synced_and_survives_the_process() {
    let mut member = Member::new("single");
    let alone = alone(&member);
    let syncs = async |member: &Member| {
        let (_, metrics) = member.get("/metrics").await.expect("metrics");
        let line = metrics.lines().find(|line| line.starts_with("etcd_disk_wal_fsync_duration_seconds_count"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("a number")
    };
    member.start(&[&alone, "--unsafe-no-fsync"]);
    let mut client = member.client().await;
    client.put("k", "v", None).await.expect("put");
    assert_eq!(syncs(&member).await, 0);
    assert!(member.log().contains("a crash of the machine loses what was acknowledged"));
    member.kill();
    member.start(&[&alone]);
    let mut client = member.client().await;
    assert_eq!(client.get("k", None).await.expect("read").kvs()[0].value_str().expect("UTF-8"), "v");
    client.put("k", "w", None).await.expect("put");
    assert!(syncs(&member).await > 0);
}

#[tokio::test]
async fn memory_is_locked_or_the_member_says_why_not() {
    let mut member = Member::new("single");
    let alone = alone(&member);
    member.start(&[&alone, "--memory-mlock"]);
    eventually("it locks memory or ends", || async {
        let status = std::fs::read_to_string(format!("/proc/{}/status", member.pid())).unwrap_or_default();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).map(str::trim);
        (locked.is_some_and(|size| size != "0 kB") || member.log().contains("--memory-mlock")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slow_applying_is_logged() {
    for (limit, logged) in [("1h", false), ("1ns", true)] {
        let mut member = Member::new("single");
        member.start(&[&alone(&member), &format!("--warning-apply-duration={limit}")]);
        member.client().await.put("k", "v", None).await.expect("put");
        let log = member.log();
        let line = log.lines().find(|line| line.contains("apply request took too long"));
        assert_eq!(line.is_some(), logged, "{log}");
        if let Some(line) = line {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["level"], "warn");
            assert_eq!(line["expected-duration"], "1ns");
        }
    }
}
