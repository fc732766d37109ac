//! Who is on the other side: chains by the library, and etcd's rules on top.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::material::{Revoked, Roots};
use crate::config::TlsConfig;

/// A refusal in words of our own.
#[derive(Debug)]
pub struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(text: impl Into<String>) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(text.into())))))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, certificate)| certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// The Common Name; the last one, should there be several.
pub fn common_name(certificate: &X509Certificate<'_>) -> String {
    let last = certificate.subject().iter_common_name().last();
    last.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
}

/// etcd's rules for certificates that are otherwise good.
#[derive(Debug)]
pub struct Rules {
    allowed_cns: Vec<String>,
    allowed_hostnames: Vec<String>,
    revoked: Option<Arc<Revoked>>,
}

impl Rules {
    /// The rules of these settings.
    pub fn new(settings: &TlsConfig, revoked: Option<Arc<Revoked>>) -> Self {
        Rules {
            allowed_cns: settings.allowed_cns.clone(),
            allowed_hostnames: settings.allowed_hostnames.clone(),
            revoked,
        }
    }

    fn check(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !self.allowed_cns.is_empty() && !self.allowed_cns.contains(&common_name(&parse(leaf)?)) {
            return Err(refusal("client certificate authentication failed"));
        }
        if !self.allowed_hostnames.is_empty() {
            let certificate = ParsedCertificate::try_from(leaf)?;
            let has = |name: &String| {
                let name = name.trim_start_matches('[').trim_end_matches(']');
                ServerName::try_from(name).is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
            };
            if !self.allowed_hostnames.iter().any(has) {
                return Err(refusal("client certificate authentication failed"));
            }
        }
        let Some(revoked) = &self.revoked else {
            return Ok(());
        };
        for certificate in std::iter::once(leaf).chain(chain) {
            let certificate = parse(certificate)?;
            let serial = certificate.raw_serial();
            if revoked.contains(serial) {
                tracing::debug!(serial = certificate.raw_serial_as_string(), "a revoked certificate was shown");
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy)]
enum Purpose {
    Client,
    Server,
}

/// A certificate that is itself among the trusted ones: the library wants an authority above it, Go and so etcd do not.
fn trusted_itself(roots: &Roots, leaf: &CertificateDer<'_>, purpose: Purpose, now: UnixTime) -> Result<bool, Error> {
    if !roots.contains(leaf) {
        return Ok(false);
    }
    let certificate = parse(leaf)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    let usage = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let fits = usage.is_none_or(|usage| {
        usage.value.any
            || match purpose {
                Purpose::Client => usage.value.client_auth,
                Purpose::Server => usage.value.server_auth,
            }
    });
    match fits {
        true => Ok(true),
        false => Err(CertificateError::InvalidPurpose.into()),
    }
}

/// Verifies those who connect.
#[derive(Debug)]
pub struct ClientVerifier {
    library: Arc<dyn ClientCertVerifier>,
    roots: Arc<Roots>,
    rules: Rules,
}

impl ClientVerifier {
    /// By authorities and rules.
    pub fn new(roots: Arc<Roots>, rules: Rules, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider.clone());
        let library = builder.build().map_err(|error| {
            TlsError::Content(format!("certificates of clients cannot be verified without trusted ones: {error}"))
        })?;
        Ok(ClientVerifier { library, roots, rules })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.library.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !trusted_itself(&self.roots, end_entity, Purpose::Client, now)? {
            self.library.verify_client_cert(end_entity, intermediates, now)?;
        }
        self.rules.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.library.supported_verify_schemes()
    }
}

/// Verifies those that this member connects to.
#[derive(Debug)]
pub struct ServerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    roots: Arc<Roots>,
    rules: Rules,
    unverified: bool,
}

impl ServerVerifier {
    /// By authorities and rules; or not at all, `unverified`, where everybody makes certificates for themselves.
    pub fn new(roots: Arc<Roots>, rules: Rules, provider: &CryptoProvider, unverified: bool) -> Self {
        ServerVerifier { algorithms: provider.signature_verification_algorithms, roots, rules, unverified }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.unverified {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !trusted_itself(&self.roots, end_entity, Purpose::Server, now)? {
            let roots = &self.roots.store;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, self.algorithms.all)?;
        }
        verify_server_name(&certificate, server_name)?;
        self.rules.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
