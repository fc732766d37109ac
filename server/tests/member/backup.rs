//! Backups of running members: to a folder and to an S3 server, tried out, fetched, restored, deleted.
//!
//! The S3 server is moto, as `deploy/prerequisites.sh test` installs it below KEELSON_CACHE; without it that test says so and passes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::authority::{Authority, Leaf};
use crate::common::{Member, PROGRAM, eventually, http_get, single, watch};
use etcd_client::{Client, WatchOptions};
use rand::RngCore;
use serde_json::Value;

/// Runs a command with these variables; what it prints, or what it complains of.
fn backup(variables: &[(&str, &str)], arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    let output = command.env_clear().envs(variables.iter().copied()).arg("backup").args(arguments).output();
    let output = output.expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn location(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// The flags by which a verification compares with what was told when the backup was taken.
fn expected(created: &Value) -> Vec<String> {
    let names = [("revision", "revision"), ("hash", "hash"), ("compact-revision", "compactRevision")];
    names.map(|(flag, name)| format!("--{flag}={}", created[name])).into()
}

fn verify(variables: &[(&str, &str)], location: &str, created: &Value) -> Result<String, String> {
    let scratch = tempfile::tempdir().expect("a folder");
    let scratch = format!("--scratch-dir={}", scratch.path().display());
    let expected = expected(created);
    let flags = expected.iter().map(String::as_str);
    backup(variables, &["verify", location, &scratch].into_iter().chain(flags).collect::<Vec<_>>())
}

async fn fill(client: &mut Client) -> i64 {
    for n in 0..200 {
        client.put(format!("key/{n:03}"), vec![n as u8; 500], None).await.expect("put");
    }
    client.delete("key/007", None).await.expect("deleted");
    let compacted = client.put("key/008", "again", None).await.expect("put").header().expect("a header").revision();
    client.compact(compacted - 5, None).await.expect("compacted");
    compacted
}

#[tokio::test]
async fn a_backup_in_a_folder_is_verified_fetched_and_deleted() {
    let (member, mut client) = single().await;
    let revision = fill(&mut client).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ns/demo/first.db.zst");
    let (place, url) = (location(&file), member.client_url());
    let report = folder.path().join("report");
    let endpoint = format!("--endpoint={url}");
    let flag = format!("--report={}", report.display());
    let told = backup(&[], &["create", &place, &endpoint, &flag]).expect("taken");
    assert_eq!(std::fs::read_to_string(&report).expect("a report"), told);
    let created = json(&told);
    let hash = client.hash_kv(0).await.expect("a hash");
    assert_eq!((created["revision"].as_i64(), created["hash"].as_u64()), (Some(revision), Some(hash.hash().into())));
    let stored = std::fs::metadata(&file).expect("a file").len();
    assert_eq!(created["storedBytes"], stored);
    assert!(created["snapshotBytes"].as_u64().expect("a number") > 4 * stored, "{created}");

    let verified = json(&verify(&[], &place, &created).expect("as it was"));
    assert_eq!(verified["hashCompared"], true);
    assert_eq!((verified["keys"].as_u64(), verified["revision"].as_i64()), (Some(199), Some(revision)));
    assert_eq!(verified["hash"], created["hash"]);

    // What etcd's own tools read.
    let plain = folder.path().join("plain.db");
    backup(&[], &["fetch", &place, plain.to_str().expect("UTF-8")]).expect("fetched");
    let status = Command::new(PROGRAM).args(["snapshot", "status", "-w", "json"]).arg(&plain).output().expect("runs");
    assert_eq!(json(&String::from_utf8_lossy(&status.stdout))["totalKey"], 199);
    assert_eq!(json(&verify(&[], &location(&plain), &created).expect("uncompressed"))["keys"], 199);

    backup(&[], &["delete", &place]).expect("deleted");
    assert!(!file.exists());
    backup(&[], &["delete", &place]).expect("nothing to delete");
    assert!(verify(&[], &place, &created).expect_err("gone").contains("not found"));
}

#[tokio::test]
async fn a_backup_that_is_not_what_it_should_be_fails_its_verification() {
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("one.db.zst");
    let endpoint = format!("--endpoint={}", member.client_url());
    let created = json(&backup(&[], &["create", &location(&file), &endpoint]).expect("taken"));
    let good = std::fs::read(&file).expect("read");
    let damaged = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        verify(&[], &location(&file), &created).expect_err("refused")
    };
    damaged(&good[..good.len() / 2]);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    damaged(&flipped);
    damaged(b"");
    damaged(b"not a snapshot, and longer than a checksum is, but not by much");
    std::fs::write(&file, &good).expect("written");
    verify(&[], &location(&file), &created).expect("whole again");
    for (name, complaint) in [("revision", "it ends at revision"), ("hash", "its hash at revision")] {
        let mut other = created.clone();
        other[name] = (created[name].as_i64().expect("a number") + 1).into();
        let error = verify(&[], &location(&file), &other).expect_err("another one");
        assert!(error.contains(complaint), "{error}");
    }
}

/// Restores into the member's data directory.
fn restore(member: &Member, place: &str) {
    let flags = [
        format!("--name={}", member.name),
        format!("--data-dir={}", member.data_dir().display()),
        format!("--initial-cluster={}={}", member.name, member.peer_url()),
        format!("--initial-advertise-peer-urls={}", member.peer_url()),
        "--initial-cluster-token=another".into(),
        "--bump-revision=1000".into(),
        "--mark-compacted".into(),
    ];
    let flags = flags.iter().map(String::as_str);
    backup(&[], &["restore", place].into_iter().chain(flags).collect::<Vec<_>>()).expect("restored");
}

/// As a pod's init container does it: on a volume that is not empty, and once more at every start.
#[tokio::test]
async fn a_member_is_restored_once_and_old_watches_are_cancelled() {
    let (member, mut client) = single().await;
    let revision = fill(&mut client).await;
    let folder = tempfile::tempdir().expect("a folder");
    let place = location(&folder.path().join("one.db.zst"));
    backup(&[], &["create", &place, &format!("--endpoint={}", member.client_url())]).expect("taken");
    client.put("after", "the backup", None).await.expect("put");

    let mut restored = Member::new("restored");
    // What a file system has, and what is left of a restore that was cut off while it moved things.
    for left in ["lost+found", "recovery/member", "store/half"] {
        std::fs::create_dir_all(restored.data_dir().join(left)).expect("made");
    }
    restore(&restored, &place);
    assert!(!restored.data_dir().join("recovery").exists());
    let flag = format!("--initial-cluster=restored={}", restored.peer_url());
    restored.start(&[&flag]);
    let mut new = restored.client().await;
    assert!(new.get("after", None).await.expect("read").kvs().is_empty());
    let put = new.put("new", "1", None).await.expect("put").header().expect("a header").revision();
    assert_eq!(put, revision + 1001, "no revision is given twice");
    let mut old = watch(&mut new, "key", WatchOptions::new().with_start_revision(revision)).await;
    let cancelled = old.message().await.expect("a response").expect("an open stream");
    assert!(cancelled.canceled() && cancelled.compact_revision() == revision + 1000, "{cancelled:?}");

    restored.kill();
    restore(&restored, &place);
    restored.start(&[&flag]);
    let mut again = restored.client().await;
    assert_eq!(again.get("new", None).await.expect("read").kvs().len(), 1, "what was written since is still there");
    let ids = |client: Client| async move {
        let mut client = client;
        client.status().await.expect("a status").header().expect("a header").cluster_id()
    };
    assert_ne!(ids(again).await, ids(client).await);
}

#[tokio::test]
async fn data_without_an_identity_is_not_replaced() {
    let member = Member::new("damaged");
    std::fs::create_dir_all(member.data_dir().join("store/db")).expect("made");
    let place = location(&member.folder.path().join("none"));
    let data_dir = format!("--data-dir={}", member.data_dir().display());
    let error = backup(&[], &["restore", &place, &data_dir]).expect_err("refused");
    assert!(error.contains("holds data"), "{error}");
    assert!(member.data_dir().join("store/db").exists());
}

#[tokio::test]
async fn certificates_are_shown_and_asked_for() {
    let mut member = Member::new("secure");
    member.schemes.0 = "https";
    let authority = Authority::new("ca");
    let pair = authority.issue(&Leaf::new("both", &[&member.address().to_string()]));
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ca, cert, key) = (file("ca", &authority.pem()), file("cert", &pair.cert), file("key", &pair.key));
    let flags = [
        format!("--initial-cluster=secure={}", member.peer_url()),
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth".into(),
    ];
    member.start(&flags.each_ref().map(String::as_str));
    let ready = || async { member.get("/readyz").await.filter(|(code, _)| *code == 200) };
    eventually("the member is ready", ready).await;
    let place = location(&folder.path().join("one"));
    let endpoint = format!("--endpoint={}", member.client_url());
    let flags = [format!("--cacert={ca}"), format!("--cert={cert}"), format!("--key={key}")];
    let [ca, cert, key] = flags.each_ref().map(String::as_str);
    backup(&[], &["create", &place, &endpoint, ca, cert, key]).expect("taken");
    backup(&[], &["create", &place, &endpoint, ca]).expect_err("no certificate");
    backup(&[], &["create", &place, &endpoint, cert, key]).expect_err("nobody is trusted");
}

/// moto, as long as this lives.
struct S3(Child, String);

impl S3 {
    async fn start() -> Option<Self> {
        let folder = std::env::var_os("KEELSON_CACHE").map(|cache| PathBuf::from(cache).join("moto"));
        let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
            eprintln!("skipped: there is no moto below KEELSON_CACHE");
            return None;
        };
        let address = Member::new("s3").address().to_string();
        let child = Command::new("python3")
            .args(["-m", "moto.server", "-H", &address, "-p", "5000"])
            .env("PYTHONPATH", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let this = Self(child, format!("http://{address}:5000"));
        eventually("the S3 server answers", || async { http_get(&this.1, "/").await }).await;
        Some(this)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In several parts, with credentials out of the environment.
#[tokio::test]
async fn a_backup_in_an_s3_bucket_is_verified_and_deleted() {
    let Some(s3) = S3::start().await else { return };
    let made =
        Command::new("curl").args(["-sSf", "-X", "PUT", &format!("{}/bucket", s3.1)]).status().expect("curl runs");
    assert!(made.success());
    let (member, mut client) = single().await;
    for n in 0..30 {
        let mut value = vec![0; 1_000_000];
        rand::rng().fill_bytes(&mut value);
        client.put(format!("large/{n}"), value, None).await.expect("put");
    }
    let variables = [
        ("AWS_ENDPOINT", s3.1.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let place = "s3://bucket/k8s/ns/demo/one.db.zst";
    let endpoint = format!("--endpoint={}", member.client_url());
    let created = json(&backup(&variables, &["create", place, &endpoint]).expect("taken"));
    assert!(created["storedBytes"].as_u64().expect("a number") > 25_000_000, "{created}");
    let verified = json(&verify(&variables, place, &created).expect("as it was"));
    assert_eq!((verified["keys"].as_u64(), verified["hashCompared"].as_bool()), (Some(30), Some(true)));
    backup(&variables, &["create", "s3://nobodys/one", &endpoint]).expect_err("there is no such bucket");
    backup(&variables, &["delete", place]).expect("deleted");
    assert!(verify(&variables, place, &created).expect_err("gone").contains("not found"));
}
