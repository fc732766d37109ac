//! Byte streams between members: TCP or Unix sockets, plain or under TLS when that is configured.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use crate::newcomers::{Crowd, Greeted, Newcomer, Newcomers};
use crate::socket::UnixSocket;
use crate::tls::{self, ClientTls, Handshakes, Remote};

/// Certificates and trust between members; given for `https` peer URLs.
#[derive(Clone)]
pub struct PeerTls {
    /// For the listener; none without a certificate.
    pub server: Option<Handshakes>,
    /// For connections to peers.
    pub client: Arc<ClientTls>,
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
/// Connections from peers that begin at once.
const NEWCOMERS: usize = 64;
/// Connections of one listener that have begun. Nine members have far fewer; the oldest makes room for one more, and a peer
/// that has lost its connection dials again.
const CONNECTIONS: usize = 128;
/// A peer that is connected but silent is given up after this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a peer listens.
#[derive(Debug, PartialEq)]
enum Address<'a> {
    /// Host and port.
    Tcp(&'a str),
    /// Path of a socket; etcd knows only those that look like `host:port`.
    Unix(&'a str),
}

impl Address<'_> {
    /// The name that the peer's certificate is for.
    fn host(&self) -> &str {
        let (Address::Tcp(address) | Address::Unix(address)) = self;
        match address.rsplit_once(':') {
            Some((host, _)) => host.trim_matches(['[', ']']),
            None => "localhost",
        }
    }
}

/// Where a peer URL leads, and whether it asks for TLS.
fn address(url: &str) -> io::Result<(Address<'_>, bool)> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let tls = matches!(scheme, "https" | "unixs");
    match scheme {
        "http" | "https" => {
            if !rest.contains(':') || rest.contains('/') {
                return Err(invalid(format!("{url}: expected a URL such as http://10.0.0.1:2380")));
            }
            Ok((Address::Tcp(rest), tls))
        }
        "unix" | "unixs" if !rest.is_empty() => Ok((Address::Unix(rest), tls)),
        "unix" | "unixs" => Err(invalid(format!("{url}: expected a URL such as unix:///run/peer.sock"))),
        _ => Err(invalid(format!("{url}: peer URLs begin with http://, https://, unix:// or unixs://"))),
    }
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

/// A failure is told again after this long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What was told last of a peer whose certificate, or who of ours, is not liked: attempts come too often to tell each.
#[derive(Default)]
struct Told(Mutex<Option<(Instant, String)>>);

impl Told {
    fn tell(&self, url: &str, error: &io::Error) {
        if !tls::is_tls(error) {
            return;
        }
        let error = tls::words(error);
        let mut told = self.0.lock().expect("no holder of this lock panics");
        if !matches!(&*told, Some((at, last)) if *last == error && at.elapsed() < TELL_AGAIN) {
            tracing::warn!(url, error, "TLS with a peer failed");
            *told = Some((Instant::now(), error));
        }
    }
}

/// Connects to the first of the URLs that answers.
async fn dial(urls: Vec<String>, tls: Option<PeerTls>, told: &Told) -> Result<TokioIo<Connection>, Unconnected> {
    let mut last = invalid("the peer has no URL".into());
    for url in urls.iter() {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, dial_one(url, tls.as_ref())).await {
            Ok(Ok(connection)) => return Ok(TokioIo::new(connection)),
            Ok(Err(error)) => {
                told.tell(url, &error);
                last = error;
            }
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{url}: no answer")),
        }
    }
    Err(Unconnected(last))
}

async fn dial_one(url: &str, tls: Option<&PeerTls>) -> io::Result<Connection> {
    let (address, wants_tls) = address(url)?;
    let stream: Connection = match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    if !wants_tls {
        return Ok(stream);
    }
    let tls = tls.ok_or_else(|| missing_tls(url))?;
    let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls.client.config().await).connect(name, stream).await?))
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
    let told = Arc::new(Told::default());
    // The address is only a name: `dial` knows the real ones.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let (urls, tls, told) = (urls.get(), tls.clone(), told.clone());
            async move { dial(urls, tls, &told).await }
        }))
}

/// Listens on every URL; `http` and `https` at one address are served by one listener. The connections come out of the receiver
/// until it is dropped.
pub async fn listen(
    urls: &[String],
    tls: Option<PeerTls>,
    reuse_port: bool,
) -> io::Result<mpsc::Receiver<io::Result<Connection>>> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    for url in urls {
        let (address, wants_tls) = address(url)?;
        let is_shared = matches!(address, Address::Tcp(at) if !at.ends_with(":0") && has_both(urls, at));
        if is_shared && !wants_tls {
            continue;
        }
        let handshakes = tls.as_ref().and_then(|tls| tls.server.clone()).filter(|_| wants_tls);
        if wants_tls && handshakes.is_none() {
            return Err(missing_tls(url));
        }
        let listener = match address {
            Address::Tcp(address) => crate::socket::listen(address, reuse_port).await.map(Listener::Tcp),
            Address::Unix(path) => UnixSocket::listen(Path::new(path)).map(Listener::Unix),
        };
        let listener = listener
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen for peers on {url}: {error}")))?;
        tokio::spawn(accept(listener, handshakes, is_shared, accepted.clone()));
    }
    Ok(connections)
}

/// Whether plaintext and TLS are both to be served at `host:port`.
fn has_both(urls: &[String], at: &str) -> bool {
    ["http", "https"].iter().all(|scheme| urls.contains(&format!("{scheme}://{at}")))
}

/// A bound socket.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, Remote)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                // An option that only speeds things up.
                drop(stream.set_nodelay(true));
                Ok((Stream::Tcp(stream), Remote::tcp(remote)))
            }
            Listener::Unix(socket) => Ok((Stream::Unix(socket.accept().await?), Remote::Unix)),
        }
    }
}

/// A connection that was just accepted.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Whether it begins with a handshake, where plaintext is served, too.
    async fn begins_with_handshake(&self, newcomer: &mut Newcomer) -> io::Result<bool> {
        match self {
            Stream::Tcp(stream) => Handshakes::are_begun(stream, newcomer).await,
            Stream::Unix(_) => Ok(true),
        }
    }
}

impl From<Stream> for Connection {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tcp(stream) => Box::new(stream),
            Stream::Unix(stream) => Box::new(stream),
        }
    }
}

async fn accept(
    listener: Listener,
    tls: Option<Handshakes>,
    also_plain: bool,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let (newcomers, crowd) = (Newcomers::new(NEWCOMERS), Crowd::new(CONNECTIONS));
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = accepted.closed() => return,
        };
        match stream {
            Ok((stream, remote)) => {
                let (tls, newcomer) = (tls.clone(), newcomers.enter());
                let (crowd, accepted) = (crowd.clone(), accepted.clone());
                tokio::spawn(async move {
                    match begin(stream, remote, tls, also_plain, newcomer).await {
                        Ok(Some(greeted)) => {
                            let connection: Connection = Box::new(greeted.holding(crowd.enter()));
                            drop(accepted.send(Ok(connection)).await);
                        }
                        // Why it was refused is told already.
                        Ok(None) => {}
                        Err(error) => tracing::debug!(%error, %remote, "a connection said nothing"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer's connection failed");
                // Mostly too many open files: waiting is all that helps.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection that has passed, and whose other end speaks; none if it was refused.
async fn begin(
    stream: Stream,
    remote: Remote,
    tls: Option<Handshakes>,
    also_plain: bool,
    mut newcomer: Newcomer,
) -> io::Result<Option<Greeted<Connection>>> {
    let is_plain = also_plain && !stream.begins_with_handshake(&mut newcomer).await?;
    let stream: Connection = match tls.filter(|_| !is_plain) {
        None => stream.into(),
        Some(tls) => match tls.accept(Connection::from(stream), remote, &mut newcomer).await {
            Some(shaken) => Box::new(shaken.stream),
            None => return Ok(None),
        },
    };
    newcomer.greet(stream).await.map(Some)
}
