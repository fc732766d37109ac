//! Membership changes, with etcd's checks. The leader makes them, one at a time and one member a step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, EntryPayload, Instant as _, RaftMetrics};

use super::leader::{Leader, Miss, miss, told};
use super::{Inner, bootstrap};
use crate::error::EtcdError;
use crate::mvcc::View;
use crate::proto::etcdserverpb::Member;
use crate::proto::peer as pb;
use crate::proto::peer::membership_request::Change;
use crate::raft::types::{Members, PeerNode, StoredMembers, TypeConfig};

/// A member that did not answer the leader for this long counts as down (etcd's health interval).
const HEALTH: Duration = Duration::from_secs(5);
/// A learner is ready when its log has this part of the leader's, in percent.
const READY_PERCENT: u64 = 90;

/// Those that answered the leader lately; none on other members.
fn answered(metrics: &RaftMetrics<TypeConfig>) -> impl Iterator<Item = u64> + '_ {
    let beats = metrics.heartbeat.iter().flatten();
    beats.filter(|(_, at)| at.is_some_and(|at| at.elapsed() < HEALTH)).map(|(id, _)| *id)
}

/// The members a change is decided on.
pub struct Roster {
    /// Voters.
    pub voters: BTreeSet<u64>,
    /// Learners.
    pub learners: BTreeSet<u64>,
    /// All of them, with their peer URLs.
    pub nodes: BTreeMap<u64, PeerNode>,
    /// Those that have published a name.
    pub started: BTreeSet<u64>,
    /// Those that answered the leader lately, the leader included.
    pub active: BTreeSet<u64>,
}

/// Limits that the settings put on changes.
pub struct Rules {
    /// Refuse what would lose quorum.
    pub strict: bool,
    /// Learners allowed at once.
    pub max_learners: usize,
}

impl Roster {
    fn url_taken(&self, urls: &[String], except: Option<u64>) -> bool {
        let others = self.nodes.iter().filter(|(id, _)| Some(**id) != except);
        others.flat_map(|(_, node)| &node.peer_urls).any(|url| urls.contains(url))
    }

    fn quorum_of(size: usize) -> usize {
        size / 2 + 1
    }

    /// Whether a member may be added. Learners change no quorum: they are welcome while a member is down.
    pub fn check_add(&self, urls: &[String], learner: bool, rules: &Rules) -> Result<(), EtcdError> {
        if !learner && rules.strict {
            let quorum = Self::quorum_of(self.voters.len() + 1);
            let among = |some: &BTreeSet<u64>| self.voters.intersection(some).count();
            // A single member may always be given a second one.
            let alone = self.voters.len() == 1;
            if !(alone || among(&self.started) >= quorum) {
                return Err(EtcdError::MemberNotEnoughStarted);
            }
            if !(alone || among(&self.active) >= quorum) {
                return Err(EtcdError::Unhealthy);
            }
        }
        if self.url_taken(urls, None) {
            return Err(EtcdError::PeerURLExist);
        }
        match learner && self.learners.len() >= rules.max_learners {
            true => Err(EtcdError::TooManyLearners),
            false => Ok(()),
        }
    }

    /// Whether a member may be removed.
    pub fn check_remove(&self, id: u64, rules: &Rules) -> Result<(), EtcdError> {
        if !self.nodes.contains_key(&id) {
            return Err(EtcdError::MemberNotFound);
        }
        if self.learners.contains(&id) {
            return Ok(());
        }
        if self.voters.len() == 1 {
            return Err(EtcdError::MemberNotEnoughStarted);
        }
        if !rules.strict {
            return Ok(());
        }
        let left: BTreeSet<u64> = self.voters.iter().copied().filter(|voter| *voter != id).collect();
        if left.intersection(&self.started).count() < Self::quorum_of(left.len()) {
            return Err(EtcdError::MemberNotEnoughStarted);
        }
        // One that is down is no part of the quorum in use.
        if !self.active.contains(&id) || left.intersection(&self.active).count() >= Self::quorum_of(left.len()) {
            return Ok(());
        }
        Err(EtcdError::Unhealthy)
    }

    /// Whether a learner may become a voter. `matched` is how far its log agrees with the leader's, which ends at `last`.
    pub fn check_promote(&self, id: u64, matched: u64, last: u64, rules: &Rules) -> Result<(), EtcdError> {
        if !self.nodes.contains_key(&id) {
            return Err(EtcdError::MemberNotFound);
        }
        if !self.learners.contains(&id) {
            return Err(EtcdError::MemberNotLearner);
        }
        if !self.active.contains(&id) || matched * 100 < last * READY_PERCENT {
            return Err(EtcdError::LearnerNotReady);
        }
        // The learner itself has started, or it would not have caught up.
        let started = self.voters.intersection(&self.started).count() + 1;
        match rules.strict && started < Self::quorum_of(self.voters.len() + 1) {
            true => Err(EtcdError::MemberNotEnoughStarted),
            false => Ok(()),
        }
    }

    /// Whether a member's URLs may be changed to these.
    pub fn check_update(&self, id: u64, urls: &[String]) -> Result<(), EtcdError> {
        if !self.nodes.contains_key(&id) {
            return Err(EtcdError::MemberNotFound);
        }
        match self.url_taken(urls, Some(id)) {
            true => Err(EtcdError::PeerURLExist),
            false => Ok(()),
        }
    }

    fn into_members(self) -> Result<Members, Miss> {
        Members::new(vec![self.voters], self.nodes).map_err(|_| Miss::Fail(EtcdError::MemberNotEnoughStarted))
    }
}

impl Inner {
    /// The members by the newest membership in the log. Raft acts on it before it is committed, and a member that the
    /// commit needs must find itself in it.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        let stored = StoredMembers::clone(&metrics.borrow_watched().membership_config);
        let members = stored.membership();
        let learners: BTreeSet<u64> = members.learner_ids().collect();
        let attributes = self.shared.store.view().members().unwrap_or_else(|error| {
            tracing::error!(%error, "the members' names cannot be read");
            Vec::new()
        });
        let listed = members.nodes().map(|(id, node)| {
            let known = attributes.iter().find(|attributes| attributes.member_id == *id);
            Member {
                id: *id,
                name: known.map(|known| known.name.clone()).unwrap_or_default(),
                peer_ur_ls: node.peer_urls.clone(),
                client_ur_ls: known.map(|known| known.client_urls.clone()).unwrap_or_default(),
                is_learner: learners.contains(id),
            }
        });
        listed.collect()
    }

    /// See [`super::Node::member_add`].
    pub async fn member_add(&self, urls: Vec<String>, learner: bool) -> Result<(Member, Vec<Member>), EtcdError> {
        let added = self.change(Change::Add(pb::AddMember { peer_urls: urls.clone(), learner })).await?;
        let members = self.members();
        let member = members.iter().find(|member| member.id == added).cloned();
        // It may have been removed again meanwhile.
        let member =
            member.unwrap_or(Member { id: added, peer_ur_ls: urls, is_learner: learner, ..Default::default() });
        Ok((member, members))
    }

    /// See [`super::Node::member_remove`].
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>, EtcdError> {
        self.change(Change::Remove(id)).await?;
        Ok(self.members())
    }

    /// See [`super::Node::member_promote`].
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>, EtcdError> {
        self.change(Change::Promote(id)).await?;
        Ok(self.members())
    }

    /// See [`super::Node::member_update`].
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, EtcdError> {
        self.change(Change::Update(pb::UpdateMember { id, peer_urls })).await?;
        Ok(self.members())
    }

    /// Asks the leader for a change and waits until it is applied here. Answers the id of a member that was added.
    async fn change(&self, change: Change) -> Result<u64, EtcdError> {
        let request = pb::MembershipRequest { change: Some(change) };
        let (index, id) = self
            .with_leader(|leader| {
                let request = request.clone();
                async move {
                    match leader {
                        Leader::Here => self.change_here(request).await,
                        Leader::There(mut caller) => {
                            let answer = caller.change_membership(request).await;
                            let answer = answer.map_err(|status| miss(&status))?.into_inner();
                            told(&answer.error)?;
                            Ok((answer.index, answer.id))
                        }
                    }
                }
            })
            .await?;
        self.wait_applied(index).await?;
        Ok(id)
    }

    /// Changes the membership as the leader. Answers the index of the change, and the id of a member that was added.
    pub async fn change_here(&self, request: pb::MembershipRequest) -> Result<(u64, u64), Miss> {
        let _one_at_a_time = self.membership_change.lock().await;
        if !self.current_status().is_leader() {
            return Err(Miss::Retry);
        }
        let (mut roster, base) = self.roster();
        let rules = Rules { strict: self.config.strict_reconfig_check, max_learners: self.config.max_learners };
        let fail = Miss::Fail;
        match request.change.ok_or(fail(EtcdError::MemberNotFound))? {
            Change::Add(add) => {
                roster.check_add(&add.peer_urls, add.learner, &rules).map_err(fail)?;
                let id = self.fresh_id(&add.peer_urls, &roster);
                // The log before it goes: the newcomer is there sooner with the store's files than with each entry.
                self.shared.flush_due.notify_one();
                roster.nodes.insert(id, PeerNode { peer_urls: add.peer_urls });
                if add.learner {
                    return Ok((self.append(roster.into_members()?, &base).await?, id));
                }
                let alone = roster.voters.len() == 1;
                roster.voters.insert(id);
                let members = roster.into_members()?;
                match alone {
                    true => self.append_second(members, &base, id).await,
                    false => Ok((self.append(members, &base).await?, id)),
                }
            }
            Change::Remove(id) => {
                roster.check_remove(id, &rules).map_err(fail)?;
                roster.nodes.remove(&id);
                roster.voters.remove(&id);
                Ok((self.append(roster.into_members()?, &base).await?, 0))
            }
            Change::Promote(id) => {
                let (matched, last) = self.progress(id);
                roster.check_promote(id, matched, last, &rules).map_err(fail)?;
                roster.voters.insert(id);
                Ok((self.append(roster.into_members()?, &base).await?, 0))
            }
            Change::Update(update) => {
                roster.check_update(update.id, &update.peer_urls).map_err(fail)?;
                let nodes = BTreeMap::from([(update.id, PeerNode { peer_urls: update.peer_urls })]);
                let changed = self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await;
                Ok((written(changed.map(|response| response.log_id.index))?, 0))
            }
        }
    }

    /// An id that no member has or had.
    fn fresh_id(&self, urls: &[String], roster: &Roster) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let state = self.shared.state();
        let token = &self.config.initial_cluster_token;
        let ids = (now..).map(|seconds| bootstrap::member_id(urls, token, Some(seconds)));
        let mut fresh = ids.filter(|id| *id != 0 && !roster.nodes.contains_key(id) && !state.removed.contains(id));
        fresh.next().expect("there are more seconds than members")
    }

    async fn append(&self, members: Members, base: &StoredMembers) -> Result<u64, Miss> {
        // The change was checked against `base`; another leader's change in between makes it void.
        let condition = Precondition::LastMembershipLogId { last_membership_log_id: *base.log_id() };
        let appended = self.raft.append_membership(members, EntryPayload::Blank, [condition]).await;
        written(appended.map(|response| response.log_id.index))
    }

    /// Gives a single member a second one. That is committed only once the newcomer runs, which it does only when its
    /// addition was answered: so the answer comes as soon as the entry is synced here, and nobody waits for index 0.
    async fn append_second(&self, members: Members, base: &StoredMembers, id: u64) -> Result<(u64, u64), Miss> {
        let mut metrics = self.raft.metrics();
        let synced = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    let entry = now.membership_config.log_id();
                    let known = now.membership_config.membership().get_node(&id).is_some();
                    let here = now.replication.iter().flatten().find(|(member, _)| **member == self.member_id);
                    if known && here.is_some_and(|(_, synced)| synced >= entry) {
                        return;
                    }
                }
                if metrics.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            appended = self.append(members, base) => appended.map(|index| (index, id)),
            () = synced => Ok((0, id)),
        }
    }

    /// The others that this member knows to be there: as the leader, those that answered it lately; otherwise the leader.
    pub fn active_peers(&self) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.into_iter();
        answered(&metrics).chain(leader).filter(|id| *id != self.member_id).collect()
    }

    fn roster(&self) -> (Roster, StoredMembers) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = StoredMembers::clone(&metrics.membership_config);
        let members = stored.membership();
        let active = answered(&metrics).chain([self.member_id]).collect();
        let attributes = self.shared.store.view().members().unwrap_or_default();
        let roster = Roster {
            voters: members.voter_ids().collect(),
            learners: members.learner_ids().collect(),
            nodes: members.nodes().map(|(id, node)| (*id, node.clone())).collect(),
            started: attributes.iter().filter(|known| !known.name.is_empty()).map(|known| known.member_id).collect(),
            active,
        };
        (roster, stored)
    }

    /// How far a member's log agrees with this leader's, and where that ends.
    fn progress(&self, id: u64) -> (u64, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten().find(|(member, _)| **member == id);
        let matched = matched.and_then(|(_, log_id)| log_id.as_ref()).map_or(0, |log_id| log_id.index);
        (matched, metrics.last_log_index.unwrap_or(0))
    }
}

type Written<T> =
    Result<T, RaftError<crate::raft::types::TypeConfig, ClientWriteError<crate::raft::types::TypeConfig>>>;

fn written(result: Written<u64>) -> Result<u64, Miss> {
    use ChangeMembershipError::{InProgress, UncommittedLeaderLog};
    match result {
        Ok(index) => Ok(index),
        Err(RaftError::Fatal(_)) => Err(Miss::Fail(EtcdError::Stopped)),
        Err(RaftError::APIError(error)) => match error {
            // None of these has written anything.
            ClientWriteError::ForwardToLeader(_)
            | ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(InProgress(_) | UncommittedLeaderLog(_)) => Err(Miss::Retry),
            ClientWriteError::LogEntryDiscarded(_) => Err(Miss::Fail(EtcdError::TimeoutDueToLeaderFail)),
            ClientWriteError::ChangeMembershipError(error) => {
                tracing::warn!(%error, "raft refused a membership change");
                Err(Miss::Fail(EtcdError::Unhealthy))
            }
        },
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    const RULES: Rules = Rules { strict: true, max_learners: 1 };

    fn roster(voters: &[u64], learners: &[u64], active: &[u64]) -> Roster {
        let all = voters.iter().chain(learners);
        let node = |id: &u64| (*id, PeerNode { peer_urls: vec![format!("http://m{id}:2380")] });
        Roster {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            nodes: all.clone().map(node).collect(),
            started: all.copied().collect(),
            active: active.iter().copied().collect(),
        }
    }

    fn url(id: u64) -> Vec<String> {
        vec![format!("http://m{id}:2380")]
    }

    #[test]
    fn voters_join_only_healthy_clusters() {
        assert_eq!(roster(&[1, 2, 3], &[], &[1, 2, 3]).check_add(&url(4), false, &RULES), Ok(()));
        let degraded = roster(&[1, 2, 3], &[], &[1, 2]);
        assert_eq!(degraded.check_add(&url(4), false, &RULES), Err(EtcdError::Unhealthy));
        assert_eq!(degraded.check_add(&url(4), true, &RULES), Ok(()), "a learner changes no quorum");
        assert_eq!(degraded.check_add(&url(3), true, &RULES), Err(EtcdError::PeerURLExist));
        let mut young = roster(&[1, 2], &[], &[1, 2]);
        young.started.remove(&2);
        assert_eq!(young.check_add(&url(3), false, &RULES), Err(EtcdError::MemberNotEnoughStarted));
    }

    #[test]
    fn one_learner_at_a_time() {
        assert_eq!(roster(&[1], &[2], &[1, 2]).check_add(&url(3), true, &RULES), Err(EtcdError::TooManyLearners));
    }

    #[test]
    fn removing_keeps_the_quorum() {
        let degraded = roster(&[1, 2, 3], &[], &[1, 2]);
        assert_eq!(degraded.check_remove(3, &RULES), Ok(()), "the one that is down");
        assert_eq!(degraded.check_remove(2, &RULES), Err(EtcdError::Unhealthy));
        assert_eq!(degraded.check_remove(9, &RULES), Err(EtcdError::MemberNotFound));
        assert_eq!(roster(&[1], &[], &[1]).check_remove(1, &RULES), Err(EtcdError::MemberNotEnoughStarted));
        assert_eq!(roster(&[1, 2], &[3], &[1]).check_remove(3, &RULES), Ok(()));
    }

    #[test]
    fn learners_are_promoted_when_they_have_caught_up() {
        let ready = roster(&[1], &[2], &[1, 2]);
        assert_eq!(ready.check_promote(2, 90, 100, &RULES), Ok(()));
        assert_eq!(ready.check_promote(2, 89, 100, &RULES), Err(EtcdError::LearnerNotReady));
        assert_eq!(ready.check_promote(1, 100, 100, &RULES), Err(EtcdError::MemberNotLearner));
        assert_eq!(ready.check_promote(7, 100, 100, &RULES), Err(EtcdError::MemberNotFound));
        assert_eq!(roster(&[1], &[2], &[1]).check_promote(2, 100, 100, &RULES), Err(EtcdError::LearnerNotReady));
    }
}
