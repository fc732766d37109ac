//! The types that openraft is instantiated with, and their wire form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use openraft::{EntryPayload, Membership};

use crate::budget::Share;
use crate::proto::command::Outcome;
use crate::proto::peer as pb;

openraft::declare_raft_types!(
    /// openraft's type parameters: one leader a term, so that `raft_term` means what etcd's does.
    pub TypeConfig:
        D = Request,
        R = Outcome,
        NodeId = u64,
        Node = PeerNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// A command as the log carries it: encoded once, by the member that a client asked. Where it was proposed it holds a share of the
/// memory for requests until its last clone is gone, be that in Raft's queues or the newest part of the log.
#[derive(Clone)]
pub struct Request(pub Bytes, #[expect(dead_code, reason = "it is held, not read")] Option<Arc<Share>>);

impl Request {
    /// A command that nobody counts: the member's own, or one that came with the log.
    pub fn new(command: impl Into<Bytes>) -> Self {
        Request(command.into(), None)
    }

    /// A command that is counted.
    pub fn counted(command: Bytes, share: Share) -> Self {
        Request(command, Some(Arc::new(share)))
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Request {}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the membership tells of a member: where its peers reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// URLs such as `http://10.0.0.1:2380`.
    pub peer_urls: Vec<String>,
}

/// openraft's log id: term and index.
pub type LogId = openraft::LogId<CommittedLeaderId<u64>>;
/// A vote or a leader's term.
pub type Vote = openraft::impls::Vote<LeaderId<u64, u64>>;
/// An entry of the log.
pub type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;
/// The members and who of them votes.
pub type Members = Membership<u64, PeerNode>;
/// A membership with the log id it came by.
pub type StoredMembers = openraft::StoredMembership<CommittedLeaderId<u64>, u64, PeerNode>;

/// The log id of `term` and `index`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Terms and indexes end here, far from where counting on would overflow.
const MAX_COUNT: u64 = i64::MAX as u64;

/// A message from a peer or from the disk that does not say what it must.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

impl From<LogId> for pb::LogId {
    fn from(id: LogId) -> Self {
        pb::LogId { term: id.leader_id.term, index: id.index }
    }
}

impl TryFrom<pb::LogId> for LogId {
    type Error = Malformed;

    fn try_from(id: pb::LogId) -> Result<Self, Malformed> {
        match id.term.max(id.index) {
            0..MAX_COUNT => Ok(log_id(id.term, id.index)),
            _ => Err(Malformed("log id")),
        }
    }
}

/// The log id that a peer or the disk tells of, if any.
pub fn maybe_log_id(id: Option<pb::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(LogId::try_from).transpose()
}

impl From<&Vote> for pb::Vote {
    fn from(vote: &Vote) -> Self {
        pb::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl TryFrom<pb::Vote> for Vote {
    type Error = Malformed;

    fn try_from(vote: pb::Vote) -> Result<Self, Malformed> {
        if vote.term >= MAX_COUNT {
            return Err(Malformed("term"));
        }
        let leader_id = LeaderId { term: vote.term, voted_for: vote.node };
        Ok(Vote { leader_id, committed: vote.committed })
    }
}

/// The wire form of an entry. Its command is shared, not copied.
pub fn entry_to_wire(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(request) => Some(pb::entry::Payload::Command(request.0.clone())),
        EntryPayload::Membership(members) => Some(pb::entry::Payload::Membership(members.into())),
    };
    let id = pb::LogId::from(entry.log_id);
    pb::Entry { term: id.term, index: id.index, payload }
}

/// The entry that a peer or the disk tells of.
pub fn entry_from_wire(entry: pb::Entry) -> Result<Entry, Malformed> {
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Command(bytes)) => EntryPayload::Normal(Request::new(bytes)),
        Some(pb::entry::Payload::Membership(members)) => EntryPayload::Membership(members.try_into()?),
    };
    let log_id = pb::LogId { term: entry.term, index: entry.index }.try_into()?;
    Ok(openraft::Entry { log_id, payload })
}

impl From<&Members> for pb::Membership {
    fn from(members: &Members) -> Self {
        let configs = members.get_joint_config().iter();
        let nodes = members.nodes();
        pb::Membership {
            configs: configs.map(|set| pb::Voters { ids: set.iter().copied().collect() }).collect(),
            nodes: nodes.map(|(id, node)| pb::PeerNode { id: *id, peer_urls: node.peer_urls.clone() }).collect(),
        }
    }
}

impl TryFrom<pb::Membership> for Members {
    type Error = Malformed;

    fn try_from(members: pb::Membership) -> Result<Self, Malformed> {
        if members.configs.is_empty() && members.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let configs: Vec<BTreeSet<u64>> =
            members.configs.into_iter().map(|set| set.ids.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, PeerNode> =
            members.nodes.into_iter().map(|node| (node.id, PeerNode { peer_urls: node.peer_urls })).collect();
        Membership::new(configs, nodes).map_err(|_| Malformed("membership"))
    }
}
