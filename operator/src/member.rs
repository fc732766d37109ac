//! Talks to members in etcd's API, in plaintext or with [`Credentials`], and as root with a [`Token`].

mod auth;
mod credentials;
mod token;

use std::io::ErrorKind;
use std::time::Duration;

use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use crate::plan::{Alarm, AlarmKind};

pub use auth::{AccessKind, KeyRange};
pub use credentials::{Credentials, Shown};
pub use token::{ROOT, Sessions, Token};

/// Generated from `proto/member.proto`.
#[allow(missing_docs, clippy::all)]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

pub use wire::{Member as ListedMember, StatusResponse};

use token::{Badge, Shows};
use wire::alarm_request::AlarmAction;
use wire::auth_client::AuthClient;
use wire::cluster_client::ClusterClient;
use wire::kv_client::KvClient;
use wire::maintenance_client::MaintenanceClient;
use wire::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, MemberAddRequest, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, StatusRequest,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A member answers Status by itself, so a pass never waits for a dead member longer than this.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// A confirmed list takes a round of the quorum: longer than a member takes to answer "no leader".
const LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// Changes of membership wait for a commit, and for the new configuration to be applied.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A pass does nothing else meanwhile. A defragmentation that takes longer goes on in the member.
const DEFRAGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What can go wrong. A failed change does not prove that nothing was committed; the next pass sees what is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none, or nobody answers there.
    #[error("{0}: {1}")]
    Connect(String, tonic::transport::Error),
    /// The member refused, or did not answer in time.
    #[error("{0}: {1}")]
    Refused(&'static str, String),
    /// The member wants to know who asks, and does not know the token.
    #[error("{0}: {1}")]
    Unknown(&'static str, String),
}

impl Error {
    /// The cause without the request, such as "connection refused".
    pub fn cause(&self) -> String {
        match self {
            Self::Connect(_, error) => broken(error),
            Self::Refused(_, cause) | Self::Unknown(_, cause) => cause.clone(),
        }
    }

    /// Whether to log in, and to ask again.
    pub fn wants_login(&self) -> bool {
        matches!(self, Self::Unknown(..))
    }
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
const TOO_EARLY: [&str; 3] = ["in sync with leader", "unhealthy cluster", "not enough started members"];

fn change<T>(name: &'static str, answer: Result<T, Status>) -> Result<Change, Error> {
    match answer {
        Ok(_) => Ok(Change::Done),
        Err(status) if TOO_EARLY.iter().any(|text| status.message().contains(text)) => Ok(Change::NotYet),
        Err(status) => Err(refused(name, &status)),
    }
}

/// A connection to one member.
#[derive(Debug, Clone)]
pub struct MemberClient {
    auth: AuthClient<Shows>,
    cluster: ClusterClient<Shows>,
    kv: KvClient<Shows>,
    maintenance: MaintenanceClient<Shows>,
    badge: Badge,
    shown: Shown,
}

impl MemberClient {
    /// A connection to the member at `url`, with `credentials` if that begins with `https`; it is opened by the first request.
    pub fn new(url: &str, credentials: Option<&Credentials>) -> Result<Self, Error> {
        Self::within(url, credentials, CHANGE_TIMEOUT)
    }

    /// The same, for what takes a member long.
    pub fn patient(url: &str, credentials: Option<&Credentials>) -> Result<Self, Error> {
        Self::within(url, credentials, DEFRAGMENT_TIMEOUT)
    }

    fn within(url: &str, credentials: Option<&Credentials>, timeout: Duration) -> Result<Self, Error> {
        // TLS is ours: the library below is to think that it speaks plaintext.
        let plain = url.replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain).map_err(|error| Error::Connect(url.to_string(), error))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(timeout);
        let shown = Shown::default();
        let channel = match (credentials, url.starts_with("https://")) {
            (_, false) => endpoint.connect_lazy(),
            (None, true) => return Err(Error::Refused("TLS", "no certificate to show yet".into())),
            (Some(credentials), true) => {
                let (credentials, shown) = (credentials.clone(), shown.clone());
                let connect = move |uri: Uri| credentials.clone().connect(uri, shown.clone());
                endpoint.connect_with_connector_lazy(service_fn(connect))
            }
        };
        let badge = Badge::default();
        let shows = Shows::new(channel, badge.clone());
        let (auth, cluster) = (AuthClient::new(shows.clone()), ClusterClient::new(shows.clone()));
        let kv = KvClient::new(shows.clone());
        Ok(Self { auth, cluster, kv, maintenance: MaintenanceClient::new(shows), badge, shown })
    }

    /// From now on with this token, or without one.
    pub fn with_token(self, token: Option<Token>) -> Self {
        self.badge.set(token);
        self
    }

    /// The certificate that the member showed.
    pub fn shown(&self) -> Option<String> {
        self.shown.get()
    }

    /// What the member says of itself.
    pub async fn status(&mut self) -> Result<StatusResponse, Error> {
        let answer = self.maintenance.status(StatusRequest {});
        within(STATUS_TIMEOUT, "Status", answer).await
    }

    /// The member list, confirmed with a quorum.
    pub async fn member_list(&mut self) -> Result<MemberList, Error> {
        let request = MemberListRequest { linearizable: true };
        let answer = self.cluster.member_list(request);
        let answer = within(LIST_TIMEOUT, "MemberList", answer).await?;
        Ok(MemberList { cluster_id: answer.header.unwrap_or_default().cluster_id, members: answer.members })
    }

    /// Adds a learner. One that is there already is success: an earlier answer was lost.
    pub async fn add_learner(&mut self, peer_url: String) -> Result<Change, Error> {
        let request = MemberAddRequest { peer_ur_ls: vec![peer_url], is_learner: true };
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

    /// Changes where the others reach a member.
    pub async fn update(&mut self, id: u64, peer_url: String) -> Result<(), Error> {
        let answer = self.cluster.member_update(MemberUpdateRequest { id, peer_ur_ls: vec![peer_url] });
        within(CHANGE_TIMEOUT, "MemberUpdate", answer).await.map(drop)
    }

    /// Takes a member out of the list. One that is not there any more is success.
    pub async fn remove(&mut self, id: u64) -> Result<Change, Error> {
        match self.cluster.member_remove(MemberRemoveRequest { id }).await {
            Err(status) if status.code() == Code::NotFound => Ok(Change::Done),
            answer => change("MemberRemove", answer),
        }
    }

    /// The alarms that are raised, of kinds that are known.
    pub async fn alarms(&mut self) -> Result<Vec<Alarm>, Error> {
        let answer = self.maintenance.alarm(AlarmRequest::default());
        let answer = within(STATUS_TIMEOUT, "Alarm", answer).await?;
        let known = answer.alarms.iter().filter_map(|alarm| {
            let kind = match alarm.alarm() {
                AlarmType::Nospace => AlarmKind::NoSpace,
                AlarmType::Corrupt => AlarmKind::Corrupt,
                AlarmType::None => return None,
            };
            Some(Alarm { member: alarm.member_id, kind })
        });
        Ok(known.collect())
    }

    /// Ends an alarm. One that is not raised any more is success.
    pub async fn disarm(&mut self, member_id: u64, kind: AlarmKind) -> Result<(), Error> {
        let alarm = match kind {
            AlarmKind::NoSpace => AlarmType::Nospace,
            AlarmKind::Corrupt => AlarmType::Corrupt,
        };
        let request = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm: alarm.into() };
        within(CHANGE_TIMEOUT, "Alarm", self.maintenance.alarm(request)).await.map(drop)
    }

    /// Forgets the history before a revision. If that was done already, it is success.
    pub async fn compact(&mut self, revision: i64) -> Result<(), Error> {
        match self.kv.compact(CompactionRequest { revision, physical: true }).await {
            Err(status) if status.code() == Code::OutOfRange => Ok(()),
            Err(status) => Err(refused("Compact", &status)),
            Ok(_) => Ok(()),
        }
    }

    /// Gives the space that nothing uses back to the disk.
    pub async fn defragment(&mut self) -> Result<(), Error> {
        within(DEFRAGMENT_TIMEOUT, "Defragment", self.maintenance.defragment(DefragmentRequest {})).await.map(drop)
    }

    /// Asks this member, the leader, to hand over to `target_id`.
    pub async fn move_leader(&mut self, target_id: u64) -> Result<(), Error> {
        let answer = self.maintenance.move_leader(MoveLeaderRequest { target_id });
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
        Err(_) => Err(Error::Refused(name, NO_ANSWER.into())),
    }
}

const NO_ANSWER: &str = "no answer in time";

fn refused(name: &'static str, status: &Status) -> Error {
    let source = std::error::Error::source(status);
    let text = source.map_or_else(|| status.message().to_string(), broken);
    let unknown = status.code() == Code::Unauthenticated || NOBODY.iter().any(|told| text.ends_with(told));
    match unknown {
        true => Error::Unknown(name, text),
        false => Error::Refused(name, text),
    }
}

/// What a member says to a caller that it does not know, or that it knew before users and roles were changed.
const NOBODY: [&str; 2] = ["user name is empty", "revision of auth store is old"];

/// Why a connection broke, from the innermost error that says so: words that stay while the cause does, as they end up in the
/// status of the EtcdCluster.
fn broken(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let io = chain.filter_map(|error| error.downcast_ref::<std::io::Error>()).last();
    match io {
        Some(io) if io.kind() == ErrorKind::TimedOut => NO_ANSWER.into(),
        Some(io) if io.raw_os_error().is_some() => io.kind().to_string(),
        Some(io) => io.to_string(),
        None => "the connection broke".into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
