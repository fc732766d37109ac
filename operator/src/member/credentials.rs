//! TLS towards members: whom the operator trusts, and what it shows.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;

use crate::pki::fingerprint;

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<ClientConfig>);

/// The certificate that a member showed in its last handshake.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<Mutex<Option<String>>>);

impl Shown {
    /// Its fingerprint, once there was a handshake.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Credentials {
    /// From PEM texts: trusted authorities, a certificate with its intermediate ones, and its key.
    pub fn new(roots: &str, certificate: &str, key: &str) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = builder.with_root_certificates(store);
        let mut config = builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again shows the certificate of its beginning.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Connects to the host and port of `uri`, and notes what was shown.
    pub(super) async fn connect(self, uri: Uri, shown: Shown) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let host = uri.host().unwrap_or_default().to_string();
        let port = uri.port_u16().ok_or_else(|| io::Error::other("the URL has no port"))?;
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.0).connect(name, stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        *shown.0.lock().unwrap_or_else(PoisonError::into_inner) = leaf.map(|leaf| fingerprint(leaf));
        Ok(TokioIo::new(stream))
    }
}
