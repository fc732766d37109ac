//! New authorities and certificates, with keys on the curve P-256.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::Error;

/// A certificate begins this long before it is made: clocks differ.
const BACKDATE_SECONDS: i64 = 60;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: String,
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A member, which serves and connects.
    Member,
    /// A client.
    Client,
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The Common Name.
    pub common_name: String,
    /// Host names and addresses.
    pub names: Vec<String>,
    /// Its usages.
    pub purpose: Purpose,
    /// How long it is valid, in seconds.
    pub seconds: i64,
}

/// A new authority of this name, valid for `seconds` from `now` (Unix time).
pub fn authority(name: &str, now: i64, seconds: i64) -> Result<Pair, Error> {
    let mut params = params(name, now, seconds);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new certificate from this authority. It ends no later than the authority does, at `authority_ends`.
pub fn leaf(authority: &Pair, authority_ends: i64, request: &Request, now: i64) -> Result<Pair, Error> {
    let seconds = request.seconds.min(authority_ends - (now - BACKDATE_SECONDS));
    let mut params = params(&request.common_name, now, seconds);
    params.subject_alt_names = request.names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match request.purpose {
        Purpose::Member => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        Purpose::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn params(name: &str, now: i64, seconds: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let begins = now - BACKDATE_SECONDS;
    params.not_before = at(begins).into();
    params.not_after = at(begins + seconds).into();
    params
}

fn at(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

fn alternative(name: &str) -> Result<SanType, Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}
