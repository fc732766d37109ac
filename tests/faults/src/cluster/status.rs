//! What a member says of itself.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::client::call;
use crate::history::{Request, Span};
use crate::wire::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::wire::proto::etcdserverpb::{HashKvRequest, StatusRequest};

const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Status {
    pub member_id: u64,
    pub leader_id: u64,
    pub is_learner: bool,
    pub applied_index: u64,
}

impl Status {
    pub fn leads(&self) -> bool {
        self.leader_id != 0 && self.leader_id == self.member_id
    }
}

pub async fn status(channel: Channel) -> Result<Status> {
    let mut client = MaintenanceClient::new(channel);
    let answer = timeout(PATIENCE, client.status(StatusRequest {})).await??.into_inner();
    Ok(Status {
        member_id: answer.header.context("a status without a header")?.member_id,
        leader_id: answer.leader,
        is_learner: answer.is_learner,
        applied_index: answer.raft_applied_index,
    })
}

pub async fn read(channel: Channel) -> Result<i64> {
    let request = Request::Range { span: Span::key("a"), revision: 0, serializable: false, limit: 1 };
    Ok(timeout(PATIENCE, call(channel, &request)).await??.0)
}

/// The compacted revision, and the sum over all from there up to `revision`.
pub async fn hash(channel: Channel, revision: i64) -> Result<(i64, u32)> {
    let mut client = MaintenanceClient::new(channel);
    let answer = timeout(PATIENCE, client.hash_kv(HashKvRequest { revision })).await??.into_inner();
    Ok((answer.compact_revision, answer.hash))
}
