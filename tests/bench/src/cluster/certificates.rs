//! One certificate for all members of a run, signed by an authority that lives as long as the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore};

pub struct Certificates {
    folder: PathBuf,
    /// What clients connect with.
    pub client: Arc<ClientConfig>,
}

impl Certificates {
    /// Makes them, as files in `folder`.
    pub fn write(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &authority)?;
        std::fs::write(folder.join("ca.pem"), authority.pem())?;
        std::fs::write(folder.join("cert.pem"), certificate.pem())?;
        std::fs::write(folder.join("key.pem"), key.serialize_pem())?;

        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut client = builder.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { folder: folder.to_owned(), client: Arc::new(client) })
    }

    /// Flags of either server: TLS for clients, mutual TLS between members.
    pub fn flags(&self) -> Vec<String> {
        let files = [
            ("cert-file", "cert.pem"),
            ("key-file", "key.pem"),
            ("peer-cert-file", "cert.pem"),
            ("peer-key-file", "key.pem"),
            ("peer-trusted-ca-file", "ca.pem"),
        ];
        let flag = |(flag, file): &(&str, &str)| format!("--{flag}={}", self.folder.join(file).display());
        files.iter().map(flag).chain(["--peer-client-cert-auth".to_owned()]).collect()
    }
}
