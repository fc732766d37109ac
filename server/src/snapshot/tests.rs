use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::restore::{Restore, restore};
use super::save::{hash, save};
use super::source::Source;
use super::{SnapshotError, schema, status};
use crate::bbolt::Writer;
use crate::mvcc::hash::hash_kv;
use crate::mvcc::{KeyValue, RevKey, Revision, View};
use crate::storage::{Store, StoreOptions};

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn version(main: i64, sub: i64, tombstone: bool, key: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    let kv = match tombstone {
        true => KeyValue { key: key.to_owned().into(), ..Default::default() },
        false => KeyValue {
            key: key.to_owned().into(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: value.to_owned().into(),
            lease: 0,
        },
    };
    (RevKey { revision: Revision { main, sub }, tombstone }.encode(), kv.encode_to_vec())
}

/// A file as etcd would save it, of everything that has nothing to do with a member.
fn buckets() -> BTreeMap<&'static str, Entries> {
    let lease = schema::Lease { id: 7, ttl: 500, remaining_ttl: 20 };
    BTreeMap::from([
        (schema::ALARM, vec![(vec![8, 5, 16, 1], vec![])]),
        (
            schema::AUTH,
            vec![(schema::AUTH_ENABLED.into(), vec![1]), (schema::AUTH_REVISION.into(), 9_u64.to_be_bytes().to_vec())],
        ),
        (
            schema::AUTH_ROLES,
            vec![(b"r".to_vec(), b"\x0a\x01r".to_vec()), (b"root".to_vec(), b"\x0a\x04root".to_vec())],
        ),
        (schema::AUTH_USERS, vec![(b"root".to_vec(), b"\x0a\x04root\x12\x01x".to_vec())]),
        (schema::CLUSTER, vec![]),
        (
            schema::KEY,
            vec![
                version(2, 0, false, "a", "1"),
                version(4, 0, true, "b", ""),
                version(5, 0, false, "c", "3"),
                version(5, 1, true, "a", ""),
                version(6, 0, false, "a", &"long".repeat(1000)),
            ],
        ),
        (schema::LEASE, vec![(7_i64.to_be_bytes().to_vec(), lease.encode_to_vec())]),
        (
            schema::META,
            vec![
                (schema::FINISHED_COMPACT.into(), schema::revision(4)),
                (schema::SCHEDULED_COMPACT.into(), schema::revision(4)),
                (schema::STORAGE_VERSION.into(), b"3.7.0".to_vec()),
            ],
        ),
    ])
}

fn write(path: &Path, buckets: &BTreeMap<&str, Entries>) {
    let mut writer = Writer::new(BufWriter::new(File::create(path).unwrap())).unwrap();
    for (name, entries) in buckets {
        writer.bucket(name.as_bytes()).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
    writer.finish().unwrap();
}

fn read(path: &Path, bucket: &str) -> Entries {
    let mut entries = Vec::new();
    let source = Source::open(path, &Arc::default()).unwrap();
    source
        .for_each(bucket, |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
    entries
}

fn settings(dir: &Path, snapshot: &Path) -> Restore {
    let urls = vec!["http://localhost:2380".to_owned()];
    Restore {
        snapshot: snapshot.to_owned(),
        data_dir: dir.join("data"),
        wal_dir: Some(dir.join("wal")),
        name: "one".to_owned(),
        peer_urls: urls.clone(),
        initial_cluster: BTreeMap::from([("one".to_owned(), urls)]),
        initial_cluster_token: "t".to_owned(),
        skip_hash_check: true,
        bump_revision: None,
    }
}

#[test]
fn what_was_restored_is_saved_again() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let buckets = buckets();
    write(&first, &buckets);
    let settings = settings(dir.path(), &first);
    let outcome = restore(&settings, &Arc::default()).unwrap();
    assert_eq!(outcome.revision, 6);

    let store = Store::open(&settings.data_dir.join("store"), StoreOptions::default()).unwrap();
    store.wait_compacted(4);
    let out = BufWriter::new(File::create(&second).unwrap());
    let (_, size) = save(&store.view(), out, || true).unwrap();
    assert_eq!(size, std::fs::metadata(&second).unwrap().len());
    for (name, entries) in buckets.iter().filter(|(name, _)| **name != schema::META) {
        assert_eq!(&read(&second, name), entries, "{name}");
    }
    let member =
        format!("{{\"id\":{},\"peerURLs\":[\"http://localhost:2380\"],\"name\":\"one\"}}", outcome.restored.member_id);
    let members = [(format!("{:x}", outcome.restored.member_id).into_bytes(), member.into_bytes())];
    assert_eq!(read(&second, schema::MEMBERS), members);
    let meta: BTreeMap<_, _> = read(&second, schema::META).into_iter().collect();
    for (name, value) in &buckets[schema::META] {
        assert_eq!(&meta[name], value);
    }
    let state = format!("{{\"voters\":[{}],\"auto_leave\":false}}", outcome.restored.member_id);
    assert_eq!(meta[schema::CONF_STATE.as_bytes()], state.into_bytes());
    assert_eq!(meta[schema::TERM.as_bytes()], 1_u64.to_be_bytes());

    // A file and the store made of it have the same sums at every revision that can be read.
    let source = Source::open(&first, &Arc::default()).unwrap();
    for revision in [0, 4, 5, 6] {
        let sum = hash_kv(&store.view(), revision).unwrap();
        assert_eq!(status::hash_kv(&source, revision).unwrap(), sum, "{revision}");
        assert_eq!(
            status::hash_kv(&Source::open(&second, &Arc::default()).unwrap(), revision).unwrap(),
            sum,
            "{revision}"
        );
    }
    assert_eq!(store.view().lease(7).unwrap().map(|lease| lease.remaining_seconds), Some(20));
    assert_ne!(hash(&store.view()).unwrap(), 0);
}

#[test]
fn nobody_waits_for_a_file_that_nobody_wants() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    write(&first, &buckets());
    let settings = settings(dir.path(), &first);
    restore(&settings, &Arc::default()).unwrap();
    let store = Store::open(&settings.data_dir.join("store"), StoreOptions::default()).unwrap();
    let saved = save(&store.view(), std::io::Cursor::new(Vec::new()), || false);
    assert!(matches!(saved, Err(SnapshotError::Abandoned)));
}

/// What a file says is checked before it becomes a store, and nothing is left of one that fails.
#[test]
fn files_with_wrong_content_are_refused() {
    let wrong: [(&str, (&'static str, Entries)); 6] = [
        ("cannot parse revision key", (schema::KEY, vec![(b"short".to_vec(), vec![])])),
        ("cannot parse revision key", (schema::KEY, vec![(vec![0xff; 17], vec![])])),
        ("cannot unmarshal value", (schema::KEY, vec![(schema::revision(2), vec![0xff])])),
        ("a lease", (schema::LEASE, vec![(vec![1; 8], vec![0xff])])),
        ("an alarm", (schema::ALARM, vec![(vec![0xff], vec![])])),
        ("finishedCompactRev is not a revision", (schema::META, vec![(schema::FINISHED_COMPACT.into(), vec![1])])),
    ];
    for (message, (name, entries)) in wrong {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let mut buckets = buckets();
        buckets.insert(name, entries);
        write(&file, &buckets);
        let settings = settings(dir.path(), &file);
        let error = restore(&settings, &Arc::default()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!settings.data_dir.exists() && !dir.path().join("wal").exists(), "{message}");
    }
}
