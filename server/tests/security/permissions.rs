//! Every RPC by callers who may not have it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::lease_client::LeaseClient;
use keelson_server::proto::etcdserverpb::{LeaseGrantRequest, PutRequest};
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use super::common::{Member, eventually};
use super::rpcs::{self, For, LEASE, RPCS};
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

/// A member with authentication, and the key `b` on a lease.
async fn prepared(program: &OsString, flags: &[&str]) -> (Member, Channel) {
    let mut one = Member::new("one");
    one.program = vec![program.clone()];
    let member = member(one, flags).await;
    let channel = channel(&member).await;
    let lease = LeaseGrantRequest { ttl: 3600, id: LEASE };
    LeaseClient::new(channel.clone()).lease_grant(lease).await.expect("granted");
    let put = PutRequest { key: "b".into(), lease: LEASE, ..PutRequest::default() };
    KvClient::new(channel.clone()).put(put).await.expect("put");
    enable(&channel).await;
    (member, channel)
}

/// Every RPC is refused to such a caller, or served.
async fn check(channel: &Channel, who: &str, wrong: Wrong, token: Option<String>) {
    let credentials = token.map(|token| ("token", token));
    for (name, request, open_to) in RPCS {
        let answered = rpcs::ask(channel, name, request, &credentials).await.map(|_| ());
        let expected = expected(*open_to, wrong).map(|(code, message)| (code, message.to_owned()));
        println!(
            "{who}: {name} {request}: {answered:?} {expected:?} {}",
            if answered.clone().err() == expected { "" } else { "DIFF" }
        );
    }
}

fn ours() -> OsString {
    super::common::PROGRAM.into()
}

#[tokio::test]
async fn remembered_tokens() {
    for program in [Some(ours()), std::env::var_os("KEELSON_REFERENCE_ETCD").filter(|p| PathBuf::from(p).exists())]
        .into_iter()
        .flatten()
    {
        println!("{program:?}");
        let (_member, channel) = prepared(&program, &["--auth-token-ttl=1"]).await;
        check(&channel, "nobody", Wrong::Nobody, None).await;
        for nonsense in ["", "nonsense", "abcdefghijklmnop.1"] {
            check(&channel, &format!("{nonsense:?}"), Wrong::Token, Some(nonsense.to_owned())).await;
        }
        check(&channel, "u", Wrong::Permission, Some(login(&channel, "u", PASSWORD).await)).await;
        // Each token lives longer by being used: the first is over when one that was made later is.
        let expired = login(&channel, "root", ROOT_PASSWORD).await;
        eventually("a token ends", || async {
            let token = login(&channel, "root", ROOT_PASSWORD).await;
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let answered = rpcs::ask(&channel, "etcdserverpb.Cluster/MemberList", "{}", &Some(("token", token))).await;
            answered.is_err().then_some(())
        })
        .await;
        check(&channel, "expired", Wrong::Token, Some(expired)).await;
    }
}

/// A token as the member signs them, but for what is changed.
fn signed(key: &EncodingKey, algorithm: Algorithm, username: &str, revision: u64, expires: Duration) -> String {
    let expires =
        (SystemTime::now() - Duration::from_secs(3600)).duration_since(UNIX_EPOCH).expect("after 1970") + expires;
    let claims = json!({ "username": username, "revision": revision, "exp": expires.as_secs() });
    jsonwebtoken::encode(&Header::new(algorithm), &claims, key).expect("signed")
}

#[tokio::test]
async fn signed_tokens() {
    for program in [Some(ours()), std::env::var_os("KEELSON_REFERENCE_ETCD").filter(|p| PathBuf::from(p).exists())]
        .into_iter()
        .flatten()
    {
        println!("{program:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("private"), pair.serialize_pem()).expect("written");
        std::fs::write(path("public"), pair.public_key_pem()).expect("written");
        let flag = format!(
            "--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl=1h",
            path("public"),
            path("private")
        );
        let (_member, channel) = prepared(&program, &[&flag]).await;
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let ours = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let other = EncodingKey::from_ec_pem(other.serialize_pem().as_bytes()).expect("a key");
        let public = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        let good = login(&channel, "root", ROOT_PASSWORD).await;
        let claims = good.split('.').nth(1).expect("claims");
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        let cut = good.rsplit_once('.').expect("a signature").0.to_owned() + ".";
        for (who, wrong, token) in [
            ("expired", Wrong::Token, signed(&ours, Algorithm::ES256, "root", 9, hour - Duration::from_secs(60))),
            ("another key", Wrong::Token, signed(&other, Algorithm::ES256, "root", 9, day)),
            ("the public key as a secret", Wrong::Token, signed(&public, Algorithm::HS256, "root", 9, day)),
            ("algorithm none", Wrong::Token, none),
            ("no signature", Wrong::Token, cut),
            ("unknown", Wrong::User, signed(&ours, Algorithm::ES256, "nobody", 99, day)),
            ("older", Wrong::Revision, signed(&ours, Algorithm::ES256, "u", 1, day)),
            ("u", Wrong::Permission, login(&channel, "u", PASSWORD).await),
        ] {
            check(&channel, who, wrong, Some(token)).await;
        }
    }
}
