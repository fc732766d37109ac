//! etcdserverpb.Maintenance: how a member is, and what keeps it well.

use std::time::Instant;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{Api, errors, mismatch};
use crate::config::ETCD_VERSION;
use crate::error::EtcdError;
use crate::mvcc::hash::hash_kv;
use crate::mvcc::{ReadError, View};
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::*;
use crate::snapshot::save;

#[tonic::async_trait]
impl Maintenance for Api {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let (credentials, request) = self.open(request);
        let mut response = if request.action() == AlarmAction::Get {
            self.require_caller(&credentials).await?;
            self.node.linearize().await?;
            self.read(false, move |view| alarms(view, request.alarm())).await?
        } else {
            let caller = self.require_root(&credentials).await?;
            // Whoever disarms may have made room.
            self.quota.look_again();
            match self.propose(Op::Alarm(request), caller).await? {
                Outcome::Alarm(response) => response,
                other => return Err(mismatch(other)),
            }
        };
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.require_caller(&self.open(request).0).await?;
        let status = self.node.status();
        let sizes = self.node.store().sizes();
        let (revision, alarms) = self.read(false, |view| Ok((view.revision(), view.alarms()?))).await?;
        let no_leader = status.leader.is_none().then(|| EtcdError::NoLeader.to_string());
        let alarms = alarms.iter().map(|alarm| {
            // As Go shows the message: without what is zero.
            let member = Some(alarm.member_id).filter(|id| *id != 0).map(|id| format!("memberID:{id} "));
            format!("{}alarm:{}", member.unwrap_or_default(), alarm.alarm().as_str_name())
        });
        Ok(Response::new(StatusResponse {
            header: Some(self.header(revision)),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes(sizes.total_bytes),
            leader: status.leader.unwrap_or(0),
            raft_index: status.committed_index,
            raft_term: status.term,
            raft_applied_index: status.applied_index,
            errors: no_leader.into_iter().chain(alarms).collect(),
            db_size_in_use: bytes(sizes.in_use_bytes),
            is_learner: status.is_learner(),
            storage_version: self.cluster_version()?,
            db_size_quota: self.limits.told_quota_bytes,
            downgrade_info: Some(self.downgrade_info()?),
        }))
    }

    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.require_root(&self.open(request).0).await?;
        let store = self.node.store().clone();
        let begun = Instant::now();
        self.metrics.requests.defrags.inc();
        let done = tokio::task::spawn_blocking(move || store.defragment()).await;
        self.metrics.requests.defrags.dec();
        self.metrics.requests.defrag_seconds.observe(begun.elapsed().as_secs_f64());
        done.map_err(|error| errors::internal("defragmentation was aborted", error))?
            .map_err(|error| errors::internal("defragmentation failed", error))?;
        self.quota.look_again();
        // etcd's answer has no header.
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.require_root(&self.open(request).0).await?;
        let begun = Instant::now();
        let (revision, hash) = self.read(true, |view| Ok((view.revision(), save::hash(view)))).await?;
        self.metrics.requests.hash_seconds.observe(begun.elapsed().as_secs_f64());
        let hash = hash.map_err(errors::unreadable)?;
        Ok(Response::new(HashResponse { header: Some(self.header(revision)), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let (credentials, HashKvRequest { revision: at }) = self.open(request);
        self.require_root(&credentials).await?;
        let begun = Instant::now();
        let (revision, sum) = self.read(true, move |view| Ok((view.revision(), hash_kv(view, at)?))).await?;
        self.metrics.requests.hash_rev_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(Response::new(HashKvResponse {
            header: Some(self.header(revision)),
            hash: sum.hash,
            compact_revision: sum.compact_revision,
            hash_revision: sum.hash_revision,
        }))
    }

    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.require_root(&self.open(request).0).await?;
        let place = self.snapshots.clone().try_acquire_owned().map_err(|_| EtcdError::RequestTooManyRequests)?;
        let (view, dir) = (self.node.view(), self.node.snapshot_dir().to_owned());
        let seconds = self.metrics.node.snapshot_sent_seconds.clone();
        Ok(Response::new(super::snapshot::stream(view, dir, place, seconds)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let (credentials, MoveLeaderRequest { target_id }) = self.open(request);
        self.require_root(&credentials).await?;
        if !self.node.status().is_leader() {
            return Err(EtcdError::NotLeader.into());
        }
        self.node.transfer_leadership(target_id).await?;
        // Here, too.
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let (credentials, request) = self.open(request);
        let caller = self.require_root(&credentials).await?;
        Ok(Response::new(self.change_version(caller, request).await?))
    }
}

/// Raised alarms of one type, or all of them.
fn alarms(view: &impl View, alarm: AlarmType) -> Result<AlarmResponse, ReadError> {
    let mut alarms = view.alarms()?;
    alarms.retain(|raised| alarm == AlarmType::None || raised.alarm() == alarm);
    let header = ResponseHeader { revision: view.revision(), ..ResponseHeader::default() };
    Ok(AlarmResponse { header: Some(header), alarms })
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
