//! What certificates say, and who signed them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Error, Pair};
use crate::plan::tls::{Leaf, Root};

/// The beginning of the SHA-256 of a certificate, in hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = Sha256::digest(der);
    digest[..10].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All certificates of a PEM text.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(|error| Error::Read(format!("no PEM certificates: {error}")))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, certificate)| certificate).map_err(|error| Error::Read(format!("no certificate: {error}")))
}

/// The authorities of a bundle, in its order.
pub fn authorities(pem: &[u8]) -> Result<Vec<Root>, Error> {
    certificates(pem)?
        .iter()
        .map(|der| {
            let validity = parse(der)?.validity().clone();
            Ok(Root {
                fingerprint: fingerprint(der),
                not_before: validity.not_before.timestamp(),
                not_after: validity.not_after.timestamp(),
            })
        })
        .collect()
}

/// The first certificate of a chain; `authorities`, as PEM bundles, are those that may have signed it.
pub fn leaf(chain: &[u8], bundle: &[u8]) -> Result<Leaf, Error> {
    let all = certificates(chain)?;
    let der = all.first().ok_or_else(|| Error::Read("no certificate".into()))?;
    let certificate = parse(der)?;
    let mut names = BTreeSet::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.extend(Some((*name).to_string())),
                GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                _ => {}
            }
        }
    }
    Ok(Leaf {
        fingerprint: fingerprint(der),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        names,
        signed_by: signers(chain, bundle)?,
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}

/// The fingerprints of those authorities of `bundle` that signed the chain, directly or through its intermediate authorities.
pub fn signers(chain: &[u8], bundle: &[u8]) -> Result<BTreeSet<String>, Error> {
    let chain = certificates(chain)?;
    let mut last = None;
    for pair in chain.windows(2) {
        let (below, above) = (parse(&pair[0])?, parse(&pair[1])?);
        if below.verify_signature(Some(above.public_key())).is_err() {
            // What follows is not part of the chain.
            last = Some(&pair[0]);
            break;
        }
    }
    let top = last.or(chain.last()).ok_or_else(|| Error::Read("no certificate".into()))?;
    let top = parse(top)?;
    let mut signers = BTreeSet::new();
    for root in certificates(bundle)? {
        let authority = parse(&root)?;
        let named = authority.subject() == top.issuer();
        if named && top.verify_signature(Some(authority.public_key())).is_ok() {
            signers.insert(fingerprint(&root));
        }
    }
    Ok(signers)
}

/// One bundle of several: each certificate once.
pub fn merge(bundles: &[String]) -> Result<String, Error> {
    let mut seen = BTreeSet::new();
    let mut merged = String::new();
    for der in certificates(bundles.concat().as_bytes())? {
        if seen.insert(fingerprint(&der)) {
            merged.push_str(&encode(&der));
        }
    }
    Ok(merged)
}

/// The certificates of `bundle` that are not in `known`.
pub fn subtract(bundle: &str, known: &str) -> Result<String, Error> {
    let known: BTreeSet<String> = certificates(known.as_bytes())?.iter().map(|der| fingerprint(der)).collect();
    let rest = certificates(bundle.as_bytes())?.into_iter().filter(|der| !known.contains(&fingerprint(der)));
    Ok(rest.map(|der| encode(&der)).collect())
}

/// Whether these are a certificate and its key.
pub fn fits(pair: &Pair) -> bool {
    let Ok(chain) = certificates(pair.certificate.as_bytes()) else {
        return false;
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes());
    let Some(key) = key.ok().and_then(|key| any_supported_type(&key).ok()) else {
        return false;
    };
    !chain.is_empty() && CertifiedKey::new(chain, key).keys_match().is_ok()
}

/// PEM (RFC 7468): lines of 64 characters.
fn encode(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned());
    let lines: Vec<String> = lines.collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
