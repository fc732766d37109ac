//! A snapshot becomes the data directory of a member of a new cluster. All members of that cluster are restored from the
//! same file, each with its own name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;

use super::schema;
use super::source::Source;
use super::{SnapshotError, content};
use crate::mvcc::auth as stored;
use crate::mvcc::{AlarmMember, LeaseRecord, RevKey, Revision};
use crate::node::{self, Restored};
use crate::storage::{Loaded, Loader, StoreOptions};

/// What to restore, and as whom.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The file.
    pub snapshot: PathBuf,
    /// The directory that is made.
    pub data_dir: PathBuf,
    /// The directory of the Raft log, if not within the former.
    pub wal_dir: Option<PathBuf>,
    /// The member's name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Names and peer URLs of all members.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// Keeps clusters with equal URLs apart.
    pub initial_cluster_token: String,
    /// Take a file without a checksum at its end.
    pub skip_hash_check: bool,
    /// Add this to the revision and mark the result as compacted, so that no client sees a revision go back.
    pub bump_revision: Option<i64>,
}

/// What was restored.
#[derive(Debug)]
pub struct Outcome {
    /// The member and its cluster.
    pub restored: Restored,
    /// The newest revision.
    pub revision: i64,
}

/// Restores. `progress` is told again and again how many bytes of the file's history are done.
pub fn restore(settings: &Restore, mut progress: impl FnMut(u64)) -> Result<Outcome, SnapshotError> {
    let wal_dir = settings.wal_dir.as_deref();
    node::check_vacant(&settings.data_dir, wal_dir)?;
    let token = &settings.initial_cluster_token;
    let restored = Restored::new(&settings.name, &settings.peer_urls, &settings.initial_cluster, token)?;
    let source = Source::open(&settings.snapshot)?;
    if !settings.skip_hash_check {
        source.verify_checksum()?;
    }
    let mut revision = 0;
    node::restore(&settings.data_dir, wal_dir, &restored, |store_dir| {
        revision = fill(store_dir, &source, &restored, settings.bump_revision, &mut progress)?;
        Ok::<_, SnapshotError>(())
    })?;
    Ok(Outcome { restored, revision })
}

/// Makes the store; answers its newest revision.
fn fill(
    dir: &Path,
    source: &Source,
    restored: &Restored,
    bump: Option<i64>,
    progress: &mut impl FnMut(u64),
) -> Result<i64, SnapshotError> {
    let compacted = source.compacted()?.scheduled;
    let mut loader = Loader::create(dir, &StoreOptions::default())?;
    leases(source, &mut loader)?;
    auth(source, &mut loader)?;
    let mut revision = compacted.max(1);
    let mut bytes = 0;
    loader.history(|add| {
        source.history(|place, kv| {
            add(place, kv)?;
            revision = revision.max(place.revision.main);
            bytes += kv.len() as u64;
            progress(bytes);
            Ok(())
        })?;
        if let Some(bump) = bump {
            revision = revision.checked_add(bump).ok_or_else(|| content("--bump-revision is too large"))?;
            // etcd remembers the revision by a version of no key.
            add(RevKey { revision: Revision { main: revision, sub: 0 }, tombstone: false }, &[])?;
        }
        Ok::<_, SnapshotError>(())
    })?;
    let compact_revision = match bump {
        Some(_) => Some(revision),
        None => (compacted >= 0).then_some(compacted),
    };
    let alarms = alarms(source)?;
    let (applied, members) = (restored.applied()?, restored.members.clone());
    loader.finish(Loaded { revision, compact_revision, applied, alarms, members })?;
    Ok(revision)
}

fn leases(source: &Source, loader: &mut Loader) -> Result<(), SnapshotError> {
    source.for_each(schema::LEASE, |_, value| {
        let lease = schema::Lease::decode(value).map_err(|error| content(format!("a lease: {error}")))?;
        let remaining_seconds = lease.remaining_ttl;
        Ok(loader.lease(LeaseRecord { id: lease.id, ttl_seconds: lease.ttl, remaining_seconds })?)
    })
}

fn auth(source: &Source, loader: &mut Loader) -> Result<(), SnapshotError> {
    source.for_each(schema::AUTH, |key, value| {
        let stored = match std::str::from_utf8(key) {
            Ok(schema::AUTH_ENABLED) => stored::ENABLED,
            Ok(schema::AUTH_REVISION) => stored::REVISION,
            _ => return Ok(()),
        };
        Ok(loader.auth(stored, value)?)
    })?;
    for (bucket, prefix) in [(schema::AUTH_ROLES, stored::ROLE), (schema::AUTH_USERS, stored::USER)] {
        source.for_each(bucket, |name, value| Ok(loader.auth(&[prefix, name].concat(), value)?))?;
    }
    Ok(())
}

fn alarms(source: &Source) -> Result<Vec<AlarmMember>, SnapshotError> {
    let mut alarms = Vec::new();
    source.for_each(schema::ALARM, |key, _| {
        alarms.push(AlarmMember::decode(key).map_err(|error| content(format!("an alarm: {error}")))?);
        Ok(())
    })?;
    alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
    Ok(alarms)
}
