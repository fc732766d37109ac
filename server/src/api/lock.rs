//! v3lockpb.Lock: whoever has the oldest key under the name holds the lock.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::concurrency::{Caller, created_at, created_by, first, op, prefix, queue_key, range_in};
use super::{Api, errors};
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, TxnRequest};
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

#[tonic::async_trait]
impl Lock for Arc<Api> {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, LockRequest { name, lease }) = Caller::of(self, request);
        let lease = caller.lease(lease).await?;
        let prefix = prefix(&name);
        let key = queue_key(&prefix, lease);
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let put = PutRequest { key: key.clone(), lease, ..PutRequest::default() };
        let owner = op(Operation::RequestRange(first(&prefix, SortOrder::Ascend)));
        let entered = caller
            .txn(TxnRequest {
                compare: vec![created_at(key.clone(), 0)],
                success: vec![op(Operation::RequestPut(put)), owner.clone()],
                failure: vec![op(Operation::RequestRange(get.clone())), owner],
            })
            .await?;
        let create_revision =
            created_by(&entered).ok_or_else(|| errors::internal("a lock has no key", "an empty answer"))?;
        if range_in(&entered, 1).is_none_or(|owner| owner.create_revision == create_revision) {
            return Ok(locked(entered.header, key));
        }
        let mut place = Place { caller: &caller, key: Some(key.clone()) };
        caller.wait_for_older(&prefix, create_revision).await?;
        let found = caller.range(get).await?;
        place.key = None;
        match found.kvs.is_empty() {
            true => Err(Status::unknown("mutex: session is expired")),
            false => Ok(locked(found.header, key)),
        }
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (caller, UnlockRequest { key }) = Caller::of(self, request);
        let deleted = caller.delete(key).await?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}

fn locked(header: Option<ResponseHeader>, key: Bytes) -> Response<LockResponse> {
    Response::new(LockResponse { header, key })
}

/// A key that waits. If the wait fails, or nobody waits any more, the key must not hold up those behind it.
struct Place<'a> {
    caller: &'a Caller,
    key: Option<Bytes>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let caller = self.caller.clone();
        tokio::spawn(async move {
            if let Err(error) = caller.delete(key).await {
                tracing::debug!(%error, "a lock's key stays until its lease ends");
            }
        });
    }
}
