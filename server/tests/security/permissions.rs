//! Every RPC by callers who may not have it, on ours and on a real etcd: the table of refusals is etcd's.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::lease_client::LeaseClient;
use keelson_server::proto::etcdserverpb::{LeaseGrantRequest, PutRequest};
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use super::common::authority::{Authority, Leaf};
use super::common::secure::grpc;
use super::common::{DEADLINE, Member, PROGRAM};
use super::rpcs::{self, For, LEASE, RPCS, Refusal};
use super::server::{reference, version};
use super::{PASSWORD, ROOT_PASSWORD, channel, enable, login, member};

/// Who calls, by what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// They do not say who they are.
    Nobody,
    /// Their token is none, or not any more.
    Token,
    /// A user without permission.
    Permission,
    /// Their token is good, and its user is gone.
    User,
    /// Their token is of an older auth revision.
    Revision,
}

/// How such a caller is refused, if they are.
fn expected(open_to: For, wrong: Wrong) -> Option<(Code, &'static str)> {
    let nobody = (Code::InvalidArgument, "etcdserver: user name is empty");
    let invalid = (Code::Unauthenticated, "etcdserver: invalid auth token");
    let denied = (Code::PermissionDenied, "etcdserver: permission denied");
    let unknown = (Code::FailedPrecondition, "etcdserver: user name not found");
    let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
    match (open_to, wrong) {
        (For::PermittedWithin, _) => expected(For::Permitted, wrong).map(|(_, message)| (Code::Unknown, message)),
        (For::PermittedSilently, _) => Some((Code::Ok, "the stream has ended")),
        (For::Everybody, _) | (For::Truthful, Wrong::Nobody) => None,
        (_, Wrong::Token) => Some(invalid),
        (For::Truthful, _) => None,
        (_, Wrong::Nobody) => Some(nobody),
        (For::Users, _) => None,
        (For::Permitted, Wrong::Revision) => Some(old),
        (For::Root, Wrong::User) => Some(unknown),
        _ => Some(denied),
    }
}

/// A program that refuses callers.
struct Program {
    path: OsString,
    /// Of an etcd; none is ours.
    etcd: Option<(u32, u32)>,
}

/// Ours, and the etcd to compare with where there is one.
fn programs() -> Vec<Program> {
    let etcd = |path: &Path| Program { path: path.into(), etcd: Some(version(path)) };
    let ours = Program { path: PROGRAM.into(), etcd: None };
    [ours].into_iter().chain(reference().as_deref().map(etcd)).collect()
}

impl Program {
    /// A member with authentication, and the key `b` on a lease; the channel has no credentials of its own.
    async fn start(&self, flags: &[&str]) -> (Member, Channel) {
        let mut one = Member::new("one");
        one.program = vec![self.path.clone()];
        let member = member(one, flags).await;
        let channel = channel(&member).await;
        prepare(&channel).await;
        (member, channel)
    }

    /// Where an RPC is not refused to such a caller, or not served, as it should be.
    async fn check(&self, channel: &Channel, who: &str, wrong: Wrong, token: Option<String>) -> Vec<String> {
        let credentials = token.map(|token| ("token", token));
        let mut wrongly = Vec::new();
        for (name, request, open_to) in RPCS {
            if self.etcd.is_some_and(|version| is_too_old(version, name)) {
                continue;
            }
            let refused = rpcs::ask(channel, name, request, &credentials).await.err().map(in_outer_words);
            let expected = expected(*open_to, wrong).map(|(code, message)| (code, message.to_owned()));
            if refused != expected {
                let program = self.path.display();
                wrongly.push(format!("{program} to {who}: {name} {request}: {refused:?}, not {expected:?}"));
            }
        }
        wrongly
    }
}

/// What this etcd does not have yet, or lets only root do. Some versions before 3.7, among them 3.5.30, are so with Status.
fn is_too_old(version: (u32, u32), name: &str) -> bool {
    let new = ["etcdserverpb.KV/RangeStream", "etcdserverpb.Auth/AuthStatus", "etcdserverpb.Maintenance/Status"];
    version < (3, 7) && new.contains(&name)
}

/// Before 3.6, etcd tells some refusals in the words of its inner parts.
fn in_outer_words((code, message): Refusal) -> Refusal {
    for (inner, code, outer) in [
        ("auth: invalid auth token", Code::Unauthenticated, "etcdserver: invalid auth token"),
        ("auth: user name is empty", Code::InvalidArgument, "etcdserver: user name is empty"),
        ("auth: user not found", Code::FailedPrecondition, "etcdserver: user name not found"),
        ("auth: permission denied", Code::PermissionDenied, "etcdserver: permission denied"),
    ] {
        if message == inner {
            return (code, outer.to_owned());
        }
    }
    (code, message)
}

async fn prepare(channel: &Channel) {
    let lease = LeaseGrantRequest { ttl: 3600, id: LEASE };
    LeaseClient::new(channel.clone()).lease_grant(lease).await.expect("granted");
    let put = PutRequest { key: "b".into(), lease: LEASE, ..PutRequest::default() };
    KvClient::new(channel.clone()).put(put).await.expect("put");
    enable(channel).await;
}

/// A token that is over. Using one makes it live on, so each is looked at first after half of the time since the first one.
async fn expired(channel: &Channel) -> String {
    let (begun, mut tokens) = (Instant::now(), Vec::new());
    while begun.elapsed() < DEADLINE {
        tokens.push(login(channel, "root", ROOT_PASSWORD).await);
        let token = tokens[tokens.len() / 2].clone();
        let credentials = Some(("token", token.clone()));
        if rpcs::ask(channel, "etcdserverpb.Cluster/MemberList", "{}", &credentials).await.is_err() {
            return token;
        }
    }
    panic!("no token has ended within {DEADLINE:?}")
}

#[tokio::test]
async fn remembered_tokens() {
    let mut wrongly = Vec::new();
    for program in programs() {
        let (_member, channel) = program.start(&["--auth-token-ttl=1"]).await;
        wrongly.extend(program.check(&channel, "nobody", Wrong::Nobody, None).await);
        for nonsense in ["", "nonsense", "abcdefghijklmnop.1"] {
            wrongly.extend(
                program.check(&channel, &format!("{nonsense:?}"), Wrong::Token, Some(nonsense.to_owned())).await,
            );
        }
        let token = login(&channel, "u", PASSWORD).await;
        wrongly.extend(program.check(&channel, "u", Wrong::Permission, Some(token)).await);
        wrongly.extend(program.check(&channel, "expired", Wrong::Token, Some(expired(&channel).await)).await);
    }
    assert!(wrongly.is_empty(), "{}", wrongly.join("\n"));
}

/// A token as the member signs them, but for what is changed; it is over in so many seconds from now.
fn signed(key: &EncodingKey, algorithm: Algorithm, username: &str, revision: u64, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({ "username": username, "revision": revision, "exp": now.saturating_add_signed(seconds) });
    jsonwebtoken::encode(&Header::new(algorithm), &claims, key).expect("signed")
}

#[tokio::test]
async fn signed_tokens() {
    const HOUR: i64 = 3600;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = |pair: &rcgen::KeyPair| EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
    let [pair, other] = [(), ()].map(|()| rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key"));
    std::fs::write(path("private"), pair.serialize_pem()).expect("written");
    std::fs::write(path("public"), pair.public_key_pem()).expect("written");
    let keys = format!("pub-key={},priv-key={}", path("public"), path("private"));
    let public_as_secret = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
    let mut wrongly = Vec::new();
    for program in programs() {
        let (_member, channel) = program.start(&[&format!("--auth-token=jwt,{keys},sign-method=ES256,ttl=1h")]).await;
        let good = login(&channel, "root", ROOT_PASSWORD).await;
        let claims = good.split('.').nth(1).expect("claims");
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        let cut = good.rsplit_once('.').expect("a signature").0.to_owned() + ".";
        for (who, wrong, token) in [
            ("expired", Wrong::Token, signed(&key(&pair), Algorithm::ES256, "root", 9, -60)),
            ("another key", Wrong::Token, signed(&key(&other), Algorithm::ES256, "root", 9, HOUR)),
            ("the public key as a secret", Wrong::Token, signed(&public_as_secret, Algorithm::HS256, "root", 9, HOUR)),
            ("algorithm none", Wrong::Token, unsigned),
            ("no signature", Wrong::Token, cut),
            ("unknown", Wrong::User, signed(&key(&pair), Algorithm::ES256, "nobody", 99, HOUR)),
            ("older", Wrong::Revision, signed(&key(&pair), Algorithm::ES256, "u", 1, HOUR)),
            ("u", Wrong::Permission, login(&channel, "u", PASSWORD).await),
        ] {
            wrongly.extend(program.check(&channel, who, wrong, Some(token)).await);
        }
    }
    assert!(wrongly.is_empty(), "{}", wrongly.join("\n"));
}

/// Which certificates are taken at all is tested in `tls.rs`; this is about the names in those that are.
#[tokio::test]
async fn names_in_certificates() {
    let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut wrongly = Vec::new();
    for program in programs() {
        let mut one = Member::new("one");
        one.program = vec![program.path.clone()];
        one.schemes = ("https", "http");
        let pair = ca.issue(&Leaf::new("server", &[&one.address().to_string()]));
        for (name, content) in [("ca", &ca.pem()), ("cert", &pair.cert), ("key", &pair.key)] {
            std::fs::write(path(name), content).expect("written");
        }
        let files = [("cert-file", "cert"), ("key-file", "key"), ("trusted-ca-file", "ca")];
        let files = files.map(|(flag, name)| format!("--{flag}={}", path(name)));
        let flags = files.iter().map(String::as_str).chain(["--client-cert-auth"]).collect::<Vec<_>>();
        let member = member(one, &flags).await;
        let url = member.client_url();
        let named = async |name| grpc(&url, &ca.pem(), &ca.issue(&Leaf::new(name, &[]))).await;
        prepare(&named("root").await).await;
        wrongly.extend(program.check(&named("nobody").await, "the name of nobody", Wrong::User, None).await);
        wrongly.extend(program.check(&named("u").await, "the name of u", Wrong::Permission, None).await);
        // Whoever shows a token is who it says, or nobody.
        wrongly.extend(
            program.check(&named("root").await, "a name and no token", Wrong::Token, Some("nonsense".to_owned())).await,
        );
    }
    assert!(wrongly.is_empty(), "{}", wrongly.join("\n"));
}
