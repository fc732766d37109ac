//! The data directory of a member whose cluster begins with a restored state.
//!
//! Such a cluster starts where all its members have applied the same first entries, which are in no log any more: a member
//! that joins later gets the state as a snapshot, not by replaying the log from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use openraft::storage::RaftLogStorage;
use openraft::vote::leader_id_std::LeaderId;

use super::data_dir::{DataDir, FORMAT, IDENTITY, Identity};
use super::{StartError, bootstrap};
use crate::mvcc::MemberAttributes;
use crate::raft::log::{LogOptions, LogStore};
use crate::raft::state_machine::AppliedState;
use crate::raft::types::{LogId, Members, PeerNode, StoredMembers, Vote, log_id};

/// The term of the entries that a restored cluster begins with.
const TERM: u64 = 1;

/// A member of a cluster that is founded anew.
#[derive(Debug)]
pub struct Restored {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of the member.
    pub member_id: u64,
    /// All members, by id.
    pub members: Vec<MemberAttributes>,
    peer_urls: BTreeMap<u64, Vec<String>>,
}

impl Restored {
    /// The member `name` of a cluster of these members, by name and peer URLs.
    pub fn new(
        name: &str,
        peer_urls: &[String],
        initial_cluster: &BTreeMap<String, Vec<String>>,
        token: &str,
    ) -> Result<Self, StartError> {
        let (member_id, members) = bootstrap::initial_members(name, peer_urls, initial_cluster, token)?;
        let attributes = initial_cluster.iter().map(|(name, urls)| MemberAttributes {
            member_id: bootstrap::member_id(urls, token, None),
            name: name.clone(),
            client_urls: Vec::new(),
        });
        Ok(Self {
            cluster_id: bootstrap::cluster_id(members.keys().copied()),
            member_id,
            members: attributes.collect(),
            peer_urls: members,
        })
    }

    /// One entry for each member, as if each had been added.
    fn last(&self) -> LogId {
        log_id(TERM, self.peer_urls.len() as u64)
    }

    /// What the store shall say that it has applied.
    pub fn applied(&self) -> Result<Vec<u8>, StartError> {
        let nodes: BTreeMap<u64, PeerNode> =
            self.peer_urls.iter().map(|(id, urls)| (*id, PeerNode { peer_urls: urls.clone() })).collect();
        let voters: BTreeSet<u64> = nodes.keys().copied().collect();
        let members = Members::new(vec![voters], nodes).map_err(|error| StartError::Config(error.to_string()))?;
        let last = self.last();
        let state =
            AppliedState { last: Some(last), members: StoredMembers::new(Some(last), members), removed: Vec::new() };
        Ok(state.encode())
    }
}

/// Makes the data directory of a restored member; `fill` makes the store in the directory that it is given. What was
/// begun is removed when it fails. The directory may exist if it is empty, that of the log may not.
pub fn restore<E: From<StartError>>(
    data_dir: &Path,
    wal_dir: Option<&Path>,
    restored: &Restored,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let existed = data_dir.exists();
    let made = make(data_dir, wal_dir, restored, fill);
    if made.is_err() {
        // Only what was made here: the directories were empty or not there.
        let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
        let mut doomed: Vec<_> = entries.map(|entry| entry.path()).collect();
        doomed.extend(wal_dir.map(Path::to_owned));
        for path in doomed {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if !existed {
            let _ = fs::remove_dir(data_dir);
        }
    }
    made
}

/// Whether a member can be restored into these directories.
pub fn check_vacant(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), StartError> {
    let vacant = match fs::read_dir(data_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !vacant {
        let message = format!("data-dir {:?} not empty or could not be read", data_dir.display().to_string());
        return Err(StartError::DataDir(message));
    }
    match wal_dir {
        Some(wal_dir) if wal_dir.exists() => {
            Err(StartError::DataDir(format!("wal-dir {:?} exists", wal_dir.display().to_string())))
        }
        _ => Ok(()),
    }
}

/// Whether a directory holds a member. With `unfinished`, what [`move_member`] left half done is removed from it.
pub fn holds_member(data_dir: &Path, unfinished: bool) -> Result<bool, StartError> {
    let dir = DataDir::open(data_dir, None)?;
    if unfinished && !data_dir.join(IDENTITY).exists() {
        for part in [dir.store(), dir.wal().to_owned()] {
            match fs::remove_dir_all(&part) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io_error(&part, source)),
                _ => {}
            }
        }
    }
    Ok(dir.identity()?.is_some())
}

/// Moves a restored member from one directory into another of the same file system, which may hold other things. It is there
/// when its identity is, which comes last.
pub fn move_member(from: &Path, to: &Path) -> Result<(), StartError> {
    let sync = || File::open(to).and_then(|dir| dir.sync_all()).map_err(|source| io_error(to, source));
    for part in ["store", "wal", IDENTITY] {
        sync()?;
        fs::rename(from.join(part), to.join(part)).map_err(|source| io_error(&to.join(part), source))?;
    }
    sync()
}

fn make<E: From<StartError>>(
    data_dir: &Path,
    wal_dir: Option<&Path>,
    restored: &Restored,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let dir = DataDir::open(data_dir, wal_dir)?;
    fill(&dir.store())?;
    begin_log(dir.wal(), restored)?;
    // What the directory holds is a member only from here on.
    File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(|source| io_error(data_dir, source))?;
    dir.write_identity(&Identity {
        format: FORMAT,
        cluster_id: restored.cluster_id,
        member_id: restored.member_id,
        initial_members: BTreeMap::new(),
    })?;
    Ok(())
}

/// A log that has forgotten the first entries already.
fn begin_log(wal: &Path, restored: &Restored) -> Result<(), StartError> {
    let options = LogOptions::default();
    let (mut log, thread) = LogStore::open(wal, options).map_err(|error| StartError::DataDir(error.to_string()))?;
    let voted_for = *restored.peer_urls.keys().next().expect("a cluster has a member");
    let vote = Vote { leader_id: LeaderId { term: TERM, voted_for }, committed: false };
    let written = futures::executor::block_on(async {
        log.save_vote(&vote).await?;
        log.purge(restored.last()).await
    });
    drop(log);
    thread.join();
    written.map_err(|source| io_error(wal, source))
}

fn io_error(path: &Path, source: io::Error) -> StartError {
    StartError::Io { context: path.display().to_string(), source }
}
