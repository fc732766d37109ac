//! Messages between members: the client side, which openraft drives, and the service that answers them.

mod client;
mod service;
mod snapshot;
mod transport;

use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};

pub use self::client::{Caller, Network, Peers};
pub use self::service::{Door, PeerService, Ready, serve};
pub use self::transport::{PeerTls, listen, was_not_sent};
use super::types::{Malformed, TypeConfig, entry_from_wire, entry_to_wire};
use crate::proto::peer as pb;

/// Largest message between members, in bytes: a request of a client with room for what surrounds it.
const MAX_MESSAGE: usize = 64 << 20;
/// Metadata: the cluster that the sender belongs to, in hexadecimal.
const CLUSTER: &str = "keelson-cluster-id";
/// Metadata: the member that is meant, in hexadecimal.
const TO: &str = "keelson-to";
/// Metadata: the member that sends, in hexadecimal.
const FROM: &str = "keelson-from";
/// What a removed member is told by its former peers.
const REMOVED: &str = "the member has been permanently removed from the cluster";

fn append_to_wire(request: AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some((&request.vote).into()),
        prev: request.prev_log_id.map(Into::into),
        entries: request.entries.iter().map(entry_to_wire).collect(),
        commit: request.leader_commit.map(Into::into),
    }
}

fn append_from_wire(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: request.vote.ok_or(Malformed("append without a vote"))?.into(),
        prev_log_id: request.prev.map(Into::into),
        entries: request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        leader_commit: request.commit.map(Into::into),
    })
}

fn appended_to_wire(result: StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Wire;
    let result = match result {
        Ok(log_id) => Wire::Matched(pb::Matched { log_id: log_id.map(Into::into) }),
        Err(StreamAppendError::Conflict(log_id)) => Wire::Conflict(log_id.into()),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote((&vote).into()),
    };
    pb::AppendResponse { result: Some(result) }
}

fn appended_from_wire(response: pb::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use pb::append_response::Result as Wire;
    Ok(match response.result.ok_or(Malformed("empty answer to append"))? {
        Wire::Matched(matched) => Ok(matched.log_id.map(Into::into)),
        Wire::Conflict(log_id) => Err(StreamAppendError::Conflict(log_id.into())),
        Wire::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

fn vote_to_wire(request: VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some((&request.vote).into()),
        last: request.last_log_id.map(Into::into),
        leadership_transfer: request.leadership_transfer,
    }
}

fn vote_from_wire(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let vote = request.vote.ok_or(Malformed("vote request without a vote"))?.into();
    let mut decoded = VoteRequest::new(vote, request.last.map(Into::into));
    decoded.leadership_transfer = request.leadership_transfer;
    Ok(decoded)
}

fn voted_to_wire(response: VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some((&response.vote).into()),
        granted: response.vote_granted,
        last: response.last_log_id.map(Into::into),
    }
}

fn voted_from_wire(response: pb::VoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote: super::types::Vote = response.vote.ok_or(Malformed("answer to a vote without a vote"))?.into();
    Ok(VoteResponse::new(vote, response.last.map(Into::into), response.granted))
}
