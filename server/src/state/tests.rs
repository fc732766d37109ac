//! Random programs against a model that keeps a copy of everything for each revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::fuzz::{self, Damage};
use crate::mvcc::range::{range, unbounded};
use crate::mvcc::range_bytes;
use crate::mvcc::range_chunks::RangeChunks;
use crate::mvcc::view::Nothing;
use crate::mvcc::{EventType, KeyRange, KeyValue, Overlay, hash};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::*;
use crate::storage::{Store, StoreOptions};

type Kvs = BTreeMap<Bytes, KeyValue>;

/// All keys at every revision, and the leases.
#[derive(Debug, Clone)]
struct Model {
    /// At index 0 revision 1.
    history: Vec<Kvs>,
    compacted: i64,
    leases: Vec<i64>,
}

impl Model {
    fn new() -> Self {
        Self { history: vec![Kvs::new()], compacted: -1, leases: Vec::new() }
    }

    fn revision(&self) -> i64 {
        self.history.len() as i64
    }

    fn at(&self, revision: i64) -> &Kvs {
        &self.history[revision as usize - 1]
    }

    fn now(&self) -> &Kvs {
        self.at(self.revision())
    }

    fn next(&mut self, kvs: Kvs, changed: bool) {
        if changed {
            self.history.push(kvs);
        }
    }

    /// Applies a command; the answer as far as the model tells it.
    fn apply(&mut self, op: &Op) -> Result<(), EtcdError> {
        let mut kvs = self.now().clone();
        let mut changed = false;
        match op {
            Op::Put(put) => {
                self.check_put(put)?;
                self.put(&mut kvs, put);
                changed = true;
            }
            Op::DeleteRange(delete) => changed = remove(&mut kvs, delete) > 0,
            Op::Txn(txn) => {
                let chosen = self.choose(txn);
                for op in &chosen {
                    match &op.request {
                        Some(Request::RequestPut(put)) => self.check_put(put)?,
                        Some(Request::RequestRange(range)) => self.check_revision(range.revision)?,
                        _ => {}
                    }
                }
                for op in &chosen {
                    match &op.request {
                        Some(Request::RequestPut(put)) => {
                            self.put(&mut kvs, put);
                            changed = true;
                        }
                        Some(Request::RequestDeleteRange(delete)) => changed |= remove(&mut kvs, delete) > 0,
                        _ => {}
                    }
                }
            }
            Op::Compact(compact) => {
                if compact.revision <= self.compacted {
                    return Err(EtcdError::Compacted);
                }
                if compact.revision > self.revision() {
                    return Err(EtcdError::FutureRev);
                }
                self.compacted = compact.revision;
            }
            Op::LeaseGrant(grant) if self.leases.contains(&grant.id) => {
                return Err(EtcdError::LeaseExist);
            }
            Op::LeaseGrant(grant) => self.leases.push(grant.id),
            Op::LeaseRevoke(revoke) => {
                let known = self.leases.iter().position(|id| *id == revoke.id);
                self.leases.remove(known.ok_or(EtcdError::LeaseNotFound)?);
                let before = kvs.len();
                kvs.retain(|_, kv| kv.lease != revoke.id);
                changed = kvs.len() != before;
            }
            _ => unreachable!("not generated"),
        }
        self.next(kvs, changed);
        Ok(())
    }

    /// The operations of a txn that will be done, nested ones in place.
    fn choose(&self, txn: &TxnRequest) -> Vec<RequestOp> {
        let succeeded = txn.compare.iter().all(|compare| {
            let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
            let found: Vec<_> = self.now().values().filter(|kv| range.contains(&kv.key)).collect();
            let missing = KeyValue::default();
            match (found.is_empty(), compare.target()) {
                (true, CompareTarget::Value) => false,
                (true, _) => compares(compare, &missing),
                _ => found.iter().all(|kv| compares(compare, kv)),
            }
        });
        let branch = if succeeded { &txn.success } else { &txn.failure };
        branch
            .iter()
            .flat_map(|op| match &op.request {
                Some(Request::RequestTxn(nested)) => self.choose(nested),
                _ => vec![op.clone()],
            })
            .collect()
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), EtcdError> {
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return Err(EtcdError::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
            return Err(EtcdError::KeyNotFound);
        }
        Ok(())
    }

    fn check_revision(&self, revision: i64) -> Result<(), EtcdError> {
        match revision {
            0 => Ok(()),
            _ if revision > self.revision() => Err(EtcdError::FutureRev),
            _ if revision < self.compacted => Err(EtcdError::Compacted),
            _ => Ok(()),
        }
    }

    fn put(&self, kvs: &mut Kvs, put: &PutRequest) {
        let revision = self.revision() + 1;
        let old = kvs.get(&put.key);
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |kv| kv.version + 1),
            value: if put.ignore_value { old.unwrap().value.clone() } else { put.value.clone() },
            lease: if put.ignore_lease { old.unwrap().lease } else { put.lease },
        };
        kvs.insert(put.key.clone(), kv);
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.check_revision(request.revision)?;
        let at = if request.revision == 0 { self.revision() } else { request.revision };
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let mut kvs: Vec<_> = self.at(at).values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        let limit = request.limit as usize;
        let filtered = request.min_mod_revision != 0 || request.max_create_revision != 0;
        if request.sort_order() == SortOrder::None && limit > 0 && !filtered {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
        kvs.retain(|kv| request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision);
        match request.sort_target() {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if request.sort_order() == SortOrder::Descend {
            kvs.reverse();
            // Equal ones stay in key order.
            let same = |a: &KeyValue, b: &KeyValue| match request.sort_target() {
                SortTarget::Key => false,
                SortTarget::Version => a.version == b.version,
                SortTarget::Create => a.create_revision == b.create_revision,
                SortTarget::Mod => a.mod_revision == b.mod_revision,
                SortTarget::Value => a.value == b.value,
            };
            kvs.chunk_by_mut(same).for_each(<[KeyValue]>::reverse);
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.count_only {
            return Ok(RangeResponse { header: header(self.revision()), kvs: Vec::new(), more: false, count });
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| (kv.value, kv.lease) = (Bytes::new(), 0));
        }
        Ok(RangeResponse { header: header(self.revision()), kvs, more, count })
    }
}

fn remove(kvs: &mut Kvs, delete: &DeleteRangeRequest) -> usize {
    let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
    let before = kvs.len();
    kvs.retain(|key, _| !range.contains(key));
    before - kvs.len()
}

fn compares(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match compare.target_union.as_ref().unwrap() {
        TargetUnion::Version(version) => kv.version.cmp(version),
        TargetUnion::CreateRevision(revision) => kv.create_revision.cmp(revision),
        TargetUnion::ModRevision(revision) => kv.mod_revision.cmp(revision),
        TargetUnion::Value(value) => kv.value.cmp(value),
        TargetUnion::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    (0u8..6).prop_map(|n| Bytes::from(vec![b'a' + n / 2; 1 + usize::from(n % 2)]))
}

/// An end of a range: mostly none, sometimes a key (also one before the start), sometimes unbounded.
fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => Just(Bytes::new()), 3 => key(), 1 => Just(Bytes::from_static(&[0]))]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 2 => -1i64..3]
}

fn put() -> impl Strategy<Value = PutRequest> {
    let value = prop_oneof![4 => "[0-9]{0,2}", 1 => Just("long".repeat(300))];
    let ignores = prop_oneof![8 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    (key(), value, lease(), any::<bool>(), ignores).prop_map(
        |(key, value, lease, prev_kv, (ignore_value, ignore_lease))| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value.into() },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest { key, range_end, prev_kv })
}

fn ranges() -> impl Strategy<Value = RangeRequest> {
    let options = (0i64..4, 0i64..30, 0i32..3, 0i32..5, any::<bool>());
    (key(), end(), options, prop_oneof![3 => Just((0, 0)), 1 => (0i64..9, 0i64..9)], 0u8..8).prop_map(
        |(key, range_end, (limit, revision, order, target, current), (min, max), kind)| RangeRequest {
            key,
            range_end,
            limit,
            revision: if current { 0 } else { revision },
            sort_order: order,
            sort_target: target,
            keys_only: kind == 0,
            count_only: kind == 1,
            min_mod_revision: min,
            max_create_revision: max,
            ..Default::default()
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0i64..3).prop_map(|n| (CompareTarget::Version, TargetUnion::Version(n))),
        (0i64..9).prop_map(|n| (CompareTarget::Create, TargetUnion::CreateRevision(n))),
        (0i64..9).prop_map(|n| (CompareTarget::Mod, TargetUnion::ModRevision(n))),
        "[0-9]?".prop_map(|v| (CompareTarget::Value, TargetUnion::Value(v.into()))),
        (0i64..3).prop_map(|n| (CompareTarget::Lease, TargetUnion::Lease(n))),
    ];
    (key(), end(), 0i32..4, target).prop_map(|(key, range_end, result, (target, union))| Compare {
        key,
        range_end,
        result,
        target: target.into(),
        target_union: Some(union),
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        2 => ranges().prop_map(Request::RequestRange),
    ];
    let flat = branches(leaf.clone());
    let nested = prop_oneof![4 => leaf, 1 => flat.prop_map(Request::RequestTxn)];
    branches(nested)
}

fn branches(request: impl Strategy<Value = Request> + 'static) -> impl Strategy<Value = TxnRequest> {
    let branch = prop::collection::vec(request.prop_map(|request| RequestOp { request: Some(request) }), 0..4);
    let branch = branch.boxed();
    (prop::collection::vec(compare(), 0..3), branch.clone(), branch)
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
        .prop_filter("a key is written twice", writes_once)
}

/// What validation lets through: no key is put twice, or put and deleted, in one branch.
fn writes_once(txn: &TxnRequest) -> bool {
    fn writes(branch: &[RequestOp], puts: &mut Vec<Bytes>, deletes: &mut Vec<KeyRange>) {
        for op in branch {
            match &op.request {
                Some(Request::RequestPut(put)) => puts.push(put.key.clone()),
                Some(Request::RequestDeleteRange(delete)) => {
                    deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                }
                Some(Request::RequestTxn(nested)) => {
                    writes(&nested.success, puts, deletes);
                    writes(&nested.failure, puts, deletes);
                }
                _ => {}
            }
        }
    }
    [&txn.success, &txn.failure].into_iter().all(|branch| {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        writes(branch, &mut puts, &mut deletes);
        let deleted = puts.iter().any(|key| deletes.iter().any(|range| range.contains(key)));
        let all = puts.len();
        puts.sort();
        puts.dedup();
        puts.len() == all && !deleted
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => put().prop_map(Op::Put),
        3 => delete().prop_map(Op::DeleteRange),
        4 => txn().prop_map(Op::Txn),
        1 => (1i64..20).prop_map(|revision| Op::Compact(CompactionRequest { revision, physical: false })),
        1 => (1i64..3).prop_map(|id| Op::LeaseGrant(LeaseGrantRequest { id, ttl: 10 })),
        1 => (1i64..3).prop_map(|id| Op::LeaseRevoke(LeaseRevokeRequest { id })),
    ]
}

/// Applies a command to a view in memory.
fn run(memory: &mut Overlay<Nothing>, op: &Op) -> Applied {
    let applied = apply(memory, &Command { op: Some(op.clone()), ..Default::default() }).unwrap();
    memory.effects_mut().merge(applied.effects.clone());
    applied
}

/// Checks one command's answer, events and state against the model; returns its changes.
fn check(memory: &mut Overlay<Nothing>, model: &mut Model, op: &Op) -> Effects {
    let before = model.clone();
    let expected = model.apply(op);
    let applied = run(memory, op);
    assert_eq!(applied.outcome.refusal(), expected.err(), "{op:?}");
    if expected.is_err() {
        assert!(applied.effects.is_empty() && applied.events.is_empty());
    }
    assert_eq!(memory.revision(), model.revision(), "{op:?}");
    let (old, new) = (before.now(), model.now());
    for event in &applied.events {
        let kv = event.kv.as_ref().unwrap();
        assert_eq!(event.prev_kv.as_ref(), old.get(&kv.key));
        match event.r#type() {
            EventType::Put => assert_eq!(Some(kv), new.get(&kv.key)),
            EventType::Delete => {
                assert!(old.contains_key(&kv.key) && !new.contains_key(&kv.key));
                assert_eq!(kv.mod_revision, model.revision());
            }
        }
    }
    let changed = |key: &&Bytes| old.get(*key) != new.get(*key);
    let changes = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).filter(changed);
    assert_eq!(changes.count(), applied.events.len());
    for id in &model.leases {
        let attached: Vec<_> = new.values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect();
        assert_eq!(memory.lease_keys(*id).unwrap(), attached);
    }
    applied.effects
}

fn refusal<T>(result: Result<T, ReadError>) -> Result<T, EtcdError> {
    result.map_err(|error| match error {
        ReadError::Refused(error) => error,
        ReadError::View(error) => panic!("{error}"),
    })
}

/// A range as messages, and as bytes where that is done.
fn answered<V: View>(view: &V, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
    let answer = refusal(range(view, request, &mut unbounded));
    if range_bytes::serves(request) {
        let bytes = refusal(range_bytes::range(view, request, 5, &mut unbounded)).map(|answer| {
            let header = ResponseHeader { revision: answer.revision, ..Default::default() };
            let pieces = answer.with(&header).concat();
            assert_eq!(pieces[..5], [0; 5]);
            RangeResponse::decode(&pieces[5..]).expect("a message")
        });
        assert_eq!(bytes, answer, "{request:?}");
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..fuzz::cases(300) })]

    #[test]
    fn commands_and_ranges_do_what_the_model_does(
        ops in prop::collection::vec(op(), 1..30),
        requests in prop::collection::vec(ranges(), 20),
    ) {
        let (mut memory, mut model) = (Overlay::new(Nothing), Model::new());
        for op in &ops {
            check(&mut memory, &mut model, op);
        }
        for request in &requests {
            prop_assert_eq!(answered(&memory, request), model.range(request), "{:?}", request);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..fuzz::cases(12) })]

    /// Also: HashKV does not depend on whether superseded versions are removed yet.
    #[test]
    fn the_store_on_disk_reads_like_the_one_in_memory(
        ops in prop::collection::vec(op(), 1..40),
        batch_size in 1usize..5,
        recent_keys_bytes in prop::sample::select(vec![0, 1 << 20]),
        requests in prop::collection::vec(ranges(), 20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions { recent_keys_bytes, ..Default::default() }).unwrap();
        let (mut memory, mut model) = (Overlay::new(Nothing), Model::new());
        for batch_ops in ops.chunks(batch_size) {
            let mut batch = store.begin();
            let commands = batch_ops.iter().map(|op| Command { op: Some(op.clone()), ..Default::default() });
            let commands: Vec<_> = commands.collect();
            batch.read_ahead(commands.iter().flat_map(asked_for).cloned().collect()).unwrap();
            for (op, command) in batch_ops.iter().zip(&commands) {
                let effects = check(&mut memory, &mut model, op);
                let applied = apply(batch.view(), command).unwrap();
                prop_assert_eq!(&applied.effects, &effects);
                batch.stage(applied.effects);
            }
            batch.commit().unwrap();
        }
        store.wait_compacted(model.compacted);
        let view = store.view();
        for request in &requests {
            prop_assert_eq!(answered(&view, request), model.range(request), "{:?}", request);
        }
        for revision in model.compacted.max(1)..=model.revision() {
            prop_assert_eq!(hash::hash_kv(&view, revision), hash::hash_kv(&memory, revision));
        }
    }
}

/// Applies a command to a store.
fn commit(store: &std::sync::Arc<Store>, op: &Op) {
    let mut batch = store.begin();
    let applied = apply(batch.view(), &Command { op: Some(op.clone()), ..Default::default() }).unwrap();
    batch.stage(applied.effects);
    batch.commit().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..fuzz::cases(24) })]

    /// Whatever is written between its chunks, unless the revision is compacted.
    #[test]
    fn a_range_in_chunks_is_the_range_at_once(
        before in prop::collection::vec(op(), 1..30),
        requests in prop::collection::vec(ranges(), 12),
        sizes in prop::collection::vec(1usize..60, 1..8),
        meanwhile in prop::collection::vec(op(), 0..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        before.iter().for_each(|op| commit(&store, op));
        let (mut sizes, mut meanwhile) = (sizes.iter().cycle(), meanwhile.iter());
        for request in requests {
            let in_key_order = RangeRequest { sort_order: 0, sort_target: 0, ..request };
            let request = RangeRequest { min_mod_revision: 0, max_create_revision: 0, ..in_key_order };
            let view = store.view();
            let expected = answered(&view, &request);
            let at = if request.revision == 0 { view.revision() } else { request.revision };
            let chunks = RangeChunks::new(&view, request.clone());
            let mut first = Some(view);
            let streamed = streamed(chunks, || {
                let view = first.take().unwrap_or_else(|| {
                    meanwhile.next().into_iter().for_each(|op| commit(&store, op));
                    store.wait_compacted(store.view().compact_revision());
                    store.view()
                });
                (view, *sizes.next().unwrap())
            });
            let compacted = streamed == Err(EtcdError::Compacted) && store.view().compact_revision() > at;
            prop_assert!(compacted || streamed == expected, "{request:?}: {streamed:?}, not {expected:?}");
        }
    }
}

/// All chunks together; `next` tells the view and the size of each.
fn streamed<V: View>(
    mut chunks: RangeChunks,
    mut next: impl FnMut() -> (V, usize),
) -> Result<RangeResponse, EtcdError> {
    let mut kvs = Vec::new();
    loop {
        let (view, bytes) = next();
        let chunk = refusal(chunks.next(&view, bytes))?;
        kvs.extend(chunk.kvs);
        if let Some(end) = chunk.end {
            let header = Some(ResponseHeader { revision: end.revision, ..Default::default() });
            return Ok(RangeResponse { header, kvs, more: end.more, count: end.count });
        }
    }
}

/// Members remove compacted versions at their own pace, and must still write the same.
#[test]
fn what_is_written_does_not_depend_on_what_was_removed_already() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let mut memory = Overlay::new(Nothing);
    let key = bytes("a");
    let put = Op::Put(PutRequest { key: key.clone(), ..Default::default() });
    let delete = Op::DeleteRange(DeleteRangeRequest { key, ..Default::default() });
    // Past the deletion: one exactly at the compacted revision stays.
    let other = Op::Put(PutRequest { key: bytes("b"), ..Default::default() });
    let compact = Op::Compact(CompactionRequest { revision: 4, physical: true });
    for op in [put.clone(), delete, other, compact, put] {
        let kept = run(&mut memory, &op).effects;
        let mut batch = store.begin();
        let command = Command { op: Some(op), ..Default::default() };
        let applied = apply(batch.view(), &command).unwrap();
        assert_eq!(applied.effects, kept);
        batch.stage(applied.effects);
        batch.commit().unwrap();
        store.wait_compacted(4);
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn a_txn_reads_what_it_wrote_but_compares_what_was_before() {
    let mut memory = Overlay::new(Nothing);
    run(&mut memory, &Op::Put(PutRequest { key: bytes("a"), value: bytes("1"), ..Default::default() }));
    let request = |request| RequestOp { request: Some(request) };
    let put = PutRequest { key: bytes("a"), value: bytes("2"), prev_kv: true, ..Default::default() };
    let get = RangeRequest { key: bytes("a"), ..Default::default() };
    let nested = TxnRequest {
        compare: vec![Compare {
            key: bytes("a"),
            target: CompareTarget::Value.into(),
            target_union: Some(TargetUnion::Value(bytes("1"))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let txn = TxnRequest {
        success: vec![
            request(Request::RequestPut(put)),
            request(Request::RequestRange(get)),
            request(Request::RequestTxn(nested)),
        ],
        ..Default::default()
    };
    let applied = run(&mut memory, &Op::Txn(txn));
    let Some(Answer::Txn(answer)) = applied.outcome.result else { panic!("{:?}", applied.outcome) };
    assert_eq!(answer.header, header(3));
    let [put, get, nested] = &answer.responses[..] else { panic!("{answer:?}") };
    let Some(Response::ResponsePut(put)) = &put.response else { panic!("{put:?}") };
    assert_eq!(put.prev_kv.as_ref().unwrap().value, "1");
    let Some(Response::ResponseRange(get)) = &get.response else { panic!("{get:?}") };
    assert_eq!((get.header, get.kvs[0].value.as_ref()), (header(3), &b"2"[..]));
    let Some(Response::ResponseTxn(nested)) = &nested.response else { panic!("{nested:?}") };
    assert!(nested.succeeded);
}

#[test]
fn watchers_are_shown_the_version_of_the_revision_before() {
    let mut memory = Overlay::new(Nothing);
    let put = |value| PutRequest { key: bytes("a"), value: bytes(value), ..Default::default() };
    let open = DeleteRangeRequest { key: bytes("a"), range_end: bytes("\0"), prev_kv: true };
    let txn = |requests: Vec<Request>| {
        let success = requests.into_iter().map(|request| RequestOp { request: Some(request) });
        Op::Txn(TxnRequest { success: success.collect(), ..Default::default() })
    };
    let put_and_delete = txn(vec![Request::RequestPut(put("2")), Request::RequestDeleteRange(open.clone())]);
    let shown = |applied: &Applied| {
        let before = applied.events.iter().map(|event| event.prev_kv.as_ref().map(|kv| kv.value.clone()));
        before.collect::<Vec<_>>()
    };
    assert_eq!(shown(&run(&mut memory, &put_and_delete)), [None, None]);
    run(&mut memory, &Op::Put(put("1")));
    assert_eq!(shown(&run(&mut memory, &put_and_delete)), [Some(bytes("1")), Some(bytes("1"))]);
    run(&mut memory, &Op::Put(put("1")));
    let delete_and_put = txn(vec![Request::RequestDeleteRange(open), Request::RequestPut(put("2"))]);
    assert_eq!(shown(&run(&mut memory, &delete_and_put)), [Some(bytes("1")), None]);
}

#[test]
fn unknown_comparisons_hold_and_unknown_targets_are_equal() {
    let mut memory = Overlay::new(Nothing);
    run(&mut memory, &Op::Put(PutRequest { key: bytes("a"), value: bytes("1"), ..Default::default() }));
    let mut succeeded = |result, target| {
        let compare = Compare { key: bytes("a"), result, target, ..Default::default() };
        let applied = run(&mut memory, &Op::Txn(TxnRequest { compare: vec![compare], ..Default::default() }));
        let Some(Answer::Txn(answer)) = applied.outcome.result else { panic!("{:?}", applied.outcome) };
        answer.succeeded
    };
    let (equal, greater, unknown) = (0, 1, 9);
    assert!(succeeded(unknown, CompareTarget::Mod.into()));
    assert!(succeeded(equal, unknown) && !succeeded(greater, unknown));
}

#[test]
fn alarms_are_raised_once_and_forbid_writes_until_disarmed() {
    use crate::proto::etcdserverpb::alarm_request::AlarmAction;
    let mut memory = Overlay::new(Nothing);
    let alarm = |action: AlarmAction, member_id| {
        Op::Alarm(AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Nospace.into() })
    };
    let put = Op::Put(PutRequest { key: bytes("a"), ..Default::default() });
    let delete = Op::DeleteRange(DeleteRangeRequest { key: bytes("a"), ..Default::default() });
    for _ in 0..2 {
        run(&mut memory, &alarm(AlarmAction::Activate, 7));
    }
    assert_eq!(memory.alarms().unwrap().len(), 1);
    assert_eq!(run(&mut memory, &put).outcome.refusal(), Some(EtcdError::NoSpace));
    assert_eq!(run(&mut memory, &delete).outcome.refusal(), None);
    run(&mut memory, &alarm(AlarmAction::Deactivate, 8));
    assert_eq!(run(&mut memory, &put).outcome.refusal(), Some(EtcdError::NoSpace));
    run(&mut memory, &alarm(AlarmAction::Deactivate, 7));
    assert_eq!(run(&mut memory, &put).outcome.refusal(), None);
}

proptest! {
    #![proptest_config(fuzz::cases(200))]

    /// Commands of any content, which no validation has seen: each is answered, and by two members alike.
    #[test]
    fn any_commands_are_applied_and_by_all_alike(
        commands in prop::collection::vec(fuzz::typed::<Command>("keelson.command.Command"), 1..8),
    ) {
        let (mut one, mut other) = (Overlay::new(Nothing), Overlay::new(Nothing));
        for command in &commands {
            let [first, second] = [&mut one, &mut other].map(|memory| {
                let applied = apply(memory, command).unwrap();
                memory.effects_mut().merge(applied.effects);
                (applied.outcome, applied.events)
            });
            prop_assert_eq!(first, second, "{:?}", command);
        }
    }

    /// Bytes of a log entry that are no command are an error.
    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in Damage::to(op().prop_map(|op| {
        prost::Message::encode_to_vec(&Command { op: Some(op), ..Default::default() })
    }))) {
        if let Ok(command) = <Command as prost::Message>::decode(&bytes[..]) {
            apply(&Overlay::new(Nothing), &command).unwrap();
        }
    }
}
