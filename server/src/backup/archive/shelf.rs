//! The objects of one cluster's archive.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::BackupError;
use super::super::beside::{self, Known};
use super::super::place::Place;
use super::ArchiveError;
use super::point::{Complete, read_time, told_time};
use super::segment::{self, Name};
use crate::proto::archive::Segment;

/// Beside the backups of a folder.
const FOLDER: &str = "archive";
/// Among the segments.
const COMPLETE: &str = "complete.json";

/// Where they are.
pub struct Shelf {
    folder: Place,
    cluster_id: u64,
}

/// What `complete.json` says.
#[derive(Serialize, Deserialize)]
struct Stored {
    revision: i64,
    time: String,
}

impl Shelf {
    /// Of a cluster, beside the backups in this folder.
    pub fn of(backups: &Place, cluster_id: u64) -> Self {
        Self { folder: backups.within(FOLDER).within(&format!("{cluster_id:x}")), cluster_id }
    }

    /// Whose it is.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Which segments there are, in order.
    pub async fn names(&self) -> Result<Vec<Name>, BackupError> {
        let mut names: Vec<_> = self.folder.names().await?.iter().filter_map(|name| Name::read(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// How far the archive goes; nothing if there is none. To be read before the names: a segment is there before it is counted.
    pub async fn complete(&self) -> Result<Option<Complete>, BackupError> {
        let place = self.folder.within(COMPLETE);
        let Some(text) = place.read().await? else { return Ok(None) };
        let damaged = |why: String| ArchiveError::Damaged { path: place.to_string(), why };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let time_ms = read_time(&stored.time).ok_or_else(|| damaged("it has no time".into()))?;
        Ok(Some(Complete { revision: stored.revision, time_ms }))
    }

    /// Tells how far it goes.
    pub async fn set_complete(&self, complete: Complete) -> Result<(), BackupError> {
        let stored = Stored { revision: complete.revision, time: told_time(complete.time_ms) };
        let text = serde_json::to_vec(&stored).expect("a number and text are JSON");
        self.folder.within(COMPLETE).write(Bytes::from(text)).await
    }

    /// Reads a segment.
    pub async fn read(&self, name: Name) -> Result<Segment, BackupError> {
        let place = self.segment(name);
        let damaged = |why: String| ArchiveError::Damaged { path: place.to_string(), why };
        let object = place.read().await?.ok_or_else(|| damaged("it is gone".into()))?;
        Ok(segment::decode(name, self.cluster_id, &object).map_err(damaged)?)
    }

    /// Writes a segment.
    pub async fn write(&self, name: Name, object: Bytes) -> Result<(), BackupError> {
        self.segment(name).write(object).await
    }

    fn segment(&self, name: Name) -> Place {
        self.folder.within(&name.to_string())
    }
}

/// Deletes what no backup can be brought forward by any more, now that this one is gone: segments that end at or before the oldest
/// other one of its cluster, or before this one where there is no other.
pub async fn prune(gone: &Known) -> Result<(), BackupError> {
    let Ok(cluster_id) = u64::from_str_radix(&gone.created.cluster_id, 16) else { return Ok(()) };
    let backups = gone.place.folder();
    let others = beside::all(&backups).await?;
    let others = others.iter().filter(|known| known.created.cluster_id == gone.created.cluster_id);
    let others = others.filter(|known| known.place.key != gone.place.key);
    let oldest = others.map(|known| known.created.revision).min().unwrap_or(gone.created.revision);
    let shelf = Shelf::of(&backups, cluster_id);
    for name in shelf.names().await?.into_iter().filter(|name| name.last <= oldest) {
        shelf.segment(name).delete().await?;
    }
    Ok(())
}
