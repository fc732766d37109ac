//! Every RPC, whom it is for, and a request that only that is wrong with.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::caller::Credentials;
use crate::common::DEADLINE;
use crate::wire::{self, Stream};

/// Whom an RPC is for, while authentication is enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Everybody, whatever they say of themselves.
    Everybody,
    /// Everybody who tells the truth.
    Truthful,
    /// Users.
    Users,
    /// Users who may read or write its keys.
    Permitted,
    /// The same, asked by a client within the server: the code of a refusal is lost on the way.
    PermittedWithin,
    /// The same, and the refusal is lost, too: the stream just ends.
    PermittedSilently,
    /// Users with the role root.
    Root,
}

/// The lease that the requests name; the key `b` hangs on it.
pub const LEASE: i64 = 77;

/// The RPCs, what is sent, and whom they are for.
pub const RPCS: &[(&str, &str, For)] = &[
    ("etcdserverpb.KV/Range", r#"{"key":"Yg=="}"#, For::Permitted),
    ("etcdserverpb.KV/Range", r#"{"key":"Yg==","serializable":true}"#, For::Permitted),
    ("etcdserverpb.KV/RangeStream", r#"{"key":"Yg=="}"#, For::Permitted),
    ("etcdserverpb.KV/Put", r#"{"key":"Yg=="}"#, For::Permitted),
    ("etcdserverpb.KV/DeleteRange", r#"{"key":"Yg=="}"#, For::Permitted),
    ("etcdserverpb.KV/Txn", r#"{"failure":[{"requestPut":{"key":"Yg=="}}]}"#, For::Permitted),
    ("etcdserverpb.KV/Txn", r#"{"success":[{"requestRange":{"key":"Yg=="}}]}"#, For::Permitted),
    ("etcdserverpb.KV/Compact", r#"{"revision":"1"}"#, For::Root),
    ("etcdserverpb.Watch/Watch", r#"{"createRequest":{"key":"Yg=="}}"#, For::Permitted),
    ("etcdserverpb.Lease/LeaseGrant", r#"{"TTL":"60"}"#, For::Users),
    ("etcdserverpb.Lease/LeaseRevoke", r#"{"ID":"77"}"#, For::Permitted),
    ("etcdserverpb.Lease/LeaseKeepAlive", r#"{"ID":"77"}"#, For::Permitted),
    ("etcdserverpb.Lease/LeaseTimeToLive", r#"{"ID":"77"}"#, For::Users),
    ("etcdserverpb.Lease/LeaseTimeToLive", r#"{"ID":"77","keys":true}"#, For::Permitted),
    ("etcdserverpb.Lease/LeaseLeases", "{}", For::Permitted),
    ("etcdserverpb.Cluster/MemberAdd", r#"{"peerURLs":["http://127.0.0.1:1"]}"#, For::Root),
    ("etcdserverpb.Cluster/MemberRemove", r#"{"ID":"1"}"#, For::Root),
    ("etcdserverpb.Cluster/MemberUpdate", r#"{"ID":"1","peerURLs":["http://127.0.0.1:1"]}"#, For::Root),
    ("etcdserverpb.Cluster/MemberList", "{}", For::Users),
    ("etcdserverpb.Cluster/MemberPromote", r#"{"ID":"1"}"#, For::Root),
    ("etcdserverpb.Maintenance/Alarm", "{}", For::Users),
    ("etcdserverpb.Maintenance/Alarm", r#"{"action":"DEACTIVATE","alarm":"NOSPACE"}"#, For::Root),
    ("etcdserverpb.Maintenance/Status", "{}", For::Users),
    ("etcdserverpb.Maintenance/Defragment", "{}", For::Root),
    ("etcdserverpb.Maintenance/Hash", "{}", For::Root),
    ("etcdserverpb.Maintenance/HashKV", "{}", For::Root),
    ("etcdserverpb.Maintenance/Snapshot", "{}", For::Root),
    ("etcdserverpb.Maintenance/MoveLeader", r#"{"targetID":"1"}"#, For::Root),
    ("etcdserverpb.Maintenance/Downgrade", r#"{"action":"CANCEL"}"#, For::Root),
    ("etcdserverpb.Auth/AuthEnable", "{}", For::Root),
    ("etcdserverpb.Auth/AuthDisable", "{}", For::Root),
    ("etcdserverpb.Auth/AuthStatus", "{}", For::Truthful),
    ("etcdserverpb.Auth/Authenticate", r#"{"name":"u","password":"the-password-of-u"}"#, For::Everybody),
    ("etcdserverpb.Auth/UserAdd", r#"{"name":"v","password":"x"}"#, For::Root),
    ("etcdserverpb.Auth/UserGet", r#"{"name":"root"}"#, For::Root),
    ("etcdserverpb.Auth/UserList", "{}", For::Root),
    ("etcdserverpb.Auth/UserDelete", r#"{"name":"u"}"#, For::Root),
    ("etcdserverpb.Auth/UserChangePassword", r#"{"name":"root","password":"x"}"#, For::Root),
    ("etcdserverpb.Auth/UserGrantRole", r#"{"user":"u","role":"root"}"#, For::Root),
    ("etcdserverpb.Auth/UserRevokeRole", r#"{"name":"u","role":"r"}"#, For::Root),
    ("etcdserverpb.Auth/RoleAdd", r#"{"name":"s"}"#, For::Root),
    ("etcdserverpb.Auth/RoleGet", r#"{"role":"root"}"#, For::Root),
    ("etcdserverpb.Auth/RoleList", "{}", For::Root),
    ("etcdserverpb.Auth/RoleDelete", r#"{"role":"r"}"#, For::Root),
    (
        "etcdserverpb.Auth/RoleGrantPermission",
        r#"{"name":"r","perm":{"permType":"READWRITE","key":"Yg=="}}"#,
        For::Root,
    ),
    ("etcdserverpb.Auth/RoleRevokePermission", r#"{"role":"r","key":"Yg=="}"#, For::Root),
    ("v3lockpb.Lock/Lock", r#"{"name":"Yg==","lease":"77"}"#, For::PermittedWithin),
    ("v3lockpb.Lock/Unlock", r#"{"key":"Yg=="}"#, For::PermittedWithin),
    ("v3electionpb.Election/Campaign", r#"{"name":"Yg==","lease":"77","value":"eA=="}"#, For::PermittedWithin),
    (
        "v3electionpb.Election/Proclaim",
        r#"{"leader":{"name":"Yg==","key":"Yg==","rev":"2","lease":"77"}}"#,
        For::PermittedWithin,
    ),
    ("v3electionpb.Election/Leader", r#"{"name":"Yg=="}"#, For::PermittedWithin),
    ("v3electionpb.Election/Observe", r#"{"name":"Yg=="}"#, For::PermittedSilently),
    (
        "v3electionpb.Election/Resign",
        r#"{"leader":{"name":"Yg==","key":"Yg==","rev":"2","lease":"77"}}"#,
        For::PermittedWithin,
    ),
    ("grpc.health.v1.Health/Check", "{}", For::Everybody),
    ("grpc.health.v1.Health/Watch", "{}", For::Everybody),
];

#[test]
fn every_rpc_is_in_the_table() {
    let named: BTreeSet<String> = RPCS.iter().map(|(name, ..)| name.to_string()).collect();
    let name = |method: MethodDescriptor| format!("{}/{}", method.parent_service().full_name(), method.name());
    let all: BTreeSet<_> = wire::methods().map(name).collect();
    assert_eq!(named, all);
}

/// How a call is refused.
pub type Refusal = (Code, String);

/// Sends a request; how it is refused, or the first answer.
pub async fn ask(
    channel: &Channel,
    name: &str,
    request: &str,
    credentials: &Credentials,
) -> Result<DynamicMessage, Refusal> {
    let method = wire::method(name);
    let request = message(&method, request);
    let mut stream = match method.is_client_streaming() {
        true => Stream::open(channel, &method, credentials),
        false => Stream::ask(channel, &method, &request, credentials),
    };
    if method.is_client_streaming() {
        stream.send(&request);
    }
    let waited = tokio::time::timeout(DEADLINE, stream.wait(|answers| !answers.is_empty())).await;
    assert!(waited.is_ok(), "{name}: no answer");
    let refusal = |status: &Status| (status.code(), status.message().to_owned());
    let answers = stream.answers();
    let answer = answers.first().expect("an answer or an end").as_ref().map_err(refusal)?;
    // A watch is refused within the stream, in Go's words.
    let reason = answer.get_field_by_name("cancel_reason");
    match reason.as_ref().and_then(|reason| reason.as_str()).filter(|reason| !reason.is_empty()) {
        Some(reason) => Err(in_gos_words(reason)),
        None => Ok(answer.clone()),
    }
}

fn message(method: &MethodDescriptor, json: &str) -> DynamicMessage {
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(method.input(), &mut json).expect("a request of the method's type")
}

fn in_gos_words(reason: &str) -> Refusal {
    let (code, text) = reason
        .strip_prefix("rpc error: code = ")
        .and_then(|rest| rest.split_once(" desc = "))
        .unwrap_or_else(|| panic!("{reason}"));
    let code = [Code::InvalidArgument, Code::PermissionDenied, Code::Unauthenticated]
        .into_iter()
        .find(|known| format!("{known:?}") == code);
    (code.unwrap_or_else(|| panic!("{reason}")), text.to_owned())
}
