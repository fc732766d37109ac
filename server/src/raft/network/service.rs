//! What this member answers to its peers.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt};
use openraft::raft::{StreamAppendError, TransferLeaderRequest};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::transport::Connection;
use super::{CLUSTER, FROM, MAX_MESSAGE, Malformed, REMOVED, TO, maybe_log_id, snapshot};
use crate::proto::peer as pb;
use crate::proto::peer::peer_server::{Peer, PeerServer};
use crate::raft::Raft;
use crate::telemetry::NodeMetrics;

/// The part of the answers that is not Raft's own: the node's.
#[tonic::async_trait]
pub trait Door: Send + Sync + 'static {
    /// Proposes an encoded command, if this member leads.
    async fn propose(&self, request: pb::ProposeRequest) -> Result<pb::ProposeResponse, Malformed>;
    /// The index to read at, if this member leads and a majority confirms it.
    async fn read_index(&self) -> pb::ReadIndexResponse;
    /// Changes the membership, if this member leads.
    async fn change_membership(&self, request: pb::MembershipRequest) -> pb::MembershipResponse;
    /// Renews or looks at a lease, if this member leads.
    async fn renew_lease(&self, request: pb::LeaseRequest) -> pb::LeaseResponse;
    /// The hash of this member's history.
    async fn hash_kv(&self, revision: i64) -> pb::HashKvResponse;
    /// What this member knows of the cluster.
    fn cluster(&self) -> pb::ClusterResponse;
    /// Whether a member was removed from the cluster, as far as is applied here.
    fn is_removed(&self, member: u64) -> bool;
    /// The leader sent something that was accepted.
    fn heard_leader(&self);
}

/// The peer service. It answers before the member can take part, so that a peer which starts without data can tell a
/// member that is slow from one that is not there.
pub struct PeerService<D> {
    /// There was no data directory: this member has promised nothing yet.
    pub blank: bool,
    /// Set once the member takes part.
    pub ready: Arc<OnceLock<Ready<D>>>,
}

/// What a member that takes part answers with.
pub struct Ready<D> {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// Raft.
    pub raft: Raft,
    /// The node.
    pub door: Arc<D>,
    /// Where snapshots are received.
    pub snapshot_dir: PathBuf,
    /// Counts messages.
    pub metrics: Arc<NodeMetrics>,
}

/// Serves peers on accepted connections until `stop`.
pub async fn serve<D: Door>(
    service: PeerService<D>,
    connections: mpsc::Receiver<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let service =
        PeerServer::new(service).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(5)))
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(connections));
    tokio::select! {
        served = server => if let Err(error) = served {
            tracing::error!(%error, "the peer service stopped");
        },
        () = stop.cancelled() => {}
    }
}

fn id_in(metadata: &MetadataMap, key: &str) -> Option<u64> {
    let text = metadata.get(key)?.to_str().ok()?;
    u64::from_str_radix(text, 16).ok()
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft stopped: {error}"))
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

impl<D: Door> PeerService<D> {
    fn ready(&self) -> Result<&Ready<D>, Status> {
        let starting = || Status::unavailable("this member is starting");
        self.ready.get().ok_or_else(starting)
    }

    /// Refuses what is meant for another cluster or member, or comes from a removed one.
    fn check<T>(&self, request: &Request<T>) -> Result<&Ready<D>, Status> {
        let ready = self.ready()?;
        let metadata = request.metadata();
        if id_in(metadata, CLUSTER) != Some(ready.cluster_id) {
            return Err(Status::failed_precondition("this member belongs to another cluster"));
        }
        if id_in(metadata, TO) != Some(ready.member_id) {
            return Err(Status::failed_precondition("another member lives at this address"));
        }
        match id_in(metadata, FROM) {
            Some(from) if ready.door.is_removed(from) => Err(Status::failed_precondition(REMOVED)),
            Some(_) => Ok(ready),
            None => Err(Status::invalid_argument("the sender does not tell its id")),
        }
    }
}

type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<D: Door> Peer for PeerService<D> {
    type AppendStream = AppendStream;

    async fn append(&self, request: Request<Streaming<pb::AppendRequest>>) -> Result<Response<AppendStream>, Status> {
        let ready = self.check(&request)?;
        let counts = ready.metrics.peers.of(id_in(request.metadata(), FROM).unwrap_or(0));
        let received_bytes = counts.received_bytes;
        // A broken or malformed stream ends here; the leader sees its answers end and begins anew.
        let requests = request.into_inner().map(move |request| {
            let request = request.inspect_err(|status| tracing::debug!(%status, "a replication stream broke"));
            let request = request.ok()?;
            received_bytes.inc_by(request.encoded_len() as u64);
            super::append_from_wire(request).ok()
        });
        let requests =
            requests.take_while(|request| std::future::ready(request.is_some())).filter_map(std::future::ready);
        let door = ready.door.clone();
        let answers = ready.raft.stream_append(requests).map(move |answer| {
            let answer = answer.map_err(stopped)?;
            if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
                door.heard_leader();
            }
            let answer = super::appended_to_wire(answer);
            counts.sent_bytes.inc_by(answer.encoded_len() as u64);
            Ok(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let ready = self.check(&request)?;
        let request = super::vote_from_wire(request.into_inner()).map_err(malformed)?;
        let response = ready.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(super::voted_to_wire(response)))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let ready = self.check(&request)?;
        let request = super::vote_from_wire(request.into_inner()).map_err(malformed)?;
        let response = ready.raft.pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(super::voted_to_wire(response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let ready = self.check(&request)?;
        let request = request.into_inner();
        let from = request.from.ok_or_else(|| Status::invalid_argument("no leader"))?;
        let (from, last) = (from.try_into().map_err(malformed)?, maybe_log_id(request.last).map_err(malformed)?);
        let request = TransferLeaderRequest::new(from, request.to, last);
        let answer = ready.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        let refused = answer.err().map_or_else(String::new, |error| error.to_string());
        Ok(Response::new(pb::TransferLeaderResponse { refused }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let ready = self.check(&request)?;
        let (vote, snapshot) = snapshot::receive(&ready.snapshot_dir, request.into_inner(), &ready.metrics).await?;
        tracing::info!(meta = %snapshot.meta, "received a snapshot");
        let response = ready.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        ready.door.heard_leader();
        Ok(Response::new(pb::SnapshotResponse { vote: Some((&response.vote).into()) }))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeResponse>, Status> {
        let ready = self.check(&request)?;
        ready.door.propose(request.into_inner()).await.map(Response::new).map_err(malformed)
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        let ready = self.check(&request)?;
        Ok(Response::new(ready.door.read_index().await))
    }

    async fn change_membership(
        &self,
        request: Request<pb::MembershipRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let ready = self.check(&request)?;
        Ok(Response::new(ready.door.change_membership(request.into_inner()).await))
    }

    async fn renew_lease(&self, request: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseResponse>, Status> {
        let ready = self.check(&request)?;
        Ok(Response::new(ready.door.renew_lease(request.into_inner()).await))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let ready = self.check(&request)?;
        Ok(Response::new(ready.door.hash_kv(request.into_inner().revision).await))
    }

    async fn cluster(&self, _request: Request<pb::ClusterRequest>) -> Result<Response<pb::ClusterResponse>, Status> {
        match self.ready() {
            Ok(ready) => Ok(Response::new(ready.door.cluster())),
            // Of no cluster yet.
            Err(_) if self.blank => Ok(Response::new(pb::ClusterResponse::default())),
            Err(starting) => Err(starting),
        }
    }
}
