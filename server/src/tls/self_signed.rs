//! Certificates that a member makes for itself (`--auto-tls`): encryption without identity.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::TlsError;
use crate::config::{ListenAddress, ListenUrl, TlsConfig};

/// Fills in a certificate that this member makes, or made at an earlier start, where one is wanted and none is named.
/// Whether it did.
pub fn provide(
    settings: &mut TlsConfig,
    folder: &Path,
    listeners: &[ListenUrl],
    validity_years: u32,
) -> Result<bool, TlsError> {
    if !settings.auto || !settings.is_empty() {
        return Ok(false);
    }
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !cert.exists() || !key.exists() {
        let failed = |error| TlsError::File { file: folder.display().to_string(), error };
        make(&cert, &key, listeners, validity_years).map_err(failed)?;
    }
    settings.client_cert_file = Some(cert.clone());
    settings.client_key_file = Some(key.clone());
    settings.cert_file = Some(cert);
    settings.key_file = Some(key);
    Ok(true)
}

fn make(cert: &Path, key: &Path, listeners: &[ListenUrl], validity_years: u32) -> io::Result<()> {
    let made = KeyPair::generate().map_err(io::Error::other)?;
    let params = params(listeners, validity_years)?;
    let not_after = params.not_after.to_string();
    tracing::warn!("certificate-validity-bound-not-after" = not_after, "automatically generate certificates");
    let certificate = params.self_signed(&made).map_err(io::Error::other)?;
    if let Some(folder) = cert.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    std::fs::write(cert, certificate.pem())?;
    tracing::info!(path = %cert.display(), "created cert file");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(key);
    file?.write_all(made.serialize_pem().as_bytes())?;
    tracing::info!(path = %key.display(), "created key file");
    Ok(())
}

fn params(listeners: &[ListenUrl], validity_years: u32) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "keelson");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now();
    let validity = std::time::Duration::from_secs(u64::from(validity_years) * 365 * 24 * 3600);
    params.not_before = now.into();
    // The form for dates in certificates ends with the year 9999.
    params.not_after = params
        .not_before
        .checked_add(validity.try_into().map_err(io::Error::other)?)
        .unwrap_or(rcgen::date_time_ymd(9999, 12, 31));
    for listener in listeners {
        let ListenAddress::Tcp(ip, _) = listener.address else {
            continue;
        };
        let mut add = |name: SanType| {
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        };
        add(SanType::IpAddress(ip));
        if ip == IpAddr::from([127, 0, 0, 1]) {
            add(SanType::DnsName("localhost".try_into().map_err(io::Error::other)?));
        }
    }
    Ok(params)
}
