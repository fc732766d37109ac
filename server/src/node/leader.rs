//! Finding the leader, and asking it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tonic::Status;

use super::{Clock, Inner, NodeStatus, Role};
use crate::error::EtcdError;
use crate::raft::network::{Caller, was_not_sent};
use crate::raft::types::TypeConfig;

/// Why an attempt to reach the leader gave nothing.
#[derive(Debug)]
pub enum Miss {
    /// Nothing was done: another attempt is safe.
    Retry,
    /// The answer is this error.
    Fail(EtcdError),
}

/// Where the leader is.
pub enum Leader {
    /// Here.
    Here,
    /// There.
    There(Box<Caller>),
}

impl Clock {
    /// The leader was heard from.
    pub fn heard(&self) {
        self.heard_millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self) -> Option<Duration> {
        let heard = self.heard_millis.load(Ordering::Relaxed);
        (heard > 0).then(|| self.start.elapsed().saturating_sub(Duration::from_millis(heard)))
    }
}

impl Inner {
    /// This member's view now. A leader that lost its quorum, and one that went silent, are no leaders.
    pub fn current_status(&self) -> NodeStatus {
        let metrics = self.raft_metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let known = self.status.borrow();
        let leader = self.leader_of(&metrics);
        let leading = leader == Some(self.member_id);
        let is_voter = members.voter_ids().any(|id| id == self.member_id);
        let applied_index = *self.shared.applied_index.borrow();
        let committed = metrics.local_committed.map_or(0, |id| id.index);
        NodeStatus {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            leader,
            term: metrics.current_term,
            committed_index: committed.max(applied_index),
            applied_index,
            role: match (leading, is_voter) {
                (true, _) => Role::Leader,
                (false, true) => Role::Follower,
                (false, false) => Role::Learner,
            },
            leader_changes: known.leader_changes,
            removed: known.removed,
        }
    }

    fn leader_of(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<u64> {
        let trusted = match metrics.current_leader? {
            id if id == self.member_id => metrics.state == ServerState::Leader && self.has_quorum(metrics),
            _ => self.hears_leader(),
        };
        metrics.current_leader.filter(|_| trusted)
    }

    /// Whether more was committed than is applied here, by more than so many entries.
    pub fn is_behind(&self, entries: u64) -> bool {
        let committed = self.raft_metrics.borrow_watched().local_committed.map_or(0, |id| id.index);
        committed > *self.shared.applied_index.borrow() + entries
    }

    fn has_quorum(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let alone = metrics.membership_config.membership().voter_ids().eq([self.member_id]);
        let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
        alone || acked.is_some_and(|age| age < self.config.election_timeout)
    }

    fn hears_leader(&self) -> bool {
        self.clock.silence().is_some_and(|silence| silence < self.config.election_timeout * 3 / 2)
    }

    fn leader_now(&self) -> Option<Leader> {
        let metrics = self.raft_metrics.borrow_watched();
        let id = self.leader_of(&metrics)?;
        if id == self.member_id {
            return Some(Leader::Here);
        }
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some(Leader::There(Box::new(self.peers.caller(id, &node.peer_urls))))
    }

    /// Whether this member leads now.
    pub fn leads(&self) -> bool {
        self.leader_of(&self.raft_metrics.borrow_watched()) == Some(self.member_id)
    }

    /// Waits until there is a leader.
    async fn leader(&self) -> Result<Leader, EtcdError> {
        if let Some(leader) = self.leader_now() {
            return Ok(leader);
        }
        let mut status = self.status.subscribe();
        loop {
            if self.stop.is_cancelled() {
                return Err(EtcdError::Stopped);
            }
            if let Some(leader) = self.leader_now() {
                return Ok(leader);
            }
            // It is looked at every now and then even if nothing tells of a change.
            drop(tokio::time::timeout(self.config.heartbeat_interval, status.changed()).await);
        }
    }

    /// Tries until the leader answers, or the request's time is over.
    pub async fn with_leader<T, F>(&self, mut attempt: impl FnMut(Leader) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        let start = Instant::now();
        let changes = self.status.borrow().leader_changes;
        let trying = async {
            loop {
                // An attempt that waits for Raft or for a peer fails when this member stops.
                match attempt(self.leader().await?).await {
                    Ok(answer) => return Ok(answer),
                    Err(Miss::Fail(error)) => return Err(error),
                    Err(Miss::Retry) => tokio::time::sleep(self.config.heartbeat_interval / 2).await,
                }
            }
        };
        match tokio::time::timeout_at((start + self.request_timeout()).into(), trying).await {
            Ok(answer) => answer,
            Err(_) => Err(self.late(changes)),
        }
    }

    /// Why there was no answer in time, by how many changes of the leader there were at the beginning.
    pub fn late(&self, changes: u64) -> EtcdError {
        match self.status.borrow().leader_changes == changes {
            true => EtcdError::Timeout,
            false => EtcdError::TimeoutDueToLeaderFail,
        }
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: u64) -> Result<(), EtcdError> {
        if *self.shared.applied_index.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.shared.applied_index.subscribe();
        let waiting = applied.wait_for(|applied| *applied >= index);
        tokio::select! {
            done = tokio::time::timeout(self.request_timeout(), waiting) => match done {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(EtcdError::Stopped),
                Err(_) => Err(EtcdError::TimeoutWaitAppliedIndex),
            },
            () = self.stop.cancelled() => Err(EtcdError::Stopped),
        }
    }
}

/// What a failed call to the leader means for a request that must not be done twice.
pub fn miss(status: &Status) -> Miss {
    match status.code() {
        // Refused before anything was done: another member, or another cluster, lives there.
        tonic::Code::FailedPrecondition => Miss::Retry,
        _ if was_not_sent(status) => Miss::Retry,
        // It may have been done.
        _ => Miss::Fail(EtcdError::TimeoutDueToConnectionLost),
    }
}

/// What the leader's own error means.
pub fn told(error: &str) -> Result<(), Miss> {
    match EtcdError::from_name(error) {
        _ if error.is_empty() => Ok(()),
        Some(EtcdError::NotLeader) => Err(Miss::Retry),
        Some(error) => Err(Miss::Fail(error)),
        None => Err(Miss::Fail(EtcdError::Timeout)),
    }
}

/// The error as the asking member understands it.
pub fn tell(miss: Miss) -> String {
    match miss {
        Miss::Retry => EtcdError::NotLeader.name().into(),
        Miss::Fail(error) => error.name().into(),
    }
}
