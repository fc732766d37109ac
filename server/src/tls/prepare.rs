//! What is done with the settings of one side before its listeners are bound, and what is told of them.

use std::path::Path;

use super::{Endpoint, TlsError, provide};
use crate::config::{ListenUrl, TlsConfig, TlsProtocol};

impl Endpoint {
    /// As flags, fields of the log and folders call it.
    fn name(self) -> &'static str {
        match self {
            Endpoint::Client => "client",
            Endpoint::Peer => "peer",
        }
    }
}

/// Makes certificates if that is asked for, and warns of settings that do not go together. Whether it made some.
pub fn prepare(
    side: Endpoint,
    settings: &mut TlsConfig,
    data_dir: &Path,
    listeners: &[ListenUrl],
    protocol: &TlsProtocol,
) -> Result<bool, TlsError> {
    let name = side.name();
    if settings.auto && !settings.is_empty() {
        tracing::warn!("ignoring {name} auto TLS since certs given");
    }
    let folder = data_dir.join("fixtures").join(name);
    let made = provide(settings, &folder, listeners, protocol.self_signed_cert_validity_years)?;
    for url in listeners.iter().filter(|url| !url.tls) {
        if !settings.is_empty() {
            warn(side, url, "key and cert files are present; ignoring key and cert files");
        }
        if settings.client_cert_auth {
            let flag = if side == Endpoint::Peer { "--peer-client-cert-auth" } else { "--client-cert-auth" };
            warn(side, url, &format!("{flag} is enabled; ignoring client cert auth for this URL"));
        }
    }
    if !settings.is_empty() {
        let suites = &protocol.cipher_suites;
        tracing::info!("tls-info" = %settings, "cipher-suites" = ?suites, "starting with {name} TLS");
    }
    Ok(made)
}

/// In etcd's words, which differ from side to side.
fn warn(side: Endpoint, url: &ListenUrl, what: &str) {
    match side {
        Endpoint::Client => tracing::warn!("client-url" = %url, "scheme is http or unix while {what}"),
        Endpoint::Peer => tracing::warn!("peer-url" = %url, "scheme is HTTP while {what}"),
    }
}
