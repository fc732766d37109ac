//! Snapshots in both directions: ours into a real etcd, a real etcd's into ours, ours into ours.
//!
//! The real etcd, with etcdutl beside it, is the one that KEELSON_REFERENCE_ETCD names, as make sets it; without one those
//! tests say so and pass.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{Member, PROGRAM, eventually, refusal, single};
use etcd_client::{Client, CompactionOptions, ConnectOptions, GetOptions, Permission, PermissionType, PutOptions};
use keelson_server::proto::etcdserverpb::auth_client::AuthClient;
use keelson_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_server::proto::etcdserverpb::{AuthenticateRequest, SnapshotRequest};
use sha2::{Digest, Sha256};

/// Runs a program; its output, or its exit code and what it says.
fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String, (Option<i32>, String)> {
    let output = Command::new(program.as_ref()).env_clear().args(arguments).output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err((output.status.code(), text(output.stderr))),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A program of the real etcd's folder.
pub fn reference(program: &str) -> Option<PathBuf> {
    let etcd = std::env::var_os("KEELSON_REFERENCE_ETCD").map(PathBuf::from)?;
    let found = etcd.with_file_name(program);
    let missing = !found.is_file();
    if missing {
        eprintln!("skipped: there is no {}", found.display());
    }
    (!missing).then_some(found)
}

/// Saves a snapshot as etcdctl does, and looks at every message of the stream.
async fn save(url: String, path: &Path) {
    let mut request = tonic::Request::new(SnapshotRequest {});
    // Root's, if there are users.
    let login = AuthenticateRequest { name: "root".into(), password: "secret".into() };
    let mut auth = AuthClient::connect(url.clone()).await.expect("a client");
    if let Ok(answer) = auth.authenticate(login).await {
        request.metadata_mut().insert("token", answer.into_inner().token.parse().expect("a token"));
    }
    let mut client = MaintenanceClient::connect(url).await.expect("a client");
    let mut stream = client.snapshot(request).await.expect("a stream").into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await.expect("a message") {
        chunks.push((chunk.remaining_bytes, chunk.blob));
    }
    let (_, sum) = chunks.last().expect("a last message").clone();
    let pages = &chunks[..chunks.len() - 1];
    let mut remaining: usize = pages.iter().map(|(_, blob)| blob.len()).sum();
    let mut hasher = Sha256::new();
    for (told, blob) in pages {
        remaining -= blob.len();
        assert_eq!(*told, remaining as u64);
        assert!(blob.len() == 32 << 10 || remaining == 0, "chunks are as long as etcd's");
        hasher.update(blob);
    }
    assert_eq!(sum[..], hasher.finalize()[..], "the last message is the SHA-256 of the rest");
    std::fs::write(path, chunks.iter().flat_map(|(_, blob)| blob).copied().collect::<Vec<u8>>()).expect("written");
}

/// What a store tells of itself.
#[derive(Debug, PartialEq)]
struct Told {
    /// With create revision, mod revision, version and lease.
    keys: Vec<(Vec<u8>, Vec<u8>, [i64; 4])>,
    leases: Vec<i64>,
    attached: Vec<Vec<u8>>,
    hash: u32,
}

const LEASE: i64 = 77;

async fn told(client: &mut Client) -> Told {
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.expect("keys");
    let keys = all.kvs().iter().map(|kv| {
        let (key, value) = (kv.key().to_vec(), kv.value().to_vec());
        (key, value, [kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease()])
    });
    let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
    let lease = client.lease_time_to_live(LEASE, Some(options)).await.expect("a lease");
    Told {
        keys: keys.collect(),
        leases: client.leases().await.expect("leases").leases().iter().map(|lease| lease.id()).collect(),
        attached: lease.keys().to_vec(),
        hash: client.hash_kv(0).await.expect("a hash").hash(),
    }
}

/// Puts, deletions, a large value, a lease, and a compaction exactly at a deletion.
async fn fill(client: &mut Client) {
    for n in 0..300 {
        client.put(format!("key/{n:03}"), vec![n as u8; n * 10], None).await.expect("put");
    }
    client.put("large", vec![7; 1_000_000], None).await.expect("put");
    client.lease_grant(5000, Some(etcd_client::LeaseGrantOptions::new().with_id(LEASE))).await.expect("a lease");
    client.put("attached", "1", Some(PutOptions::new().with_lease(LEASE))).await.expect("put");
    client.put("moved", "1", Some(PutOptions::new().with_lease(LEASE))).await.expect("put");
    client.put("moved", "2", None).await.expect("put");
    client.delete("key/001", None).await.expect("deleted");
    let deleted = client.delete("key/002", None).await.expect("deleted");
    let at = deleted.header().expect("a header").revision();
    client.put("key/003", "behind", None).await.expect("put");
    client.delete("key/004", None).await.expect("deleted");
    client.compact(at, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
}

/// A real etcd on a data directory.
pub struct Etcd {
    child: Child,
    pub client_url: String,
    peer_url: String,
    _folder: tempfile::TempDir,
    data_dir: PathBuf,
}

impl Etcd {
    /// With addresses of its own; it does not run yet when `prepare` is called.
    pub async fn start(binary: &Path, prepare: impl FnOnce(&Etcd)) -> Etcd {
        // Below the addresses that members of these tests get.
        let address = Ipv4Addr::new(127, 99, (std::process::id() % 250) as u8 + 1, NEXT.fetch_add(1, Relaxed));
        let folder = tempfile::tempdir().expect("a folder");
        let mut etcd = Etcd {
            child: Command::new("true").spawn().expect("true runs"),
            client_url: format!("http://{address}:2379"),
            peer_url: format!("http://{address}:2380"),
            data_dir: folder.path().join("data"),
            _folder: folder,
        };
        etcd.child.wait().expect("waited for");
        prepare(&etcd);
        etcd.child = Command::new(binary)
            .env_clear()
            .args(["--name=etcd", "--log-level=error"])
            .arg(format!("--data-dir={}", etcd.data_dir.display()))
            .arg(format!("--listen-client-urls={}", etcd.client_url))
            .arg(format!("--advertise-client-urls={}", etcd.client_url))
            .arg(format!("--listen-peer-urls={}", etcd.peer_url))
            .arg(format!("--initial-advertise-peer-urls={}", etcd.peer_url))
            .arg(format!("--initial-cluster=etcd={}", etcd.peer_url))
            .stdout(Stdio::null())
            .stderr(File::create(etcd._folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("etcd starts");
        etcd
    }

    /// Makes its data directory.
    fn restore(&self, etcdutl: &Path, snapshot: &Path, flags: &[&str]) {
        let cluster = format!("etcd={}", self.peer_url);
        let arguments = ["snapshot", "restore", text(snapshot), "--name=etcd", "--data-dir", text(&self.data_dir)];
        let more = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &self.peer_url];
        run(etcdutl, &[&arguments[..], &more, flags].concat()).expect("etcdutl restores it");
    }

    pub async fn client(&self) -> Client {
        eventually("etcd answers", || async {
            let mut client = Client::connect([&self.client_url], None).await.ok()?;
            client.get("a", None).await.ok().map(|_| client.clone())
        })
        .await
    }
}

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
static NEXT: AtomicU8 = AtomicU8::new(1);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the data directory of a member that is alone.
fn restore(member: &Member, snapshot: &Path, flags: &[&str]) -> Result<String, (Option<i32>, String)> {
    let (data_dir, peer_url) = (member.data_dir(), member.peer_url());
    let initial_cluster = format!("{}={peer_url}", member.name);
    let mut arguments = vec!["snapshot", "restore", text(snapshot), "--data-dir", text(&data_dir)];
    arguments.extend(["--name", &member.name, "--initial-cluster", &initial_cluster]);
    arguments.extend(["--initial-advertise-peer-urls", &peer_url]);
    arguments.extend(flags);
    run(PROGRAM, &arguments)
}

async fn start_alone(member: &mut Member) -> Client {
    let initial_cluster = format!("--initial-cluster={}={}", member.name, member.peer_url());
    member.start(&[&initial_cluster]);
    member.client().await
}

#[tokio::test]
async fn a_real_etcd_restores_and_serves_our_snapshot() {
    let (Some(etcdutl), Some(etcd)) = (reference("etcdutl"), reference("etcd")) else { return };
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let file = member.folder.path().join("snapshot.db");
    save(member.client_url(), &file).await;

    // etcdutl checks every page; before 3.7 it counts other things as keys, and knows no version.
    let field = |told: &str, name: &str| serde_json::from_str::<serde_json::Value>(told).expect("JSON")[name].clone();
    let theirs = run(&etcdutl, &["snapshot", "status", text(&file), "-w", "json"]).expect("etcdutl takes it");
    let ours = run(PROGRAM, &["snapshot", "status", text(&file), "-w", "json"]).expect("told");
    for name in ["hash", "revision", "totalSize"] {
        assert_eq!(field(&ours, name), field(&theirs, name), "{name}");
    }
    assert_eq!(field(&ours, "totalKey"), 300);
    let hash = run(PROGRAM, &["hashkv", text(&file), "-w", "json"]).expect("told");
    assert_eq!(field(&hash, "hash"), client.hash_kv(0).await.expect("a hash").hash());

    let etcd = Etcd::start(&etcd, |etcd| etcd.restore(&etcdutl, &file, &[])).await;
    assert_eq!(told(&mut etcd.client().await).await, told(&mut client).await);
}

#[tokio::test]
async fn we_restore_and_serve_a_real_etcds_snapshot() {
    let Some(etcd) = reference("etcd") else { return };
    let etcd = Etcd::start(&etcd, |_| {}).await;
    let mut client = etcd.client().await;
    fill(&mut client).await;
    let mut member = Member::new("restored");
    let file = member.folder.path().join("snapshot.db");
    save(etcd.client_url.clone(), &file).await;
    restore(&member, &file, &[]).expect("restored");
    let mut restored = start_alone(&mut member).await;
    assert_eq!(told(&mut restored).await, told(&mut client).await);
    // It goes on where etcd was.
    let before = client.get("a", None).await.expect("a header").header().expect("a header").revision();
    let put = restored.put("a", "1", None).await.expect("put");
    assert_eq!(put.header().expect("a header").revision(), before + 1);
    let compacted = refusal(restored.get("a", Some(GetOptions::new().with_revision(2))).await);
    assert_eq!(compacted.1, "etcdserver: mvcc: required revision has been compacted");
}

/// As the operator does it: by the URL of a snapshot, compressed or not, or of the running etcd; at later revisions.
#[tokio::test]
async fn we_take_over_what_a_real_etcd_has_by_a_url() {
    let Some(etcd) = reference("etcd") else { return };
    let etcd = Etcd::start(&etcd, |_| {}).await;
    let mut client = etcd.client().await;
    fill(&mut client).await;
    let theirs = told(&mut client).await;
    let last = client.get("a", None).await.expect("a header").header().expect("a header").revision();
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, compressed) = (folder.path().join("snapshot.db"), folder.path().join("snapshot.db.zst"));
    save(etcd.client_url.clone(), &plain).await;
    let file = File::open(&plain).expect("a snapshot");
    std::fs::write(&compressed, zstd::encode_all(file, 3).expect("compressed")).expect("written");
    let file = |file: &Path| format!("file://{}", file.display());
    for origin in [file(&plain), file(&compressed), etcd.client_url.clone()] {
        let mut member = Member::new("restored");
        take_over(&member, &origin, &[]).expect("restored");
        let mut restored = start_alone(&mut member).await;
        // The hash is of later revisions.
        let ours = told(&mut restored).await;
        assert_eq!(Told { hash: theirs.hash, ..ours }, theirs);
        let put = restored.put("a", "1", None).await.expect("put");
        assert_eq!(put.header().expect("a header").revision(), last + 1_000_000_001);
        let compacted = refusal(restored.get("a", Some(GetOptions::new().with_revision(last))).await);
        assert_eq!(compacted.1, "etcdserver: mvcc: required revision has been compacted");
    }
}

/// Makes the data directory of a member that is alone, of what is at the URL.
fn take_over(member: &Member, origin: &str, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("KEELSON_PASSWORD", "secret").args(["backup", "restore", origin, "--mark-compacted"]);
    command.args(["--initial-cluster-token=ns-demo-1234", "--bump-revision=1000000000"]).args(more);
    command.arg(format!("--name={}", member.name)).arg("--data-dir").arg(member.data_dir());
    command.arg(format!("--initial-cluster={}={}", member.name, member.peer_url()));
    command.arg(format!("--initial-advertise-peer-urls={}", member.peer_url()));
    let output = command.output().expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(told) } else { Err(told) }
}

/// Root, and a user who may read `a` only.
async fn enable_auth(client: &mut Client) {
    client.put("a", "1", None).await.expect("put");
    client.role_add("reader").await.expect("added");
    client.role_grant_permission("reader", Permission::new(PermissionType::Read, "a")).await.expect("granted");
    client.user_add("root", "secret", None).await.expect("added");
    client.user_add("u", "pw", None).await.expect("added");
    client.user_grant_role("u", "reader").await.expect("granted");
    // Since 3.6 it is made with the user.
    let _ = client.role_add("root").await;
    client.user_grant_role("root", "root").await.expect("granted");
    client.auth_enable().await.expect("enabled");
}

async fn check_auth(url: &str) {
    let login = |name: &'static str, password| {
        Client::connect([url.to_owned()], Some(ConnectOptions::new().with_user(name, password)))
    };
    let mut user = eventually("the user gets in", || async { login("u", "pw").await.ok() }).await;
    assert_eq!(user.get("a", None).await.expect("allowed").kvs().len(), 1);
    assert_eq!(refusal(user.get("b", None).await).1, "etcdserver: permission denied");
    let mut root = login("root", "secret").await.expect("root gets in");
    root.put("b", "1", None).await.expect("allowed");
    let users = root.user_list().await.expect("allowed");
    assert_eq!(users.users(), ["root", "u"]);
    assert!(login("u", "wrong").await.is_err());
}

#[tokio::test]
async fn users_and_roles_move_both_ways() {
    let (Some(etcdutl), Some(program)) = (reference("etcdutl"), reference("etcd")) else { return };
    let etcd = Etcd::start(&program, |_| {}).await;
    enable_auth(&mut etcd.client().await).await;
    let mut member = Member::new("restored");
    let file = member.folder.path().join("snapshot.db");
    save(etcd.client_url.clone(), &file).await;
    restore(&member, &file, &[]).expect("restored");
    member.start(&[&format!("--initial-cluster=restored={}", member.peer_url())]);
    check_auth(&member.client_url()).await;

    save(member.client_url(), &file).await;
    let back = Etcd::start(&program, |etcd| etcd.restore(&etcdutl, &file, &[])).await;
    check_auth(&back.client_url).await;
}

/// Only root may have everything, and what is refused leaves nothing that looks like a member.
#[tokio::test]
async fn a_running_etcd_that_knows_its_users_is_copied_as_root_only() {
    let Some(program) = reference("etcd") else { return };
    let etcd = Etcd::start(&program, |_| {}).await;
    enable_auth(&mut etcd.client().await).await;
    let mut member = Member::new("copied");
    for (user, complaint) in
        [(&[][..], "user name is empty"), (&["--user=u"], "authentication failed, invalid user ID or password")]
    {
        let refused = take_over(&member, &etcd.client_url, user).expect_err("refused");
        assert!(refused.contains(complaint), "{refused}");
    }
    let nobody = take_over(&member, "http://127.0.0.1:1", &[]).expect_err("nobody is there");
    assert!(nobody.contains("http://127.0.0.1:1: ") && nobody.contains("refused"), "{nobody}");
    take_over(&member, &etcd.client_url, &["--user=root"]).expect("copied");
    member.start(&[&format!("--initial-cluster=copied={}", member.peer_url())]);
    check_auth(&member.client_url()).await;
}

/// The state is in no log: whoever joins later must get it as well.
#[tokio::test]
async fn three_members_are_restored_from_one_file_and_a_fourth_joins() {
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let file = member.folder.path().join("snapshot.db");
    save(member.client_url(), &file).await;
    let before = told(&mut client).await;

    let mut members: Vec<_> = (0..4).map(|n| Member::new(format!("m{n}"))).collect();
    let name_and_url = |member: &Member| format!("{}={}", member.name, member.peer_url());
    let list = members[..3].iter().map(name_and_url).collect::<Vec<_>>().join(",");
    let flag = format!("--initial-cluster={list}");
    for member in &mut members[..3] {
        restore(member, &file, &[&flag]).expect("restored");
        member.start(&[&flag]);
    }
    for member in &members[..3] {
        assert_eq!(told(&mut member.client().await).await, before);
    }
    let mut client = members[0].client().await;
    client.put("later", "1", None).await.expect("put");
    client.member_add([members[3].peer_url()], None).await.expect("added");
    let flag = format!("--initial-cluster={list},{}", name_and_url(&members[3]));
    members[3].start(&[&flag, "--initial-cluster-state=existing"]);
    let joined = told(&mut members[3].client().await).await;
    assert_eq!(joined, told(&mut client).await);
    assert_eq!(joined.keys.len(), before.keys.len() + 1);
    // And all of that is still there after a restart.
    members[1].kill();
    members[1].start(&[&flag]);
    assert_eq!(told(&mut members[1].client().await).await, joined);
}

/// Its log begins behind what is in the snapshot: with a store that is empty the member would have lost it all.
#[tokio::test]
async fn a_member_whose_store_is_behind_its_log_is_refused() {
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let file = member.folder.path().join("snapshot.db");
    save(member.client_url(), &file).await;
    let mut restored = Member::new("restored");
    restore(&restored, &file, &[]).expect("restored");
    std::fs::remove_dir_all(restored.data_dir().join("store")).expect("removed");
    restored.start(&[&format!("--initial-cluster=restored={}", restored.peer_url())]);
    assert_eq!(restored.exit().await, Some(1));
    let log = restored.log();
    assert!(log.contains("not the store that belongs to this log") && log.contains("restore a snapshot"), "{log}");
}

#[tokio::test]
async fn a_bumped_revision_is_the_compacted_one() {
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let file = member.folder.path().join("snapshot.db");
    save(member.client_url(), &file).await;
    let before = client.get("large", None).await.expect("a header").header().expect("a header").revision();

    let mut bumped = Member::new("bumped");
    restore(&bumped, &file, &["--bump-revision=1000000000", "--mark-compacted"]).expect("restored");
    let mut restored = start_alone(&mut bumped).await;
    let now = restored.get("key/003", None).await.expect("there");
    assert_eq!(now.header().expect("a header").revision(), before + 1_000_000_000);
    assert_eq!(now.kvs()[0].value_str().expect("text"), "behind");
    let old = refusal(restored.get("key/003", Some(GetOptions::new().with_revision(before))).await);
    assert_eq!(old.1, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(told(&mut restored).await.keys, told(&mut client).await.keys);

    // The real one does the same.
    let (Some(etcdutl), Some(etcd)) = (reference("etcdutl"), reference("etcd")) else { return };
    if !run(&etcdutl, &["snapshot", "restore", "--help"]).expect("told").contains("--bump-revision") {
        return;
    }
    let bump = ["--bump-revision=1000000000", "--mark-compacted"];
    let etcd = Etcd::start(&etcd, |etcd| etcd.restore(&etcdutl, &file, &bump)).await;
    let mut etcd = etcd.client().await;
    assert_eq!(told(&mut etcd).await, told(&mut restored).await);
}

#[tokio::test]
async fn what_is_no_whole_snapshot_is_refused_and_leaves_nothing() {
    let (member, mut client) = single().await;
    fill(&mut client).await;
    let file = member.folder.path().join("snapshot.db");
    save(member.client_url(), &file).await;
    let whole = std::fs::read(&file).expect("read");
    let flipped = {
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 1;
        bytes
    };
    // The page with the buckets says that it is another one; no sum is looked at that would tell first.
    let root = u64::from_le_bytes(whole[32..40].try_into().expect("eight bytes")) * 4096;
    let another_page = {
        let mut bytes = whole[..whole.len() - 32].to_vec();
        bytes[root as usize] ^= 1;
        bytes
    };
    let target = Member::new("target");
    std::fs::write(&file, &another_page).expect("written");
    let by_restore = restore(&target, &file, &["--skip-hash-check"]).expect_err("refused");
    let by_status = run(PROGRAM, &["snapshot", "status", text(&file)]).expect_err("refused");
    let by_hash = run(PROGRAM, &["hashkv", text(&file)]).expect_err("refused");
    for (code, said) in [by_restore, by_status, by_hash] {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("at offset {root}")), "where? {said}");
        assert!(said.contains(text(&file)) && said.contains("take another one"), "which file, and what then? {said}");
    }
    for (bytes, message) in [
        (&whole[..whole.len() - 5000], "the file is cut off"),
        (&whole[..100], "too short"),
        (&b"this is no snapshot at all".repeat(500)[..], "meta page"),
        (&whole[..whole.len() - 32], "snapshot missing hash but --skip-hash-check=false"),
        (&flipped[..], "expected sha256 ["),
        (&b""[..], "too short"),
    ] {
        std::fs::write(&file, bytes).expect("written");
        let (code, said) = restore(&target, &file, &[]).expect_err("refused");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("Error: ") && said.contains(message), "{said}");
        assert!(said.contains(text(&file)) && said.contains("take another one"), "which file, and what then? {said}");
        assert!(!target.data_dir().exists(), "{message}");
    }
    // A copied file has no checksum, and is taken when that is meant.
    std::fs::write(&file, &whole[..whole.len() - 32]).expect("written");
    restore(&target, &file, &["--skip-hash-check"]).expect("restored");
    let (_, said) = restore(&target, &file, &["--skip-hash-check"]).expect_err("refused");
    assert!(said.contains("not empty or could not be read"), "{said}");
}

/// Clients that take nothing hold a place and a file; neither outlives them.
#[tokio::test]
async fn few_snapshots_are_served_at_a_time_and_nothing_is_left_of_them() {
    let (mut member, mut client) = single().await;
    for n in 0..10 {
        client.put(format!("large/{n}"), vec![n; 1_000_000], None).await.expect("put");
    }
    let url = member.client_url();
    let open = || async {
        // Each over a connection of its own, or those that take nothing would hold up all.
        let mut client = MaintenanceClient::connect(url.clone()).await.expect("a client");
        let mut stream = client.snapshot(SnapshotRequest {}).await?.into_inner();
        stream.message().await.map(|first| (stream, first.expect("a first message")))
    };
    let first = open().await.expect("served");
    let _second = open().await.expect("served");
    let refused = open().await.expect_err("refused");
    assert_eq!((refused.code(), refused.message()), (tonic::Code::ResourceExhausted, "etcdserver: too many requests"));
    drop(first);
    let _third = eventually("a place is free", || async { open().await.ok() }).await;

    let folder = member.data_dir().join("snapshots");
    let entries = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(entries(), 0, "a file that is complete has no name any more");
    // What a killed server leaves behind is gone when the next one starts.
    member.kill();
    std::fs::create_dir_all(folder.join("saving-1")).expect("made");
    std::fs::write(folder.join("saving-1/db"), [0; 4096]).expect("written");
    start_alone(&mut member).await;
    assert_eq!(entries(), 0);
}
