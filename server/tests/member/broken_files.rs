//! A member whose files are broken: it says which one, and what to do, or it has everything. It never serves something else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, Member, eventually};
use etcd_client::{Client, GetOptions, MemberAddOptions};
use keelson_server::mvcc::WAY_OUT;

/// Of these nothing is read that matters.
const WITHOUT_DATA: [&str; 5] = ["LOG", "LOCK", "keelson.lock", "IDENTITY", "OPTIONS"];
const KEYS: usize = 300;

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One bit behind the middle of what is used of the file.
    Flipped,
    /// The second half of what is used is gone.
    Cut,
    Removed,
}

impl Damage {
    fn strike(self, path: &Path) {
        let mut bytes = fs::read(path).expect("read");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match self {
            Damage::Flipped => bytes[used * 5 / 8] ^= 4,
            Damage::Cut => bytes.truncate(used / 2),
            Damage::Removed => return fs::remove_file(path).expect("removed"),
        }
        fs::write(path, bytes).expect("written");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files that hold data.
fn kept(folder: &Path) -> BTreeSet<PathBuf> {
    let holds_data = |path: &PathBuf| path.extension().is_some_and(|of| of == "sst" || of == "wal");
    let below = |path: PathBuf| path.strip_prefix(folder).expect("below").to_owned();
    files(folder).into_iter().filter(holds_data).map(below).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("--archive").args([from, to]).status().expect("cp");
    assert!(copied.success());
}

async fn contents(client: &mut Client) -> Result<Vec<(Vec<u8>, Vec<u8>, i64)>, etcd_client::Error> {
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await?;
    Ok(all.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec(), kv.mod_revision())).collect())
}

fn start(member: &mut Member) {
    member.start(&[
        &format!("--initial-cluster=single={}", member.peer_url()),
        "--election-timeout=200",
        "--heartbeat-interval=20",
    ]);
}

/// Each is right; anything else is not.
#[derive(Debug)]
enum Served {
    /// It ended, with this error.
    Refused(String),
    Everything,
    /// A read failed, with this in the log.
    Error(String),
}

async fn serve(member: &mut Member, wanted: &[(Vec<u8>, Vec<u8>, i64)]) -> Served {
    let begun = member.log().len();
    let last_error = |member: &Member| {
        let log = member.log().split_off(begun);
        log.lines().rfind(|line| line.contains(r#""level":"error""#)).unwrap_or(&log).to_owned()
    };
    start(member);
    let deadline = Instant::now() + DEADLINE;
    while member.get("/readyz").await.is_none_or(|(code, _)| code != 200) {
        if member.has_ended() {
            assert_eq!(member.exit().await, Some(1), "{}", last_error(member));
            return Served::Refused(last_error(member));
        }
        assert!(Instant::now() < deadline, "it neither serves nor ends: {}", last_error(member));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut client = member.client().await;
    let found = contents(&mut client).await;
    member.kill();
    match found {
        Ok(found) => {
            assert!(found == wanted, "{} of {} keys, or others", found.len(), wanted.len());
            Served::Everything
        }
        Err(_) => Served::Error(last_error(member)),
    }
}

#[tokio::test]
async fn a_broken_file_is_named_or_makes_no_difference() {
    let mut member = Member::new("single");
    start(&mut member);
    let mut client = member.client().await;
    for n in 0..KEYS {
        client.put(format!("key/{n:03}"), format!("{n}").repeat(50), None).await.expect("put");
        if n == KEYS / 2 {
            // One half is in files of the store, and all of it in the log.
            client.maintenance_client().defragment().await.expect("flushed");
        }
    }
    let wanted = contents(&mut client).await.expect("read");
    member.kill();
    let (data, whole) = (member.data_dir(), member.folder.path().join("whole"));
    copy(&data, &whole);
    let (mut refused, mut failed) = (0, 0);
    for file in files(&whole) {
        let below = file.strip_prefix(&whole).expect("below").to_owned();
        let name = below.file_name().expect("a name").to_string_lossy().into_owned();
        let is_empty = fs::metadata(&file).expect("a file").len() == 0;
        if is_empty || WITHOUT_DATA.iter().any(|of_no_use| name.starts_with(of_no_use)) {
            continue;
        }
        for damage in [Damage::Flipped, Damage::Cut, Damage::Removed] {
            copy(&whole, &data);
            damage.strike(&data.join(&below));
            let served = serve(&mut member, &wanted).await;
            println!("{}, {damage:?}: {served:?}", below.display());
            match served {
                Served::Everything => {}
                Served::Refused(told) => {
                    refused += 1;
                    assert!(kept(&whole).is_subset(&(&kept(&data) | &BTreeSet::from([below.clone()]))), "{told}");
                    assert!(told.contains(&name) || told.contains("holds no raft log"), "which file? {told}");
                    assert!(told.contains(WAY_OUT), "what to do? {told}");
                    if name.ends_with(".wal") && !matches!(damage, Damage::Removed) {
                        assert!(told.contains("damaged at offset") || told.contains("is cut off"), "{told}");
                    }
                }
                Served::Error(told) => {
                    failed += 1;
                    assert!(told.contains(&name) && told.contains("offset"), "which file? {told}");
                    assert!(told.contains(WAY_OUT), "what to do? {told}");
                }
            }
        }
    }
    assert!(refused > 10 && failed > 0, "{refused} refused, {failed} failed");
}

/// A member may lead although a block that nobody reads is damaged.
#[tokio::test]
async fn what_is_damaged_does_not_come_to_a_new_member() {
    let mut member = Member::new("single");
    let list = format!("--initial-cluster=single={}", member.peer_url());
    let flags = [list.as_str(), "--snapshot-catchup-entries=10"];
    member.start(&flags);
    let mut client = member.client().await;
    for n in 0..KEYS {
        client.put("key", format!("{n}").repeat(50), None).await.expect("put");
    }
    client.maintenance_client().defragment().await.expect("flushed");
    member.kill();
    let data = files(&member.data_dir());
    let stored = data.iter().filter(|file| file.extension().is_some_and(|of| of == "sst"));
    let history = stored.max_by_key(|file| fs::metadata(file).expect("a file").len()).expect("a file");
    let mut bytes = fs::read(history).expect("read");
    bytes[100] ^= 4;
    fs::write(history, bytes).expect("written");
    member.start(&flags);
    let mut client = member.client().await;
    let mut joining = Member::new("joining");
    let as_learner = MemberAddOptions::new().with_is_learner();
    client.member_add([joining.peer_url()], Some(as_learner)).await.expect("added");
    let both = format!("--initial-cluster=single={},joining={}", member.peer_url(), joining.peer_url());
    joining.start(&[&both, "--initial-cluster-state=existing"]);
    let name = history.file_name().expect("a name").to_string_lossy();
    eventually("the damage to be told", || async {
        let told =
            |member: &Member| member.log().lines().any(|line| line.contains("is damaged") && line.contains(&*name));
        (told(&joining) && told(&member)).then_some(())
    })
    .await;
    assert!(joining.get("/readyz").await.is_none_or(|(code, _)| code != 200), "it serves what is damaged");
}
