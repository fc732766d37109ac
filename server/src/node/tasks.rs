//! What a member does by itself: watch its own state, publish its name, flush, expire leases, hand leadership over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use prost::Message;

use super::{Inner, NodeStatus, corruption, space};
use crate::error::EtcdError;
use crate::lease::Revoker;
use crate::mvcc::auth::ROOT;
use crate::mvcc::{MemberAttributes, View, WAY_OUT};
use crate::proto::command::command::Op;
use crate::proto::command::{Caller, Command};
use crate::proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use crate::raft::state_machine::{self, AppliedState};
use crate::raft::types::Request;

/// Unflushed changes are flushed after this long.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// Entries that a snapshot on its way may keep in the log. A receiver that takes longer needs another snapshot.
const MOST_HELD_ENTRIES: u64 = 5_000_000;

/// Starts the tasks; they end with the member.
pub fn spawn(inner: &Arc<Inner>) {
    tokio::spawn(watch_status(inner.clone()));
    tokio::spawn(send_heartbeats(inner.clone()));
    tokio::spawn(publish(inner.clone()));
    tokio::spawn(flush(inner.clone()));
    tokio::spawn(space::watch(inner.clone()));
    corruption::spawn(inner);
    tokio::spawn(inner.lessor.clone().run(LeaseRevoker(inner.clone()), inner.stop.clone()));
}

/// Keeps the status others wait for, and ends the process when Raft cannot go on.
async fn watch_status(inner: Arc<Inner>) {
    // Told of what clients can notice; the other metrics change with each entry.
    let mut changes = inner.raft.server_metrics();
    let metrics = inner.raft.metrics();
    let mut removed = inner.peers.removed();
    let mut last_leader = None;
    let mut known_members = None;
    loop {
        changes.borrow_and_update();
        let mut now = inner.current_status();
        if let Some(leader) = now.leader
            && last_leader != Some((leader, now.term))
        {
            last_leader = Some((leader, now.term));
            now.leader_changes += 1;
            tracing::info!(leader = format!("{leader:x}"), term = now.term, "the leader changed");
        }
        now.removed = *removed.borrow_and_update() || inner.shared.state().removed.contains(&inner.member_id);
        if now.removed && !inner.status.borrow().removed {
            tracing::error!("the member has been permanently removed from the cluster");
        }
        let members = {
            let metrics = metrics.borrow_watched();
            let members = &metrics.membership_config;
            (known_members.as_ref() != members.log_id().as_ref()).then(|| members.clone())
        };
        if let Some(members) = members {
            known_members = *members.log_id();
            for (id, node) in members.membership().nodes() {
                inner.peers.moved(*id, &node.peer_urls);
            }
        }
        follow_leadership(&inner, &now);
        inner.status.send_if_modified(|status| {
            let noticeable = (status.leader, status.term, status.role, status.removed)
                != (now.leader, now.term, now.role, now.removed);
            *status = now;
            noticeable
        });
        // Silence changes no metric, and neither does the first word of a majority to a new leader.
        let pause = match inner.status.borrow().leader {
            Some(_) => inner.config.election_timeout / 2,
            None => inner.config.heartbeat_interval,
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                let state = metrics.borrow_watched().running_state.clone();
                return match state {
                    Err(Fatal::Stopped) => {}
                    Err(fatal) => end(&inner, &fatal),
                    // Its core is gone without a word: it has panicked, or this member stops.
                    Ok(()) => end(&inner, &"its core has ended"),
                };
            },
            _ = removed.changed() => {}
            () = tokio::time::sleep(pause) => {}
            () = inner.stop.cancelled() => return,
        }
    }
}

/// A leader's heartbeats. openraft would send them too, but ticks five times for each: most of what an idle member does.
async fn send_heartbeats(inner: Arc<Inner>) {
    let mut status = inner.status.subscribe();
    let beating = async {
        while status.wait_for(NodeStatus::is_leader).await.is_ok() && inner.raft.trigger().heartbeat().await.is_ok() {
            tokio::time::sleep(inner.config.heartbeat_interval).await;
        }
    };
    tokio::select! {
        () = beating => {}
        () = inner.stop.cancelled() => {}
    }
}

fn end(inner: &Inner, reason: &dyn std::fmt::Display) {
    if inner.stop.is_cancelled() {
        return;
    }
    // Nobody knows any more what is on disk: going on could acknowledge what is lost. An orderly exit would wait for
    // RocksDB's threads, and answer clients meanwhile.
    let error = format_args!("{reason}. If a file is damaged or the disk fails: {WAY_OUT}");
    tracing::error!(%error, "raft cannot go on; the process ends");
    std::process::abort();
}

/// The lease timer runs where the leader is, once that has applied everything committed before it.
fn follow_leadership(inner: &Arc<Inner>, now: &NodeStatus) {
    if !now.is_leader() {
        return inner.lessor.demote();
    }
    if !inner.lessor.is_leading() && !inner.promoting.swap(true, Ordering::AcqRel) {
        let inner = inner.clone();
        tokio::spawn(async move {
            let caught_up = inner.linearize().await.is_ok();
            if caught_up && inner.current_status().is_leader() {
                inner.lessor.promote();
            }
            inner.promoting.store(false, Ordering::Release);
        });
    }
}

/// Tells the cluster this member's name and client URLs, until it knows.
async fn publish(inner: Arc<Inner>) {
    let attributes = MemberAttributes {
        member_id: inner.member_id,
        name: inner.config.name.clone(),
        client_urls: inner.config.advertise_client_urls.clone(),
    };
    while !inner.stop.is_cancelled() {
        // What is applied here may be old: what the cluster knows decides.
        let caught_up = inner.linearize().await.is_ok();
        let known = inner.shared.store.view().members().unwrap_or_default();
        if caught_up && known.contains(&attributes) {
            inner.published.send_replace(true);
            // Not before: it takes the time of a core.
            inner.shared.store.count_keys();
            return;
        }
        if caught_up {
            let command = Command { op: Some(Op::MemberAttributes(attributes.clone())), ..Default::default() };
            if let Err(error) = inner.propose(command).await {
                tracing::warn!(%error, "this member's name is not published yet");
            }
        }
        let pause = tokio::time::sleep(inner.config.heartbeat_interval);
        tokio::select! {
            () = pause => {}
            () = inner.stop.cancelled() => {}
        }
    }
}

/// Flushes the store when much is unflushed, or something for long, so that the log behind it can go.
async fn flush(inner: Arc<Inner>) {
    loop {
        let timer = tokio::select! {
            () = inner.shared.flush_due.notified() => false,
            () = tokio::time::sleep(FLUSH_INTERVAL) => true,
            () = inner.stop.cancelled() => return,
        };
        let flushed = AppliedState::decode(inner.shared.store.flushed_applied()).map_or(0, |state| state.index());
        let applied = inner.shared.state().index();
        if timer && flushed == applied {
            continue;
        }
        // Once a snapshot is built, the log before it is purged. A member that is being sent one needs that log.
        let sending = inner.shared.sending.load(Ordering::Acquire) > 0;
        let held = applied - inner.raft.metrics().borrow_watched().purged.map_or(0, |id| id.index);
        if sending && held < MOST_HELD_ENTRIES {
            if let Err(error) = state_machine::flush(&inner.shared).await {
                tracing::error!(%error, "the store cannot be flushed");
            }
            continue;
        }
        if let Err(error) = inner.raft.trigger().snapshot().await {
            tracing::debug!(%error, "raft has stopped");
            return;
        }
    }
}

struct LeaseRevoker(Arc<Inner>);

impl Revoker for LeaseRevoker {
    async fn confirm_leadership(&self) -> bool {
        self.0.current_status().is_leader() && self.0.read_index_here().await.is_ok()
    }

    async fn revoke(&self, id: i64) -> bool {
        // In root's name, which may revoke any lease whatever the auth revision.
        let caller = Caller { username: ROOT.to_owned(), ..Caller::default() };
        let command = Command { op: Some(Op::LeaseRevoke(LeaseRevokeRequest { id })), caller: Some(caller) };
        // Only by this member: another leader has given the lease its full time again.
        let proposed = self.0.propose_here(Request::new(command.encode_to_vec())).await;
        let gone =
            proposed.is_ok_and(|(_, outcome)| matches!(outcome.refusal(), None | Some(EtcdError::LeaseNotFound)));
        self.0.config.metrics.leases_expired.inc_by(gone.into());
        gone
    }

    async fn checkpoint(&self, checkpoints: Vec<LeaseCheckpoint>) {
        let command =
            Command { op: Some(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })), ..Default::default() };
        if self.0.propose_here(Request::new(command.encode_to_vec())).await.is_err() {
            tracing::warn!("what is left of leases was not recorded");
        }
    }
}

impl Inner {
    /// See [`super::Node::transfer_leadership`].
    pub async fn transfer_leadership(&self, target: u64) -> Result<(), EtcdError> {
        let status = self.current_status();
        if !status.is_leader() {
            return Err(EtcdError::NotLeader);
        }
        if target == self.member_id {
            return Ok(());
        }
        let is_voter = self.raft.voter_ids().any(|id| id == target);
        if !is_voter {
            return Err(EtcdError::BadLeaderTransferee);
        }
        self.raft.trigger().transfer_leader(target).await.map_err(|_| EtcdError::Stopped)?;
        let mut changes = self.status.subscribe();
        let moved = changes.wait_for(|status| status.leader == Some(target));
        match tokio::time::timeout(self.request_timeout(), moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(EtcdError::Timeout),
        }
    }

    /// Hands leadership to the voter that has most of the log, if this member leads and has such a peer.
    pub async fn hand_over(&self) {
        if !self.current_status().is_leader() {
            return;
        }
        let best = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            // Not by `Raft::voter_ids`: it would lock the metrics a second time.
            let voters: Vec<u64> =
                metrics.membership_config.membership().voter_ids().filter(|id| *id != self.member_id).collect();
            let progress = metrics.replication.iter().flatten().filter(|(id, _)| voters.contains(id));
            progress.filter_map(|(id, matched)| matched.map(|matched| (matched, *id))).max()
        };
        let Some((_, target)) = best else { return };
        let limit = 2 * self.config.election_timeout;
        match tokio::time::timeout(limit, self.transfer_leadership(target)).await {
            Ok(Ok(())) => tracing::info!(target_member = format!("{target:x}"), "handed leadership over"),
            Ok(Err(error)) => tracing::warn!(%error, "leadership was not handed over"),
            Err(_) => tracing::warn!("leadership was not handed over in time"),
        }
    }
}
