//! KV: ranges, puts, deletions, txns, compactions.

use bytes::Bytes;
use keelson_server::proto::etcdserverpb::compare::TargetUnion;
use keelson_server::proto::etcdserverpb::request_op::Request;
use keelson_server::proto::etcdserverpb::*;

use super::{Dice, Family};
use crate::queue::keys_of;
use crate::step::{COMPACTED, LEASE, NOW, Step};

/// Around the most that one request may have.
const OPERATIONS: usize = 128;

/// One request, or a compaction and reads at its edge.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let kinds: &[(u32, Family)] = &[
        (24, |dice| vec![Step::new("etcdserverpb.KV/Put", &put(dice))]),
        (10, |dice| vec![Step::new("etcdserverpb.KV/DeleteRange", &delete(dice))]),
        (20, |dice| vec![Step::new("etcdserverpb.KV/Range", &range(dice))]),
        (4, |dice| vec![Step::new("etcdserverpb.KV/RangeStream", &streamed(dice))]),
        (20, |dice| vec![Step::new("etcdserverpb.KV/Txn", &txn(dice, 2))]),
        (2, |dice| vec![Step::new("etcdserverpb.KV/Compact", &compact(dice))]),
        (1, many_operations),
        (1, too_large),
    ];
    dice.weighted(kinds)(dice)
}

/// Reads of all keys, at the edges of what can be read.
pub fn everything() -> Vec<Step> {
    let all =
        RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() };
    let at = |revision| Step::new("etcdserverpb.KV/Range", &RangeRequest { revision, ..all.clone() });
    vec![at(0), at(COMPACTED), at(COMPACTED - 1)]
}

/// Deletes all keys of queues.
pub fn without_queues(names: &[&[u8]]) -> Vec<Step> {
    let delete = |name: &&[u8]| {
        let RangeRequest { key, range_end, .. } = keys_of(name);
        Step::new("etcdserverpb.KV/DeleteRange", &DeleteRangeRequest { key, range_end, prev_kv: true })
    };
    names.iter().map(delete).collect()
}

fn put(dice: &mut Dice) -> PutRequest {
    let (ignore_value, ignore_lease) = (dice.one_in(10), dice.one_in(10));
    let lease = if dice.one_in(3) { dice.lease() } else { 0 };
    // A value or a lease beside the flag that ignores it is an error; once in a while.
    PutRequest {
        key: dice.key(),
        value: if ignore_value && !dice.one_in(5) { Bytes::new() } else { dice.value() },
        lease: if ignore_lease && !dice.one_in(5) { 0 } else { lease },
        prev_kv: dice.one_in(2),
        ignore_value,
        ignore_lease,
    }
}

fn delete(dice: &mut Dice) -> DeleteRangeRequest {
    DeleteRangeRequest { key: dice.key(), range_end: dice.range_end(), prev_kv: dice.one_in(2) }
}

fn range(dice: &mut Dice) -> RangeRequest {
    let mut bound = || if dice.one_in(8) { dice.revision() } else { 0 };
    let bounds = [bound(), bound(), bound(), bound()];
    let (sort_order, sort_target) = match dice.one_in(2) {
        true => (dice.below(3) as i32, dice.below(5) as i32),
        false => (0, 0),
    };
    RangeRequest {
        key: dice.key(),
        range_end: dice.range_end(),
        limit: dice.pick(&[0, 0, 1, 2, 3, -1, i64::MAX]),
        revision: if dice.one_in(2) { dice.revision() } else { 0 },
        // Unknown ones are left out: etcd before 3.7 does not check them, and falls over one.
        sort_order,
        sort_target,
        serializable: dice.one_in(2),
        keys_only: dice.one_in(5),
        count_only: dice.one_in(6),
        min_mod_revision: bounds[0],
        max_mod_revision: bounds[1],
        min_create_revision: bounds[2],
        max_create_revision: bounds[3],
    }
}

fn streamed(dice: &mut Dice) -> RangeRequest {
    RangeRequest {
        sort_order: dice.pick(&[0, 0, 1]),
        sort_target: 0,
        min_mod_revision: 0,
        max_mod_revision: 0,
        min_create_revision: 0,
        max_create_revision: 0,
        ..range(dice)
    }
}

fn txn(dice: &mut Dice, depth: usize) -> TxnRequest {
    let compares = dice.below(3);
    TxnRequest {
        compare: (0..compares).map(|_| compare(dice)).collect(),
        success: operations(dice, depth),
        failure: operations(dice, depth),
    }
}

fn operations(dice: &mut Dice, depth: usize) -> Vec<RequestOp> {
    let count = dice.below(4);
    let operation = |_| {
        let request = match dice.below(16) {
            0..5 => Some(Request::RequestPut(put_in_txn(dice))),
            5..9 => Some(Request::RequestDeleteRange(delete_in_txn(dice))),
            9..13 => Some(Request::RequestRange(range(dice))),
            13..15 if depth > 0 => Some(Request::RequestTxn(txn(dice, depth - 1))),
            13..15 => Some(Request::RequestPut(put_in_txn(dice))),
            _ => (!dice.one_in(5)).then(|| Request::RequestRange(range(dice))),
        };
        RequestOp { request }
    };
    (0..count).map(operation).collect()
}

fn put_in_txn(dice: &mut Dice) -> PutRequest {
    let put = put(dice);
    match dice.open_deletions {
        true => PutRequest { ignore_value: false, ignore_lease: false, ..put },
        false => put,
    }
}

fn delete_in_txn(dice: &mut Dice) -> DeleteRangeRequest {
    match delete(dice) {
        open if open.range_end == "\0" && !dice.open_deletions => {
            DeleteRangeRequest { range_end: Bytes::new(), ..open }
        }
        delete => delete,
    }
}

fn compare(dice: &mut Dice) -> Compare {
    let revision = dice.revision();
    let small = dice.pick(&[-1, 0, 1, 2, 3]);
    let (target, union) = match dice.below(5) {
        0 => (0, TargetUnion::Version(small)),
        1 => (1, TargetUnion::CreateRevision(revision)),
        2 => (2, TargetUnion::ModRevision(revision)),
        3 => (3, TargetUnion::Value(dice.value())),
        _ => (4, TargetUnion::Lease(if dice.one_in(2) { dice.lease() } else { 0 })),
    };
    let result = match dice.below(4) as i32 {
        // Ids that servers have chosen are equal or not; which is the greater one is chance.
        1 if matches!(union, TargetUnion::Lease(LEASE..)) => 0,
        2 if matches!(union, TargetUnion::Lease(LEASE..)) => 3,
        result => result,
    };
    // What is compared may also be of another kind than the target, missing, or unknown.
    Compare {
        result: if dice.one_in(60) { 9 } else { result },
        target: if dice.one_in(40) { dice.pick(&[0, 1, 2, 3, 4, 9]) } else { target },
        key: dice.key(),
        range_end: if dice.one_in(3) { dice.range_end() } else { Bytes::new() },
        target_union: (!dice.one_in(40)).then_some(union),
    }
}

fn compact(dice: &mut Dice) -> CompactionRequest {
    let revision = match dice.one_in(3) {
        true => dice.revision(),
        false => dice.pick(&[NOW - 20, NOW - 5, NOW - 1, NOW, COMPACTED + 1, COMPACTED]),
    };
    CompactionRequest { revision, physical: dice.one_in(2) }
}

/// As many as are allowed, or one more: puts and ranges of keys of their own, nested ones included.
fn many_operations(dice: &mut Dice) -> Vec<Step> {
    let count = OPERATIONS + dice.below(2);
    let range = RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() };
    let operations = vec![RequestOp { request: Some(Request::RequestRange(range)) }; count];
    let compares = vec![Compare { key: Bytes::from_static(b"a"), ..Default::default() }; count];
    let nested = TxnRequest { success: operations[1..].to_vec(), ..Default::default() };
    let nested = RequestOp { request: Some(Request::RequestTxn(nested)) };
    let txn = dice.pick(&[
        TxnRequest { success: operations.clone(), ..Default::default() },
        TxnRequest { failure: operations, ..Default::default() },
        TxnRequest { compare: compares, ..Default::default() },
        TxnRequest { success: vec![nested], ..Default::default() },
    ]);
    vec![Step::new("etcdserverpb.KV/Txn", &txn)]
}

/// Larger than what is proposed, or than what is received at all.
fn too_large(dice: &mut Dice) -> Vec<Step> {
    let value = vec![b'v'; dice.pick(&[1_572_800, 1_600_000, 2_097_100, 2_097_152, 2_500_000])];
    let put = PutRequest { key: Bytes::from_static(b"a"), value: value.into(), ..Default::default() };
    let operation = RequestOp { request: Some(Request::RequestPut(put.clone())) };
    let txn = TxnRequest { success: vec![operation], ..Default::default() };
    vec![dice.pick(&[Step::new("etcdserverpb.KV/Put", &put), Step::new("etcdserverpb.KV/Txn", &txn)])]
}
