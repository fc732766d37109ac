//! etcd's API on the wire, and what the history says instead.

#[allow(missing_docs, dead_code, clippy::all)]
pub mod proto {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
}

use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{self as pb, request_op, response_op};
use proto::mvccpb;

use crate::history::{
    Compare, Comparison, Event, KeyValue, Kind, Request, Response, Span, Target, Time, Watch, WatchResponse,
};

fn bytes(span: &Span) -> (Vec<u8>, Vec<u8>) {
    (span.start.clone().into_bytes(), span.end.clone().unwrap_or_default().into_bytes())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

impl From<mvccpb::KeyValue> for KeyValue {
    fn from(kv: mvccpb::KeyValue) -> Self {
        let mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
        Self { key: text(key), value: text(value), create_revision, mod_revision, version, lease }
    }
}

fn key_values(kvs: Vec<mvccpb::KeyValue>) -> Vec<KeyValue> {
    kvs.into_iter().map(KeyValue::from).collect()
}

impl From<pb::PutResponse> for Response {
    fn from(response: pb::PutResponse) -> Self {
        Response::Put { prev: response.prev_kv.map(KeyValue::from) }
    }
}

impl From<pb::DeleteRangeResponse> for Response {
    fn from(response: pb::DeleteRangeResponse) -> Self {
        Response::Delete { deleted: response.deleted, prev: key_values(response.prev_kvs) }
    }
}

impl From<pb::RangeResponse> for Response {
    fn from(response: pb::RangeResponse) -> Self {
        Response::Range { kvs: key_values(response.kvs), count: response.count, more: response.more }
    }
}

impl From<pb::TxnResponse> for Response {
    fn from(response: pb::TxnResponse) -> Self {
        let each = response.responses.into_iter().filter_map(|op| op.response);
        let responses = each.map(|response| match response {
            response_op::Response::ResponseRange(response) => response.into(),
            response_op::Response::ResponsePut(response) => response.into(),
            response_op::Response::ResponseDeleteRange(response) => response.into(),
            response_op::Response::ResponseTxn(response) => response.into(),
        });
        Response::Txn { succeeded: response.succeeded, responses: responses.collect() }
    }
}

pub fn range(span: &Span, revision: i64, serializable: bool, limit: i64) -> pb::RangeRequest {
    let (key, range_end) = bytes(span);
    pb::RangeRequest { key, range_end, revision, serializable, limit, ..Default::default() }
}

pub fn put(key: &str, value: &str, lease: i64, prev_kv: bool) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), lease, prev_kv, ..Default::default() }
}

pub fn delete(span: &Span, prev_kv: bool) -> pb::DeleteRangeRequest {
    let (key, range_end) = bytes(span);
    pb::DeleteRangeRequest { key, range_end, prev_kv }
}

pub fn txn(compares: &[Compare], then: &[Request], otherwise: &[Request]) -> pb::TxnRequest {
    let each = |branch: &[Request]| branch.iter().map(operation).collect();
    pb::TxnRequest { compare: compares.iter().map(compare).collect(), success: each(then), failure: each(otherwise) }
}

fn operation(request: &Request) -> pb::RequestOp {
    let request = match request {
        Request::Put { key, value, lease, prev_kv } => {
            request_op::Request::RequestPut(put(key, value, *lease, *prev_kv))
        }
        Request::Delete { span, prev_kv } => request_op::Request::RequestDeleteRange(delete(span, *prev_kv)),
        Request::Range { span, revision, serializable, limit } => {
            request_op::Request::RequestRange(range(span, *revision, *serializable, *limit))
        }
        Request::Txn { compares, then, otherwise } => request_op::Request::RequestTxn(txn(compares, then, otherwise)),
        Request::LeaseGrant { .. }
        | Request::LeaseRevoke { .. }
        | Request::LeaseKeepAlive { .. }
        | Request::Compact { .. } => unreachable!("no part of a txn"),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare(compare: &Compare) -> pb::Compare {
    let result = match compare.comparison {
        Comparison::Equal => CompareResult::Equal,
        Comparison::NotEqual => CompareResult::NotEqual,
        Comparison::Greater => CompareResult::Greater,
        Comparison::Less => CompareResult::Less,
    };
    let (target, union) = match &compare.target {
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone().into_bytes())),
        Target::Version(number) => (CompareTarget::Version, TargetUnion::Version(*number)),
        Target::CreateRevision(number) => (CompareTarget::Create, TargetUnion::CreateRevision(*number)),
        Target::ModRevision(number) => (CompareTarget::Mod, TargetUnion::ModRevision(*number)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key.clone().into_bytes(),
        target_union: Some(union),
        ..Default::default()
    }
}

/// The first message of a watch's stream.
pub fn watch(watch: &Watch) -> pb::WatchRequest {
    let (key, range_end) = bytes(&watch.span);
    let filters = [(watch.no_puts, FilterType::Noput), (watch.no_deletes, FilterType::Nodelete)];
    let filters = filters.iter().filter(|(wanted, _)| *wanted).map(|(_, filter)| (*filter).into()).collect();
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: watch.start,
        progress_notify: true,
        filters,
        prev_kv: watch.prev_kv,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// A request for a bookmark.
pub fn progress() -> pb::WatchRequest {
    let request = pb::WatchProgressRequest {};
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::ProgressRequest(request)) }
}

pub fn watched(response: pb::WatchResponse, time: Time) -> WatchResponse {
    let event = |event: mvccpb::Event| Event {
        kind: if event.r#type() == mvccpb::event::EventType::Put { Kind::Put } else { Kind::Delete },
        prev: event.prev_kv.map(KeyValue::from),
        kv: event.kv.map(KeyValue::from).expect("an event has a key"),
    };
    WatchResponse {
        time,
        revision: response.header.map_or(0, |header| header.revision),
        created: response.created,
        canceled: response.canceled,
        compact_revision: response.compact_revision,
        events: response.events.into_iter().map(event).collect(),
    }
}
