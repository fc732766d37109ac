//! A backup, or what a running member has, becomes the data directory of the first member of a new cluster; a backup is brought forward
//! to a point of the archive before. It may be interrupted anywhere and begun again, and once it is done it does nothing more: it
//! runs before each start of the member.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::archive::point::Until;
use super::archive::replay::Way;
use super::beside::Named;
use super::command::block_on;
use super::fetch::{copy, fetch};
use super::source::{Member, Source};
use super::{BackupError, beside, io_error};
use crate::node;
use crate::snapshot::restore::{Outcome, Restore, restore};

/// Where the data are.
pub enum Origin {
    /// In a store; brought forward to a point behind the backup, if there is one.
    Stored(Named, Option<Until>),
    /// With a member that runs.
    Member(Member),
}

/// What is on its way to become a member is below this folder of the data directory. As long as it is there, nothing else in it
/// was ever a member.
const UNDER_WAY: &str = "recovery";

/// Recovers into `settings.data_dir`, which may hold things that are not a member's; `settings.snapshot` does not count.
/// Nothing if the directory holds a member already.
pub fn recover(origin: &Origin, settings: &Restore) -> Result<Option<Outcome>, BackupError> {
    let data_dir = &settings.data_dir;
    fs::create_dir_all(data_dir).map_err(io_error(data_dir))?;
    let under_way = data_dir.join(UNDER_WAY);
    if node::holds_member(data_dir, under_way.exists())? {
        return remove(&under_way).map(|()| None);
    }
    remove(&under_way)?;
    fs::create_dir(&under_way).map_err(io_error(&under_way))?;
    let snapshot = under_way.join("snapshot.db");
    let made = under_way.join("member");
    let settings = Restore { snapshot: snapshot.clone(), data_dir: made.clone(), wal_dir: None, ..settings.clone() };
    let outcome = block_on(async {
        let Some(way) = bring(origin, &snapshot).await? else { return Ok(restore(&settings, &Arc::default())?) };
        // The revision is bumped behind the last change.
        let bump = settings.bump_revision;
        let mut outcome = restore(&Restore { bump_revision: None, ..settings }, &Arc::default())?;
        outcome.revision = way.follow(&made.join("store"), bump).await?;
        Ok(outcome)
    })?;
    fs::remove_file(&snapshot).map_err(io_error(&snapshot))?;
    node::move_member(&made, data_dir)?;
    remove(&under_way)?;
    Ok(Some(outcome))
}

/// Brings the snapshot here; answers the way from there to the point, if there is one.
async fn bring(origin: &Origin, snapshot: &Path) -> Result<Option<Way>, BackupError> {
    match origin {
        Origin::Member(member) => copy(&Source::connect(member).await?, snapshot).await?,
        Origin::Stored(named, Some(until)) => {
            let way = Way::find(named, *until).await?;
            fetch(&way.backup.place, snapshot).await?;
            return Ok(Some(way));
        }
        Origin::Stored(Named::File(place), None) => fetch(place, snapshot).await?,
        Origin::Stored(Named::Folder(folder), None) => {
            let newest = beside::newest(beside::all(folder).await?, None)?;
            fetch(&newest.place, snapshot).await?;
        }
    }
    Ok(None)
}

fn remove(folder: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(folder)(error)),
        _ => Ok(()),
    }
}
