//! The server's certificates: an own CA and one server certificate, made once and kept.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Names and addresses by which clients reach the server, from the host and from pods.
const NAMES: [&str; 7] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    crate::admission::API_SERVICE_ADDRESS,
];

/// The CA's certificate in PEM, from the directory or new.
pub fn ensure(directory: &Path) -> anyhow::Result<String> {
    let complete = ["ca.crt", "server.crt", "server.key"].iter().all(|file| directory.join(file).exists());
    if !complete {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        generate(directory)?;
    }
    fs::read_to_string(directory.join("ca.crt")).context("reading ca.crt")
}

fn generate(directory: &Path) -> anyhow::Result<()> {
    let validity = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
    };
    let mut ca = CertificateParams::new(Vec::new())?;
    validity(&mut ca);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "keelson-local");
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut server = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    validity(&mut server);
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    write_private(&directory.join("server.key"), &server_key.serialize_pem())?;
    fs::write(directory.join("server.crt"), server_certificate.pem())?;
    // Last: its presence says that the others are there.
    fs::write(directory.join("ca.crt"), ca_certificate.pem())?;
    Ok(())
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// TLS with the kept certificate, for HTTP/2 and HTTP/1.1.
pub fn server_config(directory: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(directory.join("server.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
