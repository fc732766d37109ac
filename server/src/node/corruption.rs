//! Members compare their histories: one that differs has a broken disk or met a bug, and must not go on unnoticed.
//!
//! Only hashes of the same revision with the same compacted revision can be compared. The leader raises CORRUPT, which
//! stops the cluster's writes, for the member that differs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::{Inner, StartError};
use crate::error::EtcdError;
use crate::mvcc::hash::{KeyValueHash, hash_kv};
use crate::mvcc::{ReadError, View, WAY_OUT};
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::proto::peer as pb;

/// What another member said of its history.
#[derive(Debug, Clone, PartialEq)]
struct PeerHash {
    member_id: u64,
    hash: u32,
    compact_revision: i64,
    revision: i64,
}

/// Starts the leader's checks that are on; they end with the member.
pub fn spawn(inner: &Arc<Inner>) {
    if let Some(interval) = inner.config.corrupt_check_interval {
        tokio::spawn(as_leader(inner.clone(), interval, |inner| async move { inner.check_newest().await }));
    }
    if let Some(interval) = inner.config.compact_hash_check_interval {
        tokio::spawn(as_leader(inner.clone(), interval, |inner| async move { inner.check_compacted().await }));
    }
}

async fn as_leader<F: Future<Output = Result<(), EtcdError>>>(
    inner: Arc<Inner>,
    interval: Duration,
    check: impl Fn(Arc<Inner>) -> F,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = inner.stop.cancelled() => return,
        }
        if inner.current_status().is_leader()
            && let Err(error) = check(inner.clone()).await
        {
            tracing::warn!(%error, "the members' histories could not be compared");
        }
    }
}

impl Inner {
    /// HashKV of this member, and its newest revision.
    pub async fn hash_kv(&self, revision: i64) -> Result<(KeyValueHash, i64), EtcdError> {
        let view = self.shared.store.view();
        let hashed = tokio::task::spawn_blocking(move || Ok((hash_kv(&view, revision)?, view.revision()))).await;
        hashed.map_err(|_| EtcdError::Stopped)?.map_err(|error| match error {
            ReadError::Refused(error) => error,
            ReadError::View(error) => {
                tracing::error!(error = %format_args!("{error}. {WAY_OUT}"), "the history cannot be read");
                EtcdError::Corrupt
            }
        })
    }

    /// The others' hashes at a revision, of those who have it.
    async fn peer_hashes(&self, revision: i64) -> Vec<PeerHash> {
        let members = self.members();
        let others = members.iter().filter(|member| member.id != self.member_id);
        let asked = others.map(|member| async move {
            let mut caller = self.peers.caller(member.id, &member.peer_ur_ls);
            let request = pb::HashKvRequest { revision };
            let answer = tokio::time::timeout(self.request_timeout(), caller.hash_kv(request)).await;
            let told = match answer {
                Ok(Ok(answer)) if answer.get_ref().error.is_empty() => answer.into_inner(),
                // A member that is down, behind, or has compacted already says nothing about its data.
                other => {
                    tracing::debug!(member = format!("{:x}", member.id), revision, ?other, "no hash to compare");
                    return None;
                }
            };
            let (hash, compact_revision, revision) = (told.hash, told.compact_revision, told.revision);
            Some(PeerHash { member_id: member.id, hash, compact_revision, revision })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Compares this member's history with the others' before it serves clients (InitialCorruptCheck).
    pub async fn check_initially(&self) -> Result<(), StartError> {
        let failed = |error: EtcdError| StartError::Unavailable(format!("the history cannot be hashed: {error}"));
        let (own, _) = self.hash_kv(0).await.map_err(failed)?;
        let members = self.members().len();
        let peers = self.peer_hashes(own.hash_revision).await;
        let differing = minority(self.member_id, &own, &peers, members);
        let refused = |told: &str| {
            let (id, revision) = (self.member_id, own.hash_revision);
            Err(StartError::DataDir(format!(
                "{id:x} found data inconsistency with peers up to revision {revision}. {told}"
            )))
        };
        if differing.contains(&self.member_id) {
            return refused("Remove this member, delete its data directory, and add it again");
        }
        if differing.contains(&NOBODY) {
            return refused(
                "No majority agrees, so it is not known who is right: compare the members' data, remove those that are \
                 wrong, and add them again",
            );
        }
        for member_id in differing {
            tracing::warn!(member = format!("{member_id:x}"), "a member's history differs from the others'");
        }
        Ok(())
    }

    /// Compares the newest histories (etcd's PeriodicCheck).
    async fn check_newest(self: &Arc<Self>) -> Result<(), EtcdError> {
        let (first, _) = self.hash_kv(0).await?;
        let members = self.members().len();
        let peers = self.peer_hashes(first.hash_revision).await;
        self.linearize().await?;
        let (second, revision) = self.hash_kv(0).await?;
        for member_id in suspects(self.member_id, [&first, &second], revision, &peers, members) {
            self.raise_corrupt(member_id).await;
        }
        Ok(())
    }

    /// Compares the histories up to the compacted revision (etcd's CompactHashCheck).
    async fn check_compacted(self: &Arc<Self>) -> Result<(), EtcdError> {
        let compacted = self.shared.store.view().compact_revision();
        if compacted <= 0 {
            return Ok(());
        }
        let (own, _) = self.hash_kv(compacted).await?;
        let members = self.members().len();
        let peers = self.peer_hashes(compacted).await;
        for member_id in minority(self.member_id, &own, &peers, members) {
            self.raise_corrupt(member_id).await;
        }
        Ok(())
    }

    async fn raise_corrupt(self: &Arc<Self>, member_id: u64) {
        tracing::error!(member = format!("{member_id:x}"), "a member's history differs from the others'");
        let (action, alarm) = (AlarmAction::Activate.into(), AlarmType::Corrupt.into());
        let op = Op::Alarm(AlarmRequest { action, member_id, alarm });
        if let Err(error) = self.propose(Command { op: Some(op), ..Default::default() }).await {
            tracing::warn!(%error, "the alarm could not be raised");
        }
    }
}

/// An alarm's member that is none.
const NOBODY: u64 = 0;

/// The members to raise the alarm for. The second of the own hashes was made, and `revision` read, after the peers had answered.
fn suspects(
    member_id: u64,
    [first, second]: [&KeyValueHash; 2],
    revision: i64,
    peers: &[PeerHash],
    members: usize,
) -> Vec<u64> {
    let comparable = (first.hash_revision, first.compact_revision) == (second.hash_revision, second.compact_revision);
    if comparable && first.hash != second.hash {
        return vec![member_id];
    }
    let ahead = |peer: &&PeerHash| peer.revision > revision || peer.compact_revision > second.compact_revision;
    match peers.iter().find(ahead) {
        Some(peer) => vec![peer.member_id],
        None => minority(member_id, first, peers, members),
    }
}

/// The members whose hash is not that of a majority; nobody in particular, if they differ and there is none.
fn minority(member_id: u64, own: &KeyValueHash, peers: &[PeerHash], members: usize) -> Vec<u64> {
    let mut by_hash = BTreeMap::from([(own.hash, vec![member_id])]);
    for peer in peers.iter().filter(|peer| peer.compact_revision == own.compact_revision) {
        by_hash.entry(peer.hash).or_default().push(peer.member_id);
    }
    if by_hash.len() == 1 {
        return Vec::new();
    }
    let majority = by_hash.iter().find(|(_, members_of)| members_of.len() > members / 2).map(|(hash, _)| *hash);
    match majority {
        None => vec![NOBODY],
        Some(majority) => by_hash.into_iter().filter(|(hash, _)| *hash != majority).flat_map(|(_, ids)| ids).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(hash: u32) -> KeyValueHash {
        KeyValueHash { hash, hash_revision: 10, compact_revision: 5 }
    }

    fn peer(member_id: u64, hash: u32, compact_revision: i64) -> PeerHash {
        PeerHash { member_id, hash, compact_revision, revision: 10 }
    }

    #[test]
    fn who_differs_is_found_among_the_newest() {
        let check = |second: KeyValueHash, peers: &[PeerHash]| suspects(1, [&own(7), &second], 10, peers, 3);
        assert_eq!(check(own(7), &[peer(2, 7, 5), peer(3, 7, 5)]), [0; 0]);
        assert_eq!(check(own(7), &[peer(2, 7, 5), peer(3, 8, 5)]), [3]);
        assert_eq!(check(own(7), &[peer(2, 8, 5), peer(3, 8, 5)]), [1], "the leader may be the one");
        assert_eq!(check(own(7), &[peer(2, 8, 5)]), [0], "one against one");
        assert_eq!(check(own(7), &[peer(2, 8, 4)]), [0; 0], "another compacted revision cannot be compared");
        assert_eq!(check(own(7), &[peer(2, 7, 6)]), [2], "nobody compacts before the leader");
        assert_eq!(check(own(8), &[]), [1], "a hash does not change");
        assert_eq!(suspects(1, [&own(7), &own(7)], 9, &[peer(2, 7, 5)], 3), [2], "nobody is ahead of the leader");
    }

    #[test]
    fn a_majority_is_right() {
        let check = |peers: &[PeerHash], members| minority(1, &own(7), peers, members);
        assert_eq!(check(&[peer(2, 7, 5), peer(3, 7, 5)], 3), [0; 0]);
        assert_eq!(check(&[peer(2, 7, 5), peer(3, 8, 5)], 3), [3]);
        assert_eq!(check(&[peer(2, 8, 5), peer(3, 8, 5)], 3), [1], "the leader may be the one");
        assert_eq!(check(&[peer(2, 8, 5), peer(3, 9, 5)], 3), [0]);
        assert_eq!(check(&[peer(2, 8, 5)], 2), [0]);
        assert_eq!(check(&[peer(2, 8, 4)], 3), [0; 0]);
    }
}
