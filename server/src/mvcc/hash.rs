//! HashKV: a sum over the history that members compare.

use std::ops::ControlFlow;

use prost::Message;

use super::range::{check_revision, version_at};
use super::{KeyValue, ReadError, RevKey, RevRecord, View, ViewError};

/// The answer to HashKV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValueHash {
    /// CRC32C of the bytes "key" and of each summed revision's key and value.
    pub hash: u32,
    /// Up to here only what was still current at the summed revision is part of the sum.
    pub compact_revision: i64,
    /// The last summed revision.
    pub hash_revision: i64,
}

/// Sums the history up to `revision` (0: the newest), as etcd does, whether or not superseded versions are removed yet.
/// Before a negative revision there is nothing.
pub fn hash_kv<V: View>(view: &V, revision: i64) -> Result<KeyValueHash, ReadError> {
    let hash_revision = if revision == 0 { view.revision() } else { revision };
    if hash_revision > 0 {
        check_revision(view, hash_revision)?;
    }
    let compact_revision = view.compact_revision();
    let mut kept_any = false;
    let mut hash = crc32c::crc32c(b"key");
    // etcd leaves nothing out when nothing is to be kept: what compaction kept and was deleted since.
    let mut hash_all = hash;
    view.history(0, &mut |place, record| {
        if place.revision.main > hash_revision {
            return Ok(ControlFlow::Break(()));
        }
        let bytes = place.encode();
        let add = |sum| crc32c::crc32c_append(crc32c::crc32c_append(sum, &bytes), &record.kv);
        let compacted = place.revision.main <= compact_revision;
        // Looking is dear, and behind the compacted revision nothing more is to be learned once something was kept.
        let looks = !place.tombstone && (compacted || !kept_any);
        let kept = looks && is_newest(view, place, &record, hash_revision)?;
        kept_any |= kept;
        if !compacted || kept {
            hash = add(hash);
        }
        if !kept_any && (!compacted || survives(view, place, &record)?) {
            hash_all = add(hash_all);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let hash = if kept_any { hash } else { hash_all };
    Ok(KeyValueHash { hash, compact_revision, hash_revision })
}

/// Whether this version is the key's newest at a revision.
fn is_newest<V: View>(view: &V, place: RevKey, record: &RevRecord, at: i64) -> Result<bool, ViewError> {
    let key = KeyValue::decode(record.kv.clone()).map_err(|error| ViewError(error.to_string()))?.key;
    let Some(newest) = view.key(&key)? else {
        return Ok(false);
    };
    Ok(version_at(view, newest.stamp.rev_key(), at)? == Some(place))
}

/// Whether a version at or below the compacted revision was there when that was compacted. A deletion exactly there is
/// kept too, but etcd leaves it out of the sum, as earlier versions removed it.
fn survives<V: View>(view: &V, place: RevKey, record: &RevRecord) -> Result<bool, ViewError> {
    let compact_revision = view.compact_revision();
    Ok(!place.tombstone && is_newest(view, place, record, compact_revision)?)
}
