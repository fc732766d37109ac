//! What is secret is in no log, at its loudest, and takes no less time to be found wrong.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_server::proto::authpb::UserAddOptions;
use keelson_server::proto::etcdserverpb::auth_client::AuthClient;
use keelson_server::proto::etcdserverpb::{AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest};
use tonic::transport::Channel;

use super::common::Member;
use super::common::authority::{Authority, Leaf};
use super::{PASSWORD, ROOT_PASSWORD, channel, enable, login, member, rpcs};

const JWT_SECRET: &str = "a-secret-that-signs-tokens";

/// Uses every RPC that has a secret, over gRPC and the gateway, rightly and wrongly; all that must stay unknown.
async fn use_secrets(member: &Member, channel: &Channel) -> Vec<String> {
    enable(channel).await;
    let root = login(channel, "root", ROOT_PASSWORD).await;
    let mut auth = AuthClient::new(channel.clone());
    let hash = bcrypt::hash("whatever", 4).expect("a hash");
    let as_root = |root: &str| Some(("token", root.to_owned()));
    let requests = [
        ("UserAdd", r#"{"name":"v","password":"password-of-v"}"#.to_owned()),
        ("UserAdd", format!(r#"{{"name":"w","hashedPassword":"{}"}}"#, STANDARD.encode(&hash))),
        ("UserAdd", r#"{"name":"v","password":"again-for-v"}"#.to_owned()),
        ("UserChangePassword", r#"{"name":"v","password":"changed-for-v"}"#.to_owned()),
        ("UserChangePassword", r#"{"name":"nobody","password":"changed-for-nobody"}"#.to_owned()),
        ("Authenticate", r#"{"name":"v","password":"wrong-for-v"}"#.to_owned()),
        ("Authenticate", r#"{"name":"nobody","password":"wrong-for-nobody"}"#.to_owned()),
    ];
    let mut secrets = vec![ROOT_PASSWORD.to_owned(), PASSWORD.to_owned(), hash.clone(), STANDARD.encode(hash)];
    for (method, request) in requests {
        let _ = rpcs::ask(channel, &format!("etcdserverpb.Auth/{method}"), &request, &as_root(&root)).await;
        secrets.extend(
            serde_json::from_str::<serde_json::Value>(&request).expect("JSON")["password"].as_str().map(str::to_owned),
        );
    }
    let options = Some(UserAddOptions { no_password: true });
    let dropped =
        AuthUserAddRequest { name: "x".to_owned(), password: "dropped".to_owned(), options, ..Default::default() };
    let _ = auth.user_add(dropped).await;
    let too_long = "p".repeat(80);
    let change =
        AuthUserChangePasswordRequest { name: "v".to_owned(), password: too_long.clone(), ..Default::default() };
    let _ = auth.user_change_password(change).await;
    let forged = format!("{root}x");
    let _ = rpcs::ask(channel, "etcdserverpb.KV/Range", r#"{"key":"Yg=="}"#, &as_root(&forged)).await;
    let url = format!("{}/v3/kv/range", member.client_url());
    for token in [&root, &forged] {
        let header = format!("Authorization: {token}");
        let curl =
            std::process::Command::new("curl").args(["-s", "-H", &header, "-d", r#"{"key":"Yg=="}"#, &url]).output();
        assert!(curl.expect("curl is installed").status.success());
    }
    let login = format!("{}/v3/auth/authenticate", member.client_url());
    let body = format!(r#"{{"name":"root","password":"{ROOT_PASSWORD}"}}"#);
    let curl =
        std::process::Command::new("curl").args(["-s", "-d", &body, &login]).output().expect("curl is installed");
    assert!(String::from_utf8_lossy(&curl.stdout).contains("token"));
    // A JWT tells whose it is; what proves it is its signature.
    let proof =
        |token: &str| token.rsplit_once('.').filter(|_| token.len() > 60).map_or(token, |(_, proof)| proof).to_owned();
    secrets.extend([too_long, "dropped".to_owned(), proof(&root), JWT_SECRET.to_owned(), STANDARD.encode(JWT_SECRET)]);
    secrets
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    for tokens in ["simple", "jwt"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (ca, mut one) = (Authority::new("ca"), Member::new("one"));
        one.schemes = ("http", "https");
        let pair = ca.issue(&Leaf::new("member", &[&one.address().to_string()]));
        for (name, content) in [("secret", JWT_SECRET), ("ca", &ca.pem()), ("cert", &pair.cert), ("key", &pair.key)] {
            std::fs::write(path(name), content).expect("written");
        }
        let tokens = match tokens {
            "jwt" => format!("jwt,sign-method=HS256,priv-key={}", path("secret")),
            other => other.to_owned(),
        };
        let flags = [
            format!("--auth-token={tokens}"),
            "--log-level=debug".to_owned(),
            format!("--cert-file={}", path("cert")),
            format!("--key-file={}", path("key")),
            format!("--peer-cert-file={}", path("cert")),
            format!("--peer-key-file={}", path("key")),
            format!("--peer-trusted-ca-file={}", path("ca")),
        ];
        let member = member(one, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let channel = channel(&member).await;
        let mut secrets = use_secrets(&member, &channel).await;
        secrets.extend(pair.key.lines().filter(|line| !line.starts_with("--")).map(str::to_owned));
        let log = member.log();
        assert!(log.contains("a wrong password was given"), "{log}");
        for secret in secrets {
            assert!(secret.len() > 5, "{secret}");
            let line = log.lines().find(|line| line.contains(&secret));
            assert_eq!(line, None, "{tokens}: {secret}");
        }
    }
}

/// Passwords and signatures are compared in constant time by the libraries, and tokens are found by a keyed hash. What is
/// left is whether there is such a user.
#[tokio::test]
async fn an_unknown_user_takes_the_time_of_a_wrong_password() {
    let member = member(Member::new("one"), &["--bcrypt-cost=8"]).await;
    let channel = channel(&member).await;
    enable(&channel).await;
    let mut auth = AuthClient::new(channel);
    let mut took = [Duration::ZERO; 2];
    for round in 0..20 {
        let name = ["u", "nobody"][round % 2];
        let request = AuthenticateRequest { name: name.to_owned(), password: "wrong".to_owned() };
        let begun = Instant::now();
        let refused = auth.authenticate(request).await.expect_err("refused");
        took[round % 2] += begun.elapsed();
        assert_eq!(refused.message(), "etcdserver: authentication failed, invalid user ID or password");
    }
    let [wrong, unknown] = took;
    assert!(unknown * 2 > wrong && wrong * 2 > unknown, "wrong password {wrong:?}, unknown user {unknown:?}");
}

/// What hashing costs is for those alone who may have it.
#[tokio::test]
async fn who_is_refused_has_no_password_hashed() {
    let member = member(Member::new("one"), &["--bcrypt-cost=11"]).await;
    let channel = channel(&member).await;
    enable(&channel).await;
    let begun = Instant::now();
    let token = login(&channel, "u", PASSWORD).await;
    let hashing = begun.elapsed();
    for method in ["UserAdd", "UserChangePassword"] {
        for token in [None, Some("nonsense"), Some(&*token)] {
            let (method, credentials) =
                (format!("etcdserverpb.Auth/{method}"), token.map(|token| ("token", token.to_owned())));
            let begun = Instant::now();
            let refused = rpcs::ask(&channel, &method, r#"{"name":"u","password":"new"}"#, &credentials).await;
            assert!(refused.is_err(), "{method} {token:?}");
            assert!(begun.elapsed() < hashing / 2, "{method} {token:?}: {:?} of {hashing:?}", begun.elapsed());
        }
    }
}
