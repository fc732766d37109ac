//! A member from a start to its end, and what it leaves for the next start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keelson_server::mvcc::LeaseRecord;
use keelson_server::node::{NodeConfig, raft_config};
use keelson_server::raft::log::{LogOptions, LogStore};
use keelson_server::raft::state_machine::{AppliedState, LeaseListener, Shared, StateMachine, TokenListener};
use keelson_server::raft::types::{PeerNode, TypeConfig};
use keelson_server::state::auth::TokenChange;
use keelson_server::storage::{Store, StoreOptions};
use keelson_server::watch::{Hub, HubOptions};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use tokio::time::sleep;

use crate::disk::{Disk, Loss};
use crate::event::{self, Id};
use crate::log::Log;
use crate::machine::Machine;
use crate::network::Network;
use crate::world::{Bug, World};

/// Segments so small that logs have several.
const SEGMENT_BYTES: u64 = 16 << 10;
/// Entries that stay in the log behind what is flushed; members that lag more need a snapshot.
const CATCH_UP_ENTRIES: u64 = 20;
/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// One run of a member.
pub struct Life {
    pub member: u64,
    /// No other run has it.
    pub number: u64,
    ended: Mutex<Option<Loss>>,
}

impl Life {
    pub fn new(member: u64, number: u64) -> Self {
        Life { member, number, ended: Mutex::default() }
    }

    /// From now on it says and hears nothing, and writes nothing that the next one finds.
    pub fn end(&self, loss: Loss) {
        self.ended.lock().expect("no panic").get_or_insert(loss);
    }

    pub fn loss(&self) -> Option<Loss> {
        *self.ended.lock().expect("no panic")
    }

    pub fn is_over(&self) -> bool {
        self.loss().is_some()
    }
}

/// A running member.
pub struct Member {
    pub life: Arc<Life>,
    pub raft: openraft::Raft<TypeConfig, Machine>,
    pub shared: Arc<Shared>,
    log: LogStore,
    dir: PathBuf,
}

struct Nobody;

impl LeaseListener for Nobody {
    fn changed(&self, _leases: &BTreeMap<i64, Option<LeaseRecord>>) {}

    fn replaced(&self, _leases: Vec<LeaseRecord>) {}
}

impl TokenListener for Nobody {
    fn changed(&self, _change: TokenChange) {}

    fn replaced(&self) {}
}

fn store_options() -> StoreOptions {
    let bytes = 1 << 20;
    StoreOptions {
        write_buffer_bytes: bytes,
        block_cache_bytes: bytes,
        recent_keys_bytes: bytes,
        ..StoreOptions::default()
    }
}

impl Member {
    /// Starts on what is in `dir`. An error is the server's own.
    pub async fn start(world: &Arc<World>, member: u64, dir: PathBuf) -> Result<Arc<Member>, String> {
        let life = world.new_life(member);
        let words = |error: &dyn std::fmt::Display| format!("{member} does not start: {error}");
        let wal = dir.join("wal");
        world.plug_in(&life, Disk::of(&wal, world.bug == Some(Bug::NoSync)));
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
        let (log, mut writer) = LogStore::prepare(&wal, options).map_err(|error| words(&error))?;
        let store = Store::open(&dir.join("store"), store_options()).map_err(|error| words(&error))?;
        let hub = Hub::new(keelson_server::mvcc::View::revision(&store.view()), HubOptions::default());
        let shared = Shared::new(store, hub, dir.join("snapshots"), Arc::default()).map_err(|error| words(&error))?;
        let machine = StateMachine::new(shared.clone(), Arc::new(Nobody), Arc::new(Nobody), Duration::MAX);
        let machine = Machine { inner: machine, shared: shared.clone(), life: life.clone(), world: world.clone() };
        let settings = NodeConfig { snapshot_catchup_entries: CATCH_UP_ENTRIES, ..NodeConfig::default() };
        let config = Arc::new(raft_config(&settings).map_err(|error| words(&error))?);
        let network = Network { world: world.clone(), life: life.clone() };
        // The disk works from here on.
        let (disk, world_of_disk) = (life.clone(), world.clone());
        tokio::spawn(async move {
            while !disk.is_over() {
                sleep(world_of_disk.disk_latency(disk.member)).await;
                if !disk.is_over() {
                    writer.step();
                }
            }
        });
        let kept = Log::new(log.clone(), world.bug == Some(Bug::ForgottenVote));
        let raft = openraft::Raft::new(member, config, network, kept, machine).await.map_err(|error| words(&error))?;
        let member = Arc::new(Member { life, raft, shared, log, dir });
        tokio::spawn(beat(member.clone()));
        tokio::spawn(flush(world.clone(), member.clone()));
        Ok(member)
    }

    /// Gives a new cluster its members.
    pub async fn initialize(&self, members: u64) {
        let nodes: BTreeMap<u64, PeerNode> = (1..=members).map(|id| (id, PeerNode::default())).collect();
        // Another member may have been faster.
        let _ = self.raft.initialize(nodes).await;
    }

    /// Whether it takes itself for the leader.
    pub fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state == openraft::ServerState::Leader
    }

    /// Why Raft has ended by itself.
    pub fn failure(&self) -> Option<String> {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        state.err().filter(|_| !self.life.is_over()).map(|fatal| fatal.to_string())
    }

    /// What is in its log.
    pub async fn log(&self) -> event::Log {
        let mut log = self.log.clone();
        let state = log.get_log_state().await.expect("the state of a log");
        let entries = log.try_get_log_entries(..).await.expect("what was written can be read");
        let purged = state.last_purged_log_id.map_or(0, |purged| purged.index);
        event::Log { purged, entries: entries.iter().map(Id::from).filter(|entry| entry.index > purged).collect() }
    }

    /// Writes what is left of an ended run for the next one.
    pub async fn bury(self: Arc<Self>, world: &Arc<World>, into: PathBuf) {
        let disk = world.unplug(&self.life);
        disk.end(self.life.loss().expect("an end"), &into.join("wal"), || world.one_in(2));
        copy(&self.dir.join("store"), &into.join("store")).expect("copied");
        if world.bug == Some(Bug::AppliedTwice) {
            self.apply_again(&into.join("store")).await;
        }
        // What still runs of it speaks to nobody.
        tokio::spawn(async move {
            let _ = self.raft.shutdown().await;
        });
    }

    /// The planted bug: the store has the effects of entries that it does not know to have been applied.
    async fn apply_again(&self, dir: &Path) {
        let store = Store::open(dir, store_options()).expect("opened");
        let mut state = AppliedState::decode(store.applied()).expect("understood");
        let last = state.index();
        let before = self.log.clone().try_get_log_entries(last.saturating_sub(2)..last).await.expect("read");
        if let Some(entry) = before.first() {
            state.last = Some(entry.log_id);
            let mut batch = store.begin();
            batch.set_applied(&state.encode());
            batch.commit().expect("committed");
            store.flush().expect("flushed");
        }
    }
}

/// The files of a store that is open, as they are at some moment: RocksDB's threads change them meanwhile.
fn copy(from: &Path, into: &Path) -> io::Result<()> {
    loop {
        let before = sizes(from)?;
        fs::create_dir_all(into)?;
        for (path, size) in &before {
            let into = into.join(path.strip_prefix(from).expect("below"));
            match size {
                None => fs::create_dir_all(into)?,
                Some(_) => fs::copy(path, into).map(drop).or_else(gone)?,
            }
        }
        if sizes(from)? == before {
            return Ok(());
        }
        fs::remove_dir_all(into)?;
    }
}

/// A file that is removed meanwhile is not missed: the copy is made once more.
fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Everything below a folder, parents first; folders have no size.
fn sizes(dir: &Path) -> io::Result<BTreeMap<PathBuf, Option<u64>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let data = match path.metadata() {
            Ok(data) => data,
            Err(error) => {
                gone(error)?;
                continue;
            }
        };
        if data.is_dir() {
            found.extend(sizes(&path)?);
        }
        found.insert(path, data.is_file().then_some(data.len()));
    }
    Ok(found)
}

/// A leader's heartbeats, which a task of each member sends.
async fn beat(member: Arc<Member>) {
    while !member.life.is_over() {
        if member.leads() {
            let _ = member.raft.trigger().heartbeat().await;
        }
        sleep(HEARTBEAT).await;
    }
}

/// Flushes from time to time, so that the log before it is purged.
async fn flush(world: Arc<World>, member: Arc<Member>) {
    while !member.life.is_over() {
        sleep(world.between(300, 3000)).await;
        let _ = member.raft.trigger().snapshot().await;
    }
}
