//! Every RPC is sent by some program, or is left out for a reason.

use std::collections::BTreeSet;

use super::programs::{epilogue, program};
use super::wire::methods;
use super::{PROGRAMS, STEPS};

/// RPCs that no program sends.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "etcdserverpb.Maintenance/Snapshot",
        "the bytes are those of each server's own file; tests of snapshots read ours",
    ),
    ("etcdserverpb.Maintenance/Downgrade", "what is allowed depends on the version, and etcd takes seconds for it"),
    ("grpc.health.v1.Health/Watch", "nothing here changes a server's health"),
];

#[test]
fn every_rpc_is_sent_or_left_out_for_a_reason() {
    let programs = (0..PROGRAMS).flat_map(|seed| program(seed, STEPS as usize)).chain(epilogue());
    let sent: BTreeSet<String> = programs.map(|step| step.method.full_name().to_owned()).collect();
    let mut left_out = 0;
    for method in methods() {
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        let reason = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name);
        let is_sent = sent.contains(method.full_name());
        left_out += usize::from(reason.is_some());
        assert!(is_sent != reason.is_some(), "{name}: sent by a program {is_sent}, left out because of {reason:?}");
    }
    assert_eq!(left_out, LEFT_OUT.len(), "what is left out exists");
}
