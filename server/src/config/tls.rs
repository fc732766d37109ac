//! Settings of TLS: which files, which versions, which ciphers, and etcd's rules between them.

use std::fmt;
use std::path::PathBuf;

use rustls::CipherSuite;

use super::parse::Settings;
use super::{Config, ConfigError, ListenUrl};

/// One side's certificates and trust: what the flags for clients name, or those for peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate chain that listeners show, in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, in PEM.
    pub key_file: Option<PathBuf>,
    /// Certificate for outgoing connections, if not `cert_file`.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Authorities that are trusted, in PEM; the system's by default. Naming it makes listeners ask for certificates.
    pub trusted_ca_file: Option<PathBuf>,
    /// Listeners ask for certificates.
    pub client_cert_auth: bool,
    /// Revoked certificates, in DER or PEM.
    pub crl_file: Option<PathBuf>,
    /// Common Names of which the other side's certificate must have one; none allows all.
    pub allowed_cns: Vec<String>,
    /// Host names or addresses of which the other side's certificate must have one; none allows all.
    pub allowed_hostnames: Vec<String>,
    /// Make a certificate when none is named.
    pub auto: bool,
    /// Do not compare a caller's address with its certificate.
    pub skip_client_san_verification: bool,
}

impl TlsConfig {
    /// Whether no certificate is named.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }

    /// Whether listeners ask for certificates and verify them.
    pub fn verifies_clients(&self) -> bool {
        self.trusted_ca_file.is_some() || self.client_cert_auth
    }

    /// etcd's rules for one side, in its words.
    fn check(&self) -> Result<(), ConfigError> {
        let shown = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |path| path.display().to_string());
        let (cert, key) = (shown(&self.cert_file), shown(&self.key_file));
        if self.cert_file.is_some() != self.key_file.is_some() {
            let text = format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]");
            return Err(ConfigError::Rule(text));
        }
        let (cert, key) = (shown(&self.client_cert_file), shown(&self.client_key_file));
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            return Err(ConfigError::Rule(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
            )));
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(ConfigError::Rule(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
                gos_list(&self.allowed_cns),
                gos_list(&self.allowed_hostnames)
            )));
        }
        Ok(())
    }
}

/// As etcd writes it into its log.
impl fmt::Display for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |path| path.display().to_string());
        write!(f, "cert = {}, key = {}, ", shown(&self.cert_file), shown(&self.key_file))?;
        write!(f, "client-cert={}, ", shown(&self.client_cert_file))?;
        write!(f, "client-key={}, ", shown(&self.client_key_file))?;
        write!(f, "trusted-ca = {}, ", shown(&self.trusted_ca_file))?;
        write!(f, "client-cert-auth = {}, crl-file = {}", self.client_cert_auth, shown(&self.crl_file))
    }
}

/// A list of texts as Go's `%q` writes it.
fn gos_list(items: &[String]) -> String {
    let quoted: Vec<_> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What is spoken, on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProtocol {
    /// Oldest version.
    pub min_version: TlsVersion,
    /// Newest version.
    pub max_version: TlsVersion,
    /// Ciphers of TLS 1.2 to offer; none offers all. Those of TLS 1.3 cannot be chosen, as in Go.
    pub cipher_suites: Vec<CipherSuite>,
    /// Years that a certificate made at the start is valid.
    pub self_signed_cert_validity_years: u32,
}

impl Default for TlsProtocol {
    fn default() -> Self {
        TlsProtocol {
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            cipher_suites: Vec::new(),
            self_signed_cert_validity_years: 1,
        }
    }
}

/// Go's names of the ciphers that can be chosen.
const SUITES: &[(&str, CipherSuite)] = &[
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    // Older names.
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Go's names of the ciphers that it has and this server has not.
const WEAK_SUITES: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

fn suite(name: &str) -> Result<CipherSuite, ConfigError> {
    if let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) {
        return Ok(*suite);
    }
    let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    Err(ConfigError::Rule(match WEAK_SUITES.contains(&name) {
        true => format!(
            "--cipher-suites: {name} is not supported: CBC, RC4, 3DES and key exchange without forward secrecy are weak \
             (must be one of: {names})"
        ),
        false => format!("unexpected TLS cipher suite {name:?} (must be one of: {names})"),
    }))
}

fn version(settings: &Settings, name: &'static str, default: TlsVersion) -> Result<TlsVersion, ConfigError> {
    match settings.text(name) {
        "" => Ok(default),
        "TLS1.2" => Ok(TlsVersion::Tls12),
        "TLS1.3" => Ok(TlsVersion::Tls13),
        other => {
            let text = format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)");
            Err(ConfigError::Rule(text))
        }
    }
}

/// Reads versions and ciphers.
pub fn protocol(settings: &Settings) -> Result<TlsProtocol, ConfigError> {
    let protocol = TlsProtocol {
        min_version: version(settings, "tls-min-version", TlsVersion::Tls12)?,
        max_version: version(settings, "tls-max-version", TlsVersion::Tls13)?,
        cipher_suites: names(settings, "cipher-suites").iter().map(|name| suite(name)).collect::<Result<_, _>>()?,
        self_signed_cert_validity_years: match settings.count("self-signed-cert-validity") {
            // A file that leaves it out and one that says nothing are the same to etcd.
            0 if settings.from_file => 1,
            years => years,
        },
    };
    if protocol.min_version > protocol.max_version {
        return Err(ConfigError::Rule(format!(
            "min version ({}) is greater than max version ({})",
            settings.text("tls-min-version"),
            settings.text("tls-max-version")
        )));
    }
    if protocol.min_version == TlsVersion::Tls13 && !protocol.cipher_suites.is_empty() {
        let text = "cipher suites cannot be configured when only TLS1.3 is enabled";
        return Err(ConfigError::Rule(text.to_owned()));
    }
    Ok(protocol)
}

/// A list in which an empty item counts, as in etcd: it allows a certificate without a Common Name.
fn names(settings: &Settings, name: &'static str) -> Vec<String> {
    match settings.text(name) {
        "" if settings.from_file || !settings.is_set(name) => Vec::new(),
        text => text.split(',').map(str::to_owned).collect(),
    }
}

fn path(settings: &Settings, name: &'static str) -> Option<PathBuf> {
    Some(settings.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads the flags for clients.
pub fn of_clients(settings: &Settings) -> TlsConfig {
    TlsConfig {
        cert_file: path(settings, "cert-file"),
        key_file: path(settings, "key-file"),
        client_cert_file: path(settings, "client-cert-file"),
        client_key_file: path(settings, "client-key-file"),
        trusted_ca_file: path(settings, "trusted-ca-file"),
        client_cert_auth: settings.boolean("client-cert-auth"),
        crl_file: path(settings, "client-crl-file"),
        allowed_cns: settings.client_allowed_cns.clone(),
        allowed_hostnames: names(settings, "client-cert-allowed-hostname"),
        auto: settings.boolean("auto-tls"),
        skip_client_san_verification: settings.client_skip_san_verification,
    }
}

/// Reads the flags for peers.
pub fn of_peers(settings: &Settings) -> TlsConfig {
    TlsConfig {
        cert_file: path(settings, "peer-cert-file"),
        key_file: path(settings, "peer-key-file"),
        client_cert_file: path(settings, "peer-client-cert-file"),
        client_key_file: path(settings, "peer-client-key-file"),
        trusted_ca_file: path(settings, "peer-trusted-ca-file"),
        client_cert_auth: settings.boolean("peer-client-cert-auth"),
        crl_file: path(settings, "peer-crl-file"),
        allowed_cns: names(settings, "peer-cert-allowed-cn"),
        allowed_hostnames: names(settings, "peer-cert-allowed-hostname"),
        auto: settings.boolean("peer-auto-tls"),
        skip_client_san_verification: settings.boolean("peer-skip-client-san-verification"),
    }
}

/// Rules between the listeners and their certificates.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let rule = |holds: bool, text: String| match holds {
        true => Ok(()),
        false => Err(ConfigError::Rule(text)),
    };
    let bare = |tls: &TlsConfig, urls: &[ListenUrl]| {
        let without = tls.is_empty() && !tls.auto;
        urls.iter().find(|url| without && url.tls).cloned()
    };
    for tls in [&config.client_tls, &config.peer_tls] {
        tls.check()?;
        let validity = config.tls_protocol.self_signed_cert_validity_years;
        rule(
            validity > 0 || !tls.auto || !tls.is_empty(),
            "selfSignedCertValidity is invalid,it should be greater than 0".to_owned(),
        )?;
    }
    for urls in [&config.listen_client_urls, &config.listen_client_http_urls] {
        if let Some(url) = bare(&config.client_tls, urls) {
            return Err(ConfigError::Rule(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            )));
        }
    }
    if bare(&config.client_tls, &config.listen_metrics_urls).is_some() {
        let text = "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url";
        return Err(ConfigError::Rule(text.to_owned()));
    }
    match bare(&config.peer_tls, &config.listen_peer_urls) {
        Some(url) => {
            let address = url.host();
            let text = format!("cannot listen on TLS for {address}: KeyFile and CertFile are not presented");
            Err(ConfigError::Rule(text))
        }
        None => Ok(()),
    }
}
