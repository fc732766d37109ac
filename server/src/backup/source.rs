//! The member that a backup is taken of, or whose data are copied, over etcd's API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use tower::service_fn;

use super::BackupError;
use crate::config::{TlsConfig, TlsProtocol};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::{
    AuthenticateRequest, HashKvRequest, HashKvResponse, RangeRequest, SnapshotRequest, SnapshotResponse,
};
use crate::tls::ClientTls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is on its way at most, so that a member that is faster than the store does not fill the memory.
const WINDOW_BYTES: u32 = 1 << 20;

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
            .initial_connection_window_size(WINDOW_BYTES);
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

    /// Waits until the member has everything that was acknowledged before: one that is cut off would serve an old snapshot.
    pub async fn catch_up(&self) -> Result<(), BackupError> {
        let request = RangeRequest { key: vec![0].into(), count_only: true, ..Default::default() };
        let answer = KvClient::new(self.channel.clone()).range(request).await;
        answer.map(drop).map_err(|status| BackupError::Member("a linearizable read", Box::new(status)))
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

/// A snapshot that is refused, or cut off.
pub(super) fn cut_off(status: Status) -> BackupError {
    BackupError::Member("Snapshot", Box::new(status))
}

/// A token; none if authentication is not on.
async fn log_in(channel: Channel, name: &str, password: &str) -> Result<Option<AsciiMetadataValue>, BackupError> {
    let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    let answer = AuthClient::new(channel).authenticate(request).await;
    let refused = |status| BackupError::Member("Authenticate", Box::new(status));
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
