//! What a member is asked outside of the workload. Answers are waited for, but not for long.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Status as GrpcStatus;
use tonic::transport::Channel;

use super::Member;
use crate::client::{call, connect};
use crate::history::{Request, Span};
use crate::wire::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::wire::proto::etcdserverpb::lease_client::LeaseClient;
use crate::wire::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::wire::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, DefragmentRequest, HashKvRequest, LeaseLeasesRequest, MemberAddRequest,
    MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MoveLeaderRequest, SnapshotRequest, StatusRequest,
};

const PATIENCE: Duration = Duration::from_secs(2);
/// What has to be written to every member's log, or rewritten.
const CHANGES_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Status {
    pub member_id: u64,
    pub leader_id: u64,
    pub is_learner: bool,
    pub term: u64,
}

impl Status {
    pub fn leads(&self) -> bool {
        self.leader_id != 0 && self.leader_id == self.member_id
    }
}

async fn within<T>(time: Duration, answer: impl Future<Output = Result<T, GrpcStatus>>) -> Result<T> {
    Ok(timeout(time, answer).await.context("no answer")??)
}

impl Member {
    pub async fn status(&self) -> Result<Status> {
        let answer = within(PATIENCE, self.maintenance().await?.status(StatusRequest {})).await?.into_inner();
        let member_id = answer.header.context("a status without a header")?.member_id;
        Ok(Status { member_id, leader_id: answer.leader, is_learner: answer.is_learner, term: answer.raft_term })
    }

    /// The revision that a linearizable read tells.
    pub async fn read(&self) -> Result<i64> {
        let request = Request::Range { span: Span::key("a"), revision: 0, serializable: false, limit: 1 };
        Ok(within(PATIENCE, call(self.connect().await?, &request)).await?.0)
    }

    /// The compacted revision, and the sum over what it has up to `revision`.
    pub async fn hash(&self, revision: i64) -> Result<(i64, u32)> {
        let answer =
            within(PATIENCE, self.maintenance().await?.hash_kv(HashKvRequest { revision })).await?.into_inner();
        Ok((answer.compact_revision, answer.hash))
    }

    /// All leases that it knows of.
    pub async fn leases(&self) -> Result<BTreeSet<i64>> {
        let mut leases = LeaseClient::new(self.connect().await?);
        let answer = within(PATIENCE, leases.lease_leases(LeaseLeasesRequest {})).await?.into_inner();
        Ok(answer.leases.iter().map(|lease| lease.id).collect())
    }

    /// The leases that its keys are attached to.
    pub async fn attached(&self) -> Result<BTreeSet<i64>> {
        let request = Request::Range { span: Span::all(), revision: 0, serializable: true, limit: 0 };
        let (_, answer) = within(PATIENCE, call(self.connect().await?, &request)).await?;
        Ok(answer.key_values().iter().map(|kv| kv.lease).filter(|lease| *lease != 0).collect())
    }

    /// What `etcdctl alarm disarm` does.
    pub async fn disarm(&self) -> Result<()> {
        let mut maintenance = self.maintenance().await?;
        let all = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        let raised = within(CHANGES_WITHIN, maintenance.alarm(all)).await?.into_inner().alarms;
        for AlarmMember { member_id, alarm } in raised {
            let request = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
            within(CHANGES_WITHIN, maintenance.alarm(request)).await?;
        }
        Ok(())
    }

    /// The status of a probe, such as `/livez`.
    pub async fn probe(&self, path: &str) -> Result<u16> {
        let ask = async {
            let mut stream = TcpStream::connect(self.client()).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.client());
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let status = answer.split(' ').nth(1).context("an answer without a status")?;
            anyhow::Ok(status.parse()?)
        };
        timeout(CHANGES_WITHIN, ask).await.context("no answer")?
    }

    /// What `etcdctl snapshot save` writes.
    pub async fn save_snapshot(&self, file: &Path) -> Result<()> {
        let mut parts = self.maintenance().await?.snapshot(SnapshotRequest {}).await?.into_inner();
        let mut saved = Vec::new();
        while let Some(part) = parts.message().await? {
            saved.extend_from_slice(&part.blob);
        }
        std::fs::write(file, saved).with_context(|| file.display().to_string())
    }

    pub async fn defragment(&self) -> Result<()> {
        within(CHANGES_WITHIN, self.maintenance().await?.defragment(DefragmentRequest {})).await.map(drop)
    }

    /// To be asked of the leader.
    pub async fn move_leader(&self, target_id: u64) -> Result<()> {
        within(CHANGES_WITHIN, self.maintenance().await?.move_leader(MoveLeaderRequest { target_id })).await.map(drop)
    }

    /// The ids of all members.
    pub async fn members(&self) -> Result<Vec<u64>> {
        Ok(self.list().await?.into_iter().map(|(id, _)| id).collect())
    }

    /// The ids of all members, and who of them is a learner.
    pub async fn list(&self) -> Result<Vec<(u64, bool)>> {
        let request = MemberListRequest { linearizable: true };
        let answer = within(PATIENCE, self.cluster().await?.member_list(request)).await?.into_inner();
        Ok(answer.members.iter().map(|member| (member.id, member.is_learner)).collect())
    }

    pub async fn add_member(&self, peer_url: &str, is_learner: bool) -> Result<()> {
        let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
        within(CHANGES_WITHIN, self.cluster().await?.member_add(request)).await.map(drop)
    }

    pub async fn remove_member(&self, id: u64) -> Result<()> {
        within(CHANGES_WITHIN, self.cluster().await?.member_remove(MemberRemoveRequest { id })).await.map(drop)
    }

    pub async fn promote_member(&self, id: u64) -> Result<()> {
        within(CHANGES_WITHIN, self.cluster().await?.member_promote(MemberPromoteRequest { id })).await.map(drop)
    }

    async fn connect(&self) -> Result<Channel> {
        Ok(connect(self.client()).await?)
    }

    async fn maintenance(&self) -> Result<MaintenanceClient<Channel>> {
        Ok(MaintenanceClient::new(self.connect().await?))
    }

    async fn cluster(&self) -> Result<ClusterClient<Channel>> {
        Ok(ClusterClient::new(self.connect().await?))
    }
}
