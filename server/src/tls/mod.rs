//! TLS of listeners and of connections to peers. Files are looked at again while the member runs; what they held last
//! stays good while they hold nothing usable.

mod accept;
mod address;
mod files;
mod lookup;
mod material;
mod prepare;
mod reason;
mod self_signed;
mod verify;

#[cfg(test)]
#[path = "../../tests/common/authority.rs"]
mod authority;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

pub use self::accept::{Accepted, Endpoint, Handshakes, Remote, speaks_tls};
use self::files::Reloaded;
use self::material::{Revoked, Roots};
pub use self::prepare::prepare;
pub use self::reason::{is_tls, words};
use self::self_signed::provide;
use self::verify::{ClientVerifier, Rules, ServerVerifier};
use crate::config::{TlsConfig, TlsProtocol, TlsVersion};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file}: {error}")]
    File {
        /// Its path.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{0}")]
    Content(String),
    /// The library refuses it.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

/// What both directions need of the settings.
struct Spoken {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Spoken {
    fn new(protocol: &TlsProtocol) -> Self {
        let mut provider = rustls::crypto::ring::default_provider();
        let chosen = &protocol.cipher_suites;
        if !chosen.is_empty() {
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || chosen.contains(&suite.suite()));
        }
        let mut versions = Vec::new();
        if protocol.max_version == TlsVersion::Tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if protocol.min_version == TlsVersion::Tls12 {
            versions.push(&rustls::version::TLS12);
        }
        Spoken { provider: Arc::new(provider), versions }
    }
}

/// Files are looked at no more often than this.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A configuration of the library that is made anew when its files change.
struct Current<C> {
    looked: Mutex<Instant>,
    refreshing: Mutex<()>,
    made: Mutex<Arc<C>>,
}

const LOCK: &str = "no holder of this lock panics";

impl<C> Current<C> {
    fn new(made: C) -> Self {
        Current { looked: Mutex::new(Instant::now()), refreshing: Mutex::default(), made: Mutex::new(Arc::new(made)) }
    }

    fn get(&self) -> Arc<C> {
        self.made.lock().expect(LOCK).clone()
    }

    fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().expect(LOCK);
        let due = looked.elapsed() >= LOOK_INTERVAL;
        if due {
            *looked = Instant::now();
        }
        due
    }

    fn refresh(&self, changed: impl FnOnce() -> bool, make: impl FnOnce() -> Result<C, TlsError>) {
        let _one = self.refreshing.lock().expect(LOCK);
        if !changed() {
            return;
        }
        match make() {
            Ok(made) => *self.made.lock().expect(LOCK) = Arc::new(made),
            Err(error) => tracing::warn!(%error, "certificates changed, but cannot be used"),
        }
    }
}

/// TLS of listeners.
pub struct ServerTls {
    spoken: Spoken,
    identity: Reloaded<CertifiedKey>,
    roots: Option<Reloaded<Roots>>,
    revoked: Option<Reloaded<Revoked>>,
    settings: TlsConfig,
    current: Current<ServerConfig>,
}

/// Protocols that are offered, in this order.
fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

impl ServerTls {
    /// TLS with these files; nothing without a certificate.
    pub fn open(settings: &TlsConfig, protocol: &TlsProtocol) -> Result<Option<Arc<Self>>, TlsError> {
        let (Some(cert), Some(key)) = (&settings.cert_file, &settings.key_file) else {
            return Ok(None);
        };
        let spoken = Spoken::new(protocol);
        let identity = material::identity(&spoken.provider, cert, key)?;
        if let (Some(cert), Some(key)) = (&settings.client_cert_file, &settings.client_key_file) {
            // Wrong files end the start, not the first connection.
            material::identity(&spoken.provider, cert, key)?;
        }
        let roots = settings.verifies_clients().then(|| material::roots(settings.trusted_ca_file.as_deref()));
        let roots = roots.transpose()?;
        let revoked = settings.crl_file.as_deref().map(material::revoked).transpose()?;
        let parts = (&identity, roots.as_ref(), revoked.as_ref());
        let current = Current::new(Self::make(&spoken, settings, parts)?);
        let settings = settings.clone();
        Ok(Some(Arc::new(ServerTls { spoken, identity, roots, revoked, settings, current })))
    }

    fn make(
        spoken: &Spoken,
        settings: &TlsConfig,
        (identity, roots, revoked): (&Reloaded<CertifiedKey>, Option<&Reloaded<Roots>>, Option<&Reloaded<Revoked>>),
    ) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(spoken.provider.clone());
        let builder = builder.with_protocol_versions(&spoken.versions)?;
        let builder = match roots {
            Some(roots) => {
                let rules = Rules::new(settings, revoked.map(Reloaded::current));
                let verifier = ClientVerifier::new(roots.current(), rules, &spoken.provider)?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            None => builder.with_no_client_auth(),
        };
        let key = SingleCertAndKey::from(CertifiedKey::clone(&identity.current()));
        let mut config = builder.with_cert_resolver(Arc::new(key));
        config.alpn_protocols = alpn();
        // A session that is taken up again would not see that its certificate was revoked meanwhile.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn refresh(&self) {
        let changed = || {
            let identity = self.identity.refresh();
            let roots = self.roots.as_ref().is_some_and(Reloaded::refresh);
            let revoked = self.revoked.as_ref().is_some_and(Reloaded::refresh);
            identity || roots || revoked
        };
        let make = || {
            let parts = (&self.identity, self.roots.as_ref(), self.revoked.as_ref());
            Self::make(&self.spoken, &self.settings, parts)
        };
        self.current.refresh(changed, make);
    }

    /// What the next handshake uses.
    async fn config(self: &Arc<Self>) -> Arc<ServerConfig> {
        if self.current.is_due() {
            let tls = self.clone();
            // It only fails when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || tls.refresh()).await;
        }
        self.current.get()
    }
}

/// TLS of connections to peers.
pub struct ClientTls {
    spoken: Spoken,
    identity: Option<Reloaded<CertifiedKey>>,
    roots: Reloaded<Roots>,
    settings: TlsConfig,
    /// The peers made their certificates themselves: there is nothing to verify them by.
    unverified: bool,
    current: Current<ClientConfig>,
}

impl ClientTls {
    /// TLS with these files. Without a certificate of its own it shows none.
    pub fn open(settings: &TlsConfig, protocol: &TlsProtocol, unverified: bool) -> Result<Arc<Self>, TlsError> {
        let spoken = Spoken::new(protocol);
        let own = (&settings.cert_file, &settings.key_file);
        let identity = match ((&settings.client_cert_file, &settings.client_key_file), own) {
            ((Some(cert), Some(key)), _) | (_, (Some(cert), Some(key))) => {
                Some(material::identity(&spoken.provider, cert, key)?)
            }
            _ => None,
        };
        let roots = material::roots(settings.trusted_ca_file.as_deref())?;
        let current = Self::make(&spoken, settings, identity.as_ref(), &roots, unverified)?;
        let (settings, current) = (settings.clone(), Current::new(current));
        Ok(Arc::new(ClientTls { spoken, identity, roots, settings, unverified, current }))
    }

    fn make(
        spoken: &Spoken,
        settings: &TlsConfig,
        identity: Option<&Reloaded<CertifiedKey>>,
        roots: &Reloaded<Roots>,
        unverified: bool,
    ) -> Result<ClientConfig, TlsError> {
        // Revoked certificates are looked for where connections come in, as in etcd.
        let rules = Rules::new(settings, None);
        let verifier = ServerVerifier::new(roots.current(), rules, &spoken.provider, unverified);
        let builder = ClientConfig::builder_with_provider(spoken.provider.clone());
        let builder = builder.with_protocol_versions(&spoken.versions)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some(identity) => {
                let key = SingleCertAndKey::from(CertifiedKey::clone(&identity.current()));
                builder.with_client_cert_resolver(Arc::new(key))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn refresh(&self) {
        let changed = || {
            let identity = self.identity.as_ref().is_some_and(Reloaded::refresh);
            self.roots.refresh() || identity
        };
        let make = || Self::make(&self.spoken, &self.settings, self.identity.as_ref(), &self.roots, self.unverified);
        self.current.refresh(changed, make);
    }

    /// What the next connection uses.
    pub async fn config(self: &Arc<Self>) -> Arc<ClientConfig> {
        if self.current.is_due() {
            let tls = self.clone();
            // It only fails when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || tls.refresh()).await;
        }
        self.current.get()
    }
}
