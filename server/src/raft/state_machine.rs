//! The state machine's shell: committed entries become one storage batch, which is committed, published and answered.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use tokio::sync::{Notify, watch};

use super::types::{Entry, LogId, Members, PeerNode, StoredMembers, TypeConfig, maybe_log_id};
use crate::mvcc::{Effects, Event, LeaseRecord, View};
use crate::proto::command::outcome::Result as Answer;
use crate::proto::command::{Command, Outcome};
use crate::proto::peer as pb;
use crate::state;
use crate::state::auth::TokenChange;
use crate::storage::{Batch, Store};
use crate::telemetry::NodeMetrics;
use crate::watch::Hub;

/// How far a snapshot goes.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId<u64>, u64, PeerNode>;
/// A snapshot and how far it goes.
pub type Snapshot = openraft::Snapshot<CommittedLeaderId<u64>, u64, PeerNode, SnapshotFiles>;

/// Unflushed bytes from which on the store is flushed, so that replaying the log after a crash stays short.
pub const FLUSH_BYTES: u64 = 64 << 20;
/// Bytes of commands applied in one storage batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// What an entry takes in memory beside its command, about.
const ENTRY_BYTES: usize = 64;

/// What the last applied entry left behind, beside the data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppliedState {
    /// The last applied entry.
    pub last: Option<LogId>,
    /// The last applied membership.
    pub members: StoredMembers,
    /// Members that were removed; their ids never come back.
    pub removed: Vec<u64>,
}

impl AppliedState {
    /// Index of the last applied entry; 0 before the first one.
    pub fn index(&self) -> u64 {
        self.last.map_or(0, |last| last.index)
    }

    /// As the store holds it.
    pub fn encode(&self) -> Vec<u8> {
        let state = pb::AppliedState {
            last_applied: self.last.map(Into::into),
            membership_log_id: self.members.log_id().map(Into::into),
            membership: Some(self.members.membership().into()),
            removed: self.removed.clone(),
        };
        state.encode_to_vec()
    }

    /// Reads what the store holds; nothing is the state before the first entry.
    pub fn decode(bytes: Option<Vec<u8>>) -> io::Result<AppliedState> {
        let Some(bytes) = bytes else {
            return Ok(AppliedState::default());
        };
        let state = pb::AppliedState::decode(bytes.as_slice()).map_err(io::Error::other)?;
        let members = Members::try_from(state.membership.unwrap_or_default()).map_err(io::Error::other)?;
        Ok(AppliedState {
            last: maybe_log_id(state.last_applied).map_err(io::Error::other)?,
            members: StoredMembers::new(maybe_log_id(state.membership_log_id).map_err(io::Error::other)?, members),
            removed: state.removed,
        })
    }

    /// Takes over a membership; answers the members that are gone by it.
    fn change_members(&mut self, log_id: LogId, members: &Members) -> Vec<u64> {
        let before = std::mem::replace(&mut self.members, StoredMembers::new(Some(log_id), members.clone()));
        let before = before.membership().nodes().map(|(id, _)| *id);
        let gone: Vec<u64> = before.filter(|id| members.get_node(id).is_none()).collect();
        self.removed.extend(&gone);
        gone
    }
}

/// Hears of leases as they are granted and revoked, in the order of the log.
pub trait LeaseListener: Send + Sync + 'static {
    /// Leases that were granted, or revoked (`None`).
    fn changed(&self, leases: &BTreeMap<i64, Option<LeaseRecord>>);
    /// A snapshot replaced the state: these are all leases.
    fn replaced(&self, leases: Vec<LeaseRecord>);
}

/// Hears of logins and of tokens that end, in the order of the log.
pub trait TokenListener: Send + Sync + 'static {
    /// Something changed.
    fn changed(&self, change: TokenChange);
    /// A snapshot replaced the state: what was heard before may not be true any more.
    fn replaced(&self);
}

/// What others may know of the state machine while it works.
pub struct Shared {
    /// The store.
    pub store: Arc<Store>,
    /// The watch hub.
    pub hub: Arc<Hub>,
    /// Index of the last applied entry.
    pub applied_index: watch::Sender<u64>,
    /// Wakes whoever decides about flushing, when much is unflushed.
    pub flush_due: Notify,
    /// Snapshots on their way to members. The log behind them must stay, or the receiver would need another one at once.
    pub sending: AtomicUsize,
    state: Mutex<Arc<AppliedState>>,
    /// Where snapshots are prepared and received: on the same file system as the store.
    pub snapshot_dir: PathBuf,
    metrics: Arc<NodeMetrics>,
}

impl Shared {
    /// The shared part of a state machine on `store`.
    pub fn new(
        store: Arc<Store>,
        hub: Arc<Hub>,
        snapshot_dir: PathBuf,
        metrics: Arc<NodeMetrics>,
    ) -> io::Result<Arc<Shared>> {
        let state = AppliedState::decode(store.applied())?;
        Ok(Arc::new(Shared {
            applied_index: watch::Sender::new(state.index()),
            state: Mutex::new(Arc::new(state)),
            flush_due: Notify::new(),
            sending: AtomicUsize::new(0),
            store,
            hub,
            snapshot_dir,
            metrics,
        }))
    }

    /// What was applied last, and the members by then.
    pub fn state(&self) -> Arc<AppliedState> {
        self.state.lock().expect("no holder of this lock panics").clone()
    }

    /// Counts of this member.
    pub fn metrics(&self) -> &NodeMetrics {
        &self.metrics
    }

    fn publish(&self, state: AppliedState) {
        let index = state.index();
        *self.state.lock().expect("no holder of this lock panics") = Arc::new(state);
        self.applied_index.send_replace(index);
    }
}

/// openraft's state machine.
pub struct StateMachine {
    shared: Arc<Shared>,
    leases: Arc<dyn LeaseListener>,
    tokens: Arc<dyn TokenListener>,
    slow: Duration,
}

/// A committed entry, and who waits for its outcome.
struct Committed {
    entry: Entry,
    /// What it carries, if it is a command.
    command: Option<Command>,
    responder: Option<ApplyResponder<TypeConfig>>,
}

impl Committed {
    fn new((entry, responder): EntryResponder<TypeConfig>) -> io::Result<Self> {
        let command = match &entry.payload {
            EntryPayload::Normal(request) => Some(Command::decode(request.0.clone()).map_err(io::Error::other)?),
            _ => None,
        };
        Ok(Self { entry, command, responder })
    }

    /// What it takes in memory, about.
    fn size(&self) -> usize {
        let EntryPayload::Normal(request) = &self.entry.payload else { return ENTRY_BYTES };
        ENTRY_BYTES + request.0.len()
    }
}

/// Entries that are committed to the store together.
struct Group {
    batch: Batch,
    state: AppliedState,
    events: Vec<(i64, Arc<[Event]>)>,
    compacted: Option<i64>,
    /// The revision that was reached without a change of a key.
    advanced: Option<i64>,
    leases: BTreeMap<i64, Option<LeaseRecord>>,
    tokens: Vec<TokenChange>,
    answers: Vec<(ApplyResponder<TypeConfig>, Outcome)>,
    metrics: Arc<NodeMetrics>,
}

impl Group {
    fn add(&mut self, committed: Committed) -> io::Result<()> {
        let Committed { entry, command, responder } = committed;
        assert!(self.state.last < Some(entry.log_id), "entries are applied once and in order");
        self.state.last = Some(entry.log_id);
        let outcome = match (entry.payload, command) {
            (EntryPayload::Membership(members), _) => {
                let mut effects = Effects::default();
                for id in self.state.change_members(entry.log_id, &members) {
                    effects.forget_member(id);
                }
                self.batch.stage(effects);
                Outcome::default()
            }
            (_, Some(command)) => self.apply(&command, entry.log_id.index)?,
            (_, None) => Outcome::default(),
        };
        self.answers.extend(responder.map(|responder| (responder, outcome)));
        Ok(())
    }

    fn apply(&mut self, command: &Command, index: u64) -> io::Result<Outcome> {
        let begun = Instant::now();
        let mut applied = state::apply(self.batch.view(), command).map_err(io::Error::other)?;
        self.metrics.applied(command, &applied.outcome, applied.events.len(), begun.elapsed());
        self.compacted = applied.effects.compact_revision.or(self.compacted);
        self.leases.extend(applied.effects.leases.iter().map(|(id, lease)| (*id, *lease)));
        if let Some(revision) = applied.effects.revision {
            match applied.events.is_empty() {
                true => self.advanced = Some(revision),
                false => self.events.push((revision, applied.events.into())),
            }
        }
        self.batch.stage(applied.effects);
        // A token ends in the index of its entry: by that, a member which does not know it yet knows what to wait for.
        if let Some(TokenChange::Given { token, .. }) = &mut applied.tokens
            && let Some(Answer::Authenticate(answer)) = &mut applied.outcome.result
        {
            *token = format!("{token}.{index}");
            answer.token.clone_from(token);
        }
        self.tokens.extend(applied.tokens);
        Ok(applied.outcome)
    }
}

impl StateMachine {
    /// A state machine; `leases` hears of leases, `tokens` of logins. What takes longer than `slow` to apply is logged.
    pub fn new(
        shared: Arc<Shared>,
        leases: Arc<dyn LeaseListener>,
        tokens: Arc<dyn TokenListener>,
        slow: Duration,
    ) -> StateMachine {
        StateMachine { shared, leases, tokens, slow }
    }

    fn warn_if_slow(&self, what: &str, index: u64, took: Duration) {
        if took > self.slow {
            let expected = self.slow;
            self.shared.metrics.slow_applies.inc();
            tracing::warn!(index, what, ?took, "expected-duration" = ?expected, "apply request took too long");
        }
    }

    fn begin(&self) -> Group {
        Group {
            batch: self.shared.store.begin(),
            state: AppliedState::clone(&self.shared.state()),
            events: Vec::new(),
            compacted: None,
            advanced: None,
            leases: BTreeMap::new(),
            tokens: Vec::new(),
            answers: Vec::new(),
            metrics: self.shared.metrics.clone(),
        }
    }

    /// Commit, then tell: watchers, the lease timer, those who know tokens, waiting reads, and at last the clients.
    fn finish(&self, mut group: Group) -> io::Result<()> {
        group.batch.set_applied(&group.state.encode());
        let begun = Instant::now();
        group.batch.commit().map_err(io::Error::other)?;
        let took = begun.elapsed();
        self.warn_if_slow("commit", group.state.index(), took);
        self.shared.metrics.backend_commit_seconds.observe(took.as_secs_f64());
        self.shared.hub.publish(group.events);
        if let Some(revision) = group.advanced.filter(|revision| self.shared.hub.revision() < *revision) {
            self.shared.hub.reset(revision);
        }
        if let Some(revision) = group.compacted {
            self.shared.hub.compacted(revision);
        }
        if !group.leases.is_empty() {
            self.leases.changed(&group.leases);
        }
        group.tokens.into_iter().for_each(|change| self.tokens.changed(change));
        self.shared.publish(group.state);
        for (responder, outcome) in group.answers {
            responder.send(outcome);
        }
        if self.shared.store.unflushed_bytes() >= FLUSH_BYTES {
            self.shared.flush_due.notify_one();
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Flusher;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembers)> {
        let state = self.shared.state();
        Ok((state.last, state.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut more = true;
        while more {
            let (mut taken, mut size) = (Vec::new(), 0);
            more = false;
            while let Some(item) = entries.next().await {
                let committed = Committed::new(item?)?;
                size += committed.size();
                taken.push(committed);
                if size >= BATCH_BYTES {
                    more = true;
                    break;
                }
            }
            if taken.is_empty() {
                break;
            }
            let mut group = self.begin();
            let commands = taken.iter().filter_map(|committed| committed.command.as_ref());
            let keys = commands.flat_map(state::asked_for).cloned().collect();
            group.batch.read_ahead(keys).map_err(io::Error::other)?;
            for committed in taken {
                let (index, begun) = (committed.entry.log_id.index, Instant::now());
                group.add(committed)?;
                self.warn_if_slow("entry", index, begun.elapsed());
            }
            self.finish(group)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Flusher {
        Flusher(self.shared.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> io::Result<()> {
        let shared = self.shared.clone();
        self.shared.metrics.snapshots_being_applied.inc();
        let installed = tokio::task::spawn_blocking(move || {
            let dir = snapshot.into_dir(&shared.snapshot_dir)?;
            shared.store.install(dir.path()).map_err(io::Error::other)
        });
        let installed = installed.await;
        self.shared.metrics.snapshots_being_applied.dec();
        installed.map_err(io::Error::other)??;
        let state = AppliedState::decode(self.shared.store.applied())?;
        if state.last != meta.last_log_id {
            let message = format!("the snapshot of {:?} stands at {:?}", meta.last_log_id, state.last);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let view = self.shared.store.view();
        self.leases.replaced(view.leases().map_err(io::Error::other)?);
        self.tokens.replaced();
        // Watchers first: whoever reads the new state and then watches must not be told of what is older.
        self.shared.hub.reset(view.revision());
        self.shared.publish(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        // Flushed anew: the receiver goes on from here, and the log from here on is what it finds.
        let state = flush(&self.shared).await?;
        Ok(state.last.map(|_| snapshot_of(state, &self.shared)))
    }
}

fn snapshot_of(state: AppliedState, shared: &Arc<Shared>) -> Snapshot {
    Snapshot {
        meta: SnapshotMeta { last_log_id: state.last, last_membership: state.members },
        snapshot: SnapshotFiles::Live(shared.clone()),
    }
}

/// Makes what is applied durable, and answers how far that is.
pub async fn flush(shared: &Arc<Shared>) -> io::Result<AppliedState> {
    let store = shared.store.clone();
    let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
    AppliedState::decode(flushed.map_err(io::Error::other)?.map_err(io::Error::other)?)
}

/// A snapshot is the store itself: "building" one makes what is applied durable, so that the log before it can go.
pub struct Flusher(Arc<Shared>);

impl RaftSnapshotBuilder<TypeConfig> for Flusher {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(snapshot_of(flush(&self.0).await?, &self.0))
    }
}

/// The files of a snapshot.
pub enum SnapshotFiles {
    /// The store as it is: a checkpoint is made when it is sent, so it may hold more than its metadata says.
    Live(Arc<Shared>),
    /// Received from the leader, in a directory of its own.
    Received(TempPath),
}

impl SnapshotFiles {
    fn into_dir(self, parent: &std::path::Path) -> io::Result<TempPath> {
        match self {
            SnapshotFiles::Received(dir) => Ok(dir),
            SnapshotFiles::Live(shared) => {
                let dir = TempPath::new(parent, "copy")?;
                shared.store.checkpoint(dir.path()).map_err(io::Error::other)?;
                Ok(dir)
            }
        }
    }
}

impl std::fmt::Debug for SnapshotFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotFiles::Live(_) => f.write_str("live"),
            SnapshotFiles::Received(dir) => write!(f, "{}", dir.path().display()),
        }
    }
}

/// A directory that is removed when nobody needs it any more.
pub struct TempPath(PathBuf);

impl TempPath {
    /// A path in `parent` that nothing uses. Creates `parent`, not the path itself.
    pub fn new(parent: &std::path::Path, prefix: &str) -> io::Result<TempPath> {
        std::fs::create_dir_all(parent)?;
        let unique: u64 = rand::random();
        Ok(TempPath(parent.join(format!("{prefix}-{unique:016x}"))))
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary directory stays behind");
        }
    }
}
