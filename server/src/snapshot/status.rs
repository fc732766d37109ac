//! What a file tells of itself: `snapshot status` and `hashkv`.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::source::Source;
use super::{SnapshotError, content, schema};
use crate::error::EtcdError;
use crate::mvcc::hash::KeyValueHash;
use crate::mvcc::{KeyValue, ReadError, RevKey};

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
    let mut keys = HashSet::new();
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
            let told = key_of(value)?;
            match place.tombstone {
                true => keys.remove(&told),
                false => keys.insert(told),
            };
            Ok(())
        })?;
    }
    status.total_keys = keys.len() as u64;
    Ok(status)
}

/// HashKV of a file at a revision (0: the newest): what a member restored from it would answer.
pub fn hash_kv(source: &Source, revision: i64) -> Result<KeyValueHash, SnapshotError> {
    let compact_revision = source.compacted()?.scheduled;
    let mut current = compact_revision.max(1);
    let mut newest: HashMap<Vec<u8>, RevKey> = HashMap::new();
    source.history(|place, value| {
        current = current.max(place.revision.main);
        if revision <= 0 || place.revision.main <= revision {
            newest.insert(key_of(value)?, place);
        }
        Ok(())
    })?;
    let refused = |error: EtcdError| Err(ReadError::Refused(error).into());
    let hash_revision = match revision {
        ..=0 => current,
        _ if revision < compact_revision => return refused(EtcdError::Compacted),
        _ if revision > current => return refused(EtcdError::FutureRev),
        _ => revision,
    };
    let keep: HashSet<RevKey> = newest.into_values().filter(|place| !place.tombstone).collect();
    let mut hash = crc32c::crc32c(schema::KEY.as_bytes());
    source.history(|place, value| {
        let main = place.revision.main;
        // As etcd: when nothing is to be kept, nothing is left out but a deletion exactly at the compacted revision.
        let counts = match keep.is_empty() {
            true => !(main == compact_revision && place.tombstone),
            false => keep.contains(&place),
        };
        if main <= hash_revision && (main > compact_revision || counts) {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &place.encode()), value);
        }
        Ok(())
    })?;
    Ok(KeyValueHash { hash, compact_revision, hash_revision })
}

fn key_of(value: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let told = KeyValue::decode(value).map_err(|error| content(format!("cannot unmarshal value: {error}")))?;
    Ok(told.key.into())
}
