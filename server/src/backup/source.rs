//! The member that a backup is taken of, or whose data are copied, over etcd's API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::BackupError;
use crate::config::{TlsConfig, TlsProtocol};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    AuthenticateRequest, HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, RangeRequest, SnapshotRequest,
    SnapshotResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::tls::ClientTls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is on its way at most, so that a member that is faster than the store does not fill the memory.
const WINDOW_BYTES: u32 = 1 << 20;
/// What answers of the archive's calls may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The call by which somebody logs in.
pub(super) const LOGIN: &str = "Authenticate";
/// What every key is behind, or equal to.
const FIRST_KEY: &[u8] = &[0];

/// Where a member is, and what to show it.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Its URL.
    pub endpoint: String,
    /// Authorities that are trusted; the system's by default.
    pub ca: Option<PathBuf>,
    /// A certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A user and its password. Without authentication nobody asks for them.
    pub login: Option<(String, String)>,
}

/// What a member's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Id of its cluster.
    pub cluster_id: u64,
    /// The newest revision.
    pub revision: i64,
}

/// A connection to one member: all calls go to the same one, also behind a load balancer.
pub struct Source {
    channel: Shown,
}

/// The connection, with the token of whoever has logged in.
type Shown = InterceptedService<Channel, Login>;

#[derive(Clone)]
struct Login(Option<AsciiMetadataValue>);

impl Interceptor for Login {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

impl Source {
    /// Connects.
    pub async fn connect(member: &Member) -> Result<Self, BackupError> {
        let wrong = |why: String| BackupError::Connect(member.endpoint.clone(), why);
        // TLS is ours: the library below is to think that it speaks plaintext.
        let plain = member.endpoint.replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain).map_err(|error| wrong(error.to_string()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            // Twice as much, so that a stream which nobody reads for a while leaves room for the answers of other calls.
            .initial_connection_window_size(2 * WINDOW_BYTES);
        let channel = if member.endpoint.starts_with("https://") {
            let (cert, key) = member.identity.clone().unzip();
            let settings =
                TlsConfig { cert_file: cert, key_file: key, trusted_ca_file: member.ca.clone(), ..Default::default() };
            let tls = ClientTls::open(&settings, &TlsProtocol::default(), false)?;
            endpoint.connect_with_connector(service_fn(move |uri| handshake(tls.clone(), uri))).await
        } else {
            endpoint.connect().await
        };
        let channel = channel.map_err(|error| wrong(causes(&error)))?;
        let token = match &member.login {
            Some((user, password)) => log_in(channel.clone(), user, password).await?,
            None => None,
        };
        Ok(Self { channel: InterceptedService::new(channel, Login(token)) })
    }

    /// Waits until the member has everything that was acknowledged before: one that is cut off would serve an old snapshot. Answers
    /// the cluster's id and the revision by then.
    pub async fn catch_up(&self) -> Result<Now, BackupError> {
        let request = RangeRequest { key: FIRST_KEY.into(), count_only: true, ..Default::default() };
        let mut client = KvClient::new(self.channel.clone());
        let header = in_time("a linearizable read", client.range(request)).await?.header.unwrap_or_default();
        Ok(Now { cluster_id: header.cluster_id, revision: header.revision })
    }

    /// All changes since a revision. They come in pieces, of which all but the last one of a revision say that they are.
    pub async fn watch(&self, start_revision: i64) -> Result<Streaming<WatchResponse>, BackupError> {
        let (key, range_end) = (FIRST_KEY.into(), FIRST_KEY.into());
        let create = WatchCreateRequest { key, range_end, start_revision, fragment: true, ..Default::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream ends when its requests do.
        let requests = stream::iter([request]).chain(stream::pending());
        let client = WatchClient::new(self.channel.clone());
        // A piece is as large as a request may be, and that is the member's choice.
        let mut client = client.max_decoding_message_size(usize::MAX);
        in_time("Watch", client.watch(requests)).await
    }

    /// The time to live, in seconds, that a lease was granted; 0 if it is gone.
    pub async fn granted_ttl(&self, lease: i64) -> Result<i64, BackupError> {
        let mut client = LeaseClient::new(self.channel.clone());
        let request = LeaseTimeToLiveRequest { id: lease, keys: false };
        Ok(in_time("LeaseTimeToLive", client.lease_time_to_live(request)).await?.granted_ttl.max(0))
    }

    /// The hash of its history up to now.
    pub async fn hash(&self) -> Result<HashKvResponse, BackupError> {
        let answer = MaintenanceClient::new(self.channel.clone()).hash_kv(HashKvRequest { revision: 0 }).await;
        answer.map(|it| it.into_inner()).map_err(|status| BackupError::Member("HashKV", Box::new(status)))
    }

    /// Its snapshot.
    pub async fn snapshot(&self) -> Result<Streaming<SnapshotResponse>, BackupError> {
        let answer = MaintenanceClient::new(self.channel.clone()).snapshot(SnapshotRequest {}).await;
        answer.map(|it| it.into_inner()).map_err(cut_off)
    }
}

/// What a call answers, unless that takes too long.
async fn in_time<T>(
    what: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, BackupError> {
    let late = || Status::deadline_exceeded(format!("no answer within {CALL_TIMEOUT:?}"));
    let answer = tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(late()));
    answer.map(Response::into_inner).map_err(|status| BackupError::Member(what, Box::new(status)))
}

/// A snapshot that is refused, or cut off.
pub(super) fn cut_off(status: Status) -> BackupError {
    BackupError::Member("Snapshot", Box::new(status))
}

/// A token; none if authentication is not on.
async fn log_in(channel: Channel, name: &str, password: &str) -> Result<Option<AsciiMetadataValue>, BackupError> {
    let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    let answer = AuthClient::new(channel).authenticate(request).await;
    let refused = |status| BackupError::Member(LOGIN, Box::new(status));
    match answer {
        Ok(answer) => {
            let token = AsciiMetadataValue::try_from(answer.into_inner().token);
            token.map(Some).map_err(|_| refused(Status::internal("the token is no text")))
        }
        Err(status) if status.message() == EtcdError::AuthNotEnabled.to_string() => Ok(None),
        Err(status) => Err(refused(status)),
    }
}

async fn handshake(
    tls: Arc<ClientTls>,
    uri: Uri,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(2379))).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    Ok(TokioIo::new(TlsConnector::from(tls.config().await).connect(name, stream).await?))
}

/// The error and what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}
