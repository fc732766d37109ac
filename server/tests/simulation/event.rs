//! What happens that the invariants look at.

use std::fmt;

use keelson_server::raft::types::{Entry, entry_to_wire};
use prost::Message;

/// An entry, as far as it matters whether two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    pub index: u64,
    pub term: u64,
    /// Sum over its content.
    pub content: u32,
}

impl From<&Entry> for Id {
    fn from(entry: &Entry) -> Self {
        let content = crc32c::crc32c(&entry_to_wire(entry).encode_to_vec());
        Id { index: entry.log_id.index, term: entry.log_id.committed_leader_id().term, content }
    }
}

/// The log of a member at some moment.
#[derive(Clone)]
pub struct Log {
    /// Up to here its entries were purged.
    pub purged: u64,
    pub entries: Vec<Id>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |sum, entry: &Id| {
            let numbers = [entry.index, entry.term, entry.content.into()].map(u64::to_le_bytes);
            crc32c::crc32c_append(sum, &numbers.concat())
        };
        let sum = self.entries.iter().fold(0, sum);
        write!(f, "log behind {} of {} entries, sum {sum:08x}", self.purged, self.entries.len())
    }
}

/// A write that a client was told of.
#[derive(Debug, Clone)]
pub struct Write {
    pub index: u64,
    pub revision: i64,
    pub key: String,
    pub value: String,
}

/// Something that happened, or is the case.
#[derive(Debug)]
pub enum Event<'a> {
    /// A member speaks as a leader; its log then.
    Leads { member: u64, term: u64, log: &'a Log },
    /// A member has this log.
    Has { member: u64, log: &'a Log },
    /// A member applies an entry.
    Applies { member: u64, entry: Id },
    /// A member has applied all up to an index, and has this revision. `life` tells its runs from each other.
    Stands { member: u64, life: u64, index: u64, revision: i64 },
    /// A client is told that a write is done.
    Acknowledged(&'a Write),
    /// A linearizable read is answered, which began when writes up to a revision were acknowledged.
    Reads { member: u64, acknowledged: i64, revision: i64 },
    /// In the end: what a member has at the revision of an acknowledged write.
    Finds { member: u64, write: &'a Write, value: Option<&'a str> },
    /// In the end: the hash of a member's whole history.
    Ends { member: u64, revision: i64, hash: u32 },
}
