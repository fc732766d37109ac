//! What locks and elections share: a queue of keys under a prefix, ordered by their create revisions.
//!
//! etcd's services are clients of their own server. So is this: it asks the other services, in this process and with the
//! rights of the call that it serves, and it tells their errors as etcd's client library hands them on.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::Api;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::etcdserverpb::*;
use crate::proto::mvccpb::event::EventType;

/// Time to live of a lease that a call makes because it brings none.
const LEASE_TTL_SECONDS: i64 = 60;

/// One call of a lock or an election, as a client of the other services.
#[derive(Clone)]
pub struct Caller {
    api: Arc<Api>,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    /// Takes the call's rights over from its metadata.
    pub fn of<T>(api: &Arc<Api>, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Caller { api: api.clone(), metadata, extensions }, message)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// Asks, unless the server stops first: a queue can be long.
    async fn ask<T>(&self, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        tokio::select! {
            answer = answer => answer.map(Response::into_inner).map_err(as_clients_tell),
            () = self.api.stop.cancelled() => Err(EtcdError::Stopped.into()),
        }
    }

    /// The lease that the call brings, or a new one.
    pub async fn lease(&self, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let grant = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 };
        Ok(self.ask(self.api.lease_grant(self.request(grant))).await?.id)
    }

    /// A range.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.ask(self.api.range(self.request(request))).await
    }

    /// A txn.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.ask(self.api.txn(self.request(request))).await
    }

    /// Deletes one key.
    pub async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        self.ask(self.api.delete_range(self.request(request))).await
    }

    /// Waits until nothing under the prefix is older than `create_revision`, by watching one predecessor after another.
    pub async fn wait_for_older(&self, prefix: &Bytes, create_revision: i64) -> Result<(), Status> {
        loop {
            let youngest =
                RangeRequest { max_create_revision: create_revision - 1, ..first(prefix, SortOrder::Descend) };
            let found = self.range(youngest).await?;
            let Some(predecessor) = found.kvs.into_iter().next() else {
                return Ok(());
            };
            let revision = found.header.map_or(0, |header| header.revision);
            self.wait_deleted(predecessor.key, revision).await?;
        }
    }

    async fn wait_deleted(&self, key: Bytes, start_revision: i64) -> Result<(), Status> {
        let create = WatchCreateRequest { key, start_revision, ..WatchCreateRequest::default() };
        let mut responses = self.watch(create).await?;
        while let Some(response) = self.next(&mut responses).await? {
            if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
                return Ok(());
            }
        }
        Err(Status::unknown("lost watcher waiting for delete"))
    }

    /// A watch of its own stream.
    pub async fn watch(&self, create: WatchCreateRequest) -> Result<Streaming<WatchResponse>, Status> {
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = stream::iter([create]).chain(stream::pending());
        let mut client = WatchClient::new(WatchServer::new(self.api.clone())).max_decoding_message_size(usize::MAX);
        self.ask(client.watch(self.request(requests))).await
    }

    /// The next response of a watch; a watch that was cancelled is an error.
    pub async fn next(&self, responses: &mut Streaming<WatchResponse>) -> Result<Option<WatchResponse>, Status> {
        let response = tokio::select! {
            response = responses.message() => response.map_err(as_clients_tell)?,
            () = self.api.stop.cancelled() => return Err(EtcdError::Stopped.into()),
        };
        match response {
            Some(WatchResponse { compact_revision: 1.., .. }) => Err(as_clients_tell(EtcdError::Compacted.into())),
            Some(WatchResponse { canceled: true, cancel_reason, .. }) => Err(match cancel_reason.as_str() {
                "" => as_clients_tell(EtcdError::FutureRev.into()),
                reason => as_clients_tell(Status::failed_precondition(reason)),
            }),
            response => Ok(response),
        }
    }
}

/// etcd's client library gives its errors a type that the server does not know again: codes become Unknown.
fn as_clients_tell(status: Status) -> Status {
    let known = EtcdError::ALL.iter().any(|error| error.to_string() == status.message());
    match known {
        true => Status::unknown(status.message()),
        false => status,
    }
}

/// The prefix of a queue's keys.
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of a lease in a queue.
pub fn queue_key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The end of the range of keys with this prefix, which ends in "/".
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Asks for the oldest key of a queue (`Ascend`), or the youngest one (`Descend`).
pub fn first(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_target: SortTarget::Create.into(),
        sort_order: order.into(),
        ..RangeRequest::default()
    }
}

/// Compares a key's create revision; 0 means that there is no such key.
pub fn created_at(key: Bytes, create_revision: i64) -> Compare {
    Compare {
        target: CompareTarget::Create.into(),
        key,
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
        ..Compare::default()
    }
}

/// An operation of a txn.
pub fn op(operation: Operation) -> RequestOp {
    RequestOp { request: Some(operation) }
}

/// The first key-value of a range inside a txn's answer.
pub fn range_in(response: &TxnResponse, operation: usize) -> Option<&crate::proto::mvccpb::KeyValue> {
    match &response.responses.get(operation)?.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

/// The create revision of a key that a txn has put, or has found there.
pub fn created_by(response: &TxnResponse) -> Option<i64> {
    match response.succeeded {
        true => response.header.as_ref().map(|header| header.revision),
        false => range_in(response, 0).map(|kv| kv.create_revision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_etcds() {
        let prefix = prefix(b"jobs");
        assert_eq!(&queue_key(&prefix, 0x1f2e)[..], b"jobs/1f2e");
        assert_eq!(&queue_key(&prefix, -1)[..], b"jobs/-1");
        assert_eq!(&prefix_end(&prefix)[..], b"jobs0");
    }

    #[test]
    fn errors_of_the_table_lose_their_codes() {
        let lost = as_clients_tell(EtcdError::LeaseNotFound.into());
        assert_eq!((lost.code(), lost.message()), (tonic::Code::Unknown, "etcdserver: requested lease not found"));
        let other = as_clients_tell(Status::internal("other"));
        assert_eq!(other.code(), tonic::Code::Internal);
    }
}
