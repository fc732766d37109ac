//! Listening sockets and the connections on them, in plaintext or under TLS.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::late_flush::{LateFlush, Turns};
use super::stalled::Stalled;
use super::unread::{self, Lent};
use super::workers::Workers;
use crate::auth::PeerCommonName;
use crate::budget::Taker;
use crate::config::{Config, ListenAddress, ListenUrl};
use crate::newcomers::{Newcomer, Newcomers};
use crate::socket::{UnixSocket, connections_at_once};
use crate::tls::{Handshakes, Remote};

/// Windows of HTTP/2 flow control, large enough for a stream of ranges or events over a slow network.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Pause after `accept` has failed, which it does when file descriptors run out.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Connections for probes and metrics at once.
const PROBES: usize = 64;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// gRPC and HTTP.
    All,
    /// gRPC alone.
    Grpc,
    /// HTTP alone.
    Http,
}

/// A bound socket.
pub struct Listener {
    socket: Socket,
    url: ListenUrl,
    traffic: Traffic,
    tls: Option<Handshakes>,
    /// Plaintext is served as well, to whoever begins with it.
    also_plain: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Listener {
    /// Binds; a Unix socket's file that nobody listens on any more is replaced. A URL that asks for TLS needs `tls`, and with
    /// `also_plain` serves plaintext, too.
    pub async fn bind(
        url: &ListenUrl,
        traffic: Traffic,
        tls: Option<Handshakes>,
        also_plain: bool,
        reuse_port: bool,
    ) -> io::Result<Self> {
        let tls = tls.filter(|_| url.tls);
        if url.tls && tls.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no certificate"));
        }
        let mut url = url.clone();
        let socket = match &mut url.address {
            ListenAddress::Tcp(ip, port) => {
                let listener = crate::socket::listen((*ip, *port), reuse_port).await?;
                *port = listener.local_addr()?.port();
                Socket::Tcp(listener)
            }
            ListenAddress::Unix(path) => Socket::Unix(UnixSocket::listen(path)?),
        };
        Ok(Listener { socket, url, traffic, tls, also_plain })
    }

    /// Where it is bound, with the port that was given for port 0.
    pub fn url(&self) -> &ListenUrl {
        &self.url
    }

    /// Whether all that it serves is under TLS.
    pub fn is_secure(&self) -> bool {
        self.url.tls && !self.also_plain
    }

    /// What it serves.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    async fn accept(&self) -> io::Result<(Accepted, Remote)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Accepted::Tcp(stream.into_std()?), Remote::tcp(address)))
            }
            Socket::Unix(socket) => Ok((Accepted::Unix(socket.accept().await?.into_std()?), Remote::Unix)),
        }
    }
}

/// A connection that no runtime knows of yet.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Belongs to the runtime that calls this.
    fn into_stream(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Accepted::Tcp(stream) => Box::new(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Box::new(UnixStream::from_std(stream)?),
        })
    }

    /// The same, where plaintext is served besides TLS: also whether it begins with a handshake.
    async fn into_either(self, newcomer: &mut Newcomer) -> io::Result<(Box<dyn Stream>, bool)> {
        match self {
            Accepted::Tcp(stream) => {
                let stream = TcpStream::from_std(stream)?;
                let is_tls = Handshakes::are_begun(&stream, newcomer).await?;
                Ok((Box::new(stream), is_tls))
            }
            unix => Ok((unix.into_stream()?, true)),
        }
    }
}

/// Any kind of byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A member's connections, and the threads that serve them.
#[derive(Clone)]
pub struct Connections {
    settings: Settings,
    workers: Arc<Workers>,
    tracker: TaskTracker,
    /// One for each connection that stands.
    places: Arc<Semaphore>,
    newcomers: Newcomers,
}

/// What each connection needs. It does not keep the thread alive that it is served by.
#[derive(Clone)]
struct Settings {
    http: auto::Builder<TokioExecutor>,
    /// How long a client may take nothing of what it is sent.
    stalled_at_most: Option<Duration>,
    stop: CancellationToken,
}

impl Connections {
    /// Connections as configured; they finish what they are at and close when `stop` is cancelled.
    pub fn new(config: &Config, stop: CancellationToken) -> io::Result<Self> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new());
        let interval = Some(config.keepalive.interval).filter(|interval| !interval.is_zero());
        let stalled_at_most = interval.map(|interval| interval.saturating_add(config.keepalive.timeout));
        http.http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(config.max_concurrent_streams)
            .keep_alive_interval(interval)
            .keep_alive_timeout(config.keepalive.timeout);
        let workers = Arc::new(Workers::start()?);
        let most = connections_at_once().min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(most));
        let newcomers = Newcomers::new(most / 2);
        let settings = Settings { http, stalled_at_most, stop };
        Ok(Connections { settings, workers, tracker: TaskTracker::new(), places, newcomers })
    }

    /// The same with a few places of their own, which clients cannot take.
    pub fn for_probes(&self) -> Self {
        let (places, newcomers) = (Arc::new(Semaphore::new(PROBES)), Newcomers::new(PROBES / 2));
        Connections { places, newcomers, ..self.clone() }
    }

    /// A place for a connection. As in etcd, those for whom there is none wait to be accepted; but who has said nothing
    /// yet makes room for them.
    async fn place(&self) -> OwnedSemaphorePermit {
        let mut place = pin!(self.places.clone().acquire_owned());
        let place = tokio::select! {
            biased;
            place = &mut place => place,
            () = self.newcomers.make_room() => place.await,
        };
        place.expect("it is never closed")
    }

    /// Accepts until stopped. Each connection gets a clone of `answer`.
    pub async fn serve<A, F>(self, listener: Listener, answer: A)
    where
        A: Fn(Request<Lent<Incoming>>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let settings = self.settings.clone().speaking(&listener);
        loop {
            let accept = async {
                let place = self.place().await;
                listener.accept().await.map(|(stream, remote)| (stream, remote, place))
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                () = settings.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, remote, place)) => {
                    let (settings, tls, answer) = (settings.clone(), listener.tls.clone(), answer.clone());
                    let (newcomer, also_plain) = (self.newcomers.enter(), listener.also_plain);
                    let connection = async move {
                        let _place = place;
                        let tls = match tls {
                            Some(tls) if also_plain => {
                                return settings.either(stream, (remote, tls), newcomer, answer).await;
                            }
                            tls => tls,
                        };
                        match (stream.into_stream(), tls) {
                            (Ok(stream), None) => settings.connection(stream, (remote, None), newcomer, answer).await,
                            (Ok(stream), Some(tls)) => settings.secure(stream, (remote, tls), newcomer, answer).await,
                            (Err(error), _) => tracing::warn!(%error, "a connection could not be taken over"),
                        }
                    };
                    self.tracker.spawn_on(connection, self.workers.next());
                }
                Err(error) => {
                    tracing::warn!(%error, url = %listener.url, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }

    /// Waits until every connection has closed; call it after `stop` was cancelled.
    pub async fn closed(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Settings {
    /// What a listener speaks: over plaintext nothing tells HTTP/2 from gRPC, so there each has its version.
    fn speaking(mut self, listener: &Listener) -> Self {
        self.http = match (listener.traffic, listener.url.tls) {
            (Traffic::Grpc, _) => self.http.http2_only(),
            (Traffic::Http, false) => self.http.http1_only(),
            _ => self.http,
        };
        self
    }

    async fn either<A, F>(
        self,
        stream: Accepted,
        (remote, tls): (Remote, Handshakes),
        mut newcomer: Newcomer,
        answer: A,
    ) where
        A: Fn(Request<Lent<Incoming>>) -> F + Send + 'static,
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let begun = tokio::select! {
            begun = stream.into_either(&mut newcomer) => begun,
            () = self.stop.cancelled() => return,
        };
        match begun {
            Ok((stream, true)) => self.secure(stream, (remote, tls), newcomer, answer).await,
            Ok((stream, false)) => self.connection(stream, (remote, None), newcomer, answer).await,
            Err(error) => tracing::debug!(%error, %remote, "a connection said nothing"),
        }
    }

    async fn secure<A, F>(
        self,
        stream: Box<dyn Stream>,
        (remote, tls): (Remote, Handshakes),
        mut newcomer: Newcomer,
        answer: A,
    ) where
        A: Fn(Request<Lent<Incoming>>) -> F + Send + 'static,
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let accepted = tokio::select! {
            accepted = tls.accept(stream, remote, &mut newcomer) => accepted,
            () = self.stop.cancelled() => return,
        };
        if let Some(accepted) = accepted {
            let name = accepted.common_name.map(PeerCommonName);
            self.connection(Box::new(accepted.stream), (remote, name), newcomer, answer).await;
        }
    }

    async fn connection<A, F>(
        self,
        stream: Box<dyn Stream>,
        (remote, name): (Remote, Option<PeerCommonName>),
        newcomer: Newcomer,
        answer: A,
    ) where
        A: Fn(Request<Lent<Incoming>>) -> F + Send + 'static,
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let greeted = tokio::select! {
            greeted = newcomer.greet(stream) => greeted,
            () = self.stop.cancelled() => return,
        };
        let stream = match greeted {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection said nothing"),
        };
        let slow = CancellationToken::new();
        let connection = slow.clone();
        let answer = move |mut request: Request<Incoming>| {
            if let Some(name) = &name {
                request.extensions_mut().insert(name.clone());
            }
            let (request, unread) = unread::lend(request);
            // On the heap: on its way to a task of its own it is moved several times.
            let answered = Box::pin(answer(request));
            let connection = connection.clone();
            async move {
                let answered = answered.await;
                if let Ok(answered) = &answered
                    && let Some(taker) = answered.extensions().get::<Taker>()
                {
                    taker.is_at(&connection);
                }
                if let Some(unread) = unread {
                    Box::pin(unread.drain()).await;
                }
                answered
            }
        };
        let turns = Turns::default();
        let stream = TokioIo::new(LateFlush::new(Stalled::new(stream, self.stalled_at_most), turns.clone()));
        let connection = self.http.serve_connection_with_upgrades(stream, service_fn(answer));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = poll_fn(|context| turns.turn(|| connection.as_mut().poll(context))) => ended,
            () = slow.cancelled() => {
                return tracing::warn!(%remote, "closed a connection that takes no answers: others wait for their memory");
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                poll_fn(|context| turns.turn(|| connection.as_mut().poll(context))).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection broke");
        }
    }
}
