//! Debian's etcdctl (3.4): what people type works.

mod common;

use std::process::{Command, Stdio};

use common::{Member, single};

/// Runs etcdctl against a member; its output, or what it says when it fails.
fn etcdctl(member: &Member, input: &str, arguments: &[&str]) -> Result<String, String> {
    use std::io::Write;
    // With a scheme, its per-endpoint commands would send an authority that is none, and be cut off.
    let url = member.client_url();
    let endpoint = url.strip_prefix("http://").expect("plaintext");
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("etcdctl ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[tokio::test]
async fn keys() {
    let (member, _client) = single().await;
    let run = |arguments: &[&str]| etcdctl(&member, "", arguments);
    assert_eq!(run(&["put", "a", "1"]), Ok("OK\n".into()));
    assert_eq!(run(&["put", "b", "2"]), Ok("OK\n".into()));
    assert_eq!(run(&["put", "a", "3", "--prev-kv"]), Ok("OK\na\n1\n".into()));
    assert_eq!(run(&["get", "a"]), Ok("a\n3\n".into()));
    assert_eq!(run(&["get", "", "--prefix", "--keys-only"]), Ok("a\n\nb\n\n".into()));
    assert_eq!(run(&["get", "a", "--rev=2", "--print-value-only"]), Ok("1\n".into()));
    assert_eq!(run(&["get", "a", "z", "--order=DESCEND", "--limit=1"]), Ok("b\n2\n".into()));
    let txn = "mod(\"a\") > \"0\"\n\nput c 4\nget c\n\nput c 5\n\n";
    assert_eq!(etcdctl(&member, txn, &["txn"]), Ok("SUCCESS\n\nOK\n\nc\n4\n".into()));
    assert_eq!(run(&["del", "a", "--from-key"]), Ok("3\n".into()));
    assert_eq!(run(&["compaction", "4"]), Ok("compacted revision 4\n".into()));
    let compacted = run(&["compaction", "4"]).expect_err("refused");
    assert!(compacted.contains("required revision has been compacted"), "{compacted}");
    let watched = run(&["watch", "c", "--rev=5", "--", "sh", "-c", "echo $ETCD_WATCH_EVENT_TYPE; kill $PPID"]);
    assert!(watched.is_err(), "the watch was ended by its first event: {watched:?}");
}

#[tokio::test]
async fn leases() {
    let (member, _client) = single().await;
    let run = |arguments: &[&str]| etcdctl(&member, "", arguments);
    let granted = run(&["lease", "grant", "60"]).expect("granted");
    let id = granted.split(' ').nth(1).expect("an id");
    assert_eq!(run(&["put", "a", "1", &format!("--lease={id}")]), Ok("OK\n".into()));
    assert_eq!(run(&["lease", "list"]), Ok(format!("found 1 leases\n{id}\n")));
    let told = run(&["lease", "timetolive", id, "--keys"]).expect("told");
    assert!(told.contains("granted with TTL(60s)") && told.contains("attached keys([a])"), "{told}");
    let kept = run(&["lease", "keep-alive", "--once", id]).expect("kept");
    assert!(kept.contains("keepalived with TTL(60)"), "{kept}");
    assert_eq!(run(&["lease", "revoke", id]), Ok(format!("lease {id} revoked\n")));
    assert_eq!(run(&["get", "a"]), Ok(String::new()));
}

#[tokio::test]
async fn members_and_maintenance() {
    let (member, _client) = single().await;
    let run = |arguments: &[&str]| etcdctl(&member, "", arguments);
    let list = run(&["member", "list"]).expect("told");
    let expected = format!("started, single, {}, {}, false", member.peer_url(), member.client_url());
    assert!(list.contains(&expected), "{list}");
    let status = run(&["endpoint", "status"]).expect("told");
    assert!(status.contains("3.7.1"), "{status}");
    let health = run(&["endpoint", "health"]);
    assert!(health.is_ok(), "{health:?}");
    assert!(run(&["endpoint", "hashkv"]).expect("told").contains(", "));
    assert_eq!(run(&["alarm", "list"]), Ok(String::new()));
    assert_eq!(run(&["alarm", "disarm"]), Ok(String::new()));
    assert!(run(&["defrag"]).expect("done").contains("Finished defragmenting"));
    let learner = run(&["member", "add", "next", "--learner", "--peer-urls=http://127.0.0.1:9"]);
    let added = learner.expect("added");
    assert!(added.contains("added to cluster"), "{added}");
    let id = added.split_whitespace().nth(1).expect("an id");
    let promoted = run(&["member", "promote", id]).expect_err("not in sync");
    assert!(promoted.contains("can only promote a learner member which is in sync with leader"), "{promoted}");
    let updated = run(&["member", "update", id, "--peer-urls=http://127.0.0.1:10"]).expect("updated");
    assert!(updated.contains("updated in cluster"), "{updated}");
    let removed = run(&["member", "remove", id]).expect("removed");
    assert!(removed.contains("removed from cluster"), "{removed}");
    let again = run(&["member", "remove", id]).expect_err("refused");
    assert!(again.contains("etcdserver: member not found"), "{again}");
}
