//! What a file tells of itself: `snapshot status` and `hashkv`.

use std::env::temp_dir;

use super::chains::Chains;
use super::source::Source;
use super::{SnapshotError, content, schema};
use crate::error::EtcdError;
use crate::mvcc::hash::KeyValueHash;
use crate::mvcc::{ReadError, RevKey};

/// What `snapshot status` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// CRC32C of the names, keys and values of all buckets.
    pub hash: u32,
    /// The newest revision in the history.
    pub revision: i64,
    /// Keys that are there at that revision.
    pub total_keys: u64,
    /// Bytes of the pages in use.
    pub total_bytes: u64,
    /// The version of the schema; empty before etcd 3.6.
    pub version: String,
}

/// Checks a file and looks at all of it.
pub fn status(source: &Source) -> Result<Status, SnapshotError> {
    source
        .reader()
        .check()
        .map_err(|error| content(format!("snapshot file integrity check failed. 1 errors found.\n{error}")))?;
    let mut status = Status {
        hash: 0,
        revision: 0,
        total_keys: 0,
        total_bytes: source.reader().size(),
        version: source.storage_version()?,
    };
    let mut chains = Chains::new(status.total_bytes, &temp_dir());
    for bucket in source.reader().buckets()? {
        status.hash = crc32c::crc32c_append(status.hash, &bucket.name);
        let name = String::from_utf8_lossy(&bucket.name).into_owned();
        source.for_each(&name, |key, value| {
            status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, key), value);
            if name != schema::KEY {
                return Ok(());
            }
            let place = schema::rev_key(key).ok_or_else(|| content(format!("cannot parse revision key: {key:?}")))?;
            status.revision = place.revision.main;
            chains.add(place, value)
        })?;
    }
    status.total_keys = chains.link()?.alive();
    Ok(status)
}

/// HashKV of a file at a revision (0: the newest): what a member restored from it would answer.
pub fn hash_kv(source: &Source, revision: i64) -> Result<KeyValueHash, SnapshotError> {
    let compact_revision = source.compacted()?.scheduled;
    let mut current = compact_revision.max(1);
    let mut chains = Chains::new(source.reader().size(), &temp_dir());
    let counts = |place: RevKey| revision <= 0 || place.revision.main <= revision;
    source.history(|place, value| {
        current = current.max(place.revision.main);
        if counts(place) { chains.add(place, value) } else { Ok(()) }
    })?;
    let refused = |error: EtcdError| Err(ReadError::Refused(error).into());
    let hash_revision = match revision {
        ..=0 => current,
        _ if revision < compact_revision => return refused(EtcdError::Compacted),
        _ if revision > current => return refused(EtcdError::FutureRev),
        _ => revision,
    };
    let mut links = chains.link()?;
    let keep_all = links.alive() == 0;
    let mut hash = crc32c::crc32c(schema::KEY.as_bytes());
    source.history(|place, value| {
        if !counts(place) {
            return Ok(());
        }
        let main = place.revision.main;
        let link = links.next(place, value)?;
        // As etcd: when nothing is to be kept, nothing is left out but a deletion exactly at the compacted revision.
        let kept = match keep_all {
            true => !(main == compact_revision && place.tombstone),
            false => link.newest && !place.tombstone,
        };
        if main > compact_revision || kept {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &place.encode()), value);
        }
        Ok(())
    })?;
    Ok(KeyValueHash { hash, compact_revision, hash_revision })
}
