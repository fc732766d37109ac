//! etcdserverpb.Lease. The leader counts down; granting and revoking are commands.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, mismatch};
use crate::error::EtcdError;
use crate::mvcc::View;
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::*;

/// Longer leases are refused.
const TTL_SECONDS_MAX: i64 = 9_000_000_000;

#[tonic::async_trait]
impl Lease for Arc<Api> {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > TTL_SECONDS_MAX {
            return Err(EtcdError::LeaseTTLTooLarge.into());
        }
        self.check_quota(0).await?;
        let grant = LeaseGrantRequest {
            ttl: ttl.max(self.limits.min_lease_ttl_seconds),
            id: if id == 0 { new_id() } else { id },
        };
        match self.propose(Op::LeaseGrant(grant)).await? {
            Outcome::LeaseGrant(mut response) => {
                self.complete(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(mismatch(other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        match self.propose(Op::LeaseRevoke(request.into_inner())).await? {
            Outcome::LeaseRevoke(mut response) => {
                self.complete(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(mismatch(other)),
        }
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (api, requests) = (Arc::clone(self), request.into_inner());
        let responses = stream::try_unfold((api, requests), |(api, mut requests)| async move {
            match requests.message().await? {
                None => Ok(None),
                Some(request) => Ok(Some((api.keep_alive(request.id).await?, (api, requests)))),
            }
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let mut response = match self.node.lease_time_to_live(id, keys).await {
            Err(EtcdError::LeaseNotFound) => {
                LeaseTimeToLiveResponse { id, ttl: -1, ..LeaseTimeToLiveResponse::default() }
            }
            answer => answer?,
        };
        response.header = Some(self.header(self.node.view().revision()));
        Ok(Response::new(response))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.node.linearize().await?;
        let (revision, leases) = self.read(true, |view| Ok((view.revision(), view.leases()?))).await?;
        let leases = leases.iter().map(|lease| LeaseStatus { id: lease.id });
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.header(revision)), leases: leases.collect() }))
    }
}

impl Api {
    /// Renews one lease; an unknown one is answered with a TTL of 0.
    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, EtcdError> {
        let header = Some(self.header(self.node.view().revision()));
        let ttl = match self.node.lease_renew(id).await {
            Err(EtcdError::LeaseNotFound) => 0,
            ttl => ttl?,
        };
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// Ids are positive and, being random, not given twice.
fn new_id() -> i64 {
    rand::random_range(1..=i64::MAX)
}
