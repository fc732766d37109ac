//! Every command of etcdctl that speaks to a server, as people type them.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::server::{Server, program};

/// One etcdctl and the server that it speaks to.
pub struct Etcdctl<'a> {
    program: String,
    flags: Vec<String>,
    server: &'a Server,
}

impl<'a> Etcdctl<'a> {
    /// `version` is 3.4 (Debian's) or 3.5.
    pub fn new(version: &str, server: &'a Server) -> Self {
        // With a scheme, the per-endpoint commands of 3.4 would send an authority that is none, and be cut off.
        let mut flags = vec![format!("--endpoints={}", server.endpoint())];
        if let Some(files) = &server.files {
            flags.push(format!("--cacert={}", files.ca.display()));
            flags.push(format!("--cert={}", files.certificate.display()));
            flags.push(format!("--key={}", files.key.display()));
        }
        if server.has_users() {
            flags.push("--user=root:password".to_owned());
        }
        Etcdctl { program: program(&format!("etcdctl-{version}")), flags, server }
    }

    fn is_3_4(&self) -> bool {
        self.program == "etcdctl"
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // A command that hangs fails its test, it does not stop all tests.
        let mut command = Command::new("timeout");
        command.args(["240", &self.program]).args(&self.flags).args(arguments);
        command.env("ETCDCTL_API", "3").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs with this input; what it prints, or what it says when it fails.
    fn input(&self, input: &str, arguments: &[&str]) -> Result<String, String> {
        let mut child = self.command(arguments).spawn().expect("etcdctl is installed");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("etcdctl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stdout) + &text(&output.stderr)),
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.input("", arguments)
    }

    /// What it prints, which must contain `part`.
    #[track_caller]
    fn says(&self, arguments: &[&str], part: &str) -> String {
        let said = self.run(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert!(said.contains(part), "{arguments:?}: {said}");
        said
    }

    /// It fails, and says `part`.
    #[track_caller]
    fn fails(&self, arguments: &[&str], part: &str) {
        let said = self.run(arguments).expect_err("it must fail");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }

    /// Starts a command that does not end by itself.
    fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().expect("etcdctl is installed");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, lines }
    }
}

/// A command that runs.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read");
        line.trim_end().to_owned()
    }

    /// Ctrl-C, and the rest of what it says.
    fn interrupt(&mut self) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
        assert!(sent.success());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("read");
        self.child.wait().expect("waited for");
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// put, get, del, txn, compaction.
pub fn keys(ctl: &Etcdctl) {
    let run = |arguments: &[&str]| ctl.run(arguments);
    assert_eq!(run(&["put", "a", "1"]), Ok("OK\n".into()));
    assert_eq!(run(&["put", "b", "2"]), Ok("OK\n".into()));
    assert_eq!(run(&["put", "a", "3", "--prev-kv"]), Ok("OK\na\n1\n".into()));
    assert_eq!(ctl.input("from stdin", &["put", "c"]), Ok("OK\n".into()));
    assert_eq!(run(&["put", "c", "--ignore-value"]), Ok("OK\n".into()));
    assert_eq!(run(&["get", "c", "--print-value-only"]), Ok("from stdin\n".into()));
    assert_eq!(run(&["get", "a"]), Ok("a\n3\n".into()));
    assert_eq!(run(&["get", "", "--prefix", "--keys-only"]), Ok("a\n\nb\n\nc\n\n".into()));
    assert_eq!(run(&["get", "a", "--rev=2", "--print-value-only"]), Ok("1\n".into()));
    assert_eq!(run(&["get", "a", "z", "--order=DESCEND", "--limit=2"]), Ok("c\nfrom stdin\nb\n2\n".into()));
    assert_eq!(run(&["get", "b", "--from-key", "--sort-by=MODIFY", "--keys-only"]), Ok("b\n\nc\n\n".into()));
    assert_eq!(run(&["get", "a", "--consistency=s", "--hex"]), Ok("\\x61\n\\x33\n".into()));
    let json: serde_json::Value = serde_json::from_str(&run(&["get", "a", "-w=json"]).expect("got")).expect("JSON");
    assert_eq!((&json["kvs"][0]["version"], &json["kvs"][0]["value"]), (&2.into(), &"Mw==".into()));
    let txn = "mod(\"a\") > \"0\"\n\nput d 4\nget d\n\nput d 5\n\n";
    assert_eq!(ctl.input(txn, &["txn"]), Ok("SUCCESS\n\nOK\n\nd\n4\n".into()));
    let txn = "value(\"a\") = \"no\"\n\nput d 6\n\ndel d\nget d\n\n";
    assert_eq!(ctl.input(txn, &["txn"]), Ok("FAILURE\n\n1\n\n".into()));
    assert_eq!(run(&["del", "a", "--prev-kv"]), Ok("1\na\n3\n".into()));
    assert_eq!(run(&["del", "a", "z"]), Ok("2\n".into()));
    assert_eq!(run(&["del", "", "--prefix"]), Ok("0\n".into()));
    assert_eq!(run(&["compaction", "4"]), Ok("compacted revision 4\n".into()));
    assert_eq!(run(&["compaction", "5", "--physical"]), Ok("compacted revision 5\n".into()));
    ctl.fails(&["compaction", "4"], "required revision has been compacted");
    ctl.fails(&["compaction", "1000"], "required revision is a future revision");
    ctl.fails(&["get", "a", "--rev=2"], "required revision has been compacted");
    ctl.fails(&["put", "", "x"], "key is not provided");
}

/// watch: from a revision, ranges, previous values, commands to run, several in one session.
pub fn watches(ctl: &Etcdctl) {
    ctl.says(&["put", "w1", "1"], "OK");
    ctl.says(&["put", "w2", "2"], "OK");
    ctl.says(&["del", "w1"], "1");
    let mut watch = ctl.start(&["watch", "w", "--prefix", "--rev=2", "--prev-kv"]);
    let lines: Vec<_> = (0..11).map(|_| watch.line()).collect();
    assert_eq!(lines.iter().filter(|line| matches!(line.as_str(), "PUT" | "DELETE")).count(), 3, "{lines:?}");
    watch.interrupt();
    let command = ["watch", "w1", "w3", "--rev=3", "--", "sh", "-c", "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY"];
    let mut watch = ctl.start(&command);
    let said: Vec<_> = (0..8).map(|_| watch.line()).filter(|line| line.contains("\"w")).collect();
    assert!(said.iter().any(|line| line == "\"PUT\" \"w2\""), "{said:?}");
    watch.interrupt();
    ctl.says(&["compaction", "4"], "compacted");
    ctl.fails(&["watch", "w1", "--rev=2"], "required revision has been compacted");
}

/// lease grant, list, timetolive, keep-alive, revoke.
pub fn leases(ctl: &Etcdctl) {
    let granted = ctl.says(&["lease", "grant", "60"], "granted with TTL(60s)");
    let id = granted.split(' ').nth(1).expect("an id");
    ctl.says(&["put", "a", "1", &format!("--lease={id}")], "OK");
    ctl.says(&["put", "a", "2", "--ignore-lease"], "OK");
    assert_eq!(ctl.run(&["lease", "list"]), Ok(format!("found 1 leases\n{id}\n")));
    ctl.says(&["lease", "timetolive", id], "granted with TTL(60s)");
    ctl.says(&["lease", "timetolive", id, "--keys"], "attached keys([a])");
    ctl.says(&["lease", "keep-alive", "--once", id], "keepalived with TTL(60)");
    let mut kept = ctl.start(&["lease", "keep-alive", id]);
    assert!(kept.line().contains("keepalived with TTL(60)"));
    kept.interrupt();
    assert_eq!(ctl.run(&["lease", "revoke", id]), Ok(format!("lease {id} revoked\n")));
    assert_eq!(ctl.run(&["get", "a"]), Ok(String::new()));
    ctl.fails(&["lease", "revoke", id], "requested lease not found");
    ctl.says(&["lease", "timetolive", id], "already expired");
}

/// lock and elect.
pub fn locks_and_elections(ctl: &Etcdctl) {
    let key = ctl.says(&["lock", "l", "printenv", "ETCD_LOCK_KEY"], "l/");
    assert_eq!(ctl.run(&["get", key.trim()]), Ok(String::new()), "it is released");
    let mut first = ctl.start(&["lock", "l"]);
    let held = first.line();
    assert!(held.starts_with("l/"), "{held}");
    let mut second = ctl.start(&["lock", "l"]);
    first.interrupt();
    assert!(second.line().starts_with("l/"));
    second.interrupt();

    let mut leader = ctl.start(&["elect", "e", "me"]);
    let key = leader.line();
    assert!(key.starts_with("e/"), "{key}");
    assert_eq!(leader.line(), "me");
    let mut observer = ctl.start(&["elect", "-l", "e"]);
    assert_eq!((observer.line(), observer.line()), (key, "me".to_owned()));
    observer.interrupt();
    leader.interrupt();
    assert_eq!(ctl.run(&["get", "e/", "--prefix"]), Ok(String::new()), "it has resigned");
}

/// member list, add, promote, update, remove.
pub fn members(ctl: &Etcdctl) {
    let member = &ctl.server.member;
    let expected = format!("started, single, {}, {}, false", member.peer_url(), ctl.server.client_url());
    ctl.says(&["member", "list"], &expected);
    ctl.says(&["member", "list", "-w", "table"], "single");
    let added = ctl.says(&["member", "add", "next", "--learner", "--peer-urls=http://127.0.0.1:9"], "added to cluster");
    assert!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
    let id = added.split_whitespace().nth(1).expect("an id");
    ctl.says(&["member", "list"], "unstarted");
    ctl.fails(&["member", "promote", id], "can only promote a learner member which is in sync with leader");
    ctl.fails(&["member", "add", "third", &format!("--peer-urls={}", member.peer_url())], "Peer URLs already exists");
    ctl.says(&["member", "update", id, "--peer-urls=http://127.0.0.1:10"], "updated in cluster");
    ctl.says(&["member", "remove", id], "removed from cluster");
    ctl.fails(&["member", "remove", id], "etcdserver: member not found");
}

/// endpoint status, health, hashkv; alarm, defrag, check.
pub fn maintenance(ctl: &Etcdctl) {
    ctl.says(&["put", "a", "1"], "OK");
    ctl.says(&["endpoint", "status"], "3.7.1");
    let json = ctl.says(&["endpoint", "status", "-w=json"], "raftAppliedIndex");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["Status"]["leader"], json[0]["Status"]["header"]["member_id"]);
    // It asks for the members without a token, and 3.4 takes the scheme of a URL for a part of the host.
    let plain_3_4 = ctl.is_3_4() && ctl.server.files.is_none();
    if !ctl.server.has_users() && !plain_3_4 {
        ctl.says(&["endpoint", "status", "--cluster", "-w=table"], "3.7.1");
    }
    let healthy = ctl.run(&["endpoint", "health"]);
    assert!(healthy.is_ok(), "{healthy:?}");
    ctl.says(&["endpoint", "hashkv"], ", ");
    assert_eq!(ctl.run(&["alarm", "list"]), Ok(String::new()));
    assert_eq!(ctl.run(&["alarm", "disarm"]), Ok(String::new()));
    ctl.says(&["defrag"], "Finished defragmenting");
}

/// check perf, which takes a minute, up to its first puts; check datascale, which looks at a metric.
pub fn checks(ctl: &Etcdctl) {
    let mut perf = ctl.start(&["check", "perf", "--load=s"]);
    let begun = std::time::Instant::now();
    while !ctl
        .run(&["get", "/etcdctl-check-perf/", "--prefix", "--limit=1", "--keys-only"])
        .expect("got")
        .contains("perf")
    {
        assert!(begun.elapsed() < crate::common::DEADLINE, "check perf puts nothing");
    }
    perf.interrupt();
    ctl.says(&["del", "/etcdctl-check-perf/", "--prefix"], "");
    ctl.says(&["check", "datascale", "--load=s"], "PASS");
}

/// make-mirror to another server.
pub fn mirror(ctl: &Etcdctl, to: &Server) {
    ctl.says(&["put", "m/old", "1"], "OK");
    let destination =
        Etcdctl { program: ctl.program.clone(), flags: vec![format!("--endpoints={}", to.endpoint())], server: to };
    let mirror = ctl.start(&["make-mirror", "--prefix=m/", "--dest-prefix=copy/", &to.endpoint()]);
    let wait_for = |key: &str, value: &str| {
        let begun = std::time::Instant::now();
        while destination.run(&["get", key, "--print-value-only"]) != Ok(value.to_owned()) {
            assert!(begun.elapsed() < crate::common::DEADLINE, "{key} is not mirrored");
        }
    };
    wait_for("copy/old", "1\n");
    ctl.says(&["put", "m/new", "2"], "OK");
    wait_for("copy/new", "2\n");
    ctl.says(&["del", "m/old"], "1");
    wait_for("copy/old", "");
    drop(mirror);
}

/// snapshot save, status, restore.
pub fn snapshots(ctl: &Etcdctl, folder: &Path) {
    ctl.says(&["put", "s", "1"], "OK");
    let file = folder.join("snapshot.db");
    let file = file.to_str().expect("UTF-8");
    ctl.says(&["snapshot", "save", file], "saved");
    let status = ctl.says(&["snapshot", "status", file, "-w=json"], "totalKey");
    let json = status.lines().find(|line| line.starts_with('{')).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["revision"], 2, "{json}");
    let restored = folder.join("restored");
    ctl.run(&["snapshot", "restore", file, "--data-dir", restored.to_str().expect("UTF-8")]).expect("restored");
    assert!(restored.join("member/snap/db").is_file());
}

/// move-leader in a cluster.
pub fn move_leader(ctl: &Etcdctl, target: u64) {
    ctl.says(&["move-leader", &format!("{target:x}")], "Leadership transferred");
}

/// user, role and auth: from nothing to a user that may do little, and back.
pub fn users_and_roles(ctl: &Etcdctl) {
    ctl.says(&["user", "add", "root:password"], "User root created");
    ctl.says(&["role", "add", "reader"], "Role reader created");
    ctl.says(&["role", "grant-permission", "reader", "read", "a/", "--prefix=true"], "Role reader updated");
    ctl.says(&["role", "grant-permission", "reader", "readwrite", "b"], "Role reader updated");
    let role = ctl.says(&["role", "get", "reader"], "KV Read:");
    assert!(role.contains("[a/, a0) (prefix a/)") && role.contains("KV Write:"), "{role}");
    ctl.says(&["role", "list"], "reader");
    ctl.says(&["user", "add", "ann", "--new-user-password=secret"], "User ann created");
    ctl.says(&["user", "grant-role", "ann", "reader"], "Role reader is granted to user ann");
    ctl.says(&["user", "get", "ann"], "Roles: reader");
    ctl.says(&["user", "list"], "ann");
    ctl.says(&["user", "grant-role", "root", "root"], "Role root is granted to user root");
    ctl.says(&["auth", "enable"], "Authentication Enabled");
    ctl.fails(&["put", "b", "1"], "user name is empty");
    let ann = |arguments: &[&str]| ctl.run(&[&["--user=ann:secret"], arguments].concat());
    assert_eq!(ann(&["put", "b", "1"]), Ok("OK\n".into()));
    assert_eq!(ann(&["get", "a/", "--prefix"]), Ok(String::new()));
    assert!(ann(&["put", "a/1", "1"]).expect_err("refused").contains("permission denied"));
    assert!(ann(&["user", "list"]).expect_err("refused").contains("permission denied"));
    ctl.fails(&["--user=ann:wrong", "get", "b"], "authentication failed, invalid user ID or password");
    let root = |arguments: &[&str]| ctl.run(&[&["--user=root:password"], arguments].concat()).expect("done");
    if !ctl.is_3_4() {
        assert!(root(&["auth", "status"]).contains("Authentication Status: true"));
    }
    assert!(ctl.input("new\n", &["--user=root:password", "user", "passwd", "ann", "--interactive=false"]).is_ok());
    ctl.says(&["--user=ann:new", "get", "b"], "b\n1");
    assert!(root(&["role", "revoke-permission", "reader", "b"]).contains("revoked"));
    assert!(root(&["user", "revoke-role", "ann", "reader"]).contains("revoked"));
    assert!(root(&["user", "delete", "ann"]).contains("deleted"));
    assert!(root(&["role", "delete", "reader"]).contains("deleted"));
    assert!(root(&["auth", "disable"]).contains("Authentication Disabled"));
    ctl.says(&["put", "b", "2"], "OK");
}
