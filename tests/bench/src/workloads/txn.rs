//! Kubernetes' optimistic update: if the key is as I know it, put; otherwise tell me how it is.

use anyhow::Result;
use prost::Message;

use super::data::Values;
use super::measure::Plan;
use super::{Scene, clients};
use crate::load::{Call, Client};
use crate::wire::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request};
use crate::wire::{fields, method};

/// Objects that each client updates in turn.
const OBJECTS: usize = 100;

/// Each client has objects of its own, so that every update succeeds.
pub fn txn(scene: &mut Scene<'_>) -> Result<Plan> {
    let value_bytes = scene.case.environment.value_bytes;
    let client = |index| Update {
        client: index,
        at: 0,
        revisions: vec![0; OBJECTS],
        values: Values::new(value_bytes, index as u64),
    };
    // A run before this one has left its objects: none is known, so that the first update of each finds out.
    Ok(Plan::of(clients(scene, client), object(0, 0).len() + value_bytes))
}

fn object(client: usize, number: usize) -> Vec<u8> {
    format!("/registry/leases/{client:07}/{number:07}").into_bytes()
}

struct Update {
    client: usize,
    at: usize,
    /// The revision of each object's last update, 0 before it was created.
    revisions: Vec<i64>,
    values: Values,
}

impl Client for Update {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        self.at = (self.at + 1) % OBJECTS;
        let key = object(self.client, self.at);
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(self.revisions[self.at])),
            ..Compare::default()
        };
        let mut put = PutRequest { key: key.clone(), ..PutRequest::default() };
        self.values.write(&mut put.value);
        let get = RangeRequest { key, ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        txn.encode(message).expect("a vector grows");
        Some(Call::Unary(method::TXN))
    }

    fn answered(&mut self, answer: &[u8], _length: usize) -> Result<(), String> {
        // TxnResponse: header 1, succeeded 2, responses 3; ResponseHeader: revision 3.
        let revision = fields::bytes(answer, 1).and_then(|header| fields::number(header, 3));
        if fields::number(answer, 2) == Some(1) {
            self.revisions[self.at] = revision.unwrap_or_default() as i64;
            return Ok(());
        }
        // ResponseOp: response_range 1; RangeResponse: kvs 2; KeyValue: mod_revision 3.
        let kv = fields::bytes(answer, 3).and_then(|op| fields::bytes(op, 1)).and_then(|range| fields::bytes(range, 2));
        let found = kv.and_then(|kv| fields::number(kv, 3)).ok_or("an update that failed without its object")?;
        let known = std::mem::replace(&mut self.revisions[self.at], found as i64);
        if known == 0 { Ok(()) } else { Err("an update that nobody else made failed".to_owned()) }
    }
}
