//! What a member tells of itself.

/// A member's part in the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Votes, and follows the leader or looks for one.
    Follower,
    /// Follows without a vote.
    Learner,
}

/// A member's view at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// The leader, if this member knows one.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// This member's part.
    pub role: Role,
    /// Leader changes seen since start, the first one included.
    pub leader_changes: u64,
    /// This member was removed from the cluster: it can only stop.
    pub removed: bool,
}

impl NodeStatus {
    /// Whether this member has no vote.
    pub fn is_learner(&self) -> bool {
        self.role == Role::Learner
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}
