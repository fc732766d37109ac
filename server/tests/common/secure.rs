//! Clients over TLS.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tonic::transport::{Channel, Endpoint};

use super::authority::Pair;

/// gRPC over TLS, by the library that the server itself is made with.
pub async fn grpc(url: &str, ca: &str, pair: &Pair) -> Channel {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let builder = builder.expect("versions").with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let address = url.strip_prefix("https://").expect("TLS").to_owned();
    let connect = move |_| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let host = address.split(':').next().expect("a host").to_owned();
            let stream = tokio::net::TcpStream::connect(address).await?;
            let stream = connector.connect(ServerName::try_from(host).expect("a name"), stream).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    };
    let endpoint = Endpoint::from_static("http://member");
    endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("connected")
}
