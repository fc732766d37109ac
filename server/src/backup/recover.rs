//! A backup, or what a running member has, becomes the data directory of the first member of a new cluster. It may be interrupted anywhere and begun again, and
//! once it is done it does nothing more: it runs before each start of the member.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::command::block_on;
use super::fetch::{copy, fetch};
use super::place::Place;
use super::source::{Member, Source};
use super::{BackupError, io_error};
use crate::node;
use crate::snapshot::restore::{Outcome, Restore, restore};

/// Where the data are.
pub enum Origin {
    /// In a store.
    Stored(Place),
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
    block_on(async {
        match origin {
            Origin::Stored(place) => fetch(place, &snapshot).await,
            Origin::Member(member) => copy(&Source::connect(member).await?, &snapshot).await,
        }
    })?;
    let made = under_way.join("member");
    let settings = Restore { snapshot: snapshot.clone(), data_dir: made.clone(), wal_dir: None, ..settings.clone() };
    let outcome = restore(&settings, &Arc::default())?;
    fs::remove_file(&snapshot).map_err(io_error(&snapshot))?;
    node::move_member(&made, data_dir)?;
    remove(&under_way)?;
    Ok(Some(outcome))
}

fn remove(folder: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(folder)(error)),
        _ => Ok(()),
    }
}
