//! What is known of a backup is kept beside it, as JSON: so the right one of a folder is found without fetching any.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::BackupError;
use super::archive::ArchiveError;
use super::archive::point::{Until, read_time};
use super::create::Created;
use super::place::Place;

/// Behind the name of a backup.
const SUFFIX: &str = ".json";
/// Files that are read at the same time.
const AT_ONCE: usize = 16;

/// A backup, or the folder of several.
pub enum Named {
    /// This one.
    File(Place),
    /// One of these.
    Folder(Place),
}

/// A backup of a folder.
#[derive(Clone)]
pub struct Known {
    /// Where it is.
    pub place: Place,
    /// What is known of it.
    pub created: Created,
    /// When it was taken (Unix time, in milliseconds).
    pub time_ms: i64,
}

/// Keeps what is known of the backup that is there.
pub async fn write(backup: &Place, created: &Created) -> Result<(), BackupError> {
    let text = serde_json::to_vec(created).expect("numbers and text are JSON");
    backup.with(SUFFIX)?.write(Bytes::from(text)).await
}

/// What is known of the backup that is there.
pub async fn read(backup: &Place) -> Result<Option<Known>, BackupError> {
    let Some(text) = backup.with(SUFFIX)?.read().await? else { return Ok(None) };
    // Of somebody else, it tells nothing.
    let created = serde_json::from_slice::<Created>(&text).ok();
    let known = created.and_then(|created| Some((read_time(&created.time)?, created)));
    Ok(known.map(|(time_ms, created)| Known { place: backup.clone(), created, time_ms }))
}

/// Deletes it.
pub async fn delete(backup: &Place) -> Result<(), BackupError> {
    backup.with(SUFFIX)?.delete().await
}

/// All backups of a folder of which something is known.
pub async fn all(folder: &Place) -> Result<Vec<Known>, BackupError> {
    let names = folder.names().await?;
    let backups = names.iter().filter_map(|name| name.strip_suffix(SUFFIX)).map(|name| folder.within(name));
    let read = stream::iter(backups.collect::<Vec<_>>()).map(|backup| async move { read(&backup).await });
    read.buffered(AT_ONCE).try_filter_map(|known| std::future::ready(Ok(known))).try_collect().await
}

/// The newest one that holds nothing behind the point.
pub fn newest(backups: Vec<Known>, until: Option<Until>) -> Result<Known, ArchiveError> {
    let before = backups.into_iter().filter(|known| match until {
        Some(Until::Revision(revision)) => known.created.newest_revision <= revision,
        Some(Until::Time(time_ms)) => known.time_ms <= time_ms,
        Some(Until::Latest) | None => true,
    });
    before.max_by_key(|known| (known.time_ms, known.created.revision)).ok_or(ArchiveError::NoBackup(until))
}

#[cfg(test)]
mod tests {
    use super::super::archive::point::told_time;
    use super::*;

    fn known(revision: i64, newest_revision: i64, time_ms: i64) -> Known {
        let variables = std::iter::empty();
        let place = Place::open(&format!("file:///backups/{revision}"), variables).expect("a place");
        let created = Created {
            cluster_id: "7".into(),
            revision,
            newest_revision,
            time: told_time(time_ms),
            hash: 0,
            compact_revision: -1,
            snapshot_bytes: 0,
            stored_bytes: 0,
            sha256: String::new(),
            milliseconds: 0,
        };
        Known { place, created, time_ms }
    }

    #[test]
    fn the_newest_backup_that_is_not_behind_the_point_is_taken() {
        let backups = vec![known(30, 33, 3000), known(10, 10, 1000), known(20, 20, 2000)];
        for (until, revision) in [
            (None, Some(30)),
            (Some(Until::Latest), Some(30)),
            (Some(Until::Revision(33)), Some(30)),
            // It may hold what came later.
            (Some(Until::Revision(32)), Some(20)),
            (Some(Until::Revision(20)), Some(20)),
            (Some(Until::Revision(9)), None),
            (Some(Until::Time(2999)), Some(20)),
            (Some(Until::Time(3000)), Some(30)),
            (Some(Until::Time(999)), None),
        ] {
            let found = newest(backups.clone(), until).map(|known| known.created.revision);
            assert_eq!(found.ok(), revision, "{until:?}");
        }
    }

    #[tokio::test]
    async fn what_is_known_is_kept_beside_the_backup() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = format!("file://{}/ns/demo", folder.path().display());
        let demo = Place::open(&location, std::iter::empty()).expect("a place");
        let first = demo.within("first.db.zst");
        assert!(all(&demo).await.expect("an empty folder").is_empty());
        write(&first, &known(5, 6, 7000).created).await.expect("written");
        demo.within("other.json").write(Bytes::from_static(b"{}")).await.expect("written");
        let found = all(&demo).await.expect("read");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].place.key.as_ref(), found[0].time_ms), (first.key.as_ref(), 7000));
        delete(&first).await.expect("deleted");
        assert!(read(&first).await.expect("read").is_none());
    }
}
