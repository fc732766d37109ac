//! Who may not speak with members as one of them.

use std::process::Command;

use keelson_server::proto::DESCRIPTORS;
use prost_reflect::DescriptorPool;
use tonic::{Code, Request};

use super::common::authority::{Authority, Leaf};
use super::common::{Member, eventually};
use super::raw::{self, Raw};
use super::{channel, channel_to, member};

/// Methods whose services are of this package, as they are called.
fn methods(package: &str) -> Vec<http::uri::PathAndQuery> {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let of_package = pool.services().filter(|service| service.package_name() == package).collect::<Vec<_>>();
    let methods = of_package.iter().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.map(|method| raw::path(&method)).collect()
}

#[tokio::test]
async fn each_port_serves_its_own_services_alone() {
    let member = member(Member::new("one"), &[]).await;
    let clients = channel(&member).await;
    let peers = channel_to(member.peer_url()).await;
    for (channel, package) in [(&clients, "keelson.peer"), (&peers, "etcdserverpb")] {
        let methods = methods(package);
        assert!(methods.len() > 5, "{package}");
        for path in methods {
            let mut client = raw::client(channel).await.expect("ready");
            let answered = client.unary(Request::new(bytes::Bytes::new()), path.clone(), Raw).await;
            assert_eq!(answered.expect_err("not here").code(), Code::Unimplemented, "{path}");
        }
    }
}

#[tokio::test]
async fn only_members_certificates_are_taken() {
    let (ca, other, folder) = (Authority::new("ca"), Authority::new("other"), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut one = Member::new("one");
    one.schemes = ("http", "https");
    // Connections to a loopback address come from 127.0.0.1.
    let address = one.address().to_string();
    let good = Leaf { serial: 1, ..Leaf::new("peer", &[&address, "127.0.0.1"]) };
    let shown = [
        ("good", &ca, good.clone(), None),
        ("stranger", &other, good.clone(), Some("x509: certificate signed by unknown authority")),
        ("expired", &ca, Leaf { years: (2020, 2021), ..good.clone() }, Some("x509: certificate has expired")),
        ("early", &ca, Leaf { years: (3999, 4000), ..good.clone() }, Some("is not yet valid")),
        ("revoked", &ca, Leaf { serial: 666, ..good.clone() }, Some("tls: the certificate is revoked")),
        (
            "name",
            &ca,
            Leaf { common_name: "client", ..good.clone() },
            Some("tls: client certificate authentication failed"),
        ),
        ("place", &ca, Leaf { names: vec!["10.9.9.9".to_owned()], ..good }, Some("valid for 10.9.9.9, not 127.0.0.1")),
    ];
    std::fs::write(path("ca"), ca.pem()).expect("written");
    std::fs::write(path("crl"), ca.revoke(&[666]).der()).expect("written");
    for (name, authority, leaf, _) in &shown {
        let pair = authority.issue(leaf);
        std::fs::write(path(&format!("{name}.crt")), pair.cert).expect("written");
        std::fs::write(path(&format!("{name}.key")), pair.key).expect("written");
    }
    let flags = [
        format!("--peer-cert-file={}", path("good.crt")),
        format!("--peer-key-file={}", path("good.key")),
        format!("--peer-trusted-ca-file={}", path("ca")),
        format!("--peer-crl-file={}", path("crl")),
        "--peer-client-cert-auth".to_owned(),
        "--peer-cert-allowed-cn=peer".to_owned(),
    ];
    let member = member(one, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // An empty message to an RPC that asks for nothing.
    std::fs::write(path("request"), [0; 5]).expect("written");
    let call = |pair: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--http2", "--cacert", &path("ca")]);
        if let Some(pair) = pair {
            curl.args(["--cert", &path(&format!("{pair}.crt")), "--key", &path(&format!("{pair}.key"))]);
        }
        let body = format!("@{}", path("request"));
        curl.args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", &body]);
        curl.args(["--dump-header", "-", "--output", "/dev/null"]);
        let output = curl.arg(format!("{}/keelson.peer.Peer/Cluster", member.peer_url())).output();
        let output = output.expect("curl is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let none = ("no certificate", None, Some("tls: client didn't provide a certificate"));
    let shown = shown.iter().map(|(name, _, _, reason)| (*name, Some(*name), *reason));
    for (who, pair, reason) in shown.chain([none]) {
        let answered = call(pair);
        match reason {
            None => assert!(answered.is_some_and(|head| head.contains("HTTP/2 200")), "{who}"),
            Some(reason) => {
                assert_eq!(answered, None, "{who}");
                eventually(who, || async {
                    let log = member.log();
                    let mut lines = log.lines().filter(|line| line.contains("rejected connection on peer endpoint"));
                    lines.any(|line| line.contains(reason)).then_some(())
                })
                .await;
            }
        }
    }
}
