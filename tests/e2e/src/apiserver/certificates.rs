//! One authority, and one certificate that serves and identifies everything of the test.

use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// PEM texts, and the authority also as DER.
pub struct Certificates {
    pub ca: String,
    pub ca_der: Vec<u8>,
    pub certificate: String,
    pub key: String,
}

impl Certificates {
    /// Makes the certificates and writes `ca.pem`, `cert.pem` and `key.pem` into a new folder.
    pub fn write(folder: &Path) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "keelson e2e");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate()?;
        let ca = authority.self_signed(&authority_key)?;

        let names = ["localhost", "127.86.0.1", "127.86.0.2", "127.86.0.3", "127.86.0.9"].map(String::from);
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name.push(DnType::CommonName, "keelson e2e member");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?;

        let this =
            Self { ca: ca.pem(), ca_der: ca.der().to_vec(), certificate: certificate.pem(), key: key.serialize_pem() };
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("ca.pem"), &this.ca)?;
        std::fs::write(folder.join("cert.pem"), &this.certificate)?;
        std::fs::write(folder.join("key.pem"), &this.key)?;
        Ok(this)
    }
}
