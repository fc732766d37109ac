//! Users, roles, tokens: with etcd's client library and with Debian's etcdctl (3.4).

use std::process::Command;

use crate::common::{self, Cluster, Member, eventually, refusal, single};
use base64::Engine;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, LeaseTimeToLiveOptions, Permission,
    PermissionType, PutOptions, RoleRevokePermissionOptions, Txn, TxnOp, WatchOptions,
};

use keelson_server::proto::etcdserverpb::auth_client::AuthClient;
use keelson_server::proto::etcdserverpb::kv_client::KvClient;
use keelson_server::proto::etcdserverpb::{AuthUserChangePasswordRequest, AuthenticateRequest, PutRequest};

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const UNAUTHENTICATED: i32 = 16;

fn denied() -> (i32, String) {
    (PERMISSION_DENIED, "etcdserver: permission denied".to_owned())
}

fn nobody() -> (i32, String) {
    (INVALID_ARGUMENT, "etcdserver: user name is empty".to_owned())
}

/// Flags with which passwords take no time.
const CHEAP: &str = "--bcrypt-cost=4";

async fn login(member: &Member, user: &str, password: &str) -> Client {
    let options = ConnectOptions::new().with_user(user, password);
    Client::connect([member.client_url()], Some(options)).await.expect("logged in")
}

/// Root with password `rootpw`, a user `u` with `upw` and the role `r`: reads `a/` to `a0`, writes `w` to `x`.
async fn enable(client: &mut Client) {
    client.user_add("root", "rootpw", None).await.expect("root added");
    client.user_grant_role("root", "root").await.expect("granted");
    client.role_add("r").await.expect("role added");
    for (kind, key, end) in [(PermissionType::Read, "a/", "a0"), (PermissionType::Readwrite, "w", "x")] {
        let permission = Permission::new(kind, key).with_range_end(end);
        client.role_grant_permission("r", permission).await.expect("granted");
    }
    client.user_add("u", "upw", None).await.expect("user added");
    client.user_grant_role("u", "r").await.expect("granted");
    client.auth_enable().await.expect("enabled");
}

async fn single_with(flags: &[&str]) -> (Member, Client) {
    let mut member = Member::new("single");
    let cluster = format!("--initial-cluster=single={}", member.peer_url());
    member.start(&[&[cluster.as_str(), CHEAP], flags].concat());
    let client = member.client().await;
    (member, client)
}

#[tokio::test]
async fn keys_are_for_those_who_were_granted_them() {
    let (member, mut anyone) = single_with(&[]).await;
    anyone.put("a/1", "1", None).await.expect("put");
    enable(&mut anyone).await;
    assert_eq!(refusal(anyone.get("a/1", None).await), nobody());
    assert_eq!(refusal(anyone.put("w", "1", None).await), nobody());

    let mut u = login(&member, "u", "upw").await;
    let prefix = Some(GetOptions::new().with_prefix());
    assert_eq!(u.get("a/", prefix.clone()).await.expect("read").kvs().len(), 1);
    assert_eq!(refusal(u.get("a", prefix).await), denied());
    assert_eq!(refusal(u.get("b", None).await), denied());
    assert_eq!(refusal(u.get("b", Some(GetOptions::new().with_serializable())).await), denied());
    u.put("w1", "1", None).await.expect("put");
    assert_eq!(refusal(u.put("a/1", "1", None).await), denied());
    assert_eq!(refusal(u.delete("w", Some(DeleteOptions::new().with_from_key())).await), denied());
    let read_only = Txn::new().when([Compare::value("b", CompareOp::Equal, "x")]).or_else([TxnOp::get("w1", None)]);
    assert_eq!(refusal(u.txn(read_only).await), denied());
    let read_only = Txn::new().when([Compare::value("w1", CompareOp::Equal, "1")]).and_then([TxnOp::get("a/1", None)]);
    assert!(u.txn(read_only).await.expect("read").succeeded());
    let writes = Txn::new().and_then([TxnOp::put("w2", "2", None)]).or_else([TxnOp::put("b", "2", None)]);
    assert_eq!(refusal(u.txn(writes).await), denied());

    let mut root = login(&member, "root", "rootpw").await;
    root.put("b", "1", None).await.expect("root may put");
    root.auth_disable().await.expect("disabled");
    anyone.put("b", "2", None).await.expect("everybody may put");
}

#[tokio::test]
async fn leases_watches_and_what_only_root_may() {
    let (member, mut anyone) = single_with(&[]).await;
    enable(&mut anyone).await;
    let mut root = login(&member, "root", "rootpw").await;
    let mut u = login(&member, "u", "upw").await;

    assert_eq!(refusal(anyone.lease_grant(60, None).await), nobody());
    let lease = root.lease_grant(60, None).await.expect("granted").id();
    let on_lease = |lease| Some(PutOptions::new().with_lease(lease));
    root.put("hidden", "1", on_lease(lease)).await.expect("put");
    assert_eq!(refusal(u.put("w1", "1", on_lease(lease)).await), denied());
    assert_eq!(refusal(u.lease_revoke(lease).await), denied());
    let keys = || Some(LeaseTimeToLiveOptions::new().with_keys());
    assert_eq!(refusal(u.lease_time_to_live(lease, keys()).await), denied());
    assert_eq!(u.lease_time_to_live(lease, None).await.expect("told").granted_ttl(), 60);
    assert_eq!(root.lease_time_to_live(lease, keys()).await.expect("told").keys().len(), 1);
    assert_eq!(refusal(u.leases().await), denied());
    assert_eq!(root.leases().await.expect("told").leases().len(), 1);
    assert_eq!(refusal(u.lease_keep_alive(lease).await.map(drop)), denied());
    root.lease_keep_alive(lease).await.expect("kept");
    // The timer revokes in nobody's name but root's.
    let short = root.lease_grant(2, None).await.expect("granted").id();
    root.put("short", "1", on_lease(short)).await.expect("put");
    eventually("the lease expires", || {
        let mut root = root.clone();
        async move { root.get("short", None).await.expect("read").kvs().is_empty().then_some(()) }
    })
    .await;

    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    for (key, end, reason) in [("a/", "a0", None), ("a/", "b", Some(reason)), ("b", "", Some(reason))] {
        let mut stream = u.watch(key, Some(WatchOptions::new().with_range(end))).await.expect("a stream");
        let created = stream.message().await.expect("an answer").expect("a response");
        assert!(created.created());
        assert_eq!(created.canceled(), reason.is_some(), "{key}");
        if let Some(reason) = reason {
            assert_eq!(created.watch_id(), -1);
            assert_eq!(created.cancel_reason(), reason);
        }
    }
    let mut stream = anyone.watch("a/", None).await.expect("a stream");
    let refused = stream.message().await.expect("an answer").expect("a response");
    assert_eq!(refused.cancel_reason(), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");

    assert_eq!(refusal(u.compact(1, None).await), denied());
    assert_eq!(refusal(u.defragment().await), denied());
    assert_eq!(refusal(u.hash_kv(0).await), denied());
    assert_eq!(refusal(u.move_leader(1).await), denied());
    assert_eq!(refusal(u.member_remove(1).await), denied());
    assert_eq!(refusal(u.user_list().await), denied());
    assert_eq!(refusal(u.role_get("root").await), denied());
    assert_eq!(refusal(anyone.status().await), nobody());
    assert_eq!(refusal(anyone.member_list().await), nobody());
    assert_eq!(refusal(anyone.user_list().await), nobody());
    u.status().await.expect("told");
    u.member_list().await.expect("told");
    assert_eq!(u.user_get("u").await.expect("oneself").roles(), ["r"]);
    assert_eq!(u.role_get("r").await.expect("one's own").permissions().len(), 2);
    root.compact(1, None).await.expect("compacted");
    root.defragment().await.expect("done");
    let (_, metrics) = member.get("/metrics").await.expect("metrics");
    assert!(metrics.contains("\netcd_debugging_auth_revision 8\n"), "{metrics}");
    assert!(!member.log().contains("rootpw"), "passwords are not logged");
}

#[tokio::test]
async fn users_who_change_log_in_again() {
    let (member, mut anyone) = single_with(&[]).await;
    let not_enabled = (FAILED_PRECONDITION, "etcdserver: authentication is not enabled".to_owned());
    assert_eq!(refusal(anyone.auth_client().authenticate("u".into(), "upw".into()).await), not_enabled);
    enable(&mut anyone).await;
    let failed = (INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password".to_owned());
    for (user, password) in [("u", "wrong"), ("nobody", "upw"), ("u", "")] {
        assert_eq!(refusal(anyone.auth_client().authenticate(user.into(), password.into()).await), failed);
    }
    let mut root = login(&member, "root", "rootpw").await;
    let mut u = login(&member, "u", "upw").await;
    u.get("a/1", None).await.expect("read");
    let revoke = Some(RoleRevokePermissionOptions::new().with_range_end("a0"));
    root.role_revoke_permission("r", "a/", revoke).await.expect("revoked");
    assert_eq!(refusal(u.get("a/1", None).await), denied());
    let invalid = (UNAUTHENTICATED, "etcdserver: invalid auth token".to_owned());
    root.user_change_password("u", "other").await.expect("changed");
    assert_eq!(refusal(u.get("w", None).await), invalid);
    let mut u = login(&member, "u", "other").await;
    root.user_delete("u").await.expect("deleted");
    assert_eq!(refusal(u.get("w", None).await), invalid);
}

#[tokio::test]
async fn a_token_that_nobody_uses_ends() {
    let (member, mut anyone) = single_with(&["--auth-token-ttl=1"]).await;
    enable(&mut anyone).await;
    // Using a token makes it live on, so each is tried once.
    let mut tokens = Vec::new();
    for _ in 0..100 {
        let token = anyone.auth_client().authenticate("u".into(), "upw".into()).await.expect("logged in");
        tokens.push(token.token().to_owned());
    }
    let kv = KvClient::connect(member.client_url()).await.expect("connected");
    let refused = eventually("a token ends", || {
        let (mut kv, token) = (kv.clone(), tokens.pop().expect("a token that was not tried"));
        async move { kv.put(with_token("token", &token, "w")).await.err() }
    })
    .await;
    assert_eq!(refused.message(), "etcdserver: invalid auth token");
}

/// POST to the JSON gateway: status and body.
async fn post(member: &Member, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = member.client_url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connected");
    let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}{token}\r\n{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

#[tokio::test]
async fn the_gateway_and_locks_ask_who_is_calling() {
    let (member, mut anyone) = single_with(&[]).await;
    enable(&mut anyone).await;
    let (status, body) = post(&member, "/v3/kv/put", None, r#"{"key":"dw=="}"#).await;
    assert!(status == 400 && body.contains("etcdserver: user name is empty"), "{status} {body}");
    let (status, body) = post(&member, "/v3/auth/authenticate", None, r#"{"name":"u","password":"upw"}"#).await;
    assert_eq!(status, 200, "{body}");
    let token = body.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    for token in [token.to_owned(), format!("Bearer {token}")] {
        assert_eq!(post(&member, "/v3/kv/put", Some(&token), r#"{"key":"dw=="}"#).await.0, 200);
        let (status, body) = post(&member, "/v3/kv/put", Some(&token), r#"{"key":"Yg=="}"#).await;
        assert!(status == 403 && body.contains("etcdserver: permission denied"), "{status} {body}");
    }
    assert_eq!(post(&member, "/v3/kv/put", Some("wrong"), r#"{"key":"dw=="}"#).await.0, 401);

    let mut u = login(&member, "u", "upw").await;
    u.lock("w", None).await.expect("locked");
    let (_, text) = refusal(u.lock("b", None).await);
    assert_eq!(text, "etcdserver: permission denied");
    let (_, text) = refusal(anyone.lock("w", None).await);
    assert_eq!(text, "etcdserver: user name is empty");
}

/// A login whose password is being compared when it changes: the comparison does not count any more.
#[tokio::test]
async fn a_password_that_changes_under_a_login_gives_no_token() {
    let (member, mut anyone) = single_with(&[]).await;
    enable(&mut anyone).await;
    let root = anyone.auth_client().authenticate("root".into(), "rootpw".into()).await.expect("logged in");
    let kv = KvClient::connect(member.client_url()).await.expect("connected");
    let auth = AuthClient::connect(member.client_url()).await.expect("connected");
    let change = |hash: String| {
        let (mut auth, name) = (auth.clone(), "u".to_owned());
        let hashed_password = base64::engine::general_purpose::STANDARD.encode(hash);
        let request = AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() };
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("token", root.token().parse().expect("text"));
        async move { auth.user_change_password(request).await.expect("changed") }
    };
    // Comparing takes much longer than changing.
    let [old, new] = ["old", "new"].map(|password| bcrypt::hash(password, 9).expect("a hash"));
    let mut refused = 0;
    for _ in 0..5 {
        change(old.clone()).await;
        let logins = (0..4).map(|_| {
            let (mut auth, name, password) = (auth.clone(), "u".to_owned(), "old".to_owned());
            async move { auth.authenticate(AuthenticateRequest { name, password }).await }
        });
        let (logins, _) = tokio::join!(futures::future::join_all(logins), change(new.clone()));
        for login in logins {
            match login {
                Ok(token) => {
                    let put = kv.clone().put(with_token("token", &token.into_inner().token, "w")).await;
                    assert_eq!(
                        put.expect_err("a token of the old password").message(),
                        "etcdserver: invalid auth token"
                    );
                }
                Err(status) => {
                    refused += 1;
                    let message = "etcdserver: authentication failed, invalid user ID or password";
                    assert_eq!(status.message(), message);
                }
            }
        }
    }
    assert!(refused > 0, "no password changed under a login");
}

/// A put as a client with that token sends it.
fn with_token(metadata: &'static str, token: &str, key: &'static str) -> tonic::Request<PutRequest> {
    let mut request = tonic::Request::new(PutRequest { key: key.into(), ..PutRequest::default() });
    request.metadata_mut().insert(metadata, token.parse().expect("text"));
    request
}

#[tokio::test]
async fn what_is_enabled_outlives_a_restart() {
    let mut member = Member::new("single");
    let flags = [format!("--initial-cluster=single={}", member.peer_url()), CHEAP.to_owned()];
    let flags = [flags[0].as_str(), flags[1].as_str()];
    member.start(&flags);
    let mut client = member.client().await;
    enable(&mut client).await;
    for how in ["killed", "stopped"] {
        match how {
            "killed" => member.kill(),
            _ => drop(member.terminate().await),
        }
        member.start(&flags);
        let mut client = member.client().await;
        assert_eq!(refusal(client.get("w", None).await), nobody(), "{how}");
        let mut u = login(&member, "u", "upw").await;
        u.put("w", "1", None).await.expect("put");
    }
}

#[tokio::test]
async fn a_token_is_valid_on_every_member() {
    let mut cluster = Cluster::start(3);
    let mut clients = cluster.clients().await;
    let lagging = (cluster.leader().await + 1) % 3;
    enable(&mut clients[0]).await;
    let token = clients[0].auth_client().authenticate("u".into(), "upw".into()).await.expect("logged in");
    // A client of the library logs in by itself; here the one token is used everywhere.
    for (member, metadata) in cluster.members.iter().zip(["token", "authorization", "authorization"]) {
        let mut kv = KvClient::connect(member.client_url()).await.expect("connected");
        let put = |key| with_token(metadata, token.token(), key);
        kv.put(put("w")).await.expect("put");
        assert_eq!(kv.put(put("b")).await.expect_err("refused").message(), denied().1);
    }
    // A member that has not applied the login yet waits for it.
    let mut kv = KvClient::connect(cluster.members[lagging].client_url()).await.expect("connected");
    cluster.members[lagging].pause(true);
    let other = (lagging + 1) % 3;
    let token = clients[other].auth_client().authenticate("u".into(), "upw".into()).await.expect("logged in");
    let put = tokio::spawn(async move { kv.put(with_token("token", token.token(), "w")).await });
    tokio::task::yield_now().await;
    cluster.members[lagging].pause(false);
    put.await.expect("no panic").expect("put");

    cluster.members[lagging].kill();
    let mut root = login(&cluster.members[other], "root", "rootpw").await;
    root.role_delete("r").await.expect("deleted");
    cluster.restart(lagging);
    cluster.members[lagging].client().await;
    let mut late = login(&cluster.members[lagging], "u", "upw").await;
    assert_eq!(refusal(late.put("w", "1", None).await), denied());
}

/// Runs etcdctl against a member; its output, or what it says when it fails.
fn etcdctl(member: &Member, arguments: &[&str]) -> Result<String, String> {
    let url = member.client_url();
    let endpoint = url.strip_prefix("http://").expect("plaintext");
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint])
        .args(arguments)
        .output()
        .expect("etcdctl is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[tokio::test]
async fn etcdctl_manages_users_and_roles() {
    let (member, _client) = single_with(&[]).await;
    let run = |arguments: &[&str]| etcdctl(&member, arguments);
    let fails = |arguments: &[&str], hint: &str| {
        let said = run(arguments).expect_err("refused");
        assert!(said.contains(hint), "{arguments:?}: {said}");
    };
    assert_eq!(run(&["user", "add", "root:pw"]), Ok("User root created\n".into()));
    fails(&["user", "add", "root:pw"], "etcdserver: user name already exists");
    // This also creates and grants the role root.
    assert_eq!(run(&["auth", "enable"]), Ok("Authentication Enabled\n".into()));
    fails(&["put", "a", "1"], "etcdserver: user name is empty");
    fails(&["--user=root:wrong", "put", "a", "1"], "authentication failed, invalid user ID or password");
    let root = |arguments: &[&str]| run(&[&["--user=root:pw"], arguments].concat());
    assert_eq!(root(&["role", "add", "r"]), Ok("Role r created\n".into()));
    assert_eq!(root(&["role", "grant-permission", "r", "--prefix", "read", "k"]), Ok("Role r updated\n".into()));
    assert_eq!(root(&["role", "list"]), Ok("r\nroot\n".into()));
    assert_eq!(root(&["user", "add", "u:upw"]), Ok("User u created\n".into()));
    assert_eq!(root(&["user", "grant-role", "u", "r"]), Ok("Role r is granted to user u\n".into()));
    assert_eq!(root(&["user", "get", "u"]), Ok("User: u\nRoles: r\n".into()));
    assert_eq!(root(&["user", "list"]), Ok("root\nu\n".into()));
    let role = root(&["role", "get", "r"]).expect("told");
    assert!(role.contains("KV Read:\n\t[k, l) (prefix k)"), "{role}");
    assert_eq!(root(&["put", "k1", "1"]), Ok("OK\n".into()));
    assert_eq!(run(&["--user=u:upw", "get", "k1"]), Ok("k1\n1\n".into()));
    fails(&["--user=u:upw", "put", "k1", "2"], "etcdserver: permission denied");
    fails(&["--user=u:upw", "user", "list"], "etcdserver: permission denied");
    fails(&["--user=root:pw", "user", "delete", "root"], "etcdserver: invalid auth management");
    assert_eq!(root(&["user", "revoke-role", "u", "r"]), Ok("Role r is revoked from user u\n".into()));
    fails(&["--user=u:upw", "get", "k1"], "etcdserver: permission denied");
    assert_eq!(root(&["role", "delete", "r"]), Ok("Role r deleted\n".into()));
    assert_eq!(root(&["user", "delete", "u"]), Ok("User u deleted\n".into()));
    assert_eq!(root(&["auth", "disable"]), Ok("Authentication Disabled\n".into()));
    assert_eq!(run(&["get", "k1"]), Ok("k1\n1\n".into()));
}

#[tokio::test]
async fn signed_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("private"), key.serialize_pem()).expect("written");
    std::fs::write(path("public"), key.public_key_pem()).expect("written");
    let flag =
        format!("--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl=1m", path("public"), path("private"));
    let (member, mut anyone) = single_with(&[&flag]).await;
    enable(&mut anyone).await;
    let token = anyone.auth_client().authenticate("u".into(), "upw".into()).await.expect("logged in");
    assert_eq!(token.token().split('.').count(), 3);
    let mut u = login(&member, "u", "upw").await;
    u.put("w", "1", None).await.expect("put");
    assert_eq!(refusal(u.put("b", "1", None).await), denied());
    let mut root = login(&member, "root", "rootpw").await;
    root.user_add("v", "vpw", None).await.expect("added");
    let old = (INVALID_ARGUMENT, "etcdserver: revision of auth store is old".to_owned());
    assert_eq!(refusal(u.put("w", "1", None).await), old);
    assert_eq!(refusal(u.get("w", None).await), old);
    let mut u = login(&member, "u", "upw").await;
    u.put("w", "1", None).await.expect("put");
}

#[tokio::test]
async fn keys_that_do_not_fit_end_the_start() {
    let (first, _client) = single().await;
    let output = Command::new(common::PROGRAM)
        .env_clear()
        .args([
            "--auth-token=jwt,sign-method=RS256,priv-key=/does/not/exist".to_owned(),
            format!("--data-dir={}", first.folder.path().join("other").display()),
            "--listen-client-urls=http://127.0.0.1:0".to_owned(),
            "--advertise-client-urls=http://127.0.0.1:0".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
        ])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/does/not/exist"));
}
