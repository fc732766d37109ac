//! Requests are refused here, before Raft, for what can be seen without the store. The rules are etcd's.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// A range needs a key and a known sort.
pub fn range(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

/// A put needs a key, and must not bring what it wants to be ignored.
pub fn put(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// A deletion needs a key.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    match request.key.is_empty() {
        true => Err(EtcdError::EmptyKey),
        false => Ok(()),
    }
}

/// Txns within txns. A log entry is decoded with a limit on how deep messages nest: what passes here must pass there, on
/// every member, for ever.
const MAX_NESTING: usize = 32;

/// A txn has at most `max_ops` compares, and operations in each branch, less those of the txns around it; no key is
/// written twice.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    operations(request, max_ops, MAX_NESTING)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

fn operations(request: &TxnRequest, max_ops: usize, max_nesting: usize) -> Result<(), EtcdError> {
    let max_nesting = max_nesting.checked_sub(1).ok_or(EtcdError::TooManyOps)?;
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let rest = max_ops.checked_sub(longest).ok_or(EtcdError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => operations(request, rest, max_nesting)?,
            None => return Err(EtcdError::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys that a list of operations may put, and ranges that it may delete.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Their starts and ends. They do not overlap, so one look finds the only one that may have a key.
    deleted_ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Writes<'a> {
    /// Collects, and refuses a key that is put twice or put and deleted. Two branches of one txn exclude each other, so
    /// they may write the same key.
    fn of(operations: &'a [RequestOp]) -> Result<Self, EtcdError> {
        let mut writes = Writes::default();
        for operation in operations {
            if let Some(Request::RequestDeleteRange(request)) = &operation.request {
                writes.delete(&request.key, &request.range_end);
            }
        }
        for operation in operations {
            if let Some(Request::RequestTxn(request)) = &operation.request {
                let success = Writes::of(&request.success)?;
                let failure = Writes::of(&request.failure)?;
                writes.add_puts(success.puts.union(&failure.puts).copied())?;
                for branch in [success, failure] {
                    writes.deleted_keys.extend(branch.deleted_keys);
                    branch.deleted_ranges.into_iter().for_each(|(start, end)| writes.delete(start, end));
                }
            }
        }
        let puts = operations.iter().filter_map(|operation| match &operation.request {
            Some(Request::RequestPut(request)) => Some(&request.key[..]),
            _ => None,
        });
        writes.add_puts(puts)?;
        Ok(writes)
    }

    fn add_puts(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), EtcdError> {
        for key in keys {
            if !self.puts.insert(key) || self.deletes(key) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        Ok(())
    }

    /// "\0" as an end is every key from the start on, but etcd takes it as it is here: an empty range, which has no key.
    fn delete(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if end.is_empty() {
            self.deleted_keys.insert(start);
            return;
        }
        if start >= end {
            return;
        }
        while let Some((&other, &other_end)) = self.deleted_ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.deleted_ranges.remove(other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        self.deleted_ranges.insert(start, end);
    }

    fn deletes(&self, key: &[u8]) -> bool {
        let range = self.deleted_ranges.range(..=key).next_back();
        self.deleted_keys.contains(key) || range.is_some_and(|(_, end)| key < *end)
    }
}

/// Whether a read-only txn may be answered from what this member has: every operation says so.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let mut operations = request.success.iter().chain(&request.failure);
    operations.all(|operation| match &operation.request {
        Some(Request::RequestRange(request)) => request.serializable,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::etcdserverpb::Compare;

    fn put_op(key: &'static str) -> RequestOp {
        let request = PutRequest { key: key.into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(request)) }
    }

    fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(request)) }
    }

    fn range_op(key: &'static str, serializable: bool) -> RequestOp {
        let request = RangeRequest { key: key.into(), serializable, ..RangeRequest::default() };
        RequestOp { request: Some(Request::RequestRange(request)) }
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let request = TxnRequest { compare: vec![], success, failure };
        RequestOp { request: Some(Request::RequestTxn(request)) }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), EtcdError> {
        let request = TxnRequest { success, ..TxnRequest::default() };
        txn(&request, 128)
    }

    #[test]
    fn what_may_be_nested_can_be_decoded_in_an_entry_and_in_a_peers_answer() {
        use prost::Message;

        use crate::proto::command::{Command, Outcome, command::Op, outcome::Result as Answer};
        use crate::proto::etcdserverpb::{ResponseOp, TxnResponse, response_op::Response};
        use crate::proto::peer::ProposeResponse;

        let nested = |levels: usize| {
            let innermost = TxnRequest { success: vec![put_op("a")], ..TxnRequest::default() };
            (1..levels).fold(innermost, |inner, _| TxnRequest {
                success: vec![RequestOp { request: Some(Request::RequestTxn(inner)) }],
                ..TxnRequest::default()
            })
        };
        assert_eq!(txn(&nested(MAX_NESTING + 1), 128), Err(EtcdError::TooManyOps));
        let deepest = nested(MAX_NESTING);
        assert_eq!(txn(&deepest, 128), Ok(()));
        let command = Command { op: Some(Op::Txn(deepest)), ..Default::default() };
        assert!(Command::decode(&command.encode_to_vec()[..]).is_ok());
        let answer = (0..MAX_NESTING).fold(TxnResponse::default(), |inner, _| TxnResponse {
            responses: vec![ResponseOp { response: Some(Response::ResponseTxn(inner)) }],
            ..TxnResponse::default()
        });
        let answer = ProposeResponse {
            outcome: Some(Outcome { result: Some(Answer::Txn(answer)) }),
            ..ProposeResponse::default()
        };
        assert!(ProposeResponse::decode(&answer.encode_to_vec()[..]).is_ok());
    }

    #[test]
    fn a_key_is_written_once() {
        let duplicate = Err(EtcdError::DuplicateKey);
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), duplicate);
        assert_eq!(check(vec![put_op("b"), delete_op("a", "c")]), duplicate);
        assert_eq!(check(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
        assert_eq!(check(vec![put_op("z"), delete_op("a", "\0")]), Ok(()));
        assert_eq!(check(vec![delete_op("a", "c"), delete_op("b", "")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), txn_op(vec![put_op("a")], vec![])]), duplicate);
        assert_eq!(check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        assert_eq!(check(vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])]), duplicate);
        assert_eq!(check(vec![txn_op(vec![delete_op("a", "")], vec![]), put_op("a")]), duplicate);
        assert_eq!(check(vec![txn_op(vec![delete_op("a", "")], vec![put_op("a")])]), Ok(()));
    }

    proptest! {
        /// Ranges that meet, overlap or lie within each other have the keys that each of them has.
        #[test]
        fn deleted_ranges_have_their_keys(ranges in vec(("[a-c]{0,2}", "[a-c]{0,2}"), 0..8), key in "[a-c]{1,2}") {
            let mut writes = Writes::default();
            ranges.iter().for_each(|(start, end)| writes.delete(start.as_bytes(), end.as_bytes()));
            let is_in = |(start, end): &(String, String)| match end.is_empty() {
                true => *start == key,
                false => *start <= key && key < *end,
            };
            prop_assert_eq!(writes.deletes(key.as_bytes()), ranges.iter().any(is_in));
        }
    }

    #[test]
    fn operations_are_counted_through_nested_txns() {
        let ranges = |count| vec![range_op("a", true); count];
        assert_eq!(check(ranges(128)), Ok(()));
        assert_eq!(check(ranges(129)), Err(EtcdError::TooManyOps));
        assert_eq!(check(vec![txn_op(ranges(127), vec![])]), Ok(()));
        assert_eq!(check(vec![txn_op(ranges(128), vec![])]), Err(EtcdError::TooManyOps));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(EtcdError::KeyNotFound));
        let empty_compare = TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() };
        assert_eq!(txn(&empty_compare, 128), Err(EtcdError::EmptyKey));
    }

    #[test]
    fn options_that_contradict() {
        let request = PutRequest { key: "a".into(), value: "v".into(), ignore_value: true, ..PutRequest::default() };
        assert_eq!(put(&request), Err(EtcdError::ValueProvided));
        let request = RangeRequest { key: "a".into(), sort_target: 9, ..RangeRequest::default() };
        assert_eq!(range(&request), Err(EtcdError::InvalidSortOption));
        assert_eq!(range(&RangeRequest::default()), Err(EtcdError::EmptyKey));
    }

    #[test]
    fn serializable_txns() {
        let request = |success| TxnRequest { success, ..TxnRequest::default() };
        assert!(is_serializable(&request(vec![range_op("a", true)])));
        assert!(!is_serializable(&request(vec![range_op("a", true), range_op("a", false)])));
    }
}
