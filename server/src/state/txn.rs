//! Transactions: compares choose the branches by the state before; then the operations of the chosen branches follow.

use std::cmp::Ordering;

use super::write::Writer;
use super::{header, kv};
use crate::mvcc::range::{self, Room};
use crate::mvcc::{KeyRange, KeyValue, ReadError, View, ViewError};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{Compare, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse};

/// Whether every operation of the transaction, in either branch, is a range. As in etcd, one with a nested transaction
/// goes through Raft whatever that does, where alarms may refuse it.
pub fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether an operation of the transaction, in either branch, is a put.
pub fn has_put(request: &TxnRequest) -> bool {
    operations(request).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => has_put(nested),
        _ => false,
    })
}

/// Answers a transaction that does not write, without Raft, as long as there is room for the answer. The header carries only the
/// revision.
pub fn read_only<V: View>(view: &V, request: &TxnRequest, room: &mut Room<'_>) -> Result<TxnResponse, ReadError> {
    debug_assert!(is_read_only(request), "a transaction that writes goes through Raft");
    answer(&mut Writer::new(view), request, room)
}

/// Applies a transaction. What all members do alike cannot depend on the room that one of them has.
pub fn apply<V: View>(writer: &mut Writer<'_, V>, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
    answer(writer, request, &mut range::unbounded)
}

fn answer<V: View>(
    writer: &mut Writer<'_, V>,
    request: &TxnRequest,
    room: &mut Room<'_>,
) -> Result<TxnResponse, ReadError> {
    let plan = Plan::new(writer.base(), request)?;
    plan.check(writer.base())?;
    let mut response = plan.execute(writer, room)?;
    response.header = header(writer.revision());
    Ok(response)
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// The branches that the compares choose. All compares look at the state before the transaction, so they come first.
struct Plan<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

enum Step<'r> {
    One(&'r RequestOp),
    Nested(Plan<'r>),
}

impl<'r> Plan<'r> {
    fn new<V: View>(view: &V, request: &'r TxnRequest) -> Result<Self, ViewError> {
        let mut succeeded = true;
        for compare in &request.compare {
            succeeded = succeeded && holds(view, compare)?;
        }
        let chosen = if succeeded { &request.success } else { &request.failure };
        let mut steps = Vec::with_capacity(chosen.len());
        for op in chosen {
            steps.push(match &op.request {
                Some(Request::RequestTxn(nested)) => Step::Nested(Self::new(view, nested)?),
                _ => Step::One(op),
            });
        }
        Ok(Self { succeeded, steps })
    }

    /// Refuses the whole transaction before anything is written.
    fn check<V: View>(&self, view: &V) -> Result<(), ReadError> {
        for step in &self.steps {
            match step {
                Step::Nested(plan) => plan.check(view)?,
                Step::One(op) => match &op.request {
                    Some(Request::RequestRange(range)) => check_range(view, range)?,
                    Some(Request::RequestPut(put)) => kv::check_put(view, put)?,
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn execute<V: View>(&self, writer: &mut Writer<'_, V>, room: &mut Room<'_>) -> Result<TxnResponse, ReadError> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let response = match step {
                Step::Nested(plan) => Some(Response::ResponseTxn(plan.execute(writer, room)?)),
                Step::One(op) => match &op.request {
                    Some(Request::RequestRange(range)) => {
                        Some(Response::ResponseRange(range::range(writer.view(), range, room)?))
                    }
                    Some(Request::RequestPut(put)) => Some(Response::ResponsePut(kv::write(writer, put)?)),
                    Some(Request::RequestDeleteRange(delete)) => {
                        Some(Response::ResponseDeleteRange(kv::delete_range(writer, delete)?))
                    }
                    Some(Request::RequestTxn(_)) | None => None,
                },
            };
            responses.push(ResponseOp { response });
        }
        // etcd leaves the header of a nested answer empty, but sends it.
        Ok(TxnResponse { header: header(0), succeeded: self.succeeded, responses })
    }
}

/// Within a transaction, etcd compares even a negative revision with the compacted one.
fn check_range<V: View>(view: &V, request: &RangeRequest) -> Result<(), ReadError> {
    match request.revision {
        0 => Ok(()),
        revision => Ok(range::check_revision(view, revision)?),
    }
}

fn holds<V: View>(view: &V, compare: &Compare) -> Result<bool, ViewError> {
    let keys = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let kvs = range::current(view, &keys)?;
    if kvs.is_empty() {
        // A missing key has no value that could be compared, but zeros otherwise.
        let comparable = compare.target != CompareTarget::Value as i32;
        return Ok(comparable && holds_for(compare, &KeyValue::default()));
    }
    Ok(kvs.iter().all(|kv| holds_for(compare, kv)))
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let given = compare.target_union.as_ref();
    // As in etcd, an unknown target is equal to anything, and an unknown comparison holds.
    let ordering = match CompareTarget::try_from(compare.target) {
        Err(_) => Ordering::Equal,
        Ok(CompareTarget::Value) => match given {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.as_ref().cmp(&[]),
        },
        Ok(CompareTarget::Version) => match given {
            Some(TargetUnion::Version(version)) => kv.version.cmp(version),
            _ => kv.version.cmp(&0),
        },
        Ok(CompareTarget::Create) => match given {
            Some(TargetUnion::CreateRevision(revision)) => kv.create_revision.cmp(revision),
            _ => kv.create_revision.cmp(&0),
        },
        Ok(CompareTarget::Mod) => match given {
            Some(TargetUnion::ModRevision(revision)) => kv.mod_revision.cmp(revision),
            _ => kv.mod_revision.cmp(&0),
        },
        Ok(CompareTarget::Lease) => match given {
            Some(TargetUnion::Lease(lease)) => kv.lease.cmp(lease),
            _ => kv.lease.cmp(&0),
        },
    };
    match CompareResult::try_from(compare.result) {
        Err(_) => true,
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
    }
}
