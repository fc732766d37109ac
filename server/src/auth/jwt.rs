//! Tokens that prove themselves: signed, with the user's name and the auth revision of the login.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::{Caller, TokenError};

/// The settings behind `--auth-token=jwt,...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOptions {
    /// Such as RS256.
    pub sign_method: String,
    /// PEM file; it is enough to verify.
    pub public_key: Option<PathBuf>,
    /// PEM file to sign with; for HS256 and the like, a file that holds the secret.
    pub private_key: Option<PathBuf>,
    /// How long a token is valid.
    pub ttl: Duration,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// No such method, or none that is supported.
    #[error("--auth-token: sign-method {0:?} is not one of RS256-RS512, PS256-PS512, ES256, ES384, HS256-HS512, EdDSA")]
    Method(String),
    /// No file holds a key.
    #[error("--auth-token: {0} needs {1}")]
    Missing(String, &'static str),
    /// The file holds no key for the method.
    #[error("--auth-token: {path} holds no key for {method}: {reason}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// The method.
        method: String,
        /// What is wrong.
        reason: String,
    },
    /// They are not of one pair.
    #[error("--auth-token: the public and the private key do not belong together")]
    Mismatch,
}

/// Signs and verifies.
pub struct Jwt {
    algorithm: Algorithm,
    ttl: Duration,
    /// None if there is only a public key.
    signing: Option<EncodingKey>,
    verifying: DecodingKey,
}

impl Jwt {
    /// Reads the keys.
    pub fn open(options: &JwtOptions) -> Result<Self, KeyError> {
        let method = &options.sign_method;
        let algorithm = Algorithm::from_str(method).map_err(|_| KeyError::Method(method.clone()))?;
        let private = options.private_key.as_deref().map(read).transpose()?;
        let public = options.public_key.as_deref().map(read).transpose()?;
        let (signing, verifying) = match Family::of(algorithm) {
            Family::Secret => {
                let secret = private.filter(|secret| !secret.is_empty());
                let secret = secret.ok_or_else(|| KeyError::Missing(method.clone(), "priv-key"))?;
                (Some(EncodingKey::from_secret(&secret)), DecodingKey::from_secret(&secret))
            }
            Family::Pair(family) => {
                let unusable = |path: &Option<PathBuf>, reason| KeyError::Unusable {
                    path: path.clone().unwrap_or_default(),
                    method: method.clone(),
                    reason,
                };
                let private = private.map(|pem| private_key(&pem, family)).transpose();
                let private = private.map_err(|reason| unusable(&options.private_key, reason))?;
                let public = public.map(|pem| public_key(&pem)).transpose();
                let public = public.map_err(|reason| unusable(&options.public_key, reason))?;
                pair(family, private, public, method)?
            }
        };
        let jwt = Jwt { algorithm, ttl: options.ttl, signing, verifying };
        jwt.check().map_err(|reason| KeyError::Unusable {
            path: options.private_key.clone().or(options.public_key.clone()).unwrap_or_default(),
            method: method.clone(),
            reason,
        })?;
        Ok(jwt)
    }

    /// Signs once, so that a key which does not fit is found at the start.
    fn check(&self) -> Result<(), String> {
        if self.signing.is_none() {
            return Ok(());
        }
        let token = self.sign("root", 1).map_err(|error| error.to_string())?;
        match self.verify(&token) {
            Some(_) => Ok(()),
            None if self.ttl.is_zero() => Ok(()),
            None => Err("what it signs cannot be verified".to_owned()),
        }
    }

    /// A token for a user that has logged in.
    pub fn sign(&self, username: &str, auth_revision: u64) -> Result<String, TokenError> {
        let key = self.signing.as_ref().ok_or(TokenError::VerifyOnly)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "username": username,
            "revision": auth_revision,
            "exp": now.saturating_add(self.ttl).as_secs(),
        });
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, key).map_err(|_| TokenError::Signing)
    }

    /// Whose token it is, if its signature is right and its time not over.
    pub fn verify(&self, token: &str) -> Option<Caller> {
        let mut rules = Validation::new(self.algorithm);
        rules.leeway = 0;
        rules.validate_nbf = true;
        rules.validate_aud = false;
        // A token without an end is valid for ever.
        rules.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Value>(token, &self.verifying, &rules);
        let claims = claims.inspect_err(|error| tracing::warn!(%error, "a JWT is not valid")).ok()?.claims;
        Some(Caller {
            username: claims.get("username")?.as_str()?.to_owned(),
            auth_revision: claims.get("revision")?.as_f64()? as u64,
        })
    }
}

enum Family {
    Secret,
    Pair(KeyFamily),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyFamily {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Family {
    fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Family::Secret,
            Algorithm::ES256 => Family::Pair(KeyFamily::P256),
            Algorithm::ES384 => Family::Pair(KeyFamily::P384),
            Algorithm::EdDSA => Family::Pair(KeyFamily::Ed25519),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Family::Pair(KeyFamily::Rsa),
        }
    }
}

impl KeyFamily {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            KeyFamily::Rsa => &rcgen::PKCS_RSA_SHA256,
            KeyFamily::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyFamily::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyFamily::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }

    /// The AlgorithmIdentifier of PKCS #8, in DER.
    fn identifier(self) -> &'static [u8] {
        match self {
            KeyFamily::Rsa => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
            KeyFamily::P256 => b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
            KeyFamily::P384 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
            KeyFamily::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
        }
    }

    fn signing_key(self, pair: &KeyPair, pkcs1: &[u8]) -> EncodingKey {
        match self {
            KeyFamily::Rsa => EncodingKey::from_rsa_der(pkcs1),
            KeyFamily::P256 | KeyFamily::P384 => EncodingKey::from_ec_der(pair.serialized_der()),
            KeyFamily::Ed25519 => EncodingKey::from_ed_der(pair.serialized_der()),
        }
    }

    fn verifying_key(self, raw: &[u8]) -> DecodingKey {
        match self {
            KeyFamily::Rsa => DecodingKey::from_rsa_der(raw),
            KeyFamily::P256 | KeyFamily::P384 => DecodingKey::from_ec_der(raw),
            KeyFamily::Ed25519 => DecodingKey::from_ed_der(raw),
        }
    }
}

/// A private key in the forms that are needed of it.
struct Private {
    pair: KeyPair,
    /// An RSA key without the envelope.
    inner: Vec<u8>,
}

type Keys = (Option<EncodingKey>, DecodingKey);

fn pair(family: KeyFamily, private: Option<Private>, public: Option<Vec<u8>>, method: &str) -> Result<Keys, KeyError> {
    match (private, public) {
        (None, None) => Err(KeyError::Missing(method.to_owned(), "priv-key or pub-key")),
        (None, Some(public)) => Ok((None, family.verifying_key(&public))),
        (Some(private), public) => {
            let derived = private.pair.public_key_raw();
            if public.is_some_and(|public| public != derived) {
                return Err(KeyError::Mismatch);
            }
            Ok((Some(family.signing_key(&private.pair, &private.inner)), family.verifying_key(derived)))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })
}

/// Reads a private key in any of PEM's usual envelopes.
fn private_key(pem: &[u8], family: KeyFamily) -> Result<Private, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => pkcs8(family, key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => pkcs8(family, key.secret_sec1_der()),
        _ => return Err("it is in an unknown format".to_owned()),
    };
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), family.algorithm());
    let pair = pair.map_err(|error| error.to_string())?;
    let inner = match &key {
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der().to_vec(),
        _ => inner(&pkcs8).ok_or("it is not well formed")?.to_vec(),
    };
    Ok(Private { pair, inner })
}

/// Puts a key into the envelope of PKCS #8: version, algorithm, and the key as an octet string.
fn pkcs8(family: KeyFamily, key: &[u8]) -> Vec<u8> {
    let content = [b"\x02\x01\x00", family.identifier(), &der(0x04, key)].concat();
    der(0x30, &content)
}

/// The key in an envelope of PKCS #8.
fn inner(pkcs8: &[u8]) -> Option<&[u8]> {
    use x509_parser::der_parser::asn1_rs::{Any, FromDer};
    let (_, envelope) = Any::from_der(pkcs8).ok()?;
    let (rest, _version) = Any::from_der(envelope.data).ok()?;
    let (rest, _algorithm) = Any::from_der(rest).ok()?;
    let (_, key) = Any::from_der(rest).ok()?;
    Some(key.data)
}

/// One value in DER: tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut value = vec![tag];
    match content.len() {
        0..=0x7f => value.push(content.len() as u8),
        _ => {
            value.push(0x80 | significant.len() as u8);
            value.extend_from_slice(significant);
        }
    }
    value.extend_from_slice(content);
    value
}

/// Reads a public key, alone or in a certificate, and takes off its envelope.
fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate, parse_x509_pem};
    let (_, pem) = parse_x509_pem(pem).map_err(|error| error.to_string())?;
    let raw = |info: &SubjectPublicKeyInfo<'_>| info.subject_public_key.data.to_vec();
    match pem.label.as_str() {
        "RSA PUBLIC KEY" => Ok(pem.contents),
        "CERTIFICATE" => {
            let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|error| error.to_string())?;
            Ok(raw(certificate.public_key()))
        }
        _ => {
            let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|error| error.to_string())?;
            Ok(raw(&info))
        }
    }
}

#[cfg(test)]
mod tests;
