//! All changes of a cluster as they come, so that a backup can be brought forward to any point behind it.
//!
//! In the order in which a change meets them:
//!
//! - [`follow`]: from a running member, as long as the program runs;
//! - [`collect`]: PURE: events become whole revisions;
//! - [`segment`]: PURE: revisions become an object, and back;
//! - [`shelf`]: the objects of one cluster in a store;
//! - [`point`]: PURE: up to where, and what that takes;
//! - [`replay`]: from the objects into a store that was restored from a backup;
//! - [`metrics`]: what the program tells of itself.
//!
//! What a store has of a cluster is in `archive/CLUSTER` beside its backups, by the cluster's id: a *segment* for each stretch of
//! revisions, and `complete.json`, which tells up to which revision and which time nothing is missing. Only the first and the last
//! revision in the names of segments, and what is in them, tell where to go on: there is no index that could disagree.

pub mod collect;
pub mod follow;
pub mod metrics;
pub mod point;
pub mod replay;
pub mod segment;
pub mod shelf;

use point::{Until, told_time};

/// Why a cluster's changes are not archived, or cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// What was asked for is no point.
    #[error("{0:?} is neither a revision, nor a time such as 2026-11-29T03:00:00Z, nor `latest`")]
    NoPoint(String),
    /// No backup to begin with.
    #[error("the folder has no backup{}", before(.0))]
    NoBackup(Option<Until>),
    /// A backup of which nothing is known.
    #[error(
        "nothing tells of which cluster {0} is: its .json is not beside it. Only backups that `backup create` took \
         are brought forward"
    )]
    Unknown(String),
    /// The backup holds what came later.
    #[error("the backup goes up to revision {revision} ({time}), which is behind {until}: name an older one", time = at(.time_ms))]
    Later {
        /// The backup's newest revision.
        revision: i64,
        /// When it was taken.
        time_ms: i64,
        /// The point.
        until: Until,
    },
    /// There are no segments at all.
    #[error("there is no archive of cluster {0} beside its backups")]
    Nothing(String),
    /// The point is not archived yet.
    #[error("{until} is not in the archive, which goes up to revision {revision} and is complete up to {time}", time = at(.time_ms))]
    Beyond {
        /// The point.
        until: Until,
        /// The newest revision that is archived.
        revision: i64,
        /// Up to here nothing is missing.
        time_ms: i64,
    },
    /// Revisions that were compacted before they were archived, or whose segment is gone.
    #[error(
        "revisions {first} to {last} are not in the archive: name a backup that was taken behind them, or revision \
         {} at most", .first - 1
    )]
    Gap {
        /// The first one that is missing.
        first: i64,
        /// The last one.
        last: i64,
    },
    /// Nobody knows whether a revision came before or after a time.
    #[error(
        "revision {revision} was written between {after} and {received}, when nothing was archived: name a revision \
         instead of a time ({} leaves it out)", .revision - 1, after = at(.after_ms), received = at(.received_ms)
    )]
    Uncertain {
        /// The revision.
        revision: i64,
        /// Everything before this time had been archived.
        after_ms: i64,
        /// When it was.
        received_ms: i64,
    },
    /// What is in the store is not what was written.
    #[error(
        "{path} of the archive is damaged ({why}): put a copy of it there, or name a point before it or a backup behind it"
    )]
    Damaged {
        /// Which object.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A change gives something else than it did.
    #[error("revision {revision} of the archive does not fit to the backup ({why}): they are of different clusters")]
    Differs {
        /// The revision.
        revision: i64,
        /// What is different.
        why: String,
    },
    /// The member is older than the archive.
    #[error(
        "the cluster is at revision {revision}, but revision {archived} is archived already: it was restored without \
         a new token (--initial-cluster-token). Nothing is archived before it has an id of its own"
    )]
    Backwards {
        /// The member's revision.
        revision: i64,
        /// The newest one in the archive.
        archived: i64,
    },
    /// Another cluster answers at the same address.
    #[error("another cluster answers")]
    OtherCluster,
    /// The watch gives nothing although there is something.
    #[error("the watch does not give what the cluster has")]
    Silent,
    /// The address for metrics.
    #[error("--listen-metrics {0}: {1}")]
    Listen(String, std::io::Error),
}

fn at(time_ms: &i64) -> String {
    told_time(*time_ms)
}

fn before(until: &Option<Until>) -> String {
    match until {
        Some(Until::Latest) | None => String::new(),
        Some(until) => format!(" at or before {until}"),
    }
}
