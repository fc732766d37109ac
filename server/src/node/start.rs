//! From settings to a running member.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::storage::RaftLogStorage;
use openraft::{Config, SnapshotPolicy};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, Identity};
use super::{Clock, Inner, Node, NodeConfig, Role, Running, StartError, bootstrap, read, standalone, tasks};
use crate::lease::Lessor;
use crate::mvcc::{View, WAY_OUT};
use crate::node::NodeStatus;
use crate::node::door::NodeDoor;
use crate::node::gather::Gather;
use crate::raft::Raft;
use crate::raft::log::{LogOptions, LogStore, LogThread};
use crate::raft::network::{self, Network, Peers};
use crate::raft::state_machine::{AppliedState, LeaseListener, Shared, StateMachine};
use crate::raft::types::PeerNode;
use crate::storage::{Store, StoreOptions};
use crate::watch::{Hub, HubOptions};

/// Threads for Raft: its core, applying, and peers.
const THREADS: usize = 2;
/// Of the memory for requests, the part that the newest entries of the log may keep once they are written.
const LOG_PART: usize = 4;
/// Linearizable reads that wait for the same confirmation.
const READS: usize = 16 << 10;

/// Starts a member on a runtime of its own, so that clients' work cannot delay heartbeats.
pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("raft")
        .enable_all()
        .build()
        .map_err(io_error("starting threads"))?;
    let handle = runtime.handle().clone();
    let running = Arc::new(Running {
        runtime: Mutex::new(Some(runtime)),
        log_thread: Mutex::default(),
        data_dir: Mutex::default(),
        stop: CancellationToken::new(),
    });
    let guard = running.clone();
    let started = handle.spawn(async move { start_inside(config, &guard).await });
    let inner = started.await.map_err(|error| StartError::Unavailable(format!("starting failed: {error}")))??;
    Ok(Node { inner, running })
}

fn io_error(context: &str) -> impl FnOnce(io::Error) -> StartError {
    let context = context.to_owned();
    move |source| StartError::Io { context, source }
}

async fn start_inside(config: NodeConfig, running: &Running) -> Result<Arc<Inner>, StartError> {
    let lock = "no holder of this lock panics";
    let data_dir = DataDir::open(&config.data_dir, config.wal_dir.as_deref())?;
    let connections = network::listen(&config.listen_peer_urls, config.peer_tls.clone(), config.reuse_port);
    let connections = connections.await.map_err(io_error("listening for peers"))?;
    let known = data_dir.identity()?;
    let ready = Arc::new(OnceLock::new());
    let service = network::PeerService { blank: known.is_none(), ready: ready.clone() };
    tokio::spawn(network::serve(service, connections, running.stop.clone()));
    let identity = match known {
        Some(identity) => identity,
        None => {
            let identity = bootstrap::identify(&config).await?;
            data_dir.write_identity(&identity)?;
            identity
        }
    };
    tracing::info!(
        cluster_id = format!("{:x}", identity.cluster_id),
        member_id = format!("{:x}", identity.member_id),
        "starting as a member"
    );
    let (inner, log_thread) = open(config, &identity, &data_dir, running.stop.clone()).await?;
    *running.log_thread.lock().expect(lock) = Some(log_thread);
    let opened = network::Ready {
        cluster_id: inner.cluster_id,
        member_id: inner.member_id,
        raft: inner.raft.clone(),
        door: Arc::new(NodeDoor(inner.clone())),
        metrics: inner.config.metrics.clone(),
        snapshot_dir: data_dir.snapshots(),
    };
    if ready.set(opened).is_err() {
        unreachable!("it is set here alone");
    }
    initialize(&inner, identity.members()?).await?;
    *running.data_dir.lock().expect(lock) = Some(data_dir);
    Ok(inner)
}

async fn open(
    config: NodeConfig,
    identity: &Identity,
    data_dir: &DataDir,
    stop: CancellationToken,
) -> Result<(Arc<Inner>, LogThread), StartError> {
    let (cluster_id, member_id) = (identity.cluster_id, identity.member_id);
    let shared = open_state(&config, data_dir)?;
    let options = LogOptions {
        segment_bytes: config.wal_segment_bytes,
        cached_bytes: (config.requests.limit() / LOG_PART).min(LogOptions::default().cached_bytes),
        metrics: config.metrics.clone(),
        unsafe_no_sync: config.unsafe_no_sync,
    };
    let (mut log, log_thread) =
        LogStore::open(data_dir.wal(), options).map_err(|error| StartError::DataDir(error.to_string()))?;
    check_match(&mut log, &shared.state(), data_dir).await?;
    if config.force_new_cluster {
        let urls = &config.initial_advertise_peer_urls;
        let forced = standalone::force(&mut log, &shared.state(), member_id, urls, config.force_new_cluster_bump).await;
        forced.map_err(io_error("removing the other members"))?;
    }
    let lessor = Arc::new(Lessor::new(config.lease_checkpoint, config.metrics.clone()));
    let leases = shared.store.view().leases().map_err(|error| unreadable(data_dir, error))?;
    lessor.replaced(leases);
    let peers =
        Peers::new(cluster_id, member_id, config.peer_tls.clone(), 5 * config.election_timeout, config.metrics.clone());
    let machine = StateMachine::new(shared.clone(), lessor.clone(), config.tokens.clone(), config.slow_apply);
    let raft_config = Arc::new(raft_config(&config)?);
    let raft = Raft::new(member_id, raft_config, Network(peers.clone()), log, machine).await;
    let raft = raft.map_err(|error| StartError::DataDir(format!("raft cannot start: {error}")))?;
    let (reads, waiting) = mpsc::channel(READS);
    let inner = Arc::new(Inner {
        status: watch::Sender::new(first_status(cluster_id, member_id)),
        published: watch::Sender::new(false),
        clock: Clock { start: Instant::now(), heard_millis: AtomicU64::new(0) },
        membership_change: tokio::sync::Mutex::default(),
        promoting: AtomicBool::new(false),
        config,
        cluster_id,
        member_id,
        raft_metrics: raft.metrics(),
        raft,
        peers,
        shared,
        lessor,
        reads,
        gathered_reads: Gather::default(),
        gathered_proposals: Gather::default(),
        stop,
    });
    tokio::spawn(read::run(inner.clone(), waiting));
    tasks::spawn(&inner);
    Ok((inner, log_thread))
}

/// Whether the log goes on where the store ends. After a crash the store is behind, but never behind what the log has forgotten.
async fn check_match(log: &mut LogStore, applied: &AppliedState, data_dir: &DataDir) -> Result<(), StartError> {
    let (wal, store) = (data_dir.wal().display(), data_dir.store());
    if log.is_blank() && applied.last.is_some() {
        return Err(StartError::DataDir(format!(
            "{wal} holds no raft log, but the store beside it has data. Is the volume of --wal-dir mounted? If the log is \
             lost, so are this member's promises to the others. {WAY_OUT}"
        )));
    }
    let purged = log.get_log_state().await.map_err(io_error("reading the raft log"))?.last_purged_log_id;
    let (purged, applied) = (purged.map_or(0, |id| id.index), applied.index());
    if purged <= applied {
        return Ok(());
    }
    Err(StartError::DataDir(format!(
        "{wal} has no entries up to {purged} any more, and {} has applied those up to {applied} only: it is not the store \
         that belongs to this log, or a part of it is lost. {WAY_OUT}",
        store.display()
    )))
}

fn open_state(config: &NodeConfig, data_dir: &DataDir) -> Result<Arc<Shared>, StartError> {
    let options = StoreOptions { metrics: config.metrics.clone(), ..config.store.clone() };
    let store = Store::open(&data_dir.store(), options);
    let store = store.map_err(|error| unreadable(data_dir, error))?;
    let options = HubOptions { metrics: config.metrics.clone(), ..config.watch.clone() };
    let hub = Hub::new(store.view().revision(), options);
    let shared = Shared::new(store, hub, data_dir.snapshots(), config.metrics.clone());
    shared.map_err(|error| unreadable(data_dir, error))
}

fn unreadable(data_dir: &DataDir, error: impl std::fmt::Display) -> StartError {
    let store = data_dir.store();
    StartError::DataDir(format!("{}: {error}. If a file is damaged or gone: {WAY_OUT}", store.display()))
}

fn first_status(cluster_id: u64, member_id: u64) -> NodeStatus {
    NodeStatus {
        cluster_id,
        member_id,
        leader: None,
        term: 0,
        committed_index: 0,
        applied_index: 0,
        role: Role::Follower,
        leader_changes: 0,
        removed: false,
    }
}

/// What openraft is told of a member's settings.
pub fn raft_config(config: &NodeConfig) -> Result<Config, StartError> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let heartbeat = millis(config.heartbeat_interval);
    // openraft waits for the leader's lease (the maximum) and then for a random time between the two: together that
    // is etcd's one to two election timeouts.
    let election = millis(config.election_timeout);
    let raft = Config {
        cluster_name: config.initial_cluster_token.clone(),
        // Heartbeats are sent by a task of this member; what is left of this is a tick of 13/64 of it, which is to be as
        // long as the time between heartbeats, and the time that one may take.
        enable_heartbeat: false,
        heartbeat_interval: (heartbeat * 64 / 13).min((election / 2).saturating_sub(1)),
        election_timeout_min: election / 2,
        election_timeout_max: election,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.snapshot_catchup_entries,
        max_payload_entries: 1024,
        enable_pre_vote: Some(config.pre_vote),
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(2 * election),
        backoff: "100ms 200ms ..1s".into(),
        ..Config::default()
    };
    raft.validate().map_err(|error| StartError::Config(format!("election and heartbeat settings: {error}")))
}

/// Gives a new cluster its first membership. All its members do, with the same one.
async fn initialize(inner: &Inner, members: BTreeMap<u64, Vec<String>>) -> Result<(), StartError> {
    let raft = &inner.raft;
    let known = raft.is_initialized().await;
    if members.is_empty() || known.map_err(|error| StartError::Unavailable(error.to_string()))? {
        return lead_alone(inner).await;
    }
    let nodes: BTreeMap<u64, PeerNode> =
        members.into_iter().map(|(id, peer_urls)| (id, PeerNode { peer_urls })).collect();
    match raft.initialize(nodes).await {
        // Another member was faster: its entries, or its vote, have arrived already.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Unavailable(format!("raft cannot be initialized: {error}"))),
    }
}

/// The only voter of a cluster needs nobody's vote, and no time in which another leader might be heard.
async fn lead_alone(inner: &Inner) -> Result<(), StartError> {
    let voters: Vec<u64> = inner.raft.metrics().borrow_watched().membership_config.membership().voter_ids().collect();
    if voters != [inner.member_id] {
        return Ok(());
    }
    let elected = inner.raft.trigger().elect(false).await;
    elected.map_err(|error| StartError::Unavailable(format!("raft has ended: {error}")))
}
