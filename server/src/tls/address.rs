//! Whether a certificate belongs to the address that its holder connects from.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::lookup;

/// Names and addresses that a certificate is for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AltNames {
    /// Host names, perhaps with a wildcard.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl AltNames {
    /// Those of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut names = AltNames::default();
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return names;
        };
        let Ok(Some(extension)) = certificate.subject_alternative_name() else {
            return names;
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                    names.ips.extend(v4.or_else(|_| v6()));
                }
                _ => {}
            }
        }
        names
    }
}

/// Checks as etcd does: an address among the certificate's is enough; if it has host names, one of them must be a name
/// of the address or have it. A certificate without either is for any address.
pub async fn check(certificate: &CertificateDer<'_>, remote: IpAddr) -> Result<(), String> {
    let names = AltNames::of(certificate);
    let listed = || {
        let parsed = ParsedCertificate::try_from(certificate);
        parsed.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &ServerName::from(remote)).is_ok())
    };
    if names.dns.is_empty() && names.ips.is_empty() || !names.ips.is_empty() && listed() {
        return Ok(());
    }
    if names.dns.is_empty() {
        let ips: Vec<_> = names.ips.iter().map(IpAddr::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {remote}", ips.join(", ")));
    }
    let mut failure = String::new();
    match lookup::names_of(remote).await {
        Ok(found) if is_named(&names.dns, &found) => return Ok(()),
        Ok(_) => {}
        Err(error) => failure = format!(" ({error})"),
    }
    for name in names.dns.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut addresses) => {
                if addresses.any(|address| address.ip().to_canonical() == remote) {
                    return Ok(());
                }
            }
            Err(error) => failure = format!(" (lookup {name}: {error})"),
        }
    }
    let known: Vec<_> = names.dns.iter().map(|name| format!("{name:?}")).collect();
    Err(format!("tls: \"{remote}\" does not match any of DNSNames [{}]{failure}", known.join(" ")))
}

/// Whether one of a certificate's names is one of those found. A wildcard stands for any number of labels, as in etcd.
fn is_named(dns: &[String], found: &[String]) -> bool {
    let names = |found: &String| {
        dns.iter().any(|name| match name.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
            Some(suffix) => found.ends_with(suffix),
            None => found == name,
        })
    };
    found.iter().any(names)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::super::authority::{Leaf, self_signed};
    use super::*;

    #[test]
    fn wildcards_stand_for_what_a_reverse_look_up_finds() {
        for (dns, found, named) in [
            ("m0.db.svc", "m0.db.svc", true),
            ("m0.db.svc", "m1.db.svc", false),
            ("*.db.svc", "m0.db.svc", true),
            ("*.db.svc", "10-0-0-7.m0.db.svc", true),
            ("*.db.svc", "db.svc", false),
            ("*db.svc", "m0.db.svc", false),
        ] {
            assert_eq!(is_named(&[dns.to_owned()], &["other".to_owned(), found.to_owned()]), named, "{dns} {found}");
        }
    }

    #[tokio::test]
    async fn a_host_name_is_looked_up() {
        let pair = self_signed(&Leaf::new("", &["no.invalid", "localhost", "10.9.9.9"]));
        let certificate = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
        assert_eq!(check(&certificate, [127, 0, 0, 1].into()).await, Ok(()));
        assert!(check(&certificate, [127, 0, 0, 2].into()).await.is_err());
    }
}
