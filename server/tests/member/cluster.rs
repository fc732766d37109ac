//! Several members: what one acknowledges, all have, whoever dies.

use crate::common::{self, Cluster, DEADLINE, Member, eventually, refusal, watch};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use etcd_client::{Client, GetOptions, WatchOptions};
use keelson_server::proto::etcdserverpb::PutRequest;
use prost::Message;

async fn value(client: &mut Client, key: &str) -> Option<String> {
    let response = client.get(key, None).await.ok()?;
    Some(response.kvs().first()?.value_str().expect("UTF-8").to_owned())
}

/// Puts until it is acknowledged, as a client does that survives elections.
async fn put(client: &Client, key: &str, value: &str) {
    eventually("a put is acknowledged", || {
        let mut client = client.clone();
        async move { client.put(key, value, None).await.ok() }
    })
    .await;
}

/// A put with a `grpc-timeout`, by a client that waits for as long as it takes; what it was answered.
fn put_with_deadline(url: &str, request: &PutRequest, timeout: &str) -> String {
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let mut curl = Command::new("curl")
        .args(["--silent", "--include", "--http2-prior-knowledge"])
        .args(["--max-time", "30", "--header", "te: trailers"])
        .args(["--header", "content-type: application/grpc"])
        .args(["--header", &format!("grpc-timeout: {timeout}")])
        .args(["--data-binary", "@-"])
        .arg(format!("{url}/etcdserverpb.KV/Put"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut input = curl.stdin.take().expect("a pipe");
    input.write_all(&body).expect("written");
    drop(input);
    let output = curl.wait_with_output().expect("curl ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn every_member_writes_and_reads_what_the_others_wrote() {
    let cluster = Cluster::start(3);
    let mut clients = cluster.clients().await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.put(format!("from{n}"), n.to_string(), None).await.expect("put");
    }
    // Linearizable: no waiting needed, on whichever member.
    for client in &mut clients {
        for n in 0..3 {
            assert_eq!(value(client, &format!("from{n}")).await, Some(n.to_string()));
        }
    }
    let mut hashes = Vec::new();
    for client in &mut clients {
        hashes.push(client.hash_kv(0).await.expect("a hash").hash());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");

    // A watch on one sees what is written on another, and leases are renewed through any.
    let mut stream = watch(&mut clients[0], "w", WatchOptions::new()).await;
    clients[1].put("w", "1", None).await.expect("put");
    let events = stream.message().await.expect("a response").expect("open");
    assert_eq!(events.events().len(), 1);
    let lease = clients[0].lease_grant(60, None).await.expect("granted").id();
    for client in &mut clients {
        let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.expect("kept");
        keeper.keep_alive().await.expect("sent");
        assert_eq!(answers.message().await.expect("an answer").expect("open").ttl(), 60);
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_leader_and_majority_are_killed() {
    let mut cluster = Cluster::start(3);
    let clients = cluster.clients().await;
    put(&clients[0], "before", "1").await;

    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    cluster.members[leader].kill();
    put(&clients[other], "without leader", "2").await;
    cluster.restart(leader);

    let mut clients = cluster.clients().await;
    assert_eq!(value(&mut clients[leader], "without leader").await, Some("2".into()));
    cluster.members[leader].kill();
    cluster.members[other].kill();
    // The last one neither reads nor writes on its own, but is alive and serves what it has.
    let last = 3 - leader - other;
    let member = &cluster.members[last];
    eventually("the last member sees that the leader is gone", || async {
        let (code, _) = member.get("/health").await?;
        (code == 503).then_some(())
    })
    .await;
    assert_eq!(member.get("/livez").await.expect("an answer").0, 200);
    let serializable = GetOptions::new().with_serializable();
    let served = clients[last].get("before", Some(serializable)).await.expect("served");
    assert_eq!(served.count(), 1);
    // A client's deadline is kept here too, and nothing goes on waiting for it. curl does not give up by itself.
    let put = PutRequest { key: "late".into(), ..PutRequest::default() };
    let answered = put_with_deadline(&member.client_url(), &put, "300m");
    assert!(answered.contains("grpc-status: 4"), "{answered}");
    eventually("the put is counted as late", || async {
        let (_, metrics) = member.get("/metrics").await?;
        let late = metrics.lines().any(|line| {
            line.starts_with("grpc_server_handled_total")
                && line.contains("\"DeadlineExceeded\"")
                && line.contains("\"Put\"")
                && line.ends_with(" 1")
        });
        let failed = metrics.lines().all(|line| line != "etcd_server_proposals_failed_total 0");
        let none_waits = metrics.lines().any(|line| line == "etcd_server_proposals_pending 0");
        (late && failed && none_waits).then_some(())
    })
    .await;

    cluster.restart(leader);
    cluster.restart(other);
    for client in &mut cluster.clients().await {
        assert_eq!(value(client, "before").await, Some("1".into()));
        assert_eq!(value(client, "without leader").await, Some("2".into()));
    }
}

#[tokio::test]
async fn leadership_moves_and_a_stopping_leader_hands_it_over() {
    let mut cluster = Cluster::start(3);
    let mut clients = cluster.clients().await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let target_id = clients[target].status().await.expect("status").header().expect("a header").member_id();
    assert_eq!(refusal(clients[target].move_leader(target_id).await), (9, "etcdserver: not leader".to_owned()));
    clients[leader].move_leader(target_id).await.expect("moved");
    assert_eq!(cluster.leader().await, target);
    assert_eq!(cluster.members[target].terminate().await, Some(0));
    put(&clients[leader], "k", "v").await;
}

#[tokio::test]
async fn a_cluster_grows_by_a_learner_and_shrinks_again() {
    let mut member = Member::new("first");
    member.start(&[&format!("--initial-cluster=first={}", member.peer_url())]);
    let mut first = member.client().await;
    put(&first, "k", "v").await;

    let mut joining = Member::new("second");
    let options = etcd_client::MemberAddOptions::new().with_is_learner();
    let added = first.member_add([joining.peer_url()], Some(options)).await.expect("added");
    let id = added.member().expect("the member").id();
    let list = format!("--initial-cluster=first={},second={}", member.peer_url(), joining.peer_url());
    joining.start(&[&list, "--initial-cluster-state=existing"]);
    let mut learner = eventually("the learner answers", || async {
        let mut client = Client::connect([joining.client_url()], None).await.ok()?;
        let status = client.status().await.ok()?;
        (status.is_learner() && status.raft_applied_index() > 0).then_some(client)
    })
    .await;
    assert_eq!(refusal(learner.get("k", None).await), (9, "etcdserver: rpc not supported for learner".to_owned()));
    eventually("the learner is promoted", || {
        let mut first = first.clone();
        async move { first.member_promote(id).await.ok() }
    })
    .await;
    let mut second = joining.client().await;
    assert_eq!(value(&mut second, "k").await, Some("v".into()));

    first.member_remove(id).await.expect("removed");
    put(&first, "k", "alone").await;
    assert_eq!(joining.exit().await, Some(1), "a removed member stops and says why");
    assert!(joining.log().contains("removed from the cluster"), "{}", joining.log());
    assert_eq!(first.member_list().await.expect("a list").members().len(), 1);
}

#[tokio::test]
async fn a_single_member_is_given_a_second_voter() {
    let mut member = Member::new("first");
    let alone = format!("--initial-cluster=first={}", member.peer_url());
    member.start(&[&alone]);
    let mut first = member.client().await;
    put(&first, "k", "v").await;
    let mut joining = Member::new("second");
    let added = first.member_add([joining.peer_url()], None).await;
    assert_eq!(added.expect("added").member_list().len(), 2);

    // From now on both are needed. A crash meanwhile leaves the way open.
    member.kill();
    member.start(&[&alone]);
    let both = format!("{alone},second={}", joining.peer_url());
    joining.start(&[&both, "--initial-cluster-state=existing"]);
    let mut second = joining.client().await;
    assert_eq!(value(&mut second, "k").await, Some("v".into()));
    put(&first, "k", "2").await;
    assert_eq!(value(&mut second, "k").await, Some("2".into()));
}

#[tokio::test]
async fn a_member_is_found_at_its_new_address() {
    let mut cluster = Cluster::start(3);
    let mut clients = cluster.clients().await;
    let leader = cluster.leader().await;
    let moving = (leader + 1) % 3;
    let status = clients[moving].status().await.expect("status");
    let id = status.header().expect("a header").member_id();
    let member = &mut cluster.members[moving];
    let url = member.peer_url().replace(":2380", ":2390");
    clients[leader].member_update(id, [url.clone()]).await.expect("updated");
    member.kill();
    let others = format!("--listen-peer-urls={url}");
    member.start(&[&others, &format!("--initial-advertise-peer-urls={url}")]);
    put(&clients[leader], "k", "v").await;
    let mut moved = member.client().await;
    assert_eq!(value(&mut moved, "k").await, Some("v".into()));
    assert_eq!(cluster.leader().await, leader, "nobody had to be elected");
}

#[tokio::test]
async fn a_lost_log_is_noticed() {
    let (mut member, client) = common::single().await;
    put(&client, "k", "v").await;
    assert_eq!(member.terminate().await, Some(0));
    std::fs::remove_dir_all(member.data_dir().join("wal")).expect("removed");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url())]);
    assert_eq!(member.exit().await, Some(1));
    assert!(member.log().contains("holds no raft log"), "{}", member.log());
}

/// It may have been a member before it lost its data, and its peers may only be slow to say so.
/// A volume that was restored from an older copy: nobody can tell what that member has promised since.
#[tokio::test]
async fn a_member_that_has_lost_what_it_acknowledged_is_named() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let client = cluster.members[leader].client().await;
    put(&client, "a", "1").await;
    cluster.members[other].kill();
    let (data, older) = (cluster.members[other].data_dir(), cluster.members[other].folder.path().join("older"));
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("--archive").args([from, to]).status().expect("cp");
        assert!(copied.success());
    };
    copy(&data, &older);
    cluster.restart(other);
    put(&client, "a", "2").await;
    let mut behind = cluster.members[other].client().await;
    eventually("it has the second value", || {
        let mut behind = behind.clone();
        async move { (value(&mut behind, "a").await? == "2").then_some(()) }
    })
    .await;
    let id = behind.status().await.expect("a status").header().expect("a header").member_id();
    cluster.members[other].kill();
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&older, &data);
    cluster.restart(other);
    eventually("the leader tells", || async {
        let log = cluster.members[leader].log();
        let mut lines = log.lines().filter(|line| line.contains("has lost entries that it had acknowledged"));
        lines.any(|line| line.contains(&format!("{id:x}")) && line.contains("add it again")).then_some(())
    })
    .await;
    put(&client, "a", "3").await;
}

#[tokio::test]
async fn a_new_member_asks_peers_that_run_until_they_answer() {
    let (mut member, slow) = (Member::new("first"), Member::new("slow"));
    let address = slow.peer_url().replace("http://", "");
    let peer = tokio::net::TcpListener::bind(address).await.expect("bound");
    member.start(&[&format!("--initial-cluster=first={},slow={}", member.peer_url(), slow.peer_url())]);
    for _ in 0..2 {
        drop(peer.accept().await.expect("asked"));
        assert!(!member.log().contains("starting as a member"));
    }
    drop(peer);
    eventually("it starts once nobody runs there", || async {
        member.log().contains("starting as a member").then_some(())
    })
    .await;
}

#[tokio::test]
async fn five_members_and_a_foreign_data_directory() {
    let mut cluster = Cluster::start(5);
    let mut clients = cluster.clients().await;
    put(&clients[4], "k", "v").await;
    for client in &mut clients {
        assert_eq!(value(client, "k").await, Some("v".into()));
    }
    assert_eq!(clients[0].member_list().await.expect("a list").members().len(), 5);

    // A member whose data is gone does not come back under its old id: it may have voted.
    cluster.members[0].kill();
    std::fs::remove_dir_all(cluster.members[0].data_dir()).expect("removed");
    let member = &mut cluster.members[0];
    let list = format!("--initial-cluster={}={}", member.name, member.peer_url());
    member.start(&[&list, "--initial-cluster-state=existing"]);
    assert_eq!(member.exit().await, Some(1), "{}", member.log());
}

#[tokio::test]
async fn members_talk_over_unix_sockets() {
    let mut members: Vec<_> = (0..3).map(|n| Member::new(format!("m{n}"))).collect();
    members.iter_mut().for_each(|member| member.schemes.1 = "unix");
    let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
    let flag = format!("--initial-cluster={}", list.join(","));
    members.iter_mut().for_each(|member| member.start(&[&flag]));
    let first = members[0].client().await;
    put(&first, "a", "1").await;
    // The file that a killed member leaves behind is replaced.
    members[2].kill();
    assert!(members[2].folder.path().join("peer.sock").exists());
    put(&first, "a", "2").await;
    members[2].start(&[&flag]);
    let mut last = members[2].client().await;
    assert_eq!(value(&mut last, "a").await.as_deref(), Some("2"));
}

/// Types and labels, too, of every metric that etcd has and differences.md does not except.
#[tokio::test]
async fn metrics_have_etcds_names_types_and_labels() {
    let mut members: Vec<_> = (0..3).map(|n| Member::new(format!("m{n}"))).collect();
    let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
    let flag = format!("--initial-cluster={}", list.join(","));
    members.iter_mut().for_each(|member| member.start(&[&flag, "--metrics=extensive"]));
    put(&members[0].client().await, "a", "1").await;
    let missing = |text: &str| -> Vec<&str> {
        let rows = include_str!("metrics.tsv").lines().filter(|line| !line.starts_with('#'));
        rows.filter(|row| !has_metric(text, row)).collect()
    };
    // Together, since only the leader knows how long messages take; some come with the first message.
    let begun = Instant::now();
    loop {
        let mut all = String::new();
        for member in &members {
            let mut client = member.client().await;
            assert_eq!(value(&mut client, "a").await.as_deref(), Some("1"));
            all += &member.get("/metrics").await.expect("served").1;
        }
        let missing = missing(&all);
        if missing.is_empty() {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "missing: {missing:#?}");
    }
}

/// Whether a scrape has a metric of this name, type and labels (`le` aside).
fn has_metric(text: &str, row: &str) -> bool {
    let mut columns = row.split('\t');
    let (name, kind, wanted) = (columns.next().unwrap(), columns.next().unwrap(), columns.next().unwrap());
    let labels_of = |line: &str| -> Option<Vec<String>> {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix("_bucket").filter(|_| kind == "histogram").unwrap_or(rest);
        let labels = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}')?.0,
            None => rest.starts_with(' ').then_some("")?,
        };
        // No value among etcd's has a comma in it.
        let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let mut names: Vec<String> = names.filter(|name| name != "le").collect();
        names.sort();
        Some(names)
    };
    let wanted: Vec<&str> = wanted.split(',').filter(|label| !label.is_empty()).collect();
    let typed = text.lines().any(|line| line == format!("# TYPE {name} {kind}"));
    typed && text.lines().filter_map(labels_of).any(|labels| labels == wanted)
}
