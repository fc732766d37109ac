//! Who is kept out, of what, in which words; and what secrets and floods of connections must not do.
//!
//! What one role may do and another not is in `auth.rs`, which client certificates are taken in `tls.rs`.

#[path = "../differential/caller.rs"]
#[allow(dead_code)]
mod caller;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../differential/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../differential/wire.rs"]
#[allow(dead_code)]
mod wire;

mod certificates;
mod connections;
mod peers;
mod permissions;
mod rpcs;
mod secrets;

use common::Member;
use common::eventually;
use keelson_server::proto::etcdserverpb::auth_client::AuthClient;
use keelson_server::proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
};
use tonic::transport::Channel;

/// A member alone that is ready, with passwords that take no time.
async fn member(mut member: Member, flags: &[&str]) -> Member {
    let cluster = format!("--initial-cluster={}={}", member.name, member.peer_url());
    member.start(&[&[cluster.as_str(), "--bcrypt-cost=4"], flags].concat());
    ready(&member).await;
    member
}

async fn ready(member: &Member) {
    let health = || async { member.get("/health").await.filter(|(code, _)| *code == 200) };
    eventually("the member is ready", health).await;
}

async fn channel(member: &Member) -> Channel {
    channel_to(member.client_url()).await
}

async fn channel_to(url: String) -> Channel {
    Channel::from_shared(url).expect("a URL").connect().await.expect("connected")
}

const ROOT_PASSWORD: &str = "the-password-of-root";
const PASSWORD: &str = "the-password-of-u";

/// Authentication with root and `u`, who has a role without permissions.
async fn enable(channel: &Channel) {
    let mut auth = AuthClient::new(channel.clone());
    for (name, password, role) in [("root", ROOT_PASSWORD, "root"), ("u", PASSWORD, "r")] {
        let (name, password, role) = (name.to_owned(), password.to_owned(), role.to_owned());
        let user = AuthUserAddRequest { name: name.clone(), password, ..Default::default() };
        auth.user_add(user).await.expect("added");
        auth.role_add(AuthRoleAddRequest { name: role.clone() }).await.expect("added");
        auth.user_grant_role(AuthUserGrantRoleRequest { user: name, role }).await.expect("granted");
    }
    auth.auth_enable(AuthEnableRequest {}).await.expect("enabled");
}

async fn login(channel: &Channel, name: &str, password: &str) -> String {
    let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    AuthClient::new(channel.clone()).authenticate(request).await.expect("logged in").into_inner().token
}
