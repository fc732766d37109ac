//! `--force-new-cluster`: a member that has lost its quorum for good goes on alone, with everything that its log holds.
//!
//! etcd drops entries of which it does not know that they are committed. Here they are kept: some may never have been
//! acknowledged, but none that was is lost by this member. What only the others had is lost: with `--force-new-cluster-bump` the
//! revision goes on beyond whatever they may have reached.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use prost::Message;

use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::raft::log::LogStore;
use crate::raft::state_machine::AppliedState;
use crate::raft::types::{Entry, Members, PeerNode, Request, Vote, log_id};

/// Appends to the log, as if a leader had done so, that this member is the only one, and that the revision is `bump` larger. Raft
/// must not run yet. Nothing happens if it is the only one already, or if it never had a log.
pub async fn force(
    log: &mut LogStore,
    applied: &AppliedState,
    id: u64,
    peer_urls: &[String],
    bump: i64,
) -> io::Result<()> {
    let members = newest_members(log, applied).await?;
    let Some(last) = log.get_log_state().await?.last_log_id else {
        return Ok(());
    };
    if members.nodes().map(|(id, _)| *id).eq([id]) && members.voter_ids().eq([id]) {
        return Ok(());
    }
    let own = members.get_node(&id).cloned().unwrap_or_else(|| PeerNode { peer_urls: peer_urls.to_vec() });
    let lost: Vec<String> =
        members.nodes().filter(|(other, _)| **other != id).map(|(id, _)| format!("{id:x}")).collect();
    let alone = Members::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, own)])).map_err(io::Error::other)?;
    // A term in which nobody else can have appended: with it the entry is like no other of this index.
    let voted = log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let term = voted.max(last.committed_leader_id().term) + 1;
    log.save_vote(&Vote::new(term, id)).await?;
    let mut entries = vec![Entry { log_id: log_id(term, last.index + 1), payload: EntryPayload::Membership(alone) }];
    if bump > 0 {
        let command = Command { op: Some(Op::Advance(bump)), ..Default::default() };
        let payload = EntryPayload::Normal(Request(command.encode_to_vec().into()));
        entries.push(Entry { log_id: log_id(term, last.index + 2), payload });
    }
    log.blocking_append(entries).await.map_err(io::Error::other)?;
    tracing::warn!(
        bump,
        removed = lost.join(","),
        "this member goes on alone: the others are removed from the cluster"
    );
    Ok(())
}

/// The newest membership, committed or not.
async fn newest_members(log: &mut LogStore, applied: &AppliedState) -> io::Result<Members> {
    let entries = log.try_get_log_entries(applied.index() + 1..).await?;
    let newest = entries.into_iter().rev().find_map(|entry| match entry.payload {
        EntryPayload::Membership(members) => Some(members),
        _ => None,
    });
    Ok(newest.unwrap_or_else(|| applied.members.membership().clone()))
}
