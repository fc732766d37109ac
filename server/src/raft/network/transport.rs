//! Byte streams between members: plain TCP, or TLS when it is configured.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// Certificates and trust between members; given for `https` peer URLs.
#[derive(Clone)]
pub struct PeerTls {
    /// For the listener.
    pub server: Arc<ServerConfig>,
    /// For connections to peers.
    pub client: Arc<ClientConfig>,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerTls")
    }
}

/// A connection of either kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub type Connection = Box<dyn Io>;

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Connections that were accepted but are not served yet.
const BACKLOG: usize = 64;
/// A peer that is connected but silent is given up after this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// `host:port` of a peer URL, and whether it asks for TLS.
fn address(url: &str) -> io::Result<(&str, bool)> {
    let (rest, tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => {
            return Err(invalid(format!("{url}: peer URLs begin with http:// or https://")));
        }
    };
    let address = rest.trim_end_matches('/');
    if !address.contains(':') || address.contains('/') {
        return Err(invalid(format!("{url}: expected a URL such as http://10.0.0.1:2380")));
    }
    Ok((address, tls))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn missing_tls(url: &str) -> io::Error {
    invalid(format!("{url} asks for TLS, but no peer certificates are configured"))
}

/// No connection could be made: nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unconnected(io::Error);

/// Whether a call failed before anything of it was sent.
pub fn was_not_sent(status: &tonic::Status) -> bool {
    let mut error = std::error::Error::source(status);
    while let Some(cause) = error {
        if cause.is::<Unconnected>() {
            return true;
        }
        error = cause.source();
    }
    false
}

/// Connects to the first of the URLs that answers.
async fn dial(urls: Vec<String>, tls: Option<PeerTls>) -> Result<TokioIo<Connection>, Unconnected> {
    let mut last = invalid("the peer has no URL".into());
    for url in urls.iter() {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, dial_one(url, tls.as_ref())).await {
            Ok(Ok(connection)) => return Ok(TokioIo::new(connection)),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{url}: no answer")),
        }
    }
    Err(Unconnected(last))
}

async fn dial_one(url: &str, tls: Option<&PeerTls>) -> io::Result<Connection> {
    let (address, wants_tls) = address(url)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if !wants_tls {
        return Ok(Box::new(stream));
    }
    let tls = tls.ok_or_else(|| missing_tls(url))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls.client.clone()).connect(name, stream).await?))
}

/// Where a member is. Clones share it.
#[derive(Clone)]
pub struct Urls(Arc<Mutex<Vec<String>>>);

impl Urls {
    /// At these URLs.
    pub fn new(urls: &[String]) -> Urls {
        Urls(Arc::new(Mutex::new(urls.to_vec())))
    }

    /// At these from now on; a connection that stands is kept.
    pub fn set(&self, urls: &[String]) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        if *known != urls {
            *known = urls.to_vec();
        }
    }

    fn get(&self) -> Vec<String> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }
}

/// A channel that connects when it is used, and again after each failure.
pub fn channel(urls: Urls, tls: Option<PeerTls>) -> Channel {
    // The address is only a name: `dial` knows the real ones.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_| dial(urls.get(), tls.clone())))
}

/// Listens on every URL. The connections come out of the receiver until it is dropped.
pub async fn listen(urls: &[String], tls: Option<PeerTls>) -> io::Result<mpsc::Receiver<io::Result<Connection>>> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    for url in urls {
        let (address, wants_tls) = address(url)?;
        let acceptor = match (&tls, wants_tls) {
            (_, false) => None,
            (Some(tls), true) => Some(TlsAcceptor::from(tls.server.clone())),
            (None, true) => return Err(missing_tls(url)),
        };
        let listener = crate::socket::listen(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen for peers on {url}: {error}")))?;
        tokio::spawn(accept(listener, acceptor, accepted.clone()));
    }
    Ok(connections)
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, accepted: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = accepted.closed() => return,
        };
        match stream {
            Ok((stream, _)) => {
                // An option that only speeds things up.
                drop(stream.set_nodelay(true));
                match &acceptor {
                    None => drop(accepted.send(Ok(Box::new(stream) as Connection)).await),
                    Some(acceptor) => drop(tokio::spawn(handshake(stream, acceptor.clone(), accepted.clone()))),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer's connection failed");
                // Mostly too many open files: waiting is all that helps.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(stream: TcpStream, acceptor: TlsAcceptor, accepted: mpsc::Sender<io::Result<Connection>>) {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => drop(accepted.send(Ok(Box::new(stream) as Connection)).await),
        Ok(Err(error)) => tracing::warn!(%error, "a peer's TLS handshake failed"),
        Err(_) => tracing::warn!("a peer's TLS handshake took too long"),
    }
}
