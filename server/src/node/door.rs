//! What peers ask of this member as the leader.

use std::sync::Arc;

use prost::Message;

use super::Inner;
use super::leader::{Miss, tell};
use crate::proto::command::Command;
use crate::proto::peer as pb;
use crate::raft::network::{Door, Malformed};

/// The node's part of the peer service.
pub struct NodeDoor(pub Arc<Inner>);

#[tonic::async_trait]
impl Door for NodeDoor {
    async fn propose(&self, request: pb::ProposeRequest) -> Result<pb::ProposeResponse, Malformed> {
        // An entry that cannot be decoded would end every member, at every start.
        let command = Command::decode(request.command.clone()).map_err(|error| {
            tracing::error!(%error, "a peer proposed what is no command");
            Malformed("command")
        })?;
        let admitted = self.0.admit(&command, request.command);
        drop(command);
        let proposed = match admitted {
            Ok(request) => self.0.propose_here(request).await,
            Err(error) => Err(Miss::Fail(error)),
        };
        Ok(match proposed {
            Ok((index, outcome)) => pb::ProposeResponse { index, outcome: Some(outcome), ..Default::default() },
            Err(miss) => pb::ProposeResponse { error: tell(miss), ..Default::default() },
        })
    }

    async fn read_index(&self) -> pb::ReadIndexResponse {
        match self.0.read_index_here().await {
            Ok(index) => pb::ReadIndexResponse { index, ..Default::default() },
            Err(miss) => pb::ReadIndexResponse { error: tell(miss), ..Default::default() },
        }
    }

    async fn change_membership(&self, request: pb::MembershipRequest) -> pb::MembershipResponse {
        match self.0.change_here(request).await {
            Ok((index, id)) => pb::MembershipResponse { index, id, ..Default::default() },
            Err(miss) => pb::MembershipResponse { error: tell(miss), ..Default::default() },
        }
    }

    async fn renew_lease(&self, request: pb::LeaseRequest) -> pb::LeaseResponse {
        match self.0.lease_here(request.id, request.query).await {
            Ok(ttl) => pb::LeaseResponse {
                error: String::new(),
                ttl_seconds: ttl.remaining_seconds,
                granted_ttl_seconds: ttl.granted_seconds,
            },
            Err(miss) => pb::LeaseResponse { error: tell(miss), ..Default::default() },
        }
    }

    async fn hash_kv(&self, revision: i64) -> pb::HashKvResponse {
        match self.0.hash_kv(revision).await {
            Ok((sum, revision)) => pb::HashKvResponse {
                error: String::new(),
                hash: sum.hash,
                hash_revision: sum.hash_revision,
                compact_revision: sum.compact_revision,
                revision,
            },
            Err(error) => pb::HashKvResponse { error: error.name().into(), ..Default::default() },
        }
    }

    fn cluster(&self) -> pb::ClusterResponse {
        pb::ClusterResponse {
            cluster_id: self.0.cluster_id,
            leader: self.0.current_status().leader.unwrap_or(0),
            members: self.0.members(),
            removed: self.0.shared.state().removed.clone(),
        }
    }

    fn is_removed(&self, member: u64) -> bool {
        self.0.shared.state().removed.contains(&member)
    }

    fn heard_leader(&self) {
        self.0.clock.heard();
    }
}
