//! One member of the cluster, as the doors in `api/` see it: propose, read linearizably, change the membership.
//!
//! `Node` is a cheap handle. It hides whether this member leads: writes, read indexes, membership changes and lease
//! renewals go to the leader wherever it is, and answers are given only once this member has applied what they tell.

pub mod config;
pub mod status;

mod bootstrap;
mod corruption;
mod data_dir;
mod door;
mod gather;
mod leader;
mod membership;
mod propose;
mod read;
mod restore;
mod space;
mod standalone;
mod start;
mod tasks;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openraft::RaftMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use bootstrap::{cluster_id, member_id};
pub use config::{InitialClusterState, NodeConfig, StartError};
pub use restore::{Restored, check_vacant, holds_member, move_member, restore};
pub use start::raft_config;
pub use status::{NodeStatus, Role};

use crate::budget::Budget;
use crate::error::EtcdError;
use crate::lease::{Lessor, TimeToLive};
use crate::mvcc::View;
use crate::node::gather::Gather;
use crate::proto::command::{Command, Outcome};
use crate::proto::etcdserverpb::{LeaseTimeToLiveResponse, Member};
use crate::raft::Raft;
use crate::raft::log::LogThread;
use crate::raft::network::Peers;
use crate::raft::state_machine::Shared;
use crate::raft::types::TypeConfig;
use crate::storage::{ReadView, Store};
use crate::watch::Hub;

/// Why the node refused or could not answer; the same table that clients see.
pub type NodeError = EtcdError;

/// A running member. Clones share it; when the last one is dropped it ends as by a crash.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
    running: Arc<Running>,
}

/// What tasks of the member share.
struct Inner {
    config: NodeConfig,
    cluster_id: u64,
    member_id: u64,
    raft: Raft,
    raft_metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    peers: Arc<Peers>,
    shared: Arc<Shared>,
    lessor: Arc<Lessor>,
    status: watch::Sender<NodeStatus>,
    /// The member's name and URLs are known to the cluster.
    published: watch::Sender<bool>,
    reads: mpsc::Sender<read::Waiter>,
    gathered_reads: Gather<read::Waiter>,
    gathered_proposals: Gather<propose::Proposal>,
    membership_change: tokio::sync::Mutex<()>,
    /// A new leader is catching up before it counts leases down.
    promoting: AtomicBool,
    stop: CancellationToken,
    clock: Clock,
}

/// When the leader was last heard from, for those who follow it.
pub struct Clock {
    start: Instant,
    heard_millis: AtomicU64,
}

/// What ends with the last handle.
struct Running {
    runtime: Mutex<Option<Runtime>>,
    log_thread: Mutex<Option<LogThread>>,
    data_dir: Mutex<Option<data_dir::DataDir>>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.get_mut().ok().and_then(Option::take) {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    /// Opens the data directory, joins or bootstraps the cluster, and starts to take part in it.
    ///
    /// Returns once peers can reach this member; [`Node::wait_ready`] tells when it can serve clients.
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        start::start(config).await
    }

    /// Replicates one command and answers what applying it gave, once it is applied here too.
    ///
    /// An outcome that is an error comes back as `Err`. A command for which there is no memory is refused. A timeout does not
    /// prove that nothing was committed.
    pub async fn propose(&self, command: Command) -> Result<Outcome, NodeError> {
        self.inner.propose(command).await
    }

    /// Waits until this member has applied everything that was committed when the call began.
    pub async fn linearize(&self) -> Result<(), NodeError> {
        self.inner.linearize().await
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: u64) -> Result<(), NodeError> {
        self.inner.wait_applied(index).await
    }

    /// The state as applied here, at one moment.
    pub fn view(&self) -> ReadView {
        self.inner.shared.store.view()
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.inner.shared.store
    }

    /// Memory for requests on their way.
    pub fn requests(&self) -> &Arc<Budget> {
        &self.inner.config.requests
    }

    /// Where files that do not live long are put; empty at start.
    pub fn snapshot_dir(&self) -> &std::path::Path {
        &self.inner.shared.snapshot_dir
    }

    /// The watch hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.inner.shared.hub
    }

    /// What this member knows of itself and of the cluster at this moment.
    pub fn status(&self) -> NodeStatus {
        self.inner.current_status()
    }

    /// Ids of the cluster and of this member.
    pub fn ids(&self) -> (u64, u64) {
        (self.inner.cluster_id, self.inner.member_id)
    }

    /// Raft's term; may be a moment old.
    pub fn term(&self) -> u64 {
        self.inner.status.borrow().term
    }

    /// Whether this member has no vote. A vote that it got only now counts, as it does in [`Node::status`]: who is told
    /// by that one that this member votes is not refused as by a learner afterwards.
    pub fn is_learner(&self) -> bool {
        // What is kept costs less to ask, and a voter is asked with each request.
        self.inner.status.borrow().is_learner() && self.inner.current_status().is_learner()
    }

    /// Changes of [`Node::status`] that clients can notice: leader, term, role. Indexes in it may be a little old.
    pub fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.inner.status.subscribe()
    }

    /// The members as applied here, in order of their ids; not linearized.
    pub fn members(&self) -> Vec<Member> {
        self.inner.members()
    }

    /// The other members that this one knows to be there.
    pub fn active_peers(&self) -> std::collections::BTreeSet<u64> {
        self.inner.active_peers()
    }

    /// Adds a member, as a learner or as a voter. Answers the new member and all members.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(Member, Vec<Member>), NodeError> {
        self.inner.member_add(peer_urls, is_learner).await
    }

    /// Removes a member for good: its id never comes back. Answers the remaining members.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>, NodeError> {
        self.inner.member_remove(id).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>, NodeError> {
        self.inner.member_promote(id).await
    }

    /// Changes the peer URLs of a member.
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, NodeError> {
        self.inner.member_update(id, peer_urls).await
    }

    /// Hands leadership to `target`; only the leader can (`NotLeader` elsewhere).
    pub async fn transfer_leadership(&self, target: u64) -> Result<(), NodeError> {
        self.inner.transfer_leadership(target).await
    }

    /// Renews a lease at the leader. Answers its TTL in seconds, or `LeaseNotFound`.
    pub async fn lease_renew(&self, id: i64) -> Result<i64, NodeError> {
        let TimeToLive { remaining_seconds, .. } = self.inner.ask_lease(id, false).await?;
        Ok(remaining_seconds)
    }

    /// What the leader knows of a lease, with its keys if asked for, or `LeaseNotFound`. The header is left out.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, NodeError> {
        self.inner.linearize().await?;
        let ttl = self.inner.ask_lease(id, true).await?;
        let keys = match keys {
            true => self.view().lease_keys(id).map_err(|_| EtcdError::Corrupt)?,
            false => Vec::new(),
        };
        Ok(LeaseTimeToLiveResponse {
            header: None,
            id,
            ttl: ttl.remaining_seconds,
            granted_ttl: ttl.granted_seconds,
            keys,
        })
    }

    /// Waits until this member has caught up with what was committed before it started and has published its name.
    pub async fn wait_ready(&self) -> Result<(), NodeError> {
        let mut published = self.inner.published.subscribe();
        tokio::select! {
            done = published.wait_for(|published| *published) => done.map(|_| ()).map_err(|_| EtcdError::Stopped),
            () = self.inner.stop.cancelled() => Err(EtcdError::Stopped),
        }
    }

    /// Compares this member's history with the others', if it shall before it serves clients.
    pub async fn check_initially(&self) -> Result<(), StartError> {
        match self.inner.config.initial_corrupt_check {
            true => self.inner.check_initially().await,
            false => Ok(()),
        }
    }

    /// Hands leadership over if it has it, then stops. Later calls on any clone answer `Stopped`.
    pub async fn shutdown(&self) {
        self.inner.hand_over().await;
        self.inner.stop.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let inner = self.inner.clone();
        let running = self.running.clone();
        let stopping = move || {
            // What is flushed now need not be applied again at the next start.
            if let Err(error) = inner.shared.store.flush() {
                tracing::error!(%error, "the store could not be flushed");
            }
            running.end();
        };
        if let Err(error) = tokio::task::spawn_blocking(stopping).await {
            tracing::error!(%error, "stopping failed");
        }
    }
}

/// How long running tasks may take to notice the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl Running {
    fn end(&self) {
        let lock = "no holder of this lock panics";
        if let Some(runtime) = self.runtime.lock().expect(lock).take() {
            runtime.shutdown_timeout(STOP_LIMIT);
        }
        if let Some(thread) = self.log_thread.lock().expect(lock).take() {
            thread.join();
        }
        self.data_dir.lock().expect(lock).take();
    }
}

impl Inner {
    /// How long a request may take: etcd's 5 s, and two elections.
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.config.election_timeout
    }
}
