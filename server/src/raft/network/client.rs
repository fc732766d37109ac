//! Calls to other members.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::transport::{PeerTls, Urls, channel};
use super::{CLUSTER, FROM, MAX_MESSAGE, REMOVED, TO, snapshot};
use crate::proto::peer as pb;
use crate::proto::peer::peer_client::PeerClient;
use crate::raft::state_machine::{Snapshot, SnapshotFiles};
use crate::raft::types::{Malformed, PeerNode, TypeConfig, Vote};
use crate::telemetry::NodeMetrics;
use crate::telemetry::peers::PeerCounts;

type RpcError = RPCError<TypeConfig>;
type AppendStream<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>;

/// After a snapshot was refused for what is in it: the next one has the same.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Says on every call who calls whom, so that a member at a reused address refuses it.
#[derive(Clone)]
pub struct Identity {
    cluster: MetadataValue<Ascii>,
    from: MetadataValue<Ascii>,
    to: MetadataValue<Ascii>,
}

fn hex(id: u64) -> MetadataValue<Ascii> {
    MetadataValue::try_from(format!("{id:x}")).expect("hexadecimal digits are ASCII")
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, self.cluster.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        Ok(request)
    }
}

/// A client of one member.
pub type Caller = PeerClient<InterceptedService<Channel, Identity>>;

struct Link {
    /// Where the member is; looked up by every attempt to connect.
    urls: Urls,
    /// For what is small and urgent.
    urgent: Channel,
    /// For snapshots, which must not stand in the way of heartbeats.
    bulk: Channel,
    acknowledged: Arc<Acknowledged>,
}

/// How far a member has acknowledged entries to this one, the leader of a term.
#[derive(Default)]
struct Acknowledged(Mutex<(u64, Option<u64>)>);

impl Acknowledged {
    /// Takes note of an answer to the leader of this term. If the member has not any more what it had acknowledged, up to where
    /// that was; once.
    fn lost(&self, term: u64, answer: &StreamAppendResult<TypeConfig>) -> Option<u64> {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        if known.0 != term {
            *known = (term, None);
        }
        match answer {
            Ok(last) => known.1 = known.1.max(last.map(|last| last.index)),
            Err(StreamAppendError::Conflict(missing)) if known.1.is_some_and(|known| missing.index <= known) => {
                return known.1.take();
            }
            Err(_) => {}
        }
        None
    }
}

/// Connections to the other members, one pair each, made when needed.
pub struct Peers {
    cluster_id: u64,
    member_id: u64,
    tls: Option<PeerTls>,
    stall: Duration,
    metrics: Arc<NodeMetrics>,
    links: Mutex<HashMap<u64, Link>>,
    removed: watch::Sender<bool>,
}

impl Peers {
    /// Connections of `member_id`. A peer that takes longer than `stall` to answer a replication is given up for lost.
    pub fn new(
        cluster_id: u64,
        member_id: u64,
        tls: Option<PeerTls>,
        stall: Duration,
        metrics: Arc<NodeMetrics>,
    ) -> Arc<Peers> {
        Arc::new(Peers {
            cluster_id,
            member_id,
            tls,
            stall,
            metrics,
            links: Mutex::default(),
            removed: watch::Sender::new(false),
        })
    }

    /// Turns true when a peer tells that this member was removed from the cluster.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    /// A client of member `id` at `urls`.
    pub fn caller(&self, id: u64, urls: &[String]) -> Caller {
        self.client(id, urls, |link| link.urgent.clone())
    }

    /// A member is found at other URLs from now on, by connections that openraft keeps too.
    pub fn moved(&self, id: u64, urls: &[String]) {
        let links = self.links.lock().expect("no holder of this lock panics");
        if let Some(link) = links.get(&id) {
            link.urls.set(urls);
        }
    }

    fn client(&self, id: u64, urls: &[String], pick: impl FnOnce(&Link) -> Channel) -> Caller {
        let channel = self.link(id, urls, pick);
        let identity = Identity { cluster: hex(self.cluster_id), from: hex(self.member_id), to: hex(id) };
        PeerClient::with_interceptor(channel, identity)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn link<T>(&self, id: u64, urls: &[String], pick: impl FnOnce(&Link) -> T) -> T {
        let mut links = self.links.lock().expect("no holder of this lock panics");
        let link = links.entry(id).or_insert_with(|| {
            let urls = Urls::new(urls);
            Link {
                urgent: channel(urls.clone(), self.tls.clone()),
                bulk: channel(urls.clone(), self.tls.clone()),
                acknowledged: Arc::default(),
                urls,
            }
        });
        link.urls.set(urls);
        pick(link)
    }

    /// Asks whoever listens at `urls` what it knows of the cluster.
    pub async fn ask_cluster(
        urls: &[String],
        tls: Option<PeerTls>,
        limit: Duration,
    ) -> Result<pb::ClusterResponse, Status> {
        let mut client = PeerClient::new(channel(Urls::new(urls), tls));
        let answer = tokio::time::timeout(limit, client.cluster(pb::ClusterRequest {})).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("no answer"))?;
        answer.map(tonic::Response::into_inner)
    }

    fn note(&self, status: &Status) {
        if status.code() == Code::FailedPrecondition && status.message() == REMOVED {
            self.removed.send_replace(true);
        }
    }
}

/// openraft's connections to members.
pub struct Network(pub Arc<Peers>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Target {
        Target {
            id: target,
            acknowledged: self.0.link(target, &node.peer_urls, |link| link.acknowledged.clone()),
            counts: self.0.metrics.peers.of(target),
            peers: self.0.clone(),
            client: self.0.caller(target, &node.peer_urls),
            bulk: self.0.client(target, &node.peer_urls, |link| link.bulk.clone()),
            beats: None,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Target {
        Target { beats: Some(Beats::default()), ..self.new_client(target, node).await }
    }
}

/// One member as openraft sees it.
pub struct Target {
    id: u64,
    peers: Arc<Peers>,
    acknowledged: Arc<Acknowledged>,
    counts: PeerCounts,
    client: Caller,
    bulk: Caller,
    /// Heartbeats go over one stream; openraft opens a new one for each.
    beats: Option<Beats>,
}

/// A stream of single messages, each answered before the next; gone while one is under way, so that an answer that
/// comes too late is never taken for the next one's.
#[derive(Default)]
struct Beats(Option<(mpsc::Sender<pb::AppendRequest>, Streaming<pb::AppendResponse>)>);

impl Beats {
    async fn send(&mut self, mut client: Caller, request: pb::AppendRequest) -> Result<pb::AppendResponse, Status> {
        let (requests, mut answers) = match self.0.take() {
            Some(open) => open,
            None => {
                let (requests, receiver) = mpsc::channel(1);
                let answers = client.append(ReceiverStream::new(receiver)).await?;
                (requests, answers.into_inner())
            }
        };
        let ended = || Status::unavailable("the stream of heartbeats ended");
        requests.send(request).await.map_err(|_| ended())?;
        let answer = answers.message().await?.ok_or_else(ended)?;
        self.0 = Some((requests, answers));
        Ok(answer)
    }
}

/// A heartbeat under way. One that fails, or that is given up while it waits, counts.
struct Beat<'a> {
    failures: Option<&'a Counter>,
    begun: Instant,
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        if let Some(failures) = self.failures {
            failures.inc();
        }
    }
}

fn malformed(error: Malformed) -> RpcError {
    RPCError::Network(NetworkError::new(&error))
}

impl Target {
    fn unreachable(&self, status: Status) -> RpcError {
        self.peers.note(&status);
        RPCError::Unreachable(Unreachable::new(&status))
    }

    /// A member that has lost what it had acknowledged gets nothing more from this leader: openraft goes on behind what it has not.
    fn look(&self, term: u64, answer: &StreamAppendResult<TypeConfig>) {
        if let Some(acknowledged) = self.acknowledged.lost(term, answer) {
            tracing::error!(
                member_id = format!("{:x}", self.id),
                acknowledged,
                "a member has lost entries that it had acknowledged: an older copy of its volume was mounted, or its disk \
                 forgets what it has synced. Remove that member from the cluster, delete its data directory, and add it again"
            );
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        let answer = tokio::time::timeout(limit, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer.map(tonic::Response::into_inner).map_err(|status| self.unreachable(status))
    }

    async fn append<S>(&mut self, mut input: S) -> Result<AppendStream<'_>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // openraft waits out its back-off when it is asked for a request. Were the connection made first, a member
        // that is down would be tried without any pause.
        let Some(first) = input.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        let term = first.vote.leader_id.term;
        let input = futures::stream::iter([first]).chain(input);
        let sent = Arc::new(AtomicU64::new(0));
        let (counter, sent_bytes) = (sent.clone(), self.counts.sent_bytes.clone());
        let requests = input.map(move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            let request = super::append_to_wire(request);
            sent_bytes.inc_by(request.encoded_len() as u64);
            request
        });
        let mut client = self.client.clone();
        let opened = tokio::time::timeout(self.peers.stall, client.append(requests)).await;
        let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let responses = opened.map_err(|status| self.unreachable(status))?.into_inner();
        let state = Some((responses, sent, 0u64));
        let this = &*self;
        let answers = futures::stream::unfold(state, move |state| async move {
            let (mut responses, sent, answered) = state?;
            match this.next_answer(&mut responses, &sent, answered).await? {
                Ok(answer) => {
                    this.look(term, &answer);
                    Some((Ok(answer), Some((responses, sent, answered + 1))))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(answers.boxed())
    }

    /// Answers to single messages, over the stream of heartbeats.
    fn beat<'s, S>(
        &'s mut self,
        input: S,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RpcError>> + Send + 's
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        futures::stream::unfold((self, input), |(this, mut input)| async move {
            let request = input.next().await?;
            let term = request.vote.leader_id.term;
            let request = super::append_to_wire(request);
            let client = this.client.clone();
            this.counts.sent_bytes.inc_by(request.encoded_len() as u64);
            let mut beat = Beat { failures: Some(&this.peers.metrics.peers.heartbeat_failures), begun: Instant::now() };
            let answer = this.beats.get_or_insert_default().send(client, request).await;
            if answer.is_ok() {
                beat.failures = None;
                this.counts.round_trip_seconds.observe(beat.begun.elapsed().as_secs_f64());
            }
            drop(beat);
            let answer = match answer {
                Ok(answer) => super::appended_from_wire(answer).map_err(malformed),
                Err(status) => Err(this.unreachable(status)),
            };
            if let Ok(answer) = &answer {
                this.look(term, answer);
            }
            Some((answer, (this, input)))
        })
    }

    /// The next answer on a replication stream; an error if one is owed for too long.
    async fn next_answer(
        &self,
        responses: &mut Streaming<pb::AppendResponse>,
        sent: &AtomicU64,
        answered: u64,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        let mut owed_since: Option<Instant> = None;
        loop {
            match tokio::time::timeout(self.peers.stall, responses.message()).await {
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(response))) => {
                    self.counts.received_bytes.inc_by(response.encoded_len() as u64);
                    return Some(super::appended_from_wire(response).map_err(malformed));
                }
                Ok(Err(status)) => return Some(Err(self.unreachable(status))),
                Err(_) if sent.load(Ordering::Relaxed) == answered => owed_since = None,
                Err(_) if owed_since.is_none() => owed_since = Some(Instant::now()),
                Err(_) => {
                    return Some(Err(self.unreachable(Status::deadline_exceeded("no answer in time"))));
                }
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Target {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let mut answers = self.append(futures::stream::iter([rpc])).await?;
        match answers.next().await {
            Some(Ok(Ok(matched))) if matched != last => Ok(AppendEntriesResponse::PartialSuccess(matched)),
            Some(answer) => Ok(answer?.into()),
            None => Err(malformed(Malformed("append was not answered"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendStream<'s>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.beats.is_none() {
            return Box::pin(self.append(input));
        }
        Box::pin(async move { Ok(self.beat(input).boxed()) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client.clone();
        let response = self.within(option.soft_ttl(), client.vote(super::vote_to_wire(rpc))).await?;
        super::voted_from_wire(response).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client.clone();
        let response = self.within(option.soft_ttl(), client.pre_vote(super::vote_to_wire(rpc))).await?;
        super::voted_from_wire(response).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = async {
            let sent = snapshot::send(self.bulk.clone(), vote, snapshot).await;
            if let Err(status) = &sent {
                tracing::warn!(%status, "a snapshot was not transferred");
                if status.code() == Code::DataLoss {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
            sent
        };
        let sent = tokio::select! {
            sent = sending => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(status) => {
                self.peers.note(&status);
                Err(StreamingError::Unreachable(Unreachable::new(&status)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = pb::TransferLeaderRequest {
            from: Some(req.from_leader().into()),
            to: *req.to_node_id(),
            last: req.last_log_id().map(|id| (*id).into()),
        };
        let mut client = self.client.clone();
        let response = self.within(option.soft_ttl(), client.transfer_leader(request)).await?;
        if response.refused.is_empty() {
            return Ok(Ok(()));
        }
        Err(RPCError::Network(NetworkError::from_string(response.refused)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    #[test]
    fn what_a_member_has_lost_is_told_once() {
        let known = Acknowledged::default();
        let conflict = |index| Err(StreamAppendError::Conflict(log_id(1, index)));
        assert_eq!(known.lost(1, &conflict(0)), None, "it is new");
        assert_eq!(known.lost(1, &conflict(9)), None, "it lags");
        assert_eq!(known.lost(1, &Ok(Some(log_id(1, 7)))), None);
        assert_eq!(known.lost(1, &conflict(8)), None);
        assert_eq!(known.lost(1, &conflict(7)), Some(7));
        assert_eq!(known.lost(1, &conflict(7)), None, "once");
        assert_eq!(known.lost(1, &Ok(Some(log_id(1, 7)))), None);
        assert_eq!(known.lost(2, &conflict(7)), None, "another leader may have cut it off meanwhile");
    }
}
