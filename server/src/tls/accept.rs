//! Handshakes of connections that come in: bounded in time and number, refused in etcd's words.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::address::{self, AltNames};
use super::{ServerTls, reason, verify};
use crate::newcomers::Newcomer;

/// How a connection begins under TLS: with a record that holds a part of a handshake (RFC 8446, section 5.1). Neither HTTP/1 nor
/// HTTP/2 begins with it.
const HANDSHAKE_RECORD: u8 = 22;

/// Who connects to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Clients.
    Client,
    /// The other members.
    Peer,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub enum Remote {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix,
}

impl Remote {
    /// An address of IPv4 is one, though the listener is IPv6's.
    pub fn tcp(address: SocketAddr) -> Self {
        Remote::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    fn ip(&self) -> Option<IpAddr> {
        match self {
            Remote::Tcp(address) => Some(address.ip()),
            Remote::Unix => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Tcp(address) => address.fmt(f),
            Remote::Unix => f.write_str("@"),
        }
    }
}

/// A connection that has passed.
pub struct Accepted<S> {
    /// What is under the encryption.
    pub stream: TlsStream<S>,
    /// Common Name of the verified certificate of who connects.
    pub common_name: Option<String>,
}

/// Handshakes of one listener.
#[derive(Clone)]
pub struct Handshakes {
    tls: Arc<ServerTls>,
    endpoint: Endpoint,
    check_address: bool,
}

/// Why a connection was refused.
pub(super) struct Rejected {
    pub(super) error: String,
    server_name: String,
    certificate: Option<CertificateDer<'static>>,
}

impl Rejected {
    fn new(error: impl Into<String>, server_name: &str) -> Self {
        Rejected { error: error.into(), server_name: server_name.to_owned(), certificate: None }
    }

    fn log(&self, endpoint: Endpoint, remote: Remote) {
        let (error, name) = (&self.error, &self.server_name);
        let names = self.certificate.as_ref().map(AltNames::of).unwrap_or_default();
        let (ips, dns) = (format!("{:?}", names.ips), format!("{:?}", names.dns));
        macro_rules! rejected {
            ($level:ident, $text:literal) => {
                match self.certificate {
                    None => tracing::$level!("remote-addr" = %remote, "server-name" = name, error, $text),
                    Some(_) => tracing::$level!(
                        "remote-addr" = %remote, "server-name" = name, "ip-addresses" = ips, "dns-names" = dns,
                        error, $text
                    ),
                }
            };
        }
        // Probes that only connect are no news.
        match (endpoint, error == "EOF") {
            (Endpoint::Client, false) => rejected!(warn, "rejected connection on client endpoint"),
            (Endpoint::Client, true) => rejected!(debug, "rejected connection on client endpoint"),
            (Endpoint::Peer, false) => rejected!(warn, "rejected connection on peer endpoint"),
            (Endpoint::Peer, true) => rejected!(debug, "rejected connection on peer endpoint"),
        }
    }
}

impl Handshakes {
    /// Handshakes of a listener; `check_address` compares the addresses of those who connect with their certificates.
    pub fn new(tls: Arc<ServerTls>, endpoint: Endpoint, check_address: bool) -> Self {
        let check_address = check_address && !tls.settings.skip_client_san_verification;
        Handshakes { tls, endpoint, check_address }
    }

    /// Shakes hands with a newcomer; nothing, and a line in the log, if the connection is refused.
    pub async fn accept<S>(&self, stream: S, remote: Remote, newcomer: &mut Newcomer) -> Option<Accepted<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shaken = newcomer.during(self.shake(stream, remote)).await;
        let shaken = shaken.unwrap_or_else(|late| Err(Rejected::new(late.to_string(), "")));
        shaken.inspect_err(|rejected| rejected.log(self.endpoint, remote)).ok()
    }

    /// Whether a connection begins with a handshake, where plaintext is served, too. Nothing is taken from the stream.
    pub async fn are_begun(stream: &TcpStream, newcomer: &mut Newcomer) -> io::Result<bool> {
        let mut first = [0];
        let peeked = newcomer.during(stream.peek(&mut first)).await??;
        Ok(peeked == 1 && first[0] == HANDSHAKE_RECORD)
    }

    pub(super) async fn shake<S>(&self, stream: S, remote: Remote) -> Result<Accepted<S>, Rejected>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |server_name: &str| {
            let server_name = server_name.to_owned();
            move |error: io::Error| Rejected::new(reason::words(&error), &server_name)
        };
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(failed(""))?;
        let server_name = start.client_hello().server_name().unwrap_or_default().to_owned();
        let config = self.tls.config().await;
        let stream = start.into_stream(config).await.map_err(failed(&server_name))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let Some(certificate) = shown else {
            return Ok(Accepted { stream, common_name: None });
        };
        if let (true, Some(ip)) = (self.check_address, remote.ip())
            && let Err(error) = address::check(&certificate, ip).await
        {
            return Err(Rejected { error, server_name, certificate: Some(certificate) });
        }
        let parsed = X509Certificate::from_der(&certificate).ok();
        let common_name = parsed.map(|(_, certificate)| verify::common_name(&certificate));
        Ok(Accepted { stream, common_name })
    }
}
