//! etcdserverpb.Cluster: who the members are.

use tonic::{Request, Response, Status};

use super::Api;
use crate::config::check_advertised;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::*;
use crate::telemetry::requests::Refused;

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let (credentials, MemberAddRequest { peer_ur_ls, is_learner }) = self.open(request);
        let peer_urls = checked(peer_ur_ls)?;
        self.require_root(&credentials).await?;
        let (member, members) = self.node.member_add(peer_urls, is_learner).await?;
        Ok(Response::new(MemberAddResponse { header: Some(self.header(0)), member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let (credentials, MemberRemoveRequest { id }) = self.open(request);
        self.require_root(&credentials).await?;
        let members = self.node.member_remove(id).await?;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header(0)), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let (credentials, MemberUpdateRequest { id, peer_ur_ls }) = self.open(request);
        let peer_urls = checked(peer_ur_ls)?;
        self.require_root(&credentials).await?;
        let members = self.node.member_update(id, peer_urls).await?;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header(0)), members }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let (credentials, MemberListRequest { linearizable }) = self.open(request);
        self.linearize(!linearizable).await?;
        self.require_caller(&credentials).await?;
        Ok(Response::new(MemberListResponse { header: Some(self.header(0)), members: self.node.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let (credentials, MemberPromoteRequest { id }) = self.open(request);
        self.require_root(&credentials).await?;
        let promoted = self.node.member_promote(id).await;
        let counts = &self.metrics.requests;
        match &promoted {
            Ok(_) => counts.promotions.inc(),
            Err(error) => counts.refused_promotions.get_or_create(&Refused { Reason: error.to_string() }).inc(),
        };
        let members = promoted?;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header(0)), members }))
    }
}

/// Peer URLs in order, if there are any and all are well formed.
fn checked(mut urls: Vec<String>) -> Result<Vec<String>, EtcdError> {
    if urls.is_empty() || urls.iter().any(|url| check_advertised(url).is_err()) {
        return Err(EtcdError::MemberBadURLs);
    }
    urls.sort();
    Ok(urls)
}
