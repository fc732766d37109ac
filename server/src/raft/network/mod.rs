//! Messages between members: the client side, which openraft drives, and the service that answers them.

mod client;
mod service;
mod snapshot;
mod transport;

use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};

pub use self::client::{Caller, Network, Peers};
pub use self::service::{Door, PeerService, Ready, serve};
pub use self::transport::{PeerTls, listen, was_not_sent};
pub use super::types::Malformed;
use super::types::{TypeConfig, entry_from_wire, entry_to_wire, maybe_log_id};
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
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: request.vote.ok_or(Malformed("append without a vote"))?.try_into()?,
        prev_log_id: maybe_log_id(request.prev)?,
        entries: request.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<_>, _>>()?,
        leader_commit: maybe_log_id(request.commit)?,
    };
    // Raft and the log rely on it, and the log takes no entry back.
    let mut last = request.prev_log_id;
    for entry in &request.entries {
        if entry.log_id.index != last.map_or(0, |last| last.index + 1) || Some(entry.log_id) < last {
            return Err(Malformed("entries that do not follow each other"));
        }
        last = Some(entry.log_id);
    }
    match last.is_some_and(|last| last.leader_id.term > request.vote.leader_id.term) {
        true => Err(Malformed("an entry of a later term than the leader's")),
        false => Ok(request),
    }
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
        Wire::Matched(matched) => Ok(maybe_log_id(matched.log_id)?),
        Wire::Conflict(log_id) => Err(StreamAppendError::Conflict(log_id.try_into()?)),
        Wire::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.try_into()?)),
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
    let vote = request.vote.ok_or(Malformed("vote request without a vote"))?.try_into()?;
    let mut decoded = VoteRequest::new(vote, maybe_log_id(request.last)?);
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
    let vote: super::types::Vote = response.vote.ok_or(Malformed("answer to a vote without a vote"))?.try_into()?;
    Ok(VoteResponse::new(vote, maybe_log_id(response.last)?, response.granted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{cases, typed};
    use crate::raft::types::log_id;

    fn appended(prev: Option<(u64, u64)>, entries: &[(u64, u64)], term: u64) -> Result<(), Malformed> {
        let id = |(term, index)| pb::LogId { term, index };
        let entry = |(term, index): &(u64, u64)| pb::Entry { term: *term, index: *index, payload: None };
        let vote = Some(pb::Vote { term, node: 1, committed: true });
        let entries = entries.iter().map(entry).collect();
        append_from_wire(pb::AppendRequest { vote, prev: prev.map(id), entries, commit: None }).map(drop)
    }

    #[test]
    fn entries_follow_each_other() {
        let (holes, late) = ("entries that do not follow each other", "an entry of a later term than the leader's");
        for (prev, entries, term, expected) in [
            (None, &[(1, 0), (1, 1), (2, 2)][..], 2, Ok(())),
            (Some((3, 9)), &[(3, 10)], 3, Ok(())),
            (Some((3, 9)), &[], 3, Ok(())),
            (None, &[(1, 1)], 1, Err(holes)),
            (Some((3, 9)), &[(3, 9)], 3, Err(holes)),
            (Some((3, 9)), &[(3, 11)], 3, Err(holes)),
            (Some((3, 9)), &[(2, 10)], 3, Err(holes)),
            (Some((3, 9)), &[(4, 10)], 3, Err(late)),
            (Some((3, 9)), &[], 2, Err(late)),
            (Some((3, u64::MAX)), &[], 3, Err("log id")),
            (None, &[(1, u64::MAX)], 1, Err("log id")),
            (None, &[], u64::MAX, Err("term")),
        ] {
            assert_eq!(appended(prev, entries, term), expected.map_err(Malformed), "{prev:?} {entries:?} {term}");
        }
    }

    proptest! {
        #![proptest_config(cases(200))]

        /// What is taken from a peer says the same when it is sent on, and counts on without overflow.
        #[test]
        fn messages_of_peers_are_understood_or_refused(
            append in typed::<pb::AppendRequest>("keelson.peer.AppendRequest"),
            appended in typed::<pb::AppendResponse>("keelson.peer.AppendResponse"),
            vote in typed::<pb::VoteRequest>("keelson.peer.VoteRequest"),
            voted in typed::<pb::VoteResponse>("keelson.peer.VoteResponse"),
        ) {
            if let Ok(request) = append_from_wire(append) {
                let first = request.prev_log_id.map_or(0, |last| last.index + 1);
                let indexes = request.entries.iter().map(|entry| entry.log_id.index);
                prop_assert!(indexes.eq((first..).take(request.entries.len())));
                let again = append_from_wire(append_to_wire(request.clone())).map_err(|error| error.to_string());
                prop_assert_eq!(again.map(|again| format!("{again:?}")), Ok(format!("{request:?}")));
            }
            if let Ok(result) = appended_from_wire(appended) {
                prop_assert_eq!(appended_from_wire(appended_to_wire(result.clone())), Ok(result));
            }
            if let Ok(request) = vote_from_wire(vote) {
                prop_assert_eq!(vote_from_wire(vote_to_wire(request.clone())), Ok(request));
            }
            if let Ok(response) = voted_from_wire(voted) {
                prop_assert_eq!(voted_from_wire(voted_to_wire(response.clone())), Ok(response));
            }
            prop_assert!(maybe_log_id(Some(log_id(7, 7).into())).is_ok());
        }
    }
}
