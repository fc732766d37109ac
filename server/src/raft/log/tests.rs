use std::fs;
use std::os::unix::fs::FileExt;

use openraft::EntryPayload;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use super::*;
use crate::fuzz::{self, Damage};
use crate::raft::types::{Request, log_id};

const SEGMENT: u64 = 16 << 10;

fn open(dir: &TempDir) -> Result<LogStore, LogError> {
    let options = LogOptions { segment_bytes: SEGMENT, ..LogOptions::default() };
    LogStore::open(dir.path(), options).map(|(store, _)| store)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let request = Request::new(vec![index as u8; bytes]);
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(request) }
}

async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    let (done, flushed) = oneshot::channel();
    let changes = entries.into_iter().map(|entry| {
        store.index().append(entry.clone());
        Change::Entry(entry)
    });
    let changes: Vec<_> = changes.collect();
    store.submit(changes, Waiter::Reply(done)).unwrap();
    flushed.await.unwrap().unwrap();
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

fn segments(dir: &TempDir, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// Offset of the record that holds `needle`.
fn find(path: &Path, needle: &[u8]) -> u64 {
    let data = fs::read(path).unwrap();
    data.windows(needle.len()).position(|window| window == needle).unwrap() as u64
}

/// Where the last byte that is no zero ends.
fn find_end(path: &Path) -> usize {
    fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[tokio::test]
async fn everything_written_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let vote = Vote::new_committed(3, 7);
    let mut store = open(&dir).unwrap();
    store.save_vote(&vote).await.unwrap();
    append(&mut store, (0..100).map(|index| entry(3, index, 500))).await;
    store.truncate_after(Some(log_id(3, 89))).await.unwrap();
    append(&mut store, (90..95).map(|index| entry(4, index, 500))).await;
    store.save_committed(Some(log_id(3, 80))).await.unwrap();
    store.purge(log_id(3, 9)).await.unwrap();
    drop(store);

    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await, (10..95).collect::<Vec<_>>());
    assert_eq!(store.try_get_log_entries(89..91).await.unwrap(), [entry(3, 89, 500), entry(4, 90, 500)]);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 80)));
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(3, 9)), Some(log_id(4, 94))));
}

#[tokio::test]
async fn purged_segments_are_recycled_and_their_bytes_never_come_back() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    for index in 0..300 {
        append(&mut store, [entry(1, index, 1000)]).await;
        if index % 20 == 19 {
            store.purge(log_id(1, index - 5)).await.unwrap();
        }
    }
    assert!(segments(&dir, "wal").len() <= 4, "{:?}", segments(&dir, "wal"));
    assert!(segments(&dir, "spare").len() <= 2);
    drop(store);
    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await, (295..300).collect::<Vec<_>>());
    assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new_committed(1, 1)));
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_written_over() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    append(&mut store, [entry(1, 0, 40)]).await;
    // One write of three entries, of which the middle one never reached the disk.
    append(&mut store, [entry(1, 1, 40), entry(1, 2, 40), entry(1, 3, 40)]).await;
    drop(store);
    let segment = &segments(&dir, "wal")[0];
    overwrite(segment, find(segment, &[2; 40]), &[0; 40]);

    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await, [0, 1]);
    append(&mut store, [entry(2, 2, 40)]).await;
    drop(store);
    // Entry 3 of the lost write lies right behind the new entry 2: it must not be taken for its successor.
    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await, [0, 1, 2]);
    assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 2)));
}

#[tokio::test]
async fn a_broken_record_before_a_promised_one_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    for index in 0..3 {
        append(&mut store, [entry(1, index, 40)]).await;
    }
    drop(store);
    let segment = &segments(&dir, "wal")[0];
    overwrite(segment, find(segment, &[1; 40]), b"x");
    let error = open(&dir).err().unwrap();
    assert!(error.to_string().contains("damaged at offset"), "{error}");
}

#[tokio::test]
async fn a_segment_that_was_cut_off_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    let begun = find_end(&segments(&dir, "wal")[0]);
    for index in 0..3 {
        append(&mut store, [entry(1, index, 40)]).await;
    }
    drop(store);
    let segment = &segments(&dir, "wal")[0];
    let whole = fs::read(segment).unwrap();
    for length in [find(segment, &[2; 40]), SEGMENT - 1] {
        fs::write(segment, &whole[..length as usize]).unwrap();
        let error = open(&dir).err().unwrap();
        assert!(matches!(error, LogError::Short { least: SEGMENT, .. }), "{error}");
    }
    // A crash in the first write of all leaves a file like this, and nothing was promised by then.
    fs::write(segment, &whole[..begun.next_multiple_of(8)]).unwrap();
    let mut store = open(&dir).unwrap();
    append(&mut store, [entry(1, 0, 40)]).await;
    drop(store);
    assert_eq!(fs::metadata(segment).unwrap().len(), SEGMENT);
    assert_eq!(indexes(&mut open(&dir).unwrap()).await, [0]);
}

#[tokio::test]
async fn a_broken_record_in_a_sealed_segment_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    for index in 0..40 {
        append(&mut store, [entry(1, index, 1000)]).await;
    }
    drop(store);
    let segments = segments(&dir, "wal");
    overwrite(&segments[1], 200, b"garbage");
    assert!(matches!(open(&dir), Err(LogError::Corrupt { path, .. }) if path == segments[1]));
    fs::remove_file(&segments[1]).unwrap();
    assert!(matches!(open(&dir), Err(LogError::Missing { path }) if path == segments[1]));
}

#[tokio::test]
async fn a_segment_without_its_first_record_begins_anew() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    for index in 0..12 {
        append(&mut store, [entry(1, index, 1000)]).await;
    }
    drop(store);
    fs::write(writer::segment_path(dir.path(), 2), vec![0; 4096]).unwrap();
    assert!(matches!(open(&dir), Err(LogError::Corrupt { .. })), "an unsealed segment cannot have a successor");
    fs::remove_file(writer::segment_path(dir.path(), 2)).unwrap();
    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await.len(), 12);
}

#[tokio::test]
async fn entries_larger_than_a_segment_are_kept() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    append(&mut store, [entry(1, 0, 10), entry(1, 1, 3 * SEGMENT as usize), entry(1, 2, 10)]).await;
    drop(store);
    let mut store = open(&dir).unwrap();
    assert_eq!(store.try_get_log_entries(1..2).await.unwrap(), [entry(1, 1, 3 * SEGMENT as usize)]);
    assert_eq!(indexes(&mut store).await, [0, 1, 2]);
}

#[tokio::test]
async fn the_log_goes_on_behind_an_installed_snapshot() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    append(&mut store, (0..5).map(|index| entry(1, index, 10))).await;
    store.purge(log_id(2, 1000)).await.unwrap();
    append(&mut store, [entry(2, 1001, 10)]).await;
    drop(store);
    let mut store = open(&dir).unwrap();
    assert_eq!(indexes(&mut store).await, [1001]);
    assert_eq!(store.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(2, 1000)));
}

#[tokio::test]
async fn old_entries_are_read_from_disk_when_memory_is_short() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions::default();
    let (mut store, _thread) = LogStore::open(dir.path(), options).unwrap();
    for index in 0..40 {
        append(&mut store, [entry(1, index, 1 << 20)]).await;
    }
    assert_eq!(store.try_get_log_entries(0..1).await.unwrap(), [entry(1, 0, 1 << 20)]);
    assert_eq!(store.limited_get_log_entries(0, 40).await.unwrap().len(), 1, "messages to followers stay small");
}

proptest! {
    #![proptest_config(fuzz::cases(48))]

    /// A log whose files were damaged is refused, or ends earlier: it has no entry that was not written, and takes new ones.
    #[test]
    fn a_damaged_log_is_refused_or_shorter(
        batches in vec(1..4u64, 1..30),
        damages in vec((any::<Index>(), Damage::any()), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = TempDir::new().unwrap();
        let mut written = Vec::new();
        runtime.block_on(async {
            let mut store = open(&dir).unwrap();
            store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
            for count in batches {
                let next = written.len() as u64;
                let entries: Vec<_> = (next..next + count).map(|index| entry(1, index, 700)).collect();
                written.extend(entries.iter().cloned());
                append(&mut store, entries).await;
            }
        });
        let files = segments(&dir, "wal");
        for (file, damage) in damages {
            let file = file.get(&files);
            let mut data = fs::read(file).unwrap();
            damage.strike(&mut data);
            fs::write(file, data).unwrap();
        }
        runtime.block_on(async {
            let Ok(mut store) = open(&dir) else { return };
            let found = store.try_get_log_entries(..).await.unwrap();
            assert!(written.starts_with(&found), "{} of {}", found.len(), written.len());
            let state = store.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, found.last().map(|entry| entry.log_id));
            append(&mut store, [entry(2, found.len() as u64, 10)]).await;
            drop(store);
            let mut store = open(&dir).unwrap();
            assert_eq!(indexes(&mut store).await.len(), found.len() + 1);
        });
    }
}
