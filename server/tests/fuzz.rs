//! Any message to any RPC of a running cluster: each call gets a status, none of them a panic's, and afterwards the members
//! serve and hold the same. `PROPTEST_CASES` says how many rounds of calls.

mod common;
#[path = "../src/fuzz.rs"]
#[allow(dead_code)]
mod fuzz;
#[path = "common/raw.rs"]
mod raw;

use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, DEADLINE, eventually};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions};
use futures::{future, stream};
use fuzz::{Damage, cases, message};
use keelson_server::proto;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Rounds of calls.
const ROUNDS: u32 = 16;
/// Calls at once.
const CALLS: usize = 48;

/// How long a call is listened to that need not end, or that waits for others.
const OPEN: Duration = Duration::from_millis(200);

/// Refusals that have no code in etcd.
const WITHOUT_CODE: &[&str] = &[
    "etcdserver: unknown method",
    "bcrypt: password length exceeds 72 bytes",
    "auth: authentication failed, password was given for no password user",
];

/// One call: a method, its messages, which may be damaged, and the token that comes with it.
#[derive(Clone)]
struct Call {
    method: MethodDescriptor,
    messages: Vec<Bytes>,
    token: Token,
}

impl Debug for Call {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "{} {:?} by {:?}", self.method.full_name(), self.messages, self.token)
    }
}

#[derive(Debug, Clone)]
enum Token {
    Root,
    Nobody,
    Other(String),
}

/// All RPCs that clients are served.
fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors");
    let services = pool.services().filter(|service| !service.full_name().starts_with("keelson."));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn call() -> impl Strategy<Value = Call> {
    let token = prop_oneof![
        8 => Just(Token::Root),
        1 => Just(Token::Nobody),
        1 => "[ -~]{0,20}(\\.[0-9]{0,25})?".prop_map(Token::Other),
    ];
    (prop::sample::select(methods()), token).prop_flat_map(|(method, token)| {
        let valid = || message(method.input()).prop_map(|message| message.encode_to_vec());
        let bytes = prop_oneof![3 => valid(), 1 => Damage::to(valid())];
        let count = if method.is_client_streaming() { 0..6 } else { 1..2 };
        vec(bytes.prop_map(Bytes::from), count).prop_map(move |messages| Call {
            method: method.clone(),
            messages,
            token: token.clone(),
        })
    })
}

impl Call {
    /// Whether it may last.
    fn is_open(&self) -> bool {
        ["Watch", "Observe", "Campaign", "Lock"].contains(&self.method.name()) || matches!(self.token, Token::Other(_))
    }

    /// Makes the call and reads its answers to the end.
    async fn make(&self, channel: &Channel, root: &str) -> Result<(), Status> {
        let mut request = Request::new(stream::iter(self.messages.clone()));
        let token = match &self.token {
            Token::Root => Some(root),
            Token::Nobody => None,
            Token::Other(token) => Some(token.as_str()),
        };
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("text"));
        }
        if self.is_open() {
            request.set_timeout(OPEN);
        }
        let mut client = raw::client(channel).await?;
        let mut answers = client.streaming(request, raw::path(&self.method), raw::Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    }

    /// Whether a call may get this status.
    fn may_get(&self, status: &Status) -> bool {
        match status.code() {
            // What is no message of the type. Go's servers say it in the same way.
            Code::Internal => status.message().starts_with("failed to decode Protobuf message"),
            // As etcd's, locks and elections hand on texts without codes.
            Code::Unknown => {
                let hands_on = ["v3lockpb", "v3electionpb"].contains(&self.method.parent_service().package_name());
                hands_on || WITHOUT_CODE.contains(&status.message())
            }
            Code::DeadlineExceeded => self.is_open(),
            // The client's own.
            Code::Cancelled => self.is_open() && status.message() == "Timeout expired",
            // An alarm that another call has raised.
            Code::DataLoss => status.message() == "etcdserver: corrupt cluster",
            _ => true,
        }
    }
}

/// A cluster with authentication, which calls may turn off.
struct Target {
    cluster: Cluster,
    channels: Vec<Channel>,
}

impl Target {
    async fn start() -> Self {
        let cluster = Cluster::start_with(3, &["--bcrypt-cost=4"]);
        let mut client = cluster.clients().await.swap_remove(0);
        client.user_add("root", "pw", None).await.expect("added");
        client.role_add("root").await.expect("added");
        client.user_grant_role("root", "root").await.expect("granted");
        let mut channels = Vec::new();
        for member in &cluster.members {
            let endpoint = Endpoint::from_shared(member.client_url()).expect("a URL");
            channels.push(endpoint.connect().await.expect("a connection"));
        }
        Target { cluster, channels }
    }

    /// A client with all rights, and its token. Takes back the alarms that calls have raised.
    async fn root(&self) -> (Client, String) {
        let url = self.cluster.members[0].client_url();
        let mut anyone = Client::connect([&url], None).await.expect("a client");
        // Nobody may, while it is enabled.
        let _ = anyone.auth_enable().await;
        let options = ConnectOptions::new().with_user("root", "pw");
        let mut root = Client::connect([&url], Some(options)).await.expect("a client");
        let token = root.auth_client().authenticate("root".into(), "pw".into()).await.expect("logged in");
        for alarm in root.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("told").alarms() {
            let mut options = AlarmOptions::new();
            options.with_member(alarm.member_id());
            root.alarm(AlarmAction::Deactivate, alarm.alarm(), Some(options)).await.expect("disarmed");
        }
        (root, token.token().to_owned())
    }

    /// Makes calls at once, to the members in turn.
    async fn make(&self, calls: &[Call]) -> Result<(), TestCaseError> {
        let (_, token) = self.root().await;
        let made = calls.iter().zip(self.channels.iter().cycle()).map(|(call, channel)| {
            let token = &token;
            async move {
                match tokio::time::timeout(DEADLINE, call.make(channel, token)).await {
                    Ok(Err(status)) if !call.may_get(&status) => {
                        Err(format!("{:?}: {} of {call:?}", status.code(), status.message()))
                    }
                    Ok(_) => Ok(()),
                    Err(_) => Err(format!("no answer to {call:?}")),
                }
            }
        });
        let faults: Vec<String> = future::join_all(made).await.into_iter().filter_map(Result::err).collect();
        prop_assert!(faults.is_empty(), "{faults:#?}");
        for member in &self.cluster.members {
            prop_assert!(!member.log().contains("panic"), "{}", member.name);
        }
        Ok(())
    }

    /// All members serve, and hold the same.
    async fn check(&self) {
        let (mut root, _) = self.root().await;
        let put = root.put("after", "", None).await.expect("put");
        let revision = put.header().expect("a header").revision();
        let mut hashes = Vec::new();
        for member in &self.cluster.members {
            let options = ConnectOptions::new().with_user("root", "pw");
            let client = Client::connect([member.client_url()], Some(options)).await.expect("a client");
            let hash = eventually("the member has the put", || {
                let mut client = client.clone();
                async move { client.hash_kv(revision).await.ok() }
            })
            .await;
            hashes.push((hash.hash(), hash.compact_version()));
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    }
}

#[test]
fn any_message_to_any_rpc_gets_a_status() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut target = runtime.block_on(Target::start());
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 64, ..cases(ROUNDS) };
    let tested = TestRunner::new(config).run(&vec(call(), 1..CALLS), |calls| runtime.block_on(target.make(&calls)));
    if let Err(error) = tested {
        panic!("{error}");
    }
    runtime.block_on(target.check());
    // What the log has is read as it was written.
    target.cluster.members[0].kill();
    target.cluster.restart(0);
    runtime.block_on(async {
        target.cluster.members[0].client().await;
        target.check().await;
    });
}
