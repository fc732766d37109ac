use std::path::PathBuf;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::authority::{Authority, Leaf, Pair, self_signed};
use super::*;
use crate::newcomers::Newcomers;

const PEER: &str = "10.0.0.7:4000";

fn remote() -> Remote {
    Remote::tcp(PEER.parse().expect("an address"))
}

/// Files of a listener that trusts an authority.
struct Files(TempDir);

impl Files {
    fn new(authority: &Authority) -> Self {
        let files = Files(tempfile::tempdir().expect("a folder"));
        files.pair("server", &authority.issue(&Leaf::new("server", &["server.example"])));
        files.write("ca", authority.pem());
        files
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.at(name), content).expect("written");
    }

    fn pair(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.crt"), &pair.cert);
        self.write(&format!("{name}.key"), &pair.key);
    }

    fn settings(&self) -> TlsConfig {
        TlsConfig {
            cert_file: Some(self.at("server.crt")),
            key_file: Some(self.at("server.key")),
            trusted_ca_file: Some(self.at("ca")),
            client_cert_auth: true,
            ..TlsConfig::default()
        }
    }
}

fn open(settings: &TlsConfig) -> Arc<ServerTls> {
    let tls = ServerTls::open(settings, &TlsProtocol::default()).expect("good files");
    tls.expect("a certificate")
}

/// What a client of a listener shows and speaks.
fn client(authority: &Authority, pair: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let builder = builder.with_root_certificates(roots);
    let config = match pair {
        Some(pair) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

/// One handshake: the Common Name that the listener took, or why it refused.
async fn shake(handshakes: &Handshakes, connector: TlsConnector) -> Result<Option<String>, String> {
    let (here, there) = duplex(64 << 10);
    let name = ServerName::try_from("server.example").expect("a name");
    let client = tokio::spawn(async move {
        let mut stream = connector.connect(name, there).await?;
        // A refusal of TLS 1.3 comes after the client's side of the handshake.
        stream.read_to_end(&mut Vec::new()).await
    });
    let shaken = handshakes.shake(here, remote()).await;
    let shaken = shaken.map(|accepted| accepted.common_name).map_err(|rejected| rejected.error);
    let _ = client.await;
    shaken
}

/// The same, with what the client shows.
async fn show(handshakes: &Handshakes, authority: &Authority, pair: &Pair) -> Result<Option<String>, String> {
    let result = shake(handshakes, client(authority, Some(pair), ALL)).await;
    let old = shake(handshakes, client(authority, Some(pair), &[&rustls::version::TLS12])).await;
    assert_eq!(result, old, "both versions verify alike");
    result
}

fn clients(tls: Arc<ServerTls>) -> Handshakes {
    Handshakes::new(tls, Endpoint::Client, false)
}

#[tokio::test]
async fn certificates_of_clients_are_verified() {
    let (authority, other) = (Authority::new("ca"), Authority::new("ca"));
    let files = Files::new(&authority);
    let itself = self_signed(&Leaf::new("itself", &[]));
    files.write("ca", authority.pem() + &itself.cert);
    let handshakes = clients(open(&files.settings()));
    let alice = Leaf::new("alice", &[]);
    let expired = Leaf { years: (2020, 2021), ..alice.clone() };
    let future = Leaf { years: (3999, 4000), ..alice.clone() };
    let server_only = Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..alice.clone() };
    let any = Leaf { usages: vec![], ..alice.clone() };
    let x509 = "tls: failed to verify certificate: x509: ";
    for (pair, expected) in [
        (authority.issue(&alice), Ok("alice")),
        (authority.issue(&any), Ok("alice")),
        (authority.issue(&Leaf::new("", &["a.example"])), Ok("")),
        (itself, Ok("itself")),
        (self_signed(&alice), Err("certificate is one of an authority (CA:TRUE), and not itself trusted")),
        (other.issue(&alice), Err("certificate signed by unknown authority")),
        (authority.issue(&expired), Err("certificate has expired or is not yet valid: ")),
        (authority.issue(&future), Err("certificate has expired or is not yet valid: ")),
        (authority.issue(&server_only), Err("certificate specifies an incompatible key usage: ")),
    ] {
        let shown = show(&handshakes, &authority, &pair).await;
        match (expected, &shown) {
            (Ok(name), Ok(found)) => assert_eq!(found.as_deref(), Some(name)),
            (Err(reason), Err(found)) if found.starts_with(&format!("{x509}{reason}")) => {}
            _ => panic!("{expected:?}: {shown:?}"),
        }
    }
    let nothing = shake(&handshakes, client(&authority, None, ALL)).await;
    assert_eq!(nothing, Err("tls: client didn't provide a certificate".to_owned()));
}

#[tokio::test]
async fn an_authority_alone_makes_certificates_required() {
    let authority = Authority::new("ca");
    let files = Files::new(&authority);
    let without = TlsConfig { client_cert_auth: false, ..files.settings() };
    let nothing = shake(&clients(open(&without)), client(&authority, None, ALL)).await;
    assert_eq!(nothing, Err("tls: client didn't provide a certificate".to_owned()));
    let neither = TlsConfig { trusted_ca_file: None, ..without };
    assert_eq!(shake(&clients(open(&neither)), client(&authority, None, ALL)).await, Ok(None));
}

#[tokio::test]
async fn names_and_revocations_decide_between_good_certificates() {
    let authority = Authority::new("ca");
    let files = Files::new(&authority);
    files.write("crl", authority.revoke(&[9]).der());
    let named = |cn, serial| authority.issue(&Leaf { serial, ..Leaf::new(cn, &["a.example", "10.0.0.7"]) });
    let (alice, bob, revoked) = (named("alice", 1), named("bob", 2), named("alice", 9));
    let failed = "tls: client certificate authentication failed";
    let cns = |names: &[&str]| TlsConfig {
        allowed_cns: names.iter().map(|name| name.to_string()).collect(),
        ..files.settings()
    };
    let hosts = |name: &str| TlsConfig { allowed_hostnames: vec![name.to_owned()], ..files.settings() };
    let crl = TlsConfig { crl_file: Some(files.at("crl")), ..files.settings() };
    for (settings, pair, expected) in [
        (cns(&["alice", "carol"]), &alice, Ok(())),
        (cns(&["alice", "carol"]), &bob, Err(failed)),
        (cns(&[""]), &bob, Err(failed)),
        (hosts("a.example"), &alice, Ok(())),
        (hosts("10.0.0.7"), &alice, Ok(())),
        (hosts("b.example"), &alice, Err(failed)),
        (hosts("10.0.0.8"), &alice, Err(failed)),
        (crl.clone(), &alice, Ok(())),
        (crl, &revoked, Err("tls: the certificate is revoked")),
    ] {
        let shown = show(&clients(open(&settings)), &authority, pair).await;
        assert_eq!(shown.map(drop), expected.map_err(str::to_owned), "{settings:?}");
    }
}

#[tokio::test]
async fn a_peers_certificate_belongs_to_its_address() {
    let authority = Authority::new("ca");
    let files = Files::new(&authority);
    let peers = Handshakes::new(open(&files.settings()), Endpoint::Peer, true);
    for (names, expected) in [
        (&[][..], Ok(())),
        (&["10.0.0.7"], Ok(())),
        (&["10.0.0.8"], Err("x509: certificate is valid for 10.0.0.8, not 10.0.0.7")),
        (
            &["10.0.0.8", "m0.invalid"],
            Err("tls: \"10.0.0.7\" does not match any of DNSNames [\"m0.invalid\"] (lookup m0.invalid: "),
        ),
    ] {
        let pair = authority.issue(&Leaf::new("m0", names));
        let shown = shake(&peers, client(&authority, Some(&pair), ALL)).await.map(drop);
        match (expected, &shown) {
            (Err(reason), Err(found)) => assert!(found.starts_with(reason), "{found}"),
            _ => assert_eq!(expected.map_err(str::to_owned), shown),
        }
    }
    let skipping = TlsConfig { skip_client_san_verification: true, ..files.settings() };
    let peers = Handshakes::new(open(&skipping), Endpoint::Peer, true);
    let pair = authority.issue(&Leaf::new("m0", &["10.0.0.8"]));
    assert!(shake(&peers, client(&authority, Some(&pair), ALL)).await.is_ok());
}

async fn speak(handshakes: &Handshakes, bytes: &[u8]) -> Result<(), String> {
    let (here, mut there): (DuplexStream, _) = duplex(1 << 10);
    there.write_all(bytes).await.expect("written");
    there.shutdown().await.expect("closed");
    handshakes.shake(here, remote()).await.map(drop).map_err(|rejected| rejected.error)
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_in_words() {
    let authority = Authority::new("ca");
    let handshakes = clients(open(&Files::new(&authority).settings()));
    let plaintext = "tls: first record does not look like a TLS handshake";
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], plaintext),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", plaintext),
        (b"", "EOF"),
        (b"\x16\x03", "EOF"),
    ] {
        assert_eq!(speak(&handshakes, bytes).await, Err(reason.to_owned()));
    }
}

#[tokio::test]
async fn versions_and_ciphers_are_as_chosen() {
    let authority = Authority::new("ca");
    let files = Files::new(&authority);
    let settings = TlsConfig { trusted_ca_file: None, client_cert_auth: false, ..files.settings() };
    let speaks = |protocol: TlsProtocol| {
        let tls = ServerTls::open(&settings, &protocol).expect("good files").expect("a certificate");
        clients(tls)
    };
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    let newer = speaks(TlsProtocol { min_version: TlsVersion::Tls13, ..TlsProtocol::default() });
    let older = speaks(TlsProtocol { max_version: TlsVersion::Tls12, ..TlsProtocol::default() });
    let unsupported = Err("tls: client offered only unsupported versions".to_owned());
    assert_eq!(shake(&newer, client(&authority, None, &[old])).await, unsupported);
    assert_eq!(shake(&newer, client(&authority, None, &[old, new])).await, Ok(None));
    assert_eq!(shake(&older, client(&authority, None, &[new])).await, unsupported);
    assert_eq!(shake(&older, client(&authority, None, &[old])).await, Ok(None));

    let rsa = vec![rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    // The certificate's key is not RSA's. In TLS 1.3 that is no matter of ciphers.
    let ciphers = speaks(TlsProtocol { cipher_suites: rsa, ..TlsProtocol::default() });
    let none = shake(&ciphers, client(&authority, None, &[old])).await;
    assert_eq!(none, Err("tls: no cipher suite supported by both client and server".to_owned()));
    assert_eq!(shake(&ciphers, client(&authority, None, &[new])).await, Ok(None));
}

#[tokio::test]
async fn silent_handshakes_end_and_make_room() {
    let authority = Authority::new("ca");
    let handshakes = clients(open(&Files::new(&authority).settings()));
    let newcomers = Newcomers::new(1).within(Duration::from_secs(1));
    let silent = || {
        let (here, there) = duplex(1 << 10);
        let (handshakes, mut newcomer) = (handshakes.clone(), newcomers.enter());
        (tokio::spawn(async move { handshakes.accept(here, remote(), &mut newcomer).await.is_none() }), there)
    };
    let (evicted, _there) = silent();
    tokio::task::yield_now().await;
    let (late, _there) = silent();
    tokio::task::yield_now().await;
    assert!(evicted.await.expect("no panic") && !late.is_finished(), "the oldest makes room");
    assert!(late.await.expect("no panic"), "its time is over");
}

#[tokio::test]
async fn what_changes_counts_from_the_next_look_on() {
    let (authority, next) = (Authority::new("ca"), Authority::new("next"));
    let files = Files::new(&authority);
    let tls = open(&files.settings());
    let handshakes = clients(tls.clone());
    let (alice, bob) = (authority.issue(&Leaf::new("alice", &[])), next.issue(&Leaf::new("bob", &[])));
    // Nothing changes by half a pair.
    files.write("server.crt", next.issue(&Leaf::new("server", &["server.example"])).cert);
    tls.refresh();
    assert!(show(&handshakes, &authority, &alice).await.is_ok());
    files.pair("server", &next.issue(&Leaf::new("server", &["server.example"])));
    files.write("ca", authority.pem() + &next.pem());
    tls.refresh();
    for pair in [&alice, &bob] {
        assert!(show(&handshakes, &next, pair).await.is_ok());
    }
    files.write("ca", next.pem());
    tls.refresh();
    assert!(show(&handshakes, &next, &alice).await.is_err());
    assert!(show(&handshakes, &next, &bob).await.is_ok());
}

/// A peer that shows `pair` and verifies what this member shows; why a connection to it failed.
async fn dial(tls: &Arc<ClientTls>, server: &Files, name: &str) -> Result<(), String> {
    let settings = TlsConfig { trusted_ca_file: None, client_cert_auth: false, ..server.settings() };
    let handshakes = clients(open(&settings));
    let (here, there) = duplex(64 << 10);
    let served = tokio::spawn(async move { handshakes.shake(there, remote()).await.is_ok() });
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connected = TlsConnector::from(tls.config().await).connect(name, here).await;
    assert!(connected.as_ref().err().is_none_or(is_tls));
    let connected = connected.map(drop).map_err(|error| words(&error));
    assert_eq!(served.await.expect("no panic"), connected.is_ok());
    connected
}

#[tokio::test]
async fn servers_are_verified_by_authority_name_and_allowed_names() {
    let (authority, other) = (Authority::new("ca"), Authority::new("ca"));
    let (files, others) = (Files::new(&authority), Files::new(&other));
    let verified = |settings: &TlsConfig, unverified| {
        ClientTls::open(settings, &TlsProtocol::default(), unverified).expect("good files")
    };
    let tls = verified(&files.settings(), false);
    assert_eq!(dial(&tls, &files, "server.example").await, Ok(()));
    let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    let refused = dial(&tls, &others, "server.example").await.expect_err("another authority");
    assert!(refused.starts_with(unknown), "{refused}");
    let name = dial(&tls, &files, "other.example").await.expect_err("another name");
    assert!(name.contains("other.example"), "{name}");
    let only = TlsConfig { allowed_cns: vec!["m0".to_owned()], ..files.settings() };
    let refused = dial(&verified(&only, false), &files, "server.example").await;
    assert_eq!(refused, Err("tls: client certificate authentication failed".to_owned()));
    assert_eq!(dial(&verified(&files.settings(), true), &others, "other.example").await, Ok(()));

    // The authorities of connections to come change too.
    files.write("ca", other.pem());
    tls.refresh();
    assert_eq!(dial(&tls, &others, "server.example").await, Ok(()));
    let refused = dial(&tls, &files, "server.example").await.expect_err("another authority");
    assert!(refused.starts_with(unknown), "{refused}");
}

#[test]
fn certificates_are_made_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("fixtures").join("client");
    let urls =
        ["https://127.0.0.1:2379", "https://[fd00::1]:2379", "unixs:///a"].map(|url| url.parse().expect("a URL"));
    let auto = TlsConfig { auto: true, ..TlsConfig::default() };
    let mut made = auto.clone();
    assert!(provide(&mut made, &at, &urls, 1).expect("made"));
    let cert = std::fs::read(at.join("cert.pem")).expect("written");
    let names = address::AltNames::of(&CertificateDer::from_pem_slice(&cert).expect("PEM"));
    assert_eq!(names.dns, ["localhost"]);
    assert_eq!(names.ips, ["127.0.0.1", "fd00::1"].map(|ip| ip.parse::<std::net::IpAddr>().expect("an address")));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(at.join("key.pem")).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    open(&made);
    let mut again = auto;
    assert!(provide(&mut again, &at, &urls, 1).expect("found"));
    assert_eq!(again, made);
    assert_eq!(std::fs::read(at.join("cert.pem")).expect("kept"), cert);
    // Named ones are taken.
    assert!(!provide(&mut again, &at, &urls, 1).expect("nothing to do"));
    assert!(!provide(&mut TlsConfig::default(), &at, &urls, 1).expect("nothing to do"));
}
