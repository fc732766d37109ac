//! Read access to the store at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{AlarmMember, Auth, KeyValue, MemberAttributes, RevKey, Revision};
use crate::error::EtcdError;

/// The store could not be read: the disk failed or holds what nobody wrote. Whoever applies commands must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading the store failed: {0}")]
pub struct ViewError(pub String);

/// What a person does with a member whose files are damaged or gone.
pub const WAY_OUT: &str = "Remove this member from the cluster, delete its data directory, and add it again; \
                           if it is the only member, restore a snapshot";

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The request cannot be served; this is what the client is told.
    #[error(transparent)]
    Refused(#[from] EtcdError),
    /// The store could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What is known of a key's newest version, besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Revision of the newest change.
    pub modified: Revision,
    /// Transaction that created the key; 0 in a tombstone.
    pub create_revision: i64,
    /// Number of puts since creation; 0 in a tombstone.
    pub version: i64,
    /// Lease the key is attached to; 0 is none.
    pub lease: i64,
    /// The newest change was a deletion.
    pub tombstone: bool,
}

impl Stamp {
    /// Where this version is stored in the history.
    pub fn rev_key(&self) -> RevKey {
        RevKey { revision: self.modified, tombstone: self.tombstone }
    }
}

/// The newest version of a key, deletions included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// All but the value.
    pub stamp: Stamp,
    /// The value if it is stored beside the key; long values are read from the history.
    pub value: Option<Bytes>,
}

/// One version of a key in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevRecord {
    /// The version before it, if there was one (a tombstone counts).
    pub previous: Option<RevKey>,
    /// The encoded `mvccpb.KeyValue`; a tombstone's has only the key.
    pub kv: Bytes,
}

impl RevRecord {
    /// By how much the change, which is stored at `place`, altered the number of keys.
    pub fn change(&self, place: RevKey) -> i64 {
        let existed = self.previous.is_some_and(|previous| !previous.tombstone);
        i64::from(!place.tombstone) - i64::from(existed)
    }

    /// The decoded KeyValue; shares memory.
    pub fn key_value(&self) -> Result<KeyValue, ViewError> {
        KeyValue::decode(self.kv.clone()).map_err(|error| ViewError(format!("stored KeyValue: {error}")))
    }
}

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Chosen by the client or the proposer; never 0.
    pub id: i64,
    /// Granted time to live, in seconds.
    pub ttl_seconds: i64,
    /// What was left of it at the last checkpoint, in seconds; 0 is all of it.
    pub remaining_seconds: i64,
}

/// Which keys a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    One(Bytes),
    /// From the first up to, not including, the second.
    Span(Bytes, Bytes),
    /// The key and all behind it.
    From(Bytes),
}

impl KeyRange {
    /// Reads `key` and `range_end` as requests give them: no end is one key, an end of one zero byte is no bound.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Span(key, range_end),
        }
    }

    /// The first key that can be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::Span(key, _) | Self::From(key) => key,
        }
    }

    /// What of the range comes after one of its keys.
    pub fn behind(&self, key: &[u8]) -> Self {
        let next = Bytes::from([key, &[0]].concat());
        match self {
            Self::One(_) => Self::Span(next.clone(), next),
            Self::Span(_, end) => Self::Span(next, end.clone()),
            Self::From(_) => Self::From(next),
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span(start, end) if end <= start)
    }

    /// Whether the key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::Span(start, end) => key >= start && key < end,
            Self::From(start) => key >= start,
        }
    }
}

/// Called for each key: its name, its stamp, and its value where that is stored beside the key.
pub type Visit<'a> = dyn FnMut(&[u8], Stamp, Option<&[u8]>) -> Result<ControlFlow<()>, ViewError> + 'a;

/// Called for each version in the history.
pub type VisitHistory<'a> = dyn FnMut(RevKey, RevRecord) -> Result<ControlFlow<()>, ViewError> + 'a;

/// The store at one moment. Reads of one view agree with each other whatever is written meanwhile.
pub trait View {
    /// The newest transaction; 1 in a new store.
    fn revision(&self) -> i64;

    /// Revisions below this one cannot be read; -1 if nothing was ever compacted.
    fn compact_revision(&self) -> i64;

    /// The newest version of a key, deletions included.
    fn key(&self, key: &[u8]) -> Result<Option<KeyRecord>, ViewError>;

    /// The newest version of each of these keys, which are in order.
    fn keys(&self, keys: &[Bytes]) -> Result<Vec<Option<KeyRecord>>, ViewError> {
        keys.iter().map(|key| self.key(key)).collect()
    }

    /// The newest versions of the keys in the range in key order, deletions included, until `visit` breaks.
    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError>;

    /// How many keys of the range exist, where that is known without a look at each.
    fn count(&self, _range: &KeyRange) -> Result<Option<i64>, ViewError> {
        Ok(None)
    }

    /// One version of a key.
    fn record(&self, key: RevKey) -> Result<Option<RevRecord>, ViewError>;

    /// All changes since the transaction `first`, in the order in which they were made, until `visit` breaks.
    fn history(&self, first: i64, visit: &mut VisitHistory<'_>) -> Result<(), ViewError>;

    /// A lease.
    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, ViewError>;

    /// All leases, by id.
    fn leases(&self) -> Result<Vec<LeaseRecord>, ViewError>;

    /// The keys attached to a lease, in key order.
    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError>;

    /// Raised alarms, by alarm type and member.
    fn alarms(&self) -> Result<Vec<AlarmMember>, ViewError>;

    /// The version that the cluster shall be able to go back to, if any.
    fn downgrade_target(&self) -> Result<Option<String>, ViewError>;

    /// Users and roles.
    fn auth(&self) -> &Arc<Auth>;

    /// What members told of themselves, by member id.
    fn members(&self) -> Result<Vec<MemberAttributes>, ViewError>;
}

/// Where views of the newest committed state come from.
pub trait Source: Send + Sync + 'static {
    /// A view.
    type View: View;

    /// The newest committed state.
    fn view(&self) -> Self::View;
}

/// A new store: what everything in memory begins on.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl View for Nothing {
    fn revision(&self) -> i64 {
        1
    }
    fn compact_revision(&self) -> i64 {
        -1
    }
    fn key(&self, _: &[u8]) -> Result<Option<KeyRecord>, ViewError> {
        Ok(None)
    }
    fn scan(&self, _: &KeyRange, _: &mut Visit<'_>) -> Result<(), ViewError> {
        Ok(())
    }
    fn record(&self, _: RevKey) -> Result<Option<RevRecord>, ViewError> {
        Ok(None)
    }
    fn history(&self, _: i64, _: &mut VisitHistory<'_>) -> Result<(), ViewError> {
        Ok(())
    }
    fn lease(&self, _: i64) -> Result<Option<LeaseRecord>, ViewError> {
        Ok(None)
    }
    fn leases(&self) -> Result<Vec<LeaseRecord>, ViewError> {
        Ok(Vec::new())
    }
    fn lease_keys(&self, _: i64) -> Result<Vec<Bytes>, ViewError> {
        Ok(Vec::new())
    }
    fn alarms(&self) -> Result<Vec<AlarmMember>, ViewError> {
        Ok(Vec::new())
    }
    fn downgrade_target(&self) -> Result<Option<String>, ViewError> {
        Ok(None)
    }
    fn auth(&self) -> &Arc<Auth> {
        Auth::nothing()
    }
    fn members(&self) -> Result<Vec<MemberAttributes>, ViewError> {
        Ok(Vec::new())
    }
}
