//! The newest versions of keys that were written lately, in memory: whoever writes a key again, or reads it, need not ask
//! RocksDB for it.

use bytes::{BufMut, Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::mvcc::KeyRecord;

/// What an entry costs beside the key and the value.
const ENTRY_BYTES: usize = 160;
/// What an entry costs in all, as a first guess.
const USUAL_BYTES: usize = 512;

/// Versions by keys. It is told of a change before anybody can see it, so what it has is never older than what a view sees;
/// it may be newer.
pub struct Recent(Cache<Bytes, KeyRecord, Weight>);

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, KeyRecord> for Weight {
    fn weight(&self, key: &Bytes, record: &KeyRecord) -> u64 {
        (ENTRY_BYTES + key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64
    }
}

impl Recent {
    /// Takes up to so many bytes, as it fills.
    pub fn new(bytes: usize) -> Self {
        Self(Cache::with_weighter(bytes / USUAL_BYTES, bytes as u64, Weight))
    }

    /// The version of a key that a view at this revision sees, if it is the newest one and known.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<KeyRecord> {
        self.0.get(key).filter(|record| record.stamp.modified.main <= revision)
    }

    /// A new version is about to be visible.
    pub fn put(&self, key: &[u8], record: &KeyRecord) {
        // Copied: both may be small parts of a message with much else in it.
        let value = record.value.as_deref();
        let mut bytes = BytesMut::with_capacity(key.len() + value.map_or(0, <[u8]>::len));
        bytes.put_slice(key);
        bytes.put_slice(value.unwrap_or_default());
        let mut rest = bytes.freeze();
        let key = rest.split_to(key.len());
        self.0.insert(key, KeyRecord { stamp: record.stamp, value: value.map(|_| rest) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Revision, Stamp};

    #[test]
    fn a_view_is_not_shown_what_came_after_it() {
        let recent = Recent::new(1 << 20);
        let version = |main: i64, value: &'static str| {
            let modified = Revision { main, sub: 0 };
            let stamp = Stamp { modified, create_revision: 2, version: 1, lease: 0, tombstone: false };
            KeyRecord { stamp, value: Some(Bytes::from_static(value.as_bytes())) }
        };
        assert_eq!(recent.get(b"key", 9), None);
        recent.put(b"key", &version(3, "three"));
        assert_eq!(recent.get(b"key", 3), Some(version(3, "three")));
        recent.put(b"key", &version(5, "five"));
        assert_eq!(recent.get(b"key", 4), None, "what it was at 4 is not known any more");
        assert_eq!(recent.get(b"key", 5), Some(version(5, "five")));
    }
}
