use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::mvcc::range::{range, unbounded};
use crate::mvcc::{KeyRange, View, hash};
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::*;
use crate::state;

fn open(dir: &Path) -> Arc<Store> {
    Store::open(dir, StoreOptions::default()).unwrap()
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    })
}

fn delete(key: &str) -> Op {
    Op::DeleteRange(DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() })
}

fn compact(revision: i64) -> Op {
    Op::Compact(CompactionRequest { revision, physical: true })
}

/// Applies commands in one batch; `applied` counts them, as Raft's index would.
fn apply(store: &Arc<Store>, ops: impl IntoIterator<Item = Op>) {
    let mut applied = index(store.applied());
    let mut batch = store.begin();
    for op in ops {
        let result = state::apply(batch.view(), &Command { op: Some(op), ..Default::default() }).unwrap();
        assert_eq!(result.outcome.refusal(), None);
        batch.stage(result.effects);
        applied += 1;
    }
    batch.set_applied(&applied.to_be_bytes());
    batch.commit().unwrap();
}

fn index(applied: Option<Vec<u8>>) -> u64 {
    applied.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// What a process that is killed now would leave on the disk.
fn crash(store: &TempDir) -> TempDir {
    loop {
        let copy = TempDir::new().unwrap();
        match copy_dir(store.path(), copy.path()) {
            Ok(()) => return copy,
            // The store removed a file meanwhile: what was copied is of no single moment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_dir(&entry.path(), &target)?;
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn get<V: View>(view: &V, key: &str, revision: i64) -> Option<String> {
    let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), revision, ..Default::default() };
    let kvs = range(view, &request, &mut unbounded).unwrap().kvs;
    kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

#[test]
fn after_a_crash_the_store_stands_at_its_last_flush_with_the_applied_that_belongs_to_it() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    apply(&store, [put("a", "1"), put("b", &"long".repeat(1000))]);
    apply(&store, [Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 })]);
    assert_eq!(index(store.flush().unwrap()), 3);
    apply(&store, [put("a", "2"), put("c", "lost")]);
    assert_eq!(index(store.applied()), 5);
    assert_eq!(index(store.flushed_applied()), 3);
    assert!(store.unflushed_bytes() > 0);

    let crashed = crash(&dir);
    let again = open(crashed.path());
    let view = again.view();
    assert_eq!(index(again.applied()), 3);
    assert_eq!(view.revision(), 3);
    assert_eq!(get(&view, "a", 0).as_deref(), Some("1"));
    assert_eq!(get(&view, "b", 0), Some("long".repeat(1000)));
    assert_eq!(get(&view, "c", 0), None);
    assert_eq!(view.leases().unwrap().len(), 1);
    // Raft applies the same entries again.
    apply(&again, [put("a", "2"), put("c", "lost")]);
    assert_eq!(get(&again.view(), "a", 0).as_deref(), Some("2"));
    assert_eq!(get(&again.view(), "a", 3).as_deref(), Some("1"));
    assert_eq!(hash::hash_kv(&again.view(), 0), hash::hash_kv(&store.view(), 0));
}

#[test]
fn views_keep_what_they_saw_through_writes_compaction_and_installation() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(dir.path());
    apply(&store, [put("a", "1"), put("a", "2"), delete("a"), put("b", "1")]);
    let view = store.view();
    apply(&store, [put("a", "3"), put("b", "2"), compact(7)]);
    store.wait_compacted(7);
    assert_eq!(store.view().compact_revision(), 7);

    let checkpoint = dir.path().join("checkpoint");
    let replacement = open(other.path());
    apply(&replacement, [put("x", "installed"), put("y", "too")]);
    assert_eq!(index(replacement.checkpoint(&checkpoint).unwrap()), 2);
    apply(&replacement, [put("x", "later")]);
    store.install(&checkpoint).unwrap();
    assert_eq!(get(&store.view(), "x", 0).as_deref(), Some("installed"));
    assert_eq!(get(&store.view(), "b", 0), None);
    assert_eq!((index(store.applied()), index(store.flushed_applied())), (2, 2));

    for _ in 0..2 {
        assert_eq!(view.revision(), 5);
        assert_eq!(get(&view, "a", 2).as_deref(), Some("1"));
        assert_eq!(get(&view, "a", 3).as_deref(), Some("2"));
        assert_eq!(get(&view, "a", 0), None);
        assert_eq!(get(&view, "b", 0).as_deref(), Some("1"));
        apply(&store, [put("x", "goes on")]);
    }
    drop(view);
    drop(store);
    let again = open(dir.path());
    assert!(index(again.applied()) >= 2, "an installed state is durable at once");
    let states = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("state-"));
    assert_eq!(states.count(), 1, "the replaced state is removed");
}

#[test]
fn a_crash_while_a_state_is_replaced_leaves_the_old_one() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(dir.path());
    apply(&store, [put("a", "old")]);
    store.flush().unwrap();
    let checkpoint = other.path().join("checkpoint");
    let replacement = open(&other.path().join("store"));
    apply(&replacement, [put("a", "new")]);
    replacement.checkpoint(&checkpoint).unwrap();
    drop(store);
    // Moved, but not yet named as the current one.
    Place::open(dir.path()).unwrap().prepare(&checkpoint).unwrap();
    let again = open(dir.path());
    assert_eq!(get(&again.view(), "a", 0).as_deref(), Some("old"));
    assert!(!dir.path().join("state-2").exists());
}

/// Were the other ones taken for left over, nothing would be left.
#[test]
fn a_name_of_no_state_is_refused_and_nothing_is_removed() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    apply(&store, [put("a", "1")]);
    store.flush().unwrap();
    drop(store);
    for name in ["state-5", "state-0"] {
        std::fs::write(dir.path().join("ACTIVE"), name).unwrap();
        let error = Store::open(dir.path(), StoreOptions::default()).err().unwrap();
        assert!(error.to_string().contains("ACTIVE: names a state that is not there"), "{error}");
    }
    std::fs::write(dir.path().join("ACTIVE"), "state-1").unwrap();
    assert_eq!(get(&open(dir.path()).view(), "a", 0).as_deref(), Some("1"));
}

#[test]
fn users_come_with_a_checkpoint_and_after_a_restart() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = Store::open(other.path(), StoreOptions::default()).unwrap();
    let name = || "root".to_owned();
    let user = AuthUserAddRequest { name: name(), ..Default::default() };
    let role = AuthUserGrantRoleRequest { user: name(), role: name() };
    apply(&store, [Op::UserAdd(user), Op::UserGrantRole(role), Op::AuthEnable(AuthEnableRequest {})]);
    let checkpoint = other.path().join("checkpoint");
    store.checkpoint(&checkpoint).unwrap();
    let replaced = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(!replaced.auth_enabled() && replaced.auth().revision == 1);
    replaced.install(&checkpoint).unwrap();
    assert!(replaced.auth_enabled() && replaced.view().auth().user("root").unwrap().is_root);
    assert_eq!(replaced.auth(), store.auth());
    drop(replaced);
    let reopened = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(reopened.auth_enabled());
    assert_eq!(reopened.auth(), store.auth());
    apply(&reopened, [Op::Compact(CompactionRequest { revision: 1, physical: false })]);
    assert!(reopened.auth_enabled(), "other changes leave it as it is");
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_store_goes_on() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    apply(&store, [put("a", "1")]);
    let checkpoint = dir.path().join("checkpoint");
    std::fs::create_dir(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("CURRENT"), "MANIFEST-000001\n").unwrap();
    assert!(store.install(&checkpoint).is_err());
    apply(&store, [put("a", "2")]);
    assert_eq!(get(&store.view(), "a", 0).as_deref(), Some("2"));
}

#[test]
fn a_checkpoint_with_a_damaged_block_is_told_from_a_whole_one() {
    let (dir, parent) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(dir.path());
    // More than one block, so that opening it does not read the damaged one.
    apply(&store, (0..2000).map(|n| put(&format!("key/{n}"), &format!("{n}").repeat(20))));
    let copy = parent.path().join("copy");
    store.checkpoint(&copy).unwrap();
    verify(&copy).unwrap();
    let files = std::fs::read_dir(&copy).unwrap().map(|file| file.unwrap().path());
    let data = files.filter(|file| file.extension().is_some_and(|of| of == "sst"));
    let largest = data.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // Hard links would damage the store itself.
    std::fs::remove_file(&largest).unwrap();
    std::fs::write(&largest, bytes).unwrap();
    let error = verify(&copy).unwrap_err().to_string();
    let name = largest.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name), "{error}");
}

/// What `rev` and `key` hold, to see what compaction removed.
fn stored(store: &Store) -> (Vec<(i64, bool)>, usize) {
    let view = store.view();
    let (mut history, mut keys) = (Vec::new(), 0);
    view.history(0, &mut |place, _| {
        history.push((place.revision.main, place.tombstone));
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .unwrap();
    let all = crate::mvcc::KeyRange::From(Bytes::new());
    view.scan(&all, &mut |_, _, _| {
        keys += 1;
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .unwrap();
    (history, keys)
}

#[test]
fn compaction_removes_each_superseded_version_and_keeps_a_deletion_at_the_compacted_revision() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    // 2, 3: a; 4: a deleted; 5: b; 6: a again; 7: b deleted; 8: c.
    apply(
        &store,
        [put("a", "1"), put("a", "2"), delete("a"), put("b", "1"), put("a", "3"), delete("b"), put("c", "1")],
    );
    apply(&store, [compact(4)]);
    store.wait_compacted(4);
    assert_eq!(stored(&store).0, [(4, true), (5, false), (6, false), (7, true), (8, false)]);
    apply(&store, [compact(7)]);
    store.wait_compacted(7);
    assert_eq!(stored(&store), (vec![(6, false), (7, true), (8, false)], 3));
    apply(&store, [compact(8)]);
    store.wait_compacted(8);
    assert_eq!(stored(&store), (vec![(6, false), (8, false)], 2));
    store.defragment().unwrap();
    assert_eq!(stored(&store), (vec![(6, false), (8, false)], 2));
    assert_eq!(get(&store.view(), "a", 8).as_deref(), Some("3"));
}

#[test]
fn compaction_of_much_goes_on_in_steps_and_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let keys = 500;
    for round in 0..8 {
        apply(&store, (0..keys).map(|key| put(&format!("k{key}"), &format!("{round}"))));
    }
    let newest = store.view().revision();
    apply(&store, [compact(newest)]);
    store.wait_compacted(newest);
    assert_eq!(stored(&store).0.len(), keys);
    // A step's work may be lost in a crash, with the note that it was done.
    store.flush().unwrap();
    apply(&store, (0..keys).map(|key| put(&format!("k{key}"), "x")));
    apply(&store, [compact(newest + keys as i64)]);
    let crashed = crash(&dir);
    let again = open(crashed.path());
    assert_eq!(stored(&again).0.len(), keys);
    assert_eq!(again.view().revision(), newest);
}

#[test]
fn sizes_tell_what_is_in_use() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    for _ in 0..20 {
        apply(&store, [put("a", &"x".repeat(100_000))]);
    }
    store.flush().unwrap();
    let newest = store.view().revision();
    apply(&store, [compact(newest)]);
    store.wait_compacted(newest);
    store.defragment().unwrap();
    let sizes = store.sizes();
    assert!(sizes.in_use_bytes <= sizes.total_bytes, "{sizes:?}");
    assert!(sizes.total_bytes < 2 << 20, "{sizes:?}");
}

#[test]
fn values_of_the_caller_are_kept_with_the_state() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut batch = store.begin();
    batch.set_meta(b"membership", b"three");
    batch.commit().unwrap();
    assert_eq!(store.meta(b"membership").unwrap().as_deref(), Some(&b"three"[..]));
    assert_eq!(store.meta(b"other").unwrap(), None);
}

#[test]
fn a_checkpoint_is_kept_with_its_lease_and_a_lease_without_one_is_as_before() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let grant = |id| Op::LeaseGrant(LeaseGrantRequest { id, ttl: 1000 });
    let checkpoint = |left: &[(i64, i64)]| {
        let checkpoints = left.iter().map(|(id, left)| LeaseCheckpoint { id: *id, remaining_ttl: *left }).collect();
        Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })
    };
    let left = || -> Vec<(i64, i64, i64)> {
        let leases = store.view().leases().unwrap();
        leases.iter().map(|lease| (lease.id, lease.ttl_seconds, lease.remaining_seconds)).collect()
    };
    // Lease 3 is not there: it was revoked before the checkpoint was applied.
    apply(&store, [grant(1), grant(2), checkpoint(&[(1, 700), (3, 700), (2, 5000)])]);
    assert_eq!(left(), [(1, 1000, 700), (2, 1000, 1000)]);
    apply(&store, [checkpoint(&[(1, 0)])]);
    assert_eq!(left(), [(1, 1000, 0), (2, 1000, 1000)]);
}

/// Keys in numbers that make blocks, with what counts them done.
fn counted(store: &Arc<Store>) -> ReadView {
    let begun = Instant::now();
    store.count_keys();
    loop {
        let view = store.view();
        if view.counts().is_some_and(|counts| counts.crowded().is_empty()) {
            return view;
        }
        assert!(begun.elapsed().as_secs() < 30, "the keys are not counted");
        std::thread::yield_now();
    }
}

#[test]
fn ranges_are_counted_at_any_revision_while_blocks_are_divided() {
    let dir = TempDir::new().unwrap();
    let key = |number: usize| format!("k{number:05}");
    let count = |view: &ReadView, start: usize, end: usize, revision: i64, count_only: bool| {
        let (key, range_end) = (key(start).into(), key(end).into());
        let request = RangeRequest { key, range_end, revision, count_only, limit: 3, ..Default::default() };
        let response = range(view, &request, &mut unbounded).unwrap();
        let keys = (response.count.min(3), response.count > 3);
        assert!(count_only || (response.kvs.len() as i64, response.more) == keys, "{response:?}");
        response.count
    };
    {
        let store = open(dir.path());
        counted(&store);
        for hundred in 0..50 {
            apply(&store, (0..100).map(|number| put(&key(hundred * 100 + number), "v")));
        }
        let full = store.view().revision();
        for hundred in (0..50).step_by(2) {
            apply(&store, (0..100).map(|number| delete(&key(hundred * 100 + number))));
        }
        apply(&store, (0..200).map(|number| put(&key(number), "again")));
        let view = counted(&store);
        assert_eq!(view.count(&KeyRange::From(Bytes::new())).unwrap(), Some(2600));
        for count_only in [false, true] {
            assert_eq!(count(&view, 0, 5000, 0, count_only), 2600);
            assert_eq!(count(&view, 150, 1050, 0, count_only), 50 + 400);
            assert_eq!(count(&view, 150, 1050, full, count_only), 900);
            assert_eq!(count(&view, 150, 1050, full - 4000, count_only), 850);
            assert_eq!(count(&view, 150, 1050, full - 4950, count_only), 0);
        }
    }
    // Counted anew from what is on the disk.
    let copy = crash(&dir);
    let store = open(copy.path());
    let view = counted(&store);
    let all = KeyRange::From(Bytes::new());
    let mut keys = 0;
    view.scan(&all, &mut |_, stamp, _| {
        keys += i64::from(!stamp.tombstone);
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(view.count(&all).unwrap(), Some(keys));
}

/// As of a member that gets a write now and then for a day.
#[test]
fn files_of_small_flushes_do_not_pile_up() {
    const FLUSHES: usize = 500;
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (store, at_once) = (open(dir.path()), open(other.path()));
    let files = || store.head().database.rocks().live_files().unwrap().len();
    let mut most = 0;
    for number in 0..FLUSHES {
        let write = || [put(&format!("k{number:05}"), &number.to_string())];
        apply(&store, write());
        apply(&at_once, write());
        store.flush().unwrap();
        most = most.max(files());
    }
    let begun = Instant::now();
    // Of each of three column families fewer than 32 of each of two sizes stay, and those of the first level.
    while files() > 200 {
        assert!(begun.elapsed().as_secs() < 30, "{} files, once {most}", files());
        std::thread::yield_now();
    }
    assert_eq!(hash::hash_kv(&store.view(), 0), hash::hash_kv(&at_once.view(), 0));
    assert_eq!(get(&store.view(), "k00007", 0).as_deref(), Some("7"));
}
