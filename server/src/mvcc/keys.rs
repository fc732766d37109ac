//! How revisions, keys and leases are laid out as bytes: everything about the format on disk is in
//! this file, and for `auth` in `mvcc::auth`.
//!
//! | Column family | Key | Value |
//! |---|---|---|
//! | `rev` | BE64 main, `_`, BE64 sub, `t` for a tombstone | previous revision of the key, then the `mvccpb.KeyValue` as etcd stores it |
//! | `key` | user key | [`Stamp`] of the newest revision, then the value if it is short |
//! | `lease` | BE64 id | BE64 granted TTL in seconds, then BE64 remaining TTL if there was a checkpoint |
//! | `lease` | BE64 id, user key | nothing: the key is attached to the lease |
//! | `auth` | `enabled` | one byte, 1 if authentication is enabled |
//! | `auth` | `revision` | BE64 auth revision; 1 if it is missing |
//! | `auth` | `u/`, name of a user | `authpb.User` |
//! | `auth` | `r/`, name of a role | `authpb.Role` |
//!
//! The keys of `rev` are byte for byte etcd's, so that HashKV gives etcd's sums.

use bytes::{BufMut, Bytes};

use super::view::{KeyRecord, LeaseRecord, RevRecord, Stamp, ViewError};

/// A value up to this many bytes is also stored beside its key, where a range reads it without a second look-up.
pub const INLINE_VALUE_BYTES: usize = 512;

/// A revision: the transaction's number, and the position of one change within the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    /// Number of the transaction; the store starts at 1, so the first change has 2.
    pub main: i64,
    /// Position of the change in its transaction, from 0.
    pub sub: i64,
}

/// Where one version of a key is stored in `rev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevKey {
    /// When it was written.
    pub revision: Revision,
    /// Whether it is a deletion.
    pub tombstone: bool,
}

impl RevKey {
    /// The key in `rev`.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(18);
        out.put_i64(self.revision.main);
        out.put_u8(b'_');
        out.put_i64(self.revision.sub);
        if self.tombstone {
            out.put_u8(b't');
        }
        out
    }

    /// The other direction.
    pub fn decode(key: &[u8]) -> Result<Self, ViewError> {
        let tombstone = match key.len() {
            17 => false,
            18 if key[17] == b't' => true,
            _ => return Err(damaged("revision key")),
        };
        let revision = Revision { main: int(key, 0)?, sub: int(key, 9)? };
        Ok(Self { revision, tombstone })
    }

    /// Where the changes of transaction `main` and later begin in `rev`.
    pub fn first(main: i64) -> [u8; 8] {
        main.to_be_bytes()
    }
}

/// A record of `rev` as bytes.
pub fn encode_rev_record(record: &RevRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(17 + record.kv.len());
    append_rev_record(&mut out, record.previous, &record.kv);
    out
}

/// A record of `rev` behind what is in `out`.
pub fn append_rev_record(out: &mut Vec<u8>, previous: Option<RevKey>, kv: &[u8]) {
    match previous {
        None => out.put_u8(0),
        Some(previous) => {
            out.put_u8(if previous.tombstone { 2 } else { 1 });
            out.put_i64(previous.revision.main);
            out.put_i64(previous.revision.sub);
        }
    }
    out.extend_from_slice(kv);
}

/// The other direction; shares the memory of `bytes`.
pub fn decode_rev_record(bytes: Bytes) -> Result<RevRecord, ViewError> {
    let (previous, skip) = match bytes.first() {
        Some(0) => (None, 1),
        Some(mark @ (1 | 2)) => {
            let revision = Revision { main: int(&bytes, 1)?, sub: int(&bytes, 9)? };
            (Some(RevKey { revision, tombstone: *mark == 2 }), 17)
        }
        _ => return Err(damaged("revision record")),
    };
    Ok(RevRecord { previous, kv: bytes.slice(skip..) })
}

const TOMBSTONE: u8 = 1;
const INLINE: u8 = 2;
const STAMP_BYTES: usize = 41;

/// A record of `key` as bytes.
pub fn encode_key_record(record: &KeyRecord) -> Vec<u8> {
    let stamp = &record.stamp;
    let value = record.value.as_deref();
    let mut out = Vec::with_capacity(STAMP_BYTES + value.map_or(0, <[u8]>::len));
    let inline = if value.is_some() { INLINE } else { 0 };
    out.put_u8(inline | if stamp.tombstone { TOMBSTONE } else { 0 });
    out.put_i64(stamp.modified.main);
    out.put_i64(stamp.modified.sub);
    out.put_i64(stamp.create_revision);
    out.put_i64(stamp.version);
    out.put_i64(stamp.lease);
    out.extend_from_slice(value.unwrap_or_default());
    out
}

/// The other direction: the stamp, and the value if it is stored beside the key.
pub fn decode_key_record(bytes: &[u8]) -> Result<(Stamp, Option<&[u8]>), ViewError> {
    let flags = *bytes.first().ok_or_else(|| damaged("key record"))?;
    let stamp = Stamp {
        tombstone: flags & TOMBSTONE != 0,
        modified: Revision { main: int(bytes, 1)?, sub: int(bytes, 9)? },
        create_revision: int(bytes, 17)?,
        version: int(bytes, 25)?,
        lease: int(bytes, 33)?,
    };
    let value = (flags & INLINE != 0).then(|| &bytes[STAMP_BYTES..]);
    Ok((stamp, value))
}

/// Key of a lease in `lease`.
pub fn lease_key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

/// Value of a lease in `lease`.
pub fn encode_lease(lease: &LeaseRecord) -> Vec<u8> {
    let mut out = lease.ttl_seconds.to_be_bytes().to_vec();
    if lease.remaining_seconds != 0 {
        out.put_i64(lease.remaining_seconds);
    }
    out
}

/// The lease of an id from its value.
pub fn decode_lease(id: i64, bytes: &[u8]) -> Result<LeaseRecord, ViewError> {
    let remaining_seconds = if bytes.len() > 8 { int(bytes, 8)? } else { 0 };
    Ok(LeaseRecord { id, ttl_seconds: int(bytes, 0)?, remaining_seconds })
}

/// Key of an attachment in `lease`.
pub fn attachment_key(id: i64, key: &[u8]) -> Vec<u8> {
    [&lease_key(id), key].concat()
}

/// A big-endian number at a place in a record.
pub fn int(bytes: &[u8], at: usize) -> Result<i64, ViewError> {
    let slice = bytes.get(at..at + 8).ok_or_else(|| damaged("number"))?;
    Ok(i64::from_be_bytes(slice.try_into().expect("eight bytes")))
}

fn damaged(what: &str) -> ViewError {
    ViewError(format!("stored {what} is damaged"))
}
