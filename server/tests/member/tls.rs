//! Encryption and certificates, with the programs that people use: curl, Debian's etcdctl, a gRPC client.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::authority::{Authority, Leaf, Pair};
use crate::common::secure::grpc;
use crate::common::{Member, eventually};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use tempfile::TempDir;

/// A folder of certificates.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = self.at(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        // Never half of it.
        let new = file.with_extension("new");
        std::fs::write(&new, content).expect("written");
        std::fs::rename(new, file).expect("renamed");
    }

    fn pair(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.crt"), &pair.cert);
        self.write(&format!("{name}.key"), &pair.key);
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name))
    }

    /// What curl is told to show and to trust.
    fn curl(&self, ca: &str, pair: &str) -> Vec<String> {
        let mut arguments = vec!["--cacert".to_owned(), self.path(ca)];
        if !pair.is_empty() {
            let (cert, key) = (self.path(&format!("{pair}.crt")), self.path(&format!("{pair}.key")));
            arguments.extend(["--cert".to_owned(), cert, "--key".to_owned(), key]);
        }
        arguments
    }
}

/// Runs a program; what it says, or what it complains of.
fn run(program: &str, arguments: &[String]) -> Result<String, String> {
    let output = Command::new(program).env("ETCDCTL_API", "3").args(arguments).output().expect("it is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

fn curl(arguments: &[String], url: &str) -> Result<String, String> {
    let usual = ["--silent", "--show-error", "--max-time", "20"].map(str::to_owned);
    run("curl", &[&usual[..], arguments, &[url.to_owned()]].concat())
}

/// A member alone, that serves clients under TLS; it is ready.
async fn secure(flags: impl FnOnce(&Member) -> Vec<String>) -> Member {
    let mut member = Member::new("secure");
    member.schemes = ("https", "http");
    let mut flags = flags(&member);
    flags.push(format!("--initial-cluster=secure={}", member.peer_url()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    member.start(&flags);
    ready(&member).await;
    member
}

async fn ready(member: &Member) {
    let ready = || async { member.get("/readyz").await.filter(|(code, _)| *code == 200) };
    eventually("the member is ready", ready).await;
}

/// Lines of a member's log that have all of these texts.
fn lines(member: &Member, texts: &[&str]) -> usize {
    member.log().lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
}

async fn logs(member: &Member, texts: &[&str]) {
    eventually(&format!("{} logs {texts:?}", member.name), || async { (lines(member, texts) > 0).then_some(()) }).await;
}

#[tokio::test]
async fn clients_are_served_and_refused_by_what_they_show() {
    let (ca, other, files) = (Authority::new("ca"), Authority::new("other"), Files::new());
    let alice = Leaf { serial: 100, ..Leaf::new("alice", &["client.example"]) };
    let shown = ca.issue(&alice);
    files.write("ca", ca.pem());
    files.write("crl", ca.revoke(&[666]).der());
    files.pair("alice", &shown);
    files.pair("stranger", &other.issue(&alice));
    files.pair("old", &ca.issue(&Leaf { years: (2020, 2021), ..alice.clone() }));
    files.pair("nameless", &ca.issue(&Leaf { names: vec!["other.example".to_owned()], ..alice.clone() }));
    files.pair("revoked", &ca.issue(&Leaf { serial: 666, ..alice }));
    let member = secure(|member| {
        files.pair("server", &ca.issue(&Leaf::new("server", &[&member.address().to_string()])));
        vec![
            files.flag("cert-file", "server.crt"),
            files.flag("key-file", "server.key"),
            files.flag("trusted-ca-file", "ca"),
            files.flag("client-crl-file", "crl"),
            "--client-cert-auth".to_owned(),
            "--client-cert-allowed-hostname=x.example,client.example".to_owned(),
            "--tls-min-version=TLS1.3".to_owned(),
        ]
    })
    .await;
    let url = member.client_url();
    logs(&member, &["serving client traffic securely", "grpc+http"]).await;

    for version in ["--http1.1", "--http2"] {
        let arguments = [&files.curl("ca", "alice")[..], &[version.to_owned()]].concat();
        assert!(curl(&arguments, &format!("{url}/health")).expect("served").contains("\"health\":\"true\""));
        assert!(curl(&arguments, &format!("{url}/version")).expect("served").contains("3.7.1"));
    }
    let mut etcdctl = vec![format!("--endpoints={url}"), files.flag("cacert", "ca")];
    etcdctl.extend([files.flag("cert", "alice.crt"), files.flag("key", "alice.key")]);
    let etcdctl = |words: &[&str]| {
        let words = words.iter().map(|word| word.to_string());
        run("etcdctl", &etcdctl.iter().cloned().chain(words).collect::<Vec<_>>())
    };
    assert_eq!(etcdctl(&["put", "a", "1"]), Ok("OK\n".to_owned()));
    assert_eq!(etcdctl(&["get", "a"]), Ok("a\n1\n".to_owned()));
    let mut kv = KvClient::new(grpc(&url, &ca.pem(), &shown).await);
    let range = RangeRequest { key: "a".into(), ..RangeRequest::default() };
    assert_eq!(kv.range(range).await.expect("read").into_inner().kvs[0].value, "1");

    let tls12 = [files.curl("ca", "alice"), vec!["--tls-max".to_owned(), "1.2".to_owned()]].concat();
    let plain = url.replace("https://", "http://");
    for (arguments, url, reason) in [
        (files.curl("ca", ""), &url, "tls: client didn't provide a certificate"),
        (files.curl("ca", "stranger"), &url, "x509: certificate signed by unknown authority"),
        (files.curl("ca", "old"), &url, "x509: certificate has expired"),
        (files.curl("ca", "nameless"), &url, "tls: client certificate authentication failed"),
        (files.curl("ca", "revoked"), &url, "tls: the certificate is revoked"),
        (tls12, &url, "tls: client offered only unsupported versions"),
        (vec![], &plain, "tls: first record does not look like a TLS handshake"),
    ] {
        let refused = curl(&arguments, &format!("{url}/health"));
        assert!(refused.is_err(), "{reason}: {refused:?}");
        let line =
            ["\"level\":\"warn\"", "rejected connection on client endpoint", "\"remote-addr\":\"127.0.0.1:", reason];
        logs(&member, &line).await;
    }
    // Neither does a plaintext listener speak TLS.
    let metrics = member.metrics_url().replace("http://", "https://");
    assert!(curl(&files.curl("ca", "alice"), &format!("{metrics}/health")).is_err());
}

/// While TLS is being turned on: clients and members of both kinds come to one port.
#[tokio::test]
async fn plaintext_and_tls_share_an_address_where_both_are_asked_for() {
    let (ca, files) = (Authority::new("ca"), Files::new());
    files.write("ca", ca.pem());
    files.pair("client", &ca.issue(&Leaf::new("client", &[])));
    let member = secure(|member| {
        let address = member.address();
        files.pair("server", &ca.issue(&Leaf::new("server", &[&address.to_string()])));
        vec![
            format!("--listen-client-urls=http://{address}:2379,https://{address}:2379"),
            format!("--listen-peer-urls=https://{address}:2380,http://{address}:2380"),
            files.flag("cert-file", "server.crt"),
            files.flag("key-file", "server.key"),
            files.flag("trusted-ca-file", "ca"),
            "--client-cert-auth".to_owned(),
            files.flag("peer-cert-file", "server.crt"),
            files.flag("peer-key-file", "server.key"),
            files.flag("peer-trusted-ca-file", "ca"),
        ]
    })
    .await;
    let secure = member.client_url();
    let plain = secure.replace("https://", "http://");
    logs(&member, &["serving client traffic insecurely"]).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert!(curl(&[version.to_owned()], &format!("{plain}/version")).expect("served").contains("3.7.1"));
    }
    let certified = files.curl("ca", "client");
    assert!(curl(&certified, &format!("{secure}/version")).expect("served").contains("3.7.1"));
    assert!(curl(&files.curl("ca", ""), &format!("{secure}/version")).is_err(), "TLS without a certificate");
    // Who connects and says nothing keeps nobody out.
    let _silent = tokio::net::TcpStream::connect((member.address(), 2379)).await.expect("connected");
    assert!(curl(&[], &format!("{plain}/version")).is_ok());

    let peers = format!("://{}:2380/", member.address());
    assert!(curl(&["--http2-prior-knowledge".to_owned()], &format!("http{peers}")).is_ok());
    assert!(curl(&[&certified[..], &["--http2".to_owned()]].concat(), &format!("https{peers}")).is_ok());
    assert!(curl(&files.curl("ca", ""), &format!("https{peers}")).is_err(), "a peer without a certificate");
}

/// Changes a folder as Kubernetes changes a volume: all files at once, by moving a symlink.
fn swap(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let versioned = folder.join(version);
    std::fs::create_dir_all(&versioned).expect("made");
    for (name, content) in files {
        std::fs::write(versioned.join(name), content).expect("written");
        if !folder.join(name).exists() {
            let _ = std::fs::remove_file(folder.join(name));
            symlink(Path::new("..data").join(name), folder.join(name)).expect("linked");
        }
    }
    symlink(version, folder.join("..tmp")).expect("linked");
    std::fs::rename(folder.join("..tmp"), folder.join("..data")).expect("swapped");
}

#[tokio::test]
async fn certificates_authorities_and_revocations_reload() {
    let (first, next, files) = (Authority::new("first"), Authority::new("next"), Files::new());
    let volume = files.at("volume");
    files.write("first", first.pem());
    files.write("next", next.pem());
    let client = |serial| Leaf { serial, ..Leaf::new("client", &[]) };
    files.pair("a", &first.issue(&client(1)));
    files.pair("b", &first.issue(&client(2)));
    files.pair("c", &next.issue(&client(3)));
    files.write("crl", first.revoke(&[1]).der());
    let mut server = Leaf::new("server", &[]);
    let member = secure(|member| {
        server.names = vec![member.address().to_string()];
        let pair = first.issue(&server);
        swap(&volume, "v1", &[("tls.crt", &pair.cert), ("tls.key", &pair.key), ("ca.crt", &first.pem())]);
        vec![
            files.flag("cert-file", "volume/tls.crt"),
            files.flag("key-file", "volume/tls.key"),
            files.flag("trusted-ca-file", "volume/ca.crt"),
            files.flag("client-crl-file", "crl"),
        ]
    })
    .await;
    let served =
        |ca: &str, pair: &str| curl(&files.curl(ca, pair), &format!("{}/version", member.client_url())).is_ok();
    let soon = async |ca: &str, pair: &str, expected: bool| {
        let what = format!("{pair} by {ca}: {expected}");
        eventually(&what, || async { (served(ca, pair) == expected).then_some(()) }).await;
    };
    assert!(!served("first", "a") && served("first", "b"));

    // Another list, in the other form; then half of one, which changes nothing.
    let pem = first.revoke(&[2]).pem().expect("PEM");
    files.write("crl", &pem);
    soon("first", "a", true).await;
    soon("first", "b", false).await;
    files.write("crl", &pem[..pem.len() / 2]);
    eventually("the broken list is told", || async {
        assert!(served("first", "a") && !served("first", "b"));
        (lines(&member, &["\"level\":\"warn\"", "revocation list cannot be reloaded", "crl"]) > 0).then_some(())
    })
    .await;

    // Everything at once.
    let pair = next.issue(&server);
    swap(&volume, "v2", &[("tls.crt", &pair.cert), ("tls.key", &pair.key), ("ca.crt", &next.pem())]);
    soon("next", "c", true).await;
    assert!(!served("first", "a") && !served("next", "a"));

    // A key that belongs to another certificate.
    let (cert, key) = (next.issue(&server).cert, next.issue(&server).key);
    swap(&volume, "v3", &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &next.pem())]);
    eventually("the broken pair is told", || async {
        assert!(served("next", "c"));
        (lines(&member, &["\"level\":\"warn\"", "certificate and key cannot be reloaded"]) > 0).then_some(())
    })
    .await;
    assert_eq!(lines(&member, &["certificate and key cannot be reloaded"]), 1, "it is told once");
}

/// Files and flags of members that verify each other.
struct Peers {
    files: Files,
    list: String,
}

impl Peers {
    fn issue(&self, member: &Member, authority: &Authority, common_name: &'static str) {
        // Connections to a loopback address come from 127.0.0.1.
        let names = [member.address().to_string(), "127.0.0.1".to_owned()];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.files.pair(&member.name, &authority.issue(&Leaf::new(common_name, &names)));
    }

    fn start(&self, member: &mut Member) {
        let (cert, key) = (format!("{}.crt", member.name), format!("{}.key", member.name));
        let flags = [
            format!("--initial-cluster={}", self.list),
            self.files.flag("peer-cert-file", &cert),
            self.files.flag("peer-key-file", &key),
            self.files.flag("peer-trusted-ca-file", &format!("{}.ca", member.name)),
            "--peer-client-cert-auth".to_owned(),
            "--peer-cert-allowed-cn=peer,m0,m1,m2".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        member.start(&flags);
    }

    fn trust(&self, members: &[Member], bundle: &str) {
        for member in members {
            self.files.write(&format!("{}.ca", member.name), bundle);
        }
    }
}

async fn put(member: &Member, value: &str) {
    let mut client = member.client().await;
    eventually("a put is acknowledged", || {
        let mut client = client.clone();
        async move { client.put("key", value, None).await.ok() }
    })
    .await;
    let read = client.get("key", None).await.expect("read");
    assert_eq!(read.kvs()[0].value(), value.as_bytes());
}

/// What members log when they have seen a change, and the change.
type Step<'a> = (&'a str, &'a dyn Fn(&[Member]));

#[tokio::test]
async fn members_verify_each_other_while_their_authority_changes() {
    let (first, next) = (Authority::new("first"), Authority::new("next"));
    let mut members: Vec<_> = (0..3).map(|n| Member::new(format!("m{n}"))).collect();
    members.iter_mut().for_each(|member| member.schemes = ("http", "https"));
    let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
    let peers = Peers { files: Files::new(), list: list.join(",") };
    peers.trust(&members, &first.pem());
    for member in &mut members {
        peers.issue(member, &first, "peer");
        peers.start(member);
    }
    put(&members[0], "first").await;

    // Each member must have seen a step before the next one; it looks when a connection is made, so one is.
    let mut seen = 0;
    let steps: [Step<'_>; 3] = [
        ("trusted certificates reloaded", &|members| peers.trust(members, &(first.pem() + &next.pem()))),
        ("certificate and key reloaded", &|members| members.iter().for_each(|m| peers.issue(m, &next, "peer"))),
        ("trusted certificates reloaded", &|members| peers.trust(members, &next.pem())),
    ];
    for (told, step) in steps {
        let before: Vec<_> = members.iter().map(|member| lines(member, &[told])).collect();
        step(&members);
        for (member, before) in members.iter().zip(before) {
            eventually("a member sees the change", || async {
                // The listener looks whenever somebody connects.
                let _ = curl(&["--insecure".to_owned()], &member.peer_url());
                (lines(member, &[told]) > before).then_some(())
            })
            .await;
        }
        seen += 1;
        // New connections in both directions.
        members[seen % 3].kill();
        peers.start(&mut members[seen % 3]);
        put(&members[seen % 3], told).await;
    }

    // One that still has the old authority stays out, and both sides say why.
    members[2].kill();
    peers.issue(&members[2], &first, "peer");
    peers.files.write("m2.ca", first.pem());
    peers.start(&mut members[2]);
    put(&members[0], "without m2").await;
    let unknown = "certificate signed by unknown authority";
    logs(&members[2], &["\"level\":\"warn\"", "TLS with a peer failed", "https://127.", unknown]).await;
    // Only the leader has a reason to connect to it.
    let (warning, url) = ("\"level\":\"warn\"", members[2].peer_url());
    eventually("the leader says why", || async {
        let tells = |member| lines(member, &[warning, "TLS with a peer failed", &url, unknown]) > 0;
        members[..2].iter().any(tells).then_some(())
    })
    .await;
    logs(&members[0], &["rejected connection on peer endpoint", "remote error: tls: unknown certificate authority"])
        .await;
    assert!(members[2].get("/readyz").await.is_none_or(|(code, _)| code != 200));

    // So does one with a name that is not allowed, or with another's address.
    peers.files.write("m2.ca", next.pem());
    for (common_name, names, reason) in [
        ("stranger", &["127.0.0.1"][..], "tls: client certificate authentication failed"),
        ("peer", &["10.9.9.9"], "x509: certificate is valid for 10.9.9.9, not 127.0.0.1"),
    ] {
        peers.files.pair("probe", &next.issue(&Leaf::new(common_name, names)));
        let arguments = [peers.files.curl("m0.ca", "probe"), vec!["--http2-prior-knowledge".to_owned()]].concat();
        assert!(curl(&arguments, &members[0].peer_url()).is_err());
        logs(&members[0], &["rejected connection on peer endpoint", reason]).await;
    }
    members[2].kill();
    peers.issue(&members[2], &next, "m2");
    peers.start(&mut members[2]);
    put(&members[2], "back").await;
}

#[tokio::test]
async fn members_make_certificates_for_themselves() {
    for peers in ["https", "unixs"] {
        make_certificates(peers).await;
    }
}

async fn make_certificates(peers: &'static str) {
    let mut members: Vec<_> = (0..3).map(|n| Member::new(format!("m{n}"))).collect();
    members.iter_mut().for_each(|member| member.schemes = ("https", peers));
    let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
    let list = format!("--initial-cluster={}", list.join(","));
    let start = |member: &mut Member| member.start(&[&list, "--auto-tls", "--peer-auto-tls"]);
    members.iter_mut().for_each(start);
    let health = |member: &Member| {
        let cert = member.data_dir().join("fixtures/client/cert.pem").display().to_string();
        curl(&["--cacert".to_owned(), cert], &format!("{}/health", member.client_url()))
    };
    for member in &members {
        ready(member).await;
        // A linearizable read: the members talk to each other.
        assert!(health(member).expect("served").contains("\"health\":\"true\""));
    }
    let cert = members[0].data_dir().join("fixtures/peer/cert.pem");
    let made = std::fs::read(&cert).expect("made");
    members[0].kill();
    start(&mut members[0]);
    ready(&members[0]).await;
    assert_eq!(std::fs::read(&cert).expect("kept"), made);
    assert!(health(&members[0]).is_ok());
}

#[tokio::test]
async fn metrics_under_tls_and_http_on_a_port_of_its_own() {
    let (ca, files) = (Authority::new("ca"), Files::new());
    files.write("ca", ca.pem());
    let at_home = ca.issue(&Leaf::new("at home", &["127.0.0.1"]));
    files.pair("home", &at_home);
    files.pair("away", &ca.issue(&Leaf::new("away", &["10.9.9.9"])));
    let member = secure(|member| {
        let address = member.address();
        files.pair("server", &ca.issue(&Leaf::new("server", &[&address.to_string()])));
        vec![
            files.flag("cert-file", "server.crt"),
            files.flag("key-file", "server.key"),
            files.flag("trusted-ca-file", "ca"),
            format!("--listen-metrics-urls=http://{address}:2381,https://{address}:2382"),
            format!("--listen-client-http-urls=https://{address}:2383,http://{address}:2384"),
        ]
    })
    .await;
    let (home, away) = (files.curl("ca", "home"), files.curl("ca", "away"));
    let port = |scheme: &str, port: u16, path: &str| format!("{scheme}://{}:{port}{path}", member.address());
    // Metrics are given to those whose certificates are for where they are, as in etcd.
    assert!(curl(&home, &port("https", 2382, "/health")).is_ok());
    assert!(curl(&away, &port("https", 2382, "/health")).is_err());
    logs(&member, &["rejected connection on client endpoint", "certificate is valid for 10.9.9.9, not 127.0.0.1"])
        .await;
    assert!(curl(&[], &port("http", 2381, "/health")).is_ok());

    // HTTP is here and not there, gRPC the other way round.
    assert!(curl(&away, &port("https", 2383, "/version")).expect("served").contains("3.7.1"));
    assert!(curl(&[], &port("http", 2384, "/version")).expect("served").contains("3.7.1"));
    let arguments = [&away[..], &["--include".to_owned()]].concat();
    let refused = curl(&arguments, &port("https", 2379, "/version")).expect("answered");
    assert!(refused.starts_with("HTTP/2 415"), "{refused}");
    assert!(refused.contains("grpc-message: invalid gRPC request content-type \"\""), "{refused}");
    let put = PutRequest { key: "a".into(), value: "1".into(), ..PutRequest::default() };
    for (port_number, works) in [(2379, true), (2383, false)] {
        let mut kv = KvClient::new(grpc(&port("https", port_number, ""), &ca.pem(), &at_home).await);
        assert_eq!(kv.put(put.clone()).await.is_ok(), works, "{port_number}");
    }
}

#[tokio::test]
async fn a_common_name_is_a_user() {
    let (ca, files) = (Authority::new("ca"), Files::new());
    files.write("ca", ca.pem());
    for name in ["root", "nobody"] {
        files.pair(name, &ca.issue(&Leaf::new(name, &[])));
    }
    let member = secure(|member| {
        files.pair("server", &ca.issue(&Leaf::new("server", &[&member.address().to_string()])));
        vec![
            files.flag("cert-file", "server.crt"),
            files.flag("key-file", "server.key"),
            files.flag("trusted-ca-file", "ca"),
            "--client-cert-auth".to_owned(),
        ]
    })
    .await;
    let as_user = |name: &str, words: &[&str]| {
        let mut arguments = vec![format!("--endpoints={}", member.client_url()), files.flag("cacert", "ca")];
        arguments.push(files.flag("cert", &format!("{name}.crt")));
        arguments.push(files.flag("key", &format!("{name}.key")));
        arguments.extend(words.iter().map(|word| word.to_string()));
        run("etcdctl", &arguments)
    };
    for words in [&["user", "add", "root:pw"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        assert!(as_user("nobody", words).is_ok(), "{words:?}");
    }
    assert_eq!(as_user("root", &["put", "a", "1"]), Ok("OK\n".to_owned()));
    let refused = as_user("nobody", &["put", "a", "2"]).expect_err("no such user");
    assert!(refused.contains("permission denied"), "{refused}");
    // The JSON gateway has no users by certificate, and says so instead of letting them think so.
    let arguments = [&files.curl("ca", "root")[..], &["--data".to_owned(), "{\"key\":\"YQ==\"}".to_owned()]].concat();
    let answer = curl(&arguments, &format!("{}/v3/kv/range", member.client_url())).expect("answered");
    assert_eq!(
        answer,
        "CommonName of client sending a request against gateway will be ignored and not used as expected\n"
    );
}
