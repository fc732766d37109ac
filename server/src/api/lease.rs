//! etcdserverpb.Lease. The leader counts down; granting and revoking are commands.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, mismatch};
use crate::auth::Credentials;
use crate::error::EtcdError;
use crate::mvcc::View;
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::*;
use crate::state::auth::Access;
use crate::storage::ReadView;

#[tonic::async_trait]
impl Lease for Arc<Api> {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let (credentials, LeaseGrantRequest { ttl, id }) = self.open(request);
        self.check_quota(0).await?;
        let caller = self.require_caller(&credentials).await?;
        let grant = LeaseGrantRequest {
            ttl: ttl.max(self.limits.min_lease_ttl_seconds),
            id: if id == 0 { new_id() } else { id },
        };
        match self.propose(Op::LeaseGrant(grant), caller).await? {
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
        let (credentials, request) = self.open(request);
        let caller = self.require_caller(&credentials).await?;
        match self.propose(Op::LeaseRevoke(request), caller).await? {
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
        // For as long as the stream lives: authentication may be enabled meanwhile.
        let credentials = Credentials::of(request.metadata(), request.extensions());
        let state = (Arc::clone(self), credentials, request.into_inner());
        let responses = stream::try_unfold(state, |(api, credentials, mut requests)| async move {
            match requests.message().await? {
                None => Ok(None),
                Some(request) => {
                    let response = api.keep_alive(request.id, &credentials).await?;
                    Ok(Some((response, (api, credentials, requests))))
                }
            }
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let (credentials, LeaseTimeToLiveRequest { id, keys }) = self.open(request);
        let caller = self.require_caller(&credentials).await?;
        let mut response = match self.node.lease_time_to_live(id, keys).await {
            Err(EtcdError::LeaseNotFound) => {
                LeaseTimeToLiveResponse { id, ttl: -1, ..LeaseTimeToLiveResponse::default() }
            }
            answer => answer?,
        };
        // The keys that are told are checked, not those that were there before.
        self.access(caller.as_ref(), |access| match access.root() {
            Ok(()) => Ok(()),
            Err(_) => response.keys.iter().try_for_each(|key| access.read(key, &Bytes::new())),
        })?;
        if keys {
            self.unchanged(caller.map(|caller| caller.auth_revision))?;
        }
        response.header = Some(self.header(self.node.view().revision()));
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let (credentials, _) = self.open(request);
        self.node.linearize().await?;
        let caller = self.require_caller(&credentials).await?;
        let may = |access: Access<'_>, view: &ReadView| {
            let mut ids = view.leases()?.into_iter().map(|lease| lease.id);
            ids.try_for_each(|id| access.read_lease(view, id))
        };
        let list = |view: &ReadView| Ok((view.revision(), view.leases()?));
        let (revision, leases) = self.read_as(caller, true, may, list).await?;
        let leases = leases.iter().map(|lease| LeaseStatus { id: lease.id });
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.header(revision)), leases: leases.collect() }))
    }
}

impl Api {
    /// Renews one lease; an unknown one is answered with a TTL of 0.
    async fn keep_alive(&self, id: i64, credentials: &Credentials) -> Result<LeaseKeepAliveResponse, Status> {
        if self.node.store().auth_enabled() {
            let caller = self.require_caller(credentials).await?;
            let may = move |access: Access<'_>, view: &ReadView| access.write_lease(view, id);
            self.read_as(caller, false, may, |_| Ok(())).await?;
        }
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
