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
    let mut payloads = Vec::new();
    if bump > 0 {
        let command = Command { op: Some(Op::Advance(bump)), ..Default::default() };
        payloads.push(EntryPayload::Normal(Request::new(command.encode_to_vec())));
    }
    // The last one: should the power fail before all is written, all of it is done again.
    payloads.push(EntryPayload::Membership(alone));
    let entries = (last.index + 1..).zip(payloads);
    let entries: Vec<_> = entries.map(|(index, payload)| Entry { log_id: log_id(term, index), payload }).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log::LogOptions;

    /// The power fails when only the first of the two entries is on the disk.
    #[tokio::test]
    async fn what_was_half_written_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
        let (mut log, _) = LogStore::open(dir.path(), options).unwrap();
        let peer = |id: u64| (id, PeerNode { peer_urls: vec![format!("http://10.0.0.{id}:2380")] });
        let three = Members::new(vec![BTreeSet::from([1, 2, 3])], BTreeMap::from([1, 2, 3].map(peer))).unwrap();
        let first = Entry { log_id: log_id(1, 0), payload: EntryPayload::Membership(three) };
        log.blocking_append([first]).await.unwrap();

        let applied = AppliedState::default();
        force(&mut log, &applied, 1, &[], 1000).await.unwrap();
        log.truncate_after(Some(log_id(2, 1))).await.unwrap();
        force(&mut log, &applied, 1, &[], 1000).await.unwrap();
        let entries = log.try_get_log_entries(2..).await.unwrap();
        let [Entry { payload: EntryPayload::Normal(bump), .. }, last] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(Command::decode(bump.0.clone()).unwrap().op, Some(Op::Advance(1000)));
        assert_eq!(last.log_id, log_id(3, 3));
        assert!(newest_members(&mut log, &applied).await.unwrap().voter_ids().eq([1]));
        force(&mut log, &applied, 1, &[], 1000).await.unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(3, 3)), "once is enough");
    }
}
