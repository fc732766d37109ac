//! What a peer may ask of a leader, in any words: the leader refuses or does it, goes on, and starts again from its log.

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use prost::Message;

use super::*;
use crate::fuzz::{Damage, cases, descriptor, message, typed};
use crate::node::door::NodeDoor;
use crate::proto::peer::membership_request::Change;
use crate::raft::network::Door;

#[derive(Debug, Clone)]
enum Asked {
    Propose(Vec<u8>),
    Change(pb::MembershipRequest),
    Renew(pb::LeaseRequest),
    Hash(i64),
}

fn asked() -> impl Strategy<Value = Asked> {
    let command = || message(descriptor("keelson.command.Command")).prop_map(|command| command.encode_to_vec());
    prop_oneof![
        4 => command().prop_map(Asked::Propose),
        4 => Damage::to(command()).prop_map(Asked::Propose),
        // A second voter that is not there would leave no quorum.
        2 => typed("keelson.peer.MembershipRequest").prop_map(|mut request: pb::MembershipRequest| {
            if let Some(Change::Add(add)) = &mut request.change {
                add.learner = true;
            }
            Asked::Change(request)
        }),
        1 => typed("keelson.peer.LeaseRequest").prop_map(Asked::Renew),
        1 => any::<i64>().prop_map(Asked::Hash),
    ]
}

async fn ask(node: &Node, asked: Asked) {
    let door = NodeDoor(node.inner.clone());
    match asked {
        // What is no command is refused; what applying it answers is told inside.
        Asked::Propose(command) => {
            let known = Command::decode(&command[..]).is_ok();
            let answer = door.propose(pb::ProposeRequest { command: command.into() }).await;
            assert_eq!(answer.is_ok(), known);
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.outcome.is_some()));
        }
        Asked::Change(request) => drop(door.change_membership(request).await),
        Asked::Renew(request) => drop(door.renew_lease(request).await),
        Asked::Hash(revision) => drop(door.hash_kv(revision).await),
    }
}

#[test]
fn a_leader_survives_whatever_peers_ask() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut hosts = runtime.block_on(cluster(1));
    let config = ProptestConfig { failure_persistence: None, ..cases(150) };
    TestRunner::new(config)
        .run(&asked(), |asked| {
            let answered = runtime.block_on(async { tokio::time::timeout(LIMIT, ask(hosts[0].node(), asked)).await });
            answered.map_err(|_| TestCaseError::fail("no answer"))
        })
        .unwrap();
    let hash = |hosts: &[Host]| hosts[0].node().store().hash_kv(0).unwrap();
    let before = hash(&hosts);
    hosts[0].drop_node();
    runtime.block_on(async {
        hosts[0].start().await;
        tokio::time::timeout(LIMIT, hosts[0].node().wait_ready()).await.unwrap().unwrap();
    });
    assert_eq!(hash(&hosts), before);
    drop(hosts);
}
