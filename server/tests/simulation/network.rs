//! A network between members that delays, loses, repeats and parts. What is said is openraft's; how it looks on the wire is
//! tested elsewhere.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use keelson_server::raft::state_machine::{AppliedState, Snapshot, SnapshotFiles, SnapshotMeta, TempPath};
use keelson_server::raft::types::{PeerNode, TypeConfig, Vote};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use crate::member::{Life, Member};
use crate::world::World;

type RpcError = RPCError<TypeConfig>;
type Append = AppendEntriesRequest<TypeConfig>;
type AppendStream<'a> = BoxStream<'a, Result<StreamAppendResult<TypeConfig>, RpcError>>;

/// After this long, who has lost a message gives up.
const PATIENCE: Duration = Duration::from_millis(400);

/// How the network is.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// How long a message takes at most.
    pub slowest: Duration,
    /// Of a hundred messages, how many are lost.
    pub lost: u32,
    /// Members that are in other groups do not reach each other; all are in group 0 at first.
    pub groups: BTreeMap<u64, u32>,
    /// One who is not heard, but hears.
    pub mute: Option<u64>,
    /// Two that do not reach each other.
    pub cut: Option<[u64; 2]>,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions { slowest: Duration::from_millis(4), lost: 0, groups: BTreeMap::new(), mute: None, cut: None }
    }
}

impl Conditions {
    /// Whether there is a way.
    pub fn connects(&self, from: u64, to: u64) -> bool {
        let group = |member| self.groups.get(&member).copied().unwrap_or(0);
        let is_cut = self.cut.is_some_and(|ends| ends.contains(&from) && ends.contains(&to));
        group(from) == group(to) && self.mute != Some(from) && !is_cut
    }
}

/// A member's part of it.
pub struct Network {
    pub world: Arc<World>,
    pub life: Arc<Life>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _node: &PeerNode) -> Link {
        Link { world: self.world.clone(), life: self.life.clone(), to }
    }
}

/// From one member to another.
#[derive(Clone)]
pub struct Link {
    world: Arc<World>,
    life: Arc<Life>,
    to: u64,
}

fn lost(reason: impl fmt::Display) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(reason.to_string())))
}

impl Link {
    async fn travel(&self, from: u64, to: u64) -> Result<(), RpcError> {
        match self.world.travel(from, to) {
            Some(time) => {
                sleep(time).await;
                Ok(())
            }
            None => {
                sleep(PATIENCE).await;
                Err(lost("lost on the way"))
            }
        }
    }

    /// Who is met at the other end.
    async fn there(&self) -> Result<Arc<Member>, RpcError> {
        self.travel(self.life.member, self.to).await?;
        let met = self.world.member(self.to).filter(|_| !self.life.is_over());
        if met.is_none() {
            sleep(PATIENCE / 8).await;
        }
        met.ok_or_else(|| lost("nobody is there"))
    }

    /// The answer comes back, if both live on.
    async fn back<T, E: fmt::Display>(&self, met: &Member, answer: Result<T, E>) -> Result<T, RpcError> {
        if !met.life.is_over() {
            self.travel(self.to, self.life.member).await?;
        }
        match met.life.is_over() || self.life.is_over() {
            true => Err(lost("gone")),
            false => answer.map_err(lost),
        }
    }

    /// Appends on their way to the other end of a connection, in order, until one is lost or nobody listens any more.
    async fn carry(self, mut appends: impl Stream<Item = Append> + Unpin, connection: mpsc::Sender<Append>) {
        loop {
            let append = tokio::select! {
                append = appends.next() => append,
                () = connection.closed() => None,
            };
            // What an ended run believes that it sends is not sent.
            let Some(append) = append.filter(|_| !self.life.is_over()) else { return };
            self.world.leads(&self.life, append.vote.leader_id().term).await;
            if self.world.one_in(30) {
                tokio::spawn(self.clone().repeat(append.clone()));
            }
            if self.travel(self.life.member, self.to).await.is_err() || connection.send(append).await.is_err() {
                return;
            }
        }
    }

    /// An append comes once more, when much may have happened.
    async fn repeat(self, append: Append) {
        sleep(self.world.between(1, 3000)).await;
        if let Some(met) = self.world.member(self.to) {
            let _ = met.raft.append_entries(append).await;
        }
    }

    async fn copy(&self, vote: Vote, snapshot: Snapshot, to: &Member) -> io::Result<Snapshot> {
        let SnapshotFiles::Live(shared) = snapshot.snapshot else {
            return Err(io::Error::other("only the store itself is sent"));
        };
        let dir = TempPath::new(&to.shared.snapshot_dir, "receiving")?;
        let state = AppliedState::decode(shared.store.checkpoint(dir.path()).map_err(io::Error::other)?)?;
        if state.last.is_some_and(|last| last.committed_leader_id().term > vote.leader_id().term) {
            return Err(io::Error::other("another leader's entries were applied meanwhile"));
        }
        let meta = SnapshotMeta { last_log_id: state.last, last_membership: state.members };
        Ok(Snapshot { meta, snapshot: SnapshotFiles::Received(dir) })
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: Append,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let mut answers = self.stream_append(stream::iter([rpc]), option).await?;
        answers.next().await.map_or_else(|| Err(lost("not answered")), |answer| Ok(answer?.into()))
    }

    /// As ours: over a connection that is opened for the first one, each without waiting for the answers to those before.
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendStream<'s>, RpcError>>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let met = self.there().await?;
            let (connection, arriving) = mpsc::channel(1);
            tokio::spawn(self.clone().carry(stream::iter([first]).chain(input), connection));
            let (link, raft) = (self.clone(), met.raft.clone());
            let answers = raft.stream_append(ReceiverStream::new(arriving)).then(move |answer| {
                let (link, met) = (link.clone(), met.clone());
                async move { link.back(&met, answer).await }
            });
            // One that is lost is the connection's end.
            let until_lost = answers.scan(false, |over, answer| {
                let is_over = std::mem::replace(over, answer.is_err());
                ready((!is_over).then_some(answer))
            });
            Ok(until_lost.boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let met = self.there().await?;
        let answer = met.raft.vote(rpc).await;
        let answer = self.back(&met, answer).await;
        if answer.as_ref().is_ok_and(|answer| answer.vote_granted) {
            self.world.voted(self.life.member, &met);
        }
        answer
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let met = self.there().await?;
        let answer = met.raft.pre_vote(rpc).await;
        self.back(&met, answer).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |error: &dyn fmt::Display| {
            StreamingError::Unreachable(Unreachable::new(&io::Error::other(error.to_string())))
        };
        let met = self.there().await.map_err(|error| unreachable(&error))?;
        let copy = self.copy(vote, snapshot, &met).await.map_err(|error| unreachable(&error))?;
        let answer = met.raft.install_full_snapshot(vote, copy).await;
        self.back(&met, answer).await.map_err(|error| unreachable(&error))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let met = self.there().await?;
        let answer = met.raft.handle_transfer_leader(request).await;
        self.back(&met, answer).await
    }
}
