//! The archive of a running cluster's changes, ours or etcd's: backups brought forward by it hold what the cluster held.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::{Member, PROGRAM, eventually, http_get, single};
use crate::snapshot::{Etcd, reference};
use etcd_client::{Client, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp};
use serde_json::Value;

/// A program that archives, beside the backups of a folder.
struct Archiver {
    child: Child,
    metrics: String,
}

/// Backups and the archive of a cluster.
struct Backups {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Backups {
    fn of(endpoint: impl Into<String>) -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), endpoint: endpoint.into() }
    }

    fn location(&self, name: &str) -> String {
        format!("file://{}/ns/demo/{name}", self.folder.path().display())
    }

    /// Begins to archive.
    fn archiver(&self, more: &[&str]) -> Archiver {
        let metrics = format!("{}:2381", Member::new("archiver").address());
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"));
        let child = Command::new(PROGRAM)
            .env_clear()
            .env("KEELSON_PASSWORD", "secret")
            .args(["backup", "archive", &self.location(""), "--interval=200ms"])
            .args([format!("--endpoint=http://127.0.0.1:1,{}", self.endpoint), format!("--listen-metrics={metrics}")])
            .args(more)
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn();
        Archiver { child: child.expect("the program starts"), metrics: format!("http://{metrics}") }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The clusters that are archived.
    fn clusters(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("ns/demo/archive")).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = self.clusters().into_iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == "zst")).collect();
        segments.sort();
        segments
    }

    /// How far the archive goes, and up to which time.
    fn complete(&self) -> Option<(i64, String)> {
        let text = std::fs::read_to_string(self.clusters().last()?.join("complete.json")).ok()?;
        let told: Value = serde_json::from_str(&text).expect("JSON");
        Some((told["revision"].as_i64()?, told["time"].as_str()?.to_owned()))
    }

    async fn reach(&self, revision: i64) {
        eventually("the archive goes that far", || async { self.complete().filter(|(at, _)| *at >= revision) }).await;
    }

    fn create(&self, name: &str) -> Value {
        let told = self.run(&["create", &self.location(name), &format!("--endpoint={}", self.endpoint)]);
        serde_json::from_str(&told.expect("taken")).expect("JSON")
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output =
            Command::new(PROGRAM).env_clear().env("KEELSON_PASSWORD", "secret").arg("backup").args(arguments).output();
        let output = output.expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Brings a backup, or the right one of all, forward into a member's data directory.
    fn restore(&self, member: &Member, name: &str, until: &str, more: &[&str]) -> Result<String, String> {
        let flags = [
            format!("--until={until}"),
            format!("--name={}", member.name),
            format!("--data-dir={}", member.data_dir().display()),
            format!("--initial-cluster={}={}", member.name, member.peer_url()),
            format!("--initial-advertise-peer-urls={}", member.peer_url()),
            "--initial-cluster-token=another".into(),
        ];
        let location = self.location(name);
        let flags = flags.iter().map(String::as_str).chain(more.iter().copied());
        self.run(&["restore", location.as_str()].into_iter().chain(flags).collect::<Vec<_>>())
    }

    /// The same, and starts the member.
    async fn restored(&self, name: &str, until: &str) -> (Member, Client) {
        let mut member = Member::new("restored");
        self.restore(&member, name, until, &[]).expect("restored");
        member.start(&[&format!("--initial-cluster=restored={}", member.peer_url())]);
        let client = member.client().await;
        (member, client)
    }
}

impl Archiver {
    /// SIGTERM, and its exit code.
    async fn terminate(mut self) -> Option<i32> {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        let child = &mut self.child;
        let ended = eventually("the archiver ends", || std::future::ready(child.try_wait().expect("waited for"))).await;
        ended.code()
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = http_get(&self.metrics, "/metrics").await.expect("metrics").1;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }
}

impl Drop for Archiver {
    /// kill -9.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With create revision, mod revision, version and lease.
type Held = Vec<(Vec<u8>, Vec<u8>, [i64; 4])>;

/// What there is at a revision; 0 is the newest one. And the newest one.
async fn held(client: &mut Client, revision: i64) -> (Held, i64) {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let all = client.get("", Some(options)).await.expect("keys");
    let keys = all.kvs().iter().map(|kv| {
        let (key, value) = (kv.key().to_vec(), kv.value().to_vec());
        (key, value, [kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease()])
    });
    (keys.collect(), all.header().expect("a header").revision())
}

async fn revision(client: &mut Client) -> i64 {
    client.get("a", None).await.expect("a header").header().expect("a header").revision()
}

const LEASE: i64 = 77;
const SHORT_LEASE: i64 = 78;

/// Puts, deletions, transactions of several keys, and a lease.
async fn write(client: &mut Client, round: usize) {
    for n in 0..20 {
        client.put(format!("key/{n:02}"), format!("{round}/{n}"), None).await.expect("put");
    }
    let several = [
        TxnOp::put(format!("txn/{round}"), vec![round as u8; 1000], None),
        TxnOp::delete("key/03", None),
        TxnOp::put("key/04", "txn", Some(PutOptions::new().with_lease(LEASE))),
    ];
    client.txn(Txn::new().and_then(several)).await.expect("a transaction");
    let range = etcd_client::DeleteOptions::new().with_range("key/08");
    client.delete("key/05", Some(range)).await.expect("deleted");
    client.put("key/05", "again", None).await.expect("put");
}

/// All that a cluster went through behind a backup, with the archiver killed in the middle of it.
async fn is_brought_to_any_point(mut client: Client, endpoint: String) {
    let backups = Backups::of(endpoint);
    client.lease_grant(5000, Some(LeaseGrantOptions::new().with_id(LEASE))).await.expect("a lease");
    write(&mut client, 0).await;
    let archiver = backups.archiver(&[]);
    let begun = revision(&mut client).await;
    backups.reach(begun).await;
    client.put("before", "the backup", None).await.expect("put");
    let created = backups.create("first.db.zst");
    let base = created["revision"].as_i64().expect("a revision");
    assert_eq!(created["newestRevision"].as_i64(), Some(base));

    write(&mut client, 1).await;
    backups.reach(revision(&mut client).await).await;
    // kill -9, between two segments or in one.
    drop(archiver);
    write(&mut client, 2).await;
    let archiver = backups.archiver(&[]);
    write(&mut client, 3).await;
    let short = LeaseGrantOptions::new().with_id(SHORT_LEASE);
    client.lease_grant(3000, Some(short)).await.expect("a lease");
    client.put("short", "1", Some(PutOptions::new().with_lease(SHORT_LEASE))).await.expect("put");
    let with_lease = revision(&mut client).await;
    backups.reach(with_lease).await;
    client.lease_revoke(SHORT_LEASE).await.expect("revoked");
    let at_time = revision(&mut client).await;
    backups.reach(at_time).await;
    let time = chrono::Utc::now().to_rfc3339();
    eventually("that time is archived", || async { backups.complete().filter(|(_, at)| *at > time) }).await;
    write(&mut client, 4).await;
    assert_eq!(archiver.terminate().await, Some(0), "what was received is written");
    let end = revision(&mut client).await;
    assert_eq!(backups.complete().map(|(revision, _)| revision), Some(end));

    let middle = base + 35;
    for (name, until, expected) in [
        ("first.db.zst", base.to_string(), base),
        ("first.db.zst", (base + 1).to_string(), base + 1),
        ("", middle.to_string(), middle),
        ("", with_lease.to_string(), with_lease),
        ("", time, at_time),
        ("", "latest".into(), end),
    ] {
        let (_member, mut restored) = backups.restored(name, &until).await;
        let origin = held(&mut client, expected).await.0;
        let attached = origin.iter().filter(|(_, _, [.., lease])| *lease == LEASE);
        let attached: Vec<_> = attached.map(|(key, _, _)| key.clone()).collect();
        assert_eq!(held(&mut restored, 0).await, (origin, expected), "until {until}");
        // And all that was before.
        let before = expected - 3;
        if before > base {
            assert_eq!(held(&mut restored, before).await.0, held(&mut client, before).await.0, "until {until}");
        }
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let lease = restored.lease_time_to_live(LEASE, Some(options.clone())).await.expect("a lease");
        assert_eq!((lease.granted_ttl(), lease.keys()), (5000, &attached[..]), "until {until}");
        if expected == with_lease {
            let short = restored.lease_time_to_live(SHORT_LEASE, Some(options)).await.expect("a lease");
            assert_eq!((short.granted_ttl(), short.keys()), (3000, &[b"short".to_vec()][..]));
        }
    }
    // As the operator does it: once, and no revision is given twice.
    let mut bumped = Member::new("bumped");
    let bump = ["--bump-revision=1000", "--mark-compacted"];
    for _ in 0..2 {
        backups.restore(&bumped, "", &middle.to_string(), &bump).expect("restored");
    }
    bumped.start(&[&format!("--initial-cluster=bumped={}", bumped.peer_url())]);
    let mut later = bumped.client().await;
    assert_eq!(held(&mut later, 0).await, (held(&mut client, middle).await.0, middle + 1000));
    let old = later.get("key/01", Some(GetOptions::new().with_revision(middle))).await.expect_err("compacted");
    assert!(old.to_string().contains("required revision has been compacted"), "{old}");
}

#[tokio::test]
async fn our_history_is_brought_back_to_any_point() {
    let (member, client) = single().await;
    is_brought_to_any_point(client, member.client_url()).await;
}

#[tokio::test]
async fn a_real_etcds_history_is_brought_back_to_any_point() {
    let Some(etcd) = reference("etcd") else { return };
    let etcd = Etcd::start(&etcd, |_| {}).await;
    is_brought_to_any_point(etcd.client().await, etcd.client_url.clone()).await;
}

/// A backup with three segments behind it.
async fn three_segments() -> (Member, Client, Backups) {
    let (member, mut client) = single().await;
    let backups = Backups::of(member.client_url());
    let archiver = backups.archiver(&[]);
    backups.reach(1).await;
    for n in 0..4 {
        let put = client.put("a", n.to_string(), None).await.expect("put");
        backups.reach(put.header().expect("a header").revision()).await;
        if n == 0 {
            backups.create("first.db.zst");
        }
    }
    assert_eq!(archiver.terminate().await, Some(0));
    assert_eq!(backups.segments().len(), 4);
    (member, client, backups)
}

#[tokio::test]
async fn what_is_damaged_missing_or_not_there_yet_is_refused() {
    let (_member, mut client, backups) = three_segments().await;
    let end = revision(&mut client).await;
    let target = Member::new("target");
    let refused = |name: &str, until: &str, says: &[&str]| {
        let error = backups.restore(&target, name, until, &[]).expect_err("refused");
        assert!(says.iter().all(|says| error.contains(says)), "{until}: {error}");
        assert!(!target.data_dir().join("keelson.json").exists(), "{until}");
    };
    let (complete, last) = backups.complete().expect("an archive");
    assert_eq!(complete, end);
    refused("", &(end + 1).to_string(), &["not in the archive", &format!("up to revision {end}"), &last]);
    refused("", "2100-01-01T00:00:00Z", &["not in the archive", &last]);
    refused("", "1", &["no backup at or before revision 1"]);
    refused("first.db.zst", "1", &["behind revision 1", "name an older one"]);
    refused("", "2001-01-01T00:00:00Z", &["no backup at or before 2001"]);
    refused("", "yesterday", &["neither a revision, nor a time"]);

    let segment = &backups.segments()[2];
    let whole = std::fs::read(segment).expect("a segment");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &flipped[..], &b""[..]] {
        std::fs::write(segment, damaged).expect("written");
        refused("", "latest", &["is damaged", &segment.file_name().expect("a name").to_string_lossy(), "a copy of it"]);
    }
    std::fs::remove_file(segment).expect("removed");
    let missing = end - 1;
    refused("", "latest", &[&format!("revisions {missing} to {missing} are not in the archive")]);
    refused("", &end.to_string(), &["name a backup that was taken behind them"]);
    std::fs::write(segment, &whole).expect("written");
    backups.restore(&target, "", "latest", &[]).expect("whole again, over what was begun before");
    // Nothing tells whose it is.
    std::fs::remove_file(backups.folder.path().join("ns/demo/first.db.zst.json")).expect("removed");
    let other = Member::new("other");
    let error = backups.restore(&other, "first.db.zst", "latest", &[]).expect_err("refused");
    assert!(error.contains(".json is not beside it"), "{error}");
}

#[tokio::test]
async fn what_no_backup_needs_any_more_goes_with_the_last_one_that_did() {
    let (_member, mut client, backups) = three_segments().await;
    let second = backups.create("second.db.zst");
    let end = revision(&mut client).await;
    assert_eq!(second["revision"].as_i64(), Some(end));
    let archiver = backups.archiver(&[]);
    client.put("a", "later", None).await.expect("put");
    backups.reach(end + 1).await;
    drop(archiver);
    backups.run(&["delete", &backups.location("second.db.zst")]).expect("deleted");
    // The one that is left is at the second revision.
    assert_eq!(backups.segments().len(), 4);
    backups.create("third.db.zst");
    backups.run(&["delete", &backups.location("first.db.zst")]).expect("deleted");
    assert!(backups.segments().is_empty());
    let left = std::fs::read_dir(backups.folder.path().join("ns/demo")).expect("a folder").count();
    assert_eq!(left, 3, "the third, what is known of it, and the archive");
}

#[tokio::test]
async fn revisions_that_were_compacted_unarchived_are_a_gap() {
    let (_member, mut client, backups) = three_segments().await;
    let before = revision(&mut client).await;
    for n in 0..10 {
        client.put("b", n.to_string(), None).await.expect("put");
    }
    let compacted = revision(&mut client).await;
    client.compact(compacted, None).await.expect("compacted");
    let archiver = backups.archiver(&[]);
    client.put("c", "1", None).await.expect("put");
    let end = revision(&mut client).await;
    backups.reach(end).await;
    assert!(backups.log().contains("these revisions were compacted before they were archived"));
    assert_eq!(archiver.metric("keelson_archive_gaps_total").await, 1.0);
    let archived = || async { (archiver.metric("keelson_archive_revision").await == end as f64).then_some(()) };
    eventually("the metric goes that far, too", archived).await;
    assert!(archiver.metric("keelson_archive_errors_total").await >= 1.0, "nobody is at the first address");
    assert_eq!(http_get(&archiver.metrics, "/readyz").await.expect("an answer").0, 200);

    let target = Member::new("target");
    let error = backups.restore(&target, "", "latest", &[]).expect_err("refused");
    assert!(error.contains(&format!("revisions {} to {compacted} are not in the archive", before + 1)), "{error}");
    let (_restored, mut restored) = backups.restored("", &before.to_string()).await;
    assert_eq!(revision(&mut restored).await, before);
    backups.create("second.db.zst");
    client.put("c", "2", None).await.expect("put");
    backups.reach(end + 1).await;
    let (_restored, mut restored) = backups.restored("", "latest").await;
    assert_eq!(held(&mut restored, 0).await, held(&mut client, 0).await);
}

#[tokio::test]
async fn an_idle_cluster_writes_no_segments_and_time_goes_on() {
    let (member, mut client) = single().await;
    let backups = Backups::of(member.client_url());
    let _archiver = backups.archiver(&[]);
    backups.reach(1).await;
    let first = backups.create("first.db.zst")["time"].as_str().expect("a time").to_owned();
    let later = || async { backups.complete().filter(|(_, time)| *time > first) };
    let (_, time) = eventually("time goes on", later).await;
    assert!(backups.segments().is_empty());
    let (_restored, mut restored) = backups.restored("", &time).await;
    assert_eq!(held(&mut restored, 0).await, held(&mut client, 0).await);
}

/// At the same address, with the data of the first one.
#[tokio::test]
async fn a_restored_cluster_begins_an_archive_of_its_own() {
    let (mut member, mut client, backups) = three_segments().await;
    let end = revision(&mut client).await;
    let archiver = backups.archiver(&[]);
    member.kill();
    std::fs::remove_dir_all(member.data_dir()).expect("removed");
    let bump = ["--bump-revision=1000", "--mark-compacted"];
    backups.restore(&member, "", "latest", &bump).expect("restored");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url())]);
    let mut client = member.client().await;
    assert_eq!(revision(&mut client).await, end + 1000);
    eventually("there are two archives", || async { (backups.clusters().len() == 2).then_some(()) }).await;
    backups.create("second.db.zst");
    client.put("a", "of the second", None).await.expect("put");
    let archived =
        || async { (archiver.metric("keelson_archive_revision").await == (end + 1001) as f64).then_some(()) };
    eventually("the second one goes on", archived).await;
    // Each backup has an archive of its own.
    for (until, value) in [(end, "3"), (end + 1001, "of the second")] {
        let (_restored, mut restored) = backups.restored("", &until.to_string()).await;
        let got = restored.get("a", None).await.expect("read");
        assert_eq!((got.kvs()[0].value_str().expect("text"), revision(&mut restored).await), (value, until));
    }
}

/// More than a message of gRPC may have by default, and a revision of many keys.
#[tokio::test]
async fn large_values_and_large_revisions_come_as_a_whole() {
    let (member, mut client) = single().await;
    let backups = Backups::of(member.client_url());
    let archiver = backups.archiver(&[]);
    backups.reach(1).await;
    backups.create("first.db.zst");
    drop(archiver);
    for n in 0..30 {
        client.put(format!("large/{n}"), vec![n; 1_000_000], None).await.expect("put");
        let puts = (0..100).map(|m| TxnOp::put(format!("small/{n}/{m}"), "1", None)).collect::<Vec<_>>();
        client.txn(Txn::new().and_then(puts)).await.expect("a transaction");
    }
    let all = etcd_client::DeleteOptions::new().with_prefix();
    client.delete("small/", Some(all)).await.expect("deleted");
    let _archiver = backups.archiver(&[]);
    let end = revision(&mut client).await;
    backups.reach(end).await;
    assert!(backups.segments().len() >= 3, "segments are bounded");
    for until in [end - 1, end] {
        let (_restored, mut restored) = backups.restored("", &until.to_string()).await;
        let large = restored.get("large/29", None).await.expect("read");
        assert_eq!(large.kvs()[0].value(), vec![29; 1_000_000]);
        let mut all = Vec::new();
        for (client, revision) in [(&mut restored, 0), (&mut client, until)] {
            let options = GetOptions::new().with_all_keys().with_keys_only().with_revision(revision);
            let keys = client.get("", Some(options)).await.expect("keys");
            let told = keys.kvs().iter().map(|kv| (kv.key().to_vec(), kv.create_revision(), kv.mod_revision()));
            all.push(told.collect::<Vec<_>>());
        }
        assert_eq!((all[0].len(), &all[0]), (if until == end { 30 } else { 3030 }, &all[1]));
    }
}

/// Alarms and permissions were looked at when the changes were made.
#[tokio::test]
async fn users_are_those_of_the_backup() {
    let (member, mut client) = single().await;
    client.user_add("root", "secret", None).await.expect("added");
    client.user_grant_role("root", "root").await.expect("granted");
    client.auth_enable().await.expect("enabled");
    let login = Some(etcd_client::ConnectOptions::new().with_user("root", "secret"));
    let mut root = Client::connect([member.client_url()], login.clone()).await.expect("root gets in");
    let backups = Backups::of(member.client_url());
    let archiver = backups.archiver(&["--user=root"]);
    backups.reach(1).await;
    let endpoint = format!("--endpoint={}", member.client_url());
    backups.run(&["create", &backups.location("first.db.zst"), &endpoint, "--user=root"]).expect("taken");
    let put = root.put("a", "1", None).await.expect("put").header().expect("a header").revision();
    backups.reach(put).await;
    drop(archiver);
    let mut restored = Member::new("restored");
    backups.restore(&restored, "", "latest", &[]).expect("restored");
    restored.start(&[&format!("--initial-cluster=restored={}", restored.peer_url())]);
    let again = || async { Client::connect([restored.client_url()], login.clone()).await.ok() };
    let mut again = eventually("root gets in", again).await;
    assert_eq!(again.get("a", None).await.expect("allowed").kvs().len(), 1);
}
