//! A snapshot becomes the data directory of a member of a new cluster. All members of that cluster are restored from the
//! same file, each with its own name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prost::Message;

use super::chains::Chains;
use super::schema;
use super::source::Source;
use super::{SnapshotError, content};
use crate::mvcc::auth as stored;
use crate::mvcc::{AlarmMember, LeaseRecord, RevKey, Revision};
use crate::node::{self, Restored};
use crate::storage::{Loaded, Loader, StoreOptions, Version};

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

/// Restores. The bytes of pages that are read add up in `read_bytes`: about twice the file's, as its history is read twice.
pub fn restore(settings: &Restore, read_bytes: &Arc<AtomicU64>) -> Result<Outcome, SnapshotError> {
    let wal_dir = settings.wal_dir.as_deref();
    node::check_vacant(&settings.data_dir, wal_dir)?;
    let token = &settings.initial_cluster_token;
    let restored = Restored::new(&settings.name, &settings.peer_urls, &settings.initial_cluster, token)?;
    let source = Source::open(&settings.snapshot, read_bytes)?;
    let mut revision = 0;
    let made = node::restore(&settings.data_dir, wal_dir, &restored, |store_dir| {
        std::thread::scope(|scope| {
            let sum = (!settings.skip_hash_check).then(|| scope.spawn(|| source.verify_checksum()));
            let filled = fill(store_dir, &source, &restored, settings.bump_revision);
            if let Some(sum) = sum {
                // What is wrong with a damaged file is first of all that.
                sum.join().map_err(|_| content("the checksum could not be computed"))??;
            }
            revision = filled?;
            Ok::<_, SnapshotError>(())
        })
    });
    made.map_err(|error| error.of(&settings.snapshot))?;
    Ok(Outcome { restored, revision })
}

/// Makes the store; answers its newest revision.
fn fill(dir: &Path, source: &Source, restored: &Restored, bump: Option<i64>) -> Result<i64, SnapshotError> {
    let compacted = source.compacted()?.scheduled;
    let mut loader = Loader::create(dir, &StoreOptions::default())?;
    leases(source, &mut loader)?;
    auth(source, &mut loader)?;
    let revision = history(source, dir, &mut loader, compacted.max(1), bump)?;
    let compact_revision = match bump {
        Some(_) => Some(revision),
        None => (compacted >= 0).then_some(compacted),
    };
    let alarms = alarms(source)?;
    let (applied, members) = (restored.applied()?, restored.members.clone());
    loader.finish(Loaded { revision, compact_revision, applied, alarms, members })?;
    Ok(revision)
}

/// Answers the newest revision: `revision`, if no version is newer.
fn history(
    source: &Source,
    dir: &Path,
    loader: &mut Loader,
    mut revision: i64,
    bump: Option<i64>,
) -> Result<i64, SnapshotError> {
    let mut chains = Chains::new(source.reader().size(), dir);
    source.history(|place, kv| {
        revision = revision.max(place.revision.main);
        loader.announce(kv)?;
        chains.add(place, kv)
    })?;
    let mut bumped = None;
    if let Some(bump) = bump {
        let too_large = || SnapshotError::Settings("--bump-revision is too large".to_owned());
        revision = revision.checked_add(bump).ok_or_else(too_large)?;
        // etcd remembers the revision by a version of no key.
        let place = RevKey { revision: Revision { main: revision, sub: 0 }, tombstone: false };
        chains.add(place, &[])?;
        bumped = Some(place);
    }
    let mut links = chains.link()?;
    loader.history(|give| {
        let mut add = |place, kv: &[u8]| {
            let link = links.next(place, kv)?;
            Ok::<_, SnapshotError>(give(Version { place, kv, previous: link.previous, newest: link.newest })?)
        };
        source.history(&mut add)?;
        bumped.map_or(Ok(()), |place| add(place, &[]))
    })?;
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
