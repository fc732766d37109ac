//! etcd's backend: the names of its buckets and keys, and how values are encoded (etcd: server/storage/schema).
//!
//! | Bucket | Key | Value |
//! |---|---|---|
//! | `alarm` | `etcdserverpb.AlarmMember` | nothing |
//! | `auth` | `authEnabled`, `authRevision` | one byte, BE64 |
//! | `authRoles`, `authUsers` | name | `authpb.Role`, `authpb.User` |
//! | `cluster` | `clusterVersion`, `downgrade` | `3.7.0`, JSON |
//! | `key` | BE64 main, `_`, BE64 sub, `t` for a tombstone | `mvccpb.KeyValue` |
//! | `lease` | BE64 id | `leasepb.Lease` |
//! | `members`, `members_removed` | id in hexadecimal | JSON, `removed` |
//! | `meta` | the names below | BE64, revisions as in `key`, `3.7.0`, JSON |

use serde::{Deserialize, Serialize};

use crate::mvcc::{RevKey, Revision};

/// Raised alarms.
pub const ALARM: &str = "alarm";
/// Settings of authentication.
pub const AUTH: &str = "auth";
/// Roles.
pub const AUTH_ROLES: &str = "authRoles";
/// Users.
pub const AUTH_USERS: &str = "authUsers";
/// The cluster's version.
pub const CLUSTER: &str = "cluster";
/// The history.
pub const KEY: &str = "key";
/// Leases.
pub const LEASE: &str = "lease";
/// Members.
pub const MEMBERS: &str = "members";
/// Ids that never come back.
pub const MEMBERS_REMOVED: &str = "members_removed";
/// Single values.
pub const META: &str = "meta";

/// Whether authentication is on.
pub const AUTH_ENABLED: &str = "authEnabled";
/// Counts changes of authentication.
pub const AUTH_REVISION: &str = "authRevision";
/// Voters and learners.
pub const CONF_STATE: &str = "confState";
/// Index of the last applied entry.
pub const CONSISTENT_INDEX: &str = "consistent_index";
/// Up to here superseded versions are removed.
pub const FINISHED_COMPACT: &str = "finishedCompactRev";
/// Revisions below cannot be read.
pub const SCHEDULED_COMPACT: &str = "scheduledCompactRev";
/// The version of the schema.
pub const STORAGE_VERSION: &str = "storageVersion";
/// Term of the last applied entry.
pub const TERM: &str = "term";

/// `leasepb.Lease`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Lease {
    /// Chosen by the client or the leader.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Granted seconds.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint; 0 is none.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// A member, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// It has no vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty before it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where its clients reach it.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// `raftpb.ConfState`, as JSON.
#[derive(Debug, Serialize)]
pub struct ConfState {
    /// Ids of the voters.
    pub voters: Vec<u64>,
    /// Ids of the learners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    /// Part of a change that is under way; never here.
    pub auto_leave: bool,
}

/// A revision as `meta` has it.
pub fn revision(main: i64) -> Vec<u8> {
    RevKey { revision: Revision { main, sub: 0 }, tombstone: false }.encode()
}

/// Reads a key of `key`; nothing is said of what is no revision.
pub fn rev_key(key: &[u8]) -> Option<RevKey> {
    let place = RevKey::decode(key).ok()?;
    let plain = key[8] == b'_' && place.revision.main >= 0 && place.revision.sub >= 0;
    plain.then_some(place)
}
