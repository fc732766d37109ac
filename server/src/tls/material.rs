//! Certificates, keys, authorities and revocations out of files.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::TlsError;
use super::files::Reloaded;

fn content(error: impl std::fmt::Display) -> TlsError {
    TlsError::Content(error.to_string())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(content)?;
    match certificates.is_empty() {
        true => Err(content("there is no certificate in PEM")),
        false => Ok(certificates),
    }
}

/// A chain and its key.
pub fn identity(provider: &Arc<CryptoProvider>, cert: &Path, key: &Path) -> Result<Reloaded<CertifiedKey>, TlsError> {
    let provider = provider.clone();
    let make = move |contents: &[Vec<u8>]| {
        let chain = certificates(&contents[0])?;
        let key = PrivateKeyDer::from_pem_slice(&contents[1]).map_err(|_| content("there is no private key in PEM"))?;
        Ok(CertifiedKey::from_der(chain, key, &provider)?)
    };
    Reloaded::load("certificate and key", &[cert, key], Box::new(make))
}

/// Authorities that are trusted.
#[derive(Debug)]
pub struct Roots {
    /// As the library has them.
    pub store: Arc<RootCertStore>,
    certificates: HashSet<CertificateDer<'static>>,
}

impl Roots {
    /// Whether this very certificate is trusted.
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.contains(certificate)
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone())?;
        }
        Ok(Roots { store: Arc::new(store), certificates: certificates.into_iter().collect() })
    }
}

/// Where distributions keep the authorities of the web, as Go looks for them.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities in a file; without one those of the system, which may be none.
pub fn roots(file: Option<&Path>) -> Result<Reloaded<Roots>, TlsError> {
    if let Some(file) = file {
        let make = |contents: &[Vec<u8>]| Roots::of(certificates(&contents[0])?);
        return Reloaded::load("trusted certificates", &[file], Box::new(make));
    }
    let named = std::env::var("SSL_CERT_FILE").ok();
    let mut files = named.iter().map(String::as_str).chain(SYSTEM_ROOTS.iter().copied()).map(Path::new);
    let file: Vec<&Path> = files.find(|file| file.is_file()).into_iter().collect();
    let make = |contents: &[Vec<u8>]| {
        let mut store = RootCertStore::empty();
        let pem = contents.first().map_or(&[][..], Vec::as_slice);
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
        // One among many that the library does not know is left out.
        store.add_parsable_certificates(certificates.iter().cloned());
        Ok(Roots { store: Arc::new(store), certificates: certificates.into_iter().collect() })
    };
    Reloaded::load("the system's trusted certificates", &file, Box::new(make))
}

/// Serial numbers of revoked certificates. As in etcd, neither the list's issuer nor its age matters.
#[derive(Debug, Default)]
pub struct Revoked(HashSet<Vec<u8>>);

impl Revoked {
    /// Whether a certificate of that number (big endian) is revoked.
    pub fn contains(&self, serial: &[u8]) -> bool {
        self.0.contains(magnitude(serial))
    }

    fn read(bytes: &[u8]) -> Result<Self, TlsError> {
        let mut serials = HashSet::new();
        let mut add = |der: &[u8]| {
            let (rest, list) = CertificateRevocationList::from_der(der).map_err(content)?;
            if !rest.is_empty() {
                return Err(content("trailing data behind the revocation list"));
            }
            serials.extend(list.iter_revoked_certificates().map(|entry| magnitude(entry.raw_serial()).to_vec()));
            Ok(())
        };
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        match lists {
            Ok(lists) if !lists.is_empty() => lists.iter().try_for_each(|list| add(list))?,
            Ok(_) if !bytes.starts_with(b"-----") => add(bytes)?,
            _ => return Err(content("there is no whole revocation list, in DER or PEM")),
        }
        Ok(Revoked(serials))
    }
}

/// A number without leading zeros.
fn magnitude(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The revocation lists in a file.
pub fn revoked(file: &Path) -> Result<Reloaded<Revoked>, TlsError> {
    Reloaded::load("revocation list", &[file], Box::new(|contents: &[Vec<u8>]| Revoked::read(&contents[0])))
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::*;

    #[test]
    fn revocation_lists_are_read_in_both_forms() {
        let list = Authority::new("ca").revoke(&[0x8001, 7]);
        let pem = list.pem().expect("PEM");
        for bytes in [list.der().to_vec(), pem.clone().into_bytes()] {
            let revoked = Revoked::read(&bytes).expect("read");
            assert!(revoked.contains(&[0, 0x80, 1]) && revoked.contains(&[0x80, 1]) && revoked.contains(&[7]));
            assert!(!revoked.contains(&[8]));
        }
        let both = pem.clone() + &Authority::new("other").revoke(&[9]).pem().expect("PEM");
        let revoked = Revoked::read(both.as_bytes()).expect("read");
        assert!(revoked.contains(&[7]) && revoked.contains(&[9]));
        let half = &pem.as_bytes()[..pem.len() / 2];
        let more = [list.der().to_vec(), vec![0]].concat();
        for bytes in [&b""[..], b"nonsense", half, &more] {
            assert!(Revoked::read(bytes).is_err());
        }
    }
}
