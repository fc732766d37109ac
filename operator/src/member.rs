//! Talks to members in etcd's API. This is the one place where connections are made, and so the one where TLS will be.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Generated from `proto/member.proto`.
#[allow(missing_docs, clippy::all)]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

pub use wire::{Member as ListedMember, StatusResponse};

use wire::cluster_client::ClusterClient;
use wire::maintenance_client::MaintenanceClient;
use wire::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MoveLeaderRequest, StatusRequest,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than a member takes to answer "no leader"; a pass never waits for a dead member longer than this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Changes of membership wait for a commit, and for the new configuration to be applied.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong. A failed change does not prove that nothing was committed; the next pass sees what is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none, or nobody answers there.
    #[error("{0}: {1}")]
    Connect(String, tonic::transport::Error),
    /// The member refused, or did not answer in time.
    #[error("{0}: {1}")]
    Refused(&'static str, String),
}

/// A confirmed member list.
#[derive(Debug, Clone)]
pub struct MemberList {
    /// The id of the cluster that the member belongs to.
    pub cluster_id: u64,
    /// All members, as the quorum knows them.
    pub members: Vec<ListedMember>,
}

/// How a change ended, other than by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is done.
    Done,
    /// The leader says that it is too early; the same request will succeed later.
    NotYet,
}

/// Refusals that pass by themselves: a learner that still lacks entries, and members that have not been connected for long enough
/// (etcd wants five seconds after each change).
const TOO_EARLY: [&str; 3] = [
    "in sync with leader",
    "unhealthy cluster",
    "not enough started members",
];

fn change<T>(name: &'static str, answer: Result<T, Status>) -> Result<Change, Error> {
    match answer {
        Ok(_) => Ok(Change::Done),
        Err(status) if TOO_EARLY.iter().any(|text| status.message().contains(text)) => {
            Ok(Change::NotYet)
        }
        Err(status) => Err(refused(name, &status)),
    }
}

/// A connection to one member.
#[derive(Debug, Clone)]
pub struct MemberClient {
    cluster: ClusterClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
}

impl MemberClient {
    /// A connection to the member at `url`; it is opened by the first request.
    pub fn new(url: &str) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|error| Error::Connect(url.to_string(), error))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CHANGE_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        })
    }

    /// What the member says of itself.
    pub async fn status(&mut self) -> Result<StatusResponse, Error> {
        let answer = self.maintenance.status(StatusRequest {});
        within(REQUEST_TIMEOUT, "Status", answer).await
    }

    /// The member list, confirmed with a quorum.
    pub async fn member_list(&mut self) -> Result<MemberList, Error> {
        let request = MemberListRequest { linearizable: true };
        let answer = self.cluster.member_list(request);
        let answer = within(REQUEST_TIMEOUT, "MemberList", answer).await?;
        Ok(MemberList {
            cluster_id: answer.header.unwrap_or_default().cluster_id,
            members: answer.members,
        })
    }

    /// Adds a learner. One that is there already is success: an earlier answer was lost.
    pub async fn add_learner(&mut self, peer_url: String) -> Result<Change, Error> {
        let request = MemberAddRequest {
            peer_ur_ls: vec![peer_url],
            is_learner: true,
        };
        match self.cluster.member_add(request).await {
            // "Peer URLs already exists", or within the same second, as ids are made from URL and time, "member ID already exist".
            Err(status) if status.message().contains("already exist") => Ok(Change::Done),
            answer => change("MemberAdd", answer),
        }
    }

    /// Gives a learner its vote.
    pub async fn promote(&mut self, id: u64) -> Result<Change, Error> {
        let request = MemberPromoteRequest { id };
        change("MemberPromote", self.cluster.member_promote(request).await)
    }

    /// Takes a member out of the list. One that is not there any more is success.
    pub async fn remove(&mut self, id: u64) -> Result<Change, Error> {
        match self.cluster.member_remove(MemberRemoveRequest { id }).await {
            Err(status) if status.code() == Code::NotFound => Ok(Change::Done),
            answer => change("MemberRemove", answer),
        }
    }

    /// Asks this member, the leader, to hand over to `target_id`.
    pub async fn move_leader(&mut self, target_id: u64) -> Result<(), Error> {
        let answer = self
            .maintenance
            .move_leader(MoveLeaderRequest { target_id });
        within(CHANGE_TIMEOUT, "MoveLeader", answer).await.map(drop)
    }
}

async fn within<T>(
    timeout: Duration,
    name: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(name, &status)),
        Err(_) => Err(Error::Refused(name, "no answer in time".into())),
    }
}

fn refused(name: &'static str, status: &Status) -> Error {
    Error::Refused(name, status.message().to_string())
}

#[cfg(test)]
mod tests;
