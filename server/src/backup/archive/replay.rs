//! A store that was restored from a backup is brought forward: each archived revision is made again, and must give what it gave.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::super::BackupError;
use super::super::beside::{self, Known, Named};
use super::ArchiveError;
use super::point::{self, Complete, Until};
use super::segment::Name;
use super::shelf::Shelf;
use crate::mvcc::View;
use crate::proto::archive::Segment;
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::raft::state_machine::FLUSH_BYTES;
use crate::state::{self, ReplayError};
use crate::storage::{Store, StoreOptions};

/// Bytes of changes that are made at once, about.
const BATCH_BYTES: usize = 1 << 20;

/// A way from a backup to a point behind it.
pub struct Way {
    /// Where it begins.
    pub backup: Known,
    shelf: Shelf,
    names: Vec<Name>,
    complete: Complete,
    until: Until,
}

impl Way {
    /// Finds the way to the point: from the backup that is named, or in a folder from the newest one at or before the point.
    pub async fn find(named: &Named, until: Until) -> Result<Self, BackupError> {
        let (backup, folder) = match named {
            Named::File(place) => {
                let known = beside::read(place).await?;
                (known.ok_or_else(|| ArchiveError::Unknown(place.to_string()))?, place.folder())
            }
            Named::Folder(folder) => (beside::newest(beside::all(folder).await?, Some(until))?, folder.clone()),
        };
        let none = || ArchiveError::Nothing(backup.created.cluster_id.clone());
        let cluster_id = u64::from_str_radix(&backup.created.cluster_id, 16).map_err(|_| none())?;
        let shelf = Shelf::of(&folder, cluster_id);
        let complete = shelf.complete().await?.ok_or_else(none)?;
        let names = shelf.names().await?;
        let at = Complete { revision: backup.created.revision, time_ms: backup.time_ms };
        point::check(at, &names, complete, until)?;
        Ok(Self { backup, shelf, names, complete, until })
    }

    /// Brings the store in this directory forward, and then adds `bump` to its revision and marks it as compacted. Answers the
    /// revision.
    pub async fn follow(&self, store_dir: &Path, bump: Option<i64>) -> Result<i64, BackupError> {
        let store = Store::open(store_dir, StoreOptions::default())?;
        let mut reached = store.view().revision();
        if matches!(self.until, Until::Revision(revision) if reached > revision) {
            let time_ms = self.backup.time_ms;
            return Err(ArchiveError::Later { revision: reached, time_ms, until: self.until }.into());
        }
        while let Some(name) = point::next(&self.names, self.complete, reached, self.until)? {
            let segment = self.shelf.read(name).await?;
            let ended = make_again(&store, &segment, self.until)?;
            reached = store.view().revision();
            if ended {
                break;
            }
        }
        tracing::info!(revision = reached, "brought forward");
        if let Some(bump) = bump {
            advance(&store, bump)?;
        }
        store.flush()?;
        Ok(store.view().revision())
    }
}

/// Makes the changes of a segment that the store does not have, up to the point. Answers whether that is in it.
fn make_again(store: &Arc<Store>, segment: &Segment, until: Until) -> Result<bool, BackupError> {
    let ttls: BTreeMap<i64, i64> = segment.leases.iter().map(|lease| (lease.id, lease.ttl_seconds)).collect();
    let reached = store.view().revision();
    let (mut batch, mut bytes, mut ended) = (store.begin(), 0, false);
    for change in segment.changes.iter().filter(|change| change.revision > reached) {
        ended = !until.includes(change)?;
        if ended {
            break;
        }
        let applied = state::replay(batch.view(), &ttls, &change.events).map_err(|error| match error {
            ReplayError::View(error) => BackupError::Storage(error.into()),
            ReplayError::Differs(why) => ArchiveError::Differs { revision: change.revision, why }.into(),
        })?;
        batch.stage(applied.effects);
        bytes += change.encoded_len();
        if bytes >= BATCH_BYTES {
            batch.commit()?;
            (batch, bytes) = (store.begin(), 0);
        }
    }
    batch.commit()?;
    if store.unflushed_bytes() >= FLUSH_BYTES {
        store.flush()?;
    }
    Ok(ended)
}

fn advance(store: &Arc<Store>, by: i64) -> Result<(), BackupError> {
    let mut batch = store.begin();
    let command = Command { op: Some(Op::Advance(by)), caller: None };
    let applied = state::apply(batch.view(), &command).map_err(|error| BackupError::Storage(error.into()))?;
    batch.stage(applied.effects);
    Ok(batch.commit()?)
}
