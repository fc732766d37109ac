//! Whether a backup can be restored, and then holds what the member had.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::BackupError;
use crate::mvcc::View;
use crate::snapshot::restore::{Restore, restore};
use crate::snapshot::source::Source;
use crate::snapshot::status::status;
use crate::storage::{Store, StoreOptions};

/// What the member told when the backup was taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Everything up to this revision is in it.
    pub revision: i64,
    /// The hash at that revision; not compared if there is none.
    pub hash: Option<u32>,
    /// The compacted revision that the hash depends on.
    pub compact_revision: i64,
}

/// What the backup turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// The newest revision.
    pub revision: i64,
    /// Keys that are there at that revision.
    pub keys: u64,
    /// The restored store's hash at the expected revision, or at the newest one.
    pub hash: u32,
    /// Whether that was compared. Not if the history was compacted between the hash and the snapshot.
    pub hash_compared: bool,
}

/// Checks the snapshot's pages and checksum, restores it into `scratch`, and compares the store that this gives.
pub fn verify(snapshot: &Path, scratch: &Path, expected: &Expected) -> Result<Verified, BackupError> {
    let told = status(&Source::open(snapshot, &Arc::default())?).map_err(|error| error.of(snapshot))?;
    let (name, url) = ("verified".to_owned(), "http://localhost:2380".to_owned());
    let settings = Restore {
        snapshot: snapshot.to_owned(),
        data_dir: scratch.join("restored"),
        wal_dir: None,
        initial_cluster: BTreeMap::from([(name.clone(), vec![url.clone()])]),
        name,
        peer_urls: vec![url],
        initial_cluster_token: "verification".into(),
        skip_hash_check: false,
        bump_revision: None,
    };
    restore(&settings, &Arc::default())?;
    let store = Store::open(&settings.data_dir.join("store"), StoreOptions::default())?;
    let revision = store.view().revision();
    if revision < expected.revision {
        let wanted = expected.revision;
        return Err(BackupError::Differs(format!("it ends at revision {revision}, before {wanted}")));
    }
    let sum = store.hash_kv(expected.revision).map_err(crate::snapshot::SnapshotError::from)?;
    // Before a first compaction, etcd says -1 and the store 0.
    let comparable = sum.compact_revision.max(0) == expected.compact_revision.max(0);
    let hash_compared = match expected.hash {
        Some(hash) if comparable && hash != sum.hash => {
            let (at, found) = (sum.hash_revision, sum.hash);
            return Err(BackupError::Differs(format!("its hash at revision {at} is {found}, the member's was {hash}")));
        }
        hash => hash.is_some() && comparable,
    };
    Ok(Verified { revision, keys: told.total_keys, hash: sum.hash, hash_compared })
}
