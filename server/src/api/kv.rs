//! etcdserverpb.KV: read, write, compact.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tonic::{Request, Response, Status};

use super::{Api, errors, mismatch, range_stream, truth, validate};
use crate::auth::Credentials;
use crate::budget::Share;
use crate::mvcc::range::{Room, range};
use crate::mvcc::{ReadError, View, range_bytes};
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::*;
use crate::state;
use crate::state::auth::Access;
use crate::storage::ReadView;
use crate::telemetry::node::Operations;
use crate::telemetry::requests::Success;

/// A range with a smaller limit is read at once; others go to a thread of their own.
const SHORT_RANGE_LIMIT: i64 = 100;

/// Answers are counted in steps of so many bytes; small ones are not.
const SHARE_STEP: usize = 16 << 10;

#[tonic::async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let (credentials, request) = self.open(request);
        validate::range(&request)?;
        let answer = self.answer_range(credentials, request, range);
        let (mut response, share) = self.timed("Range").until(answer).await?;
        self.complete(&mut response.header);
        Ok(counted(response, share))
    }

    type RangeStreamStream = range_stream::Chunks;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (credentials, request) = self.open(request);
        validate::range(&request)?;
        range_stream::check(&request)?;
        self.linearize(request.serializable).await?;
        let caller = self.caller(&credentials).await?;
        let view = self.node.view();
        if let Some(access) = Access::of(view.auth(), caller.as_ref()) {
            access.read(&request.key, &request.range_end)?;
        }
        let header = self.header(0);
        let known = caller.map(|caller| caller.auth_revision);
        let store = self.node.store().clone();
        let unchanged = move || known.is_none_or(|revision| revision == store.auth().revision);
        Ok(Response::new(range_stream::chunks(self.node.clone(), view, request, header, unchanged)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (credentials, request) = self.open(request);
        validate::put(&request)?;
        self.check_quota(request.key.len() + request.value.len()).await?;
        let caller = self.caller(&credentials).await?;
        match self.propose(Op::Put(request), caller).await? {
            Outcome::Put(mut response) => {
                self.complete(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(mismatch(other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (credentials, request) = self.open(request);
        validate::delete_range(&request)?;
        let caller = self.caller(&credentials).await?;
        match self.propose(Op::DeleteRange(request), caller).await? {
            Outcome::DeleteRange(mut response) => {
                self.complete(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(mismatch(other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (credentials, request) = self.open(request);
        validate::txn(&request, self.limits.max_txn_ops)?;
        let (mut response, share) = if state::txn::is_read_only(&request) {
            self.timed("ReadonlyTxn").until(self.answer_read_only(credentials, request)).await?
        } else {
            if state::txn::has_put(&request) {
                self.check_quota(prost::Message::encoded_len(&request)).await?;
            }
            let caller = self.caller(&credentials).await?;
            match self.propose(Op::Txn(request), caller).await? {
                Outcome::Txn(response) => (response, self.answers.share(SHARE_STEP)),
                other => return Err(mismatch(other)),
            }
        };
        // The answers inside keep only the revision, as etcd's do.
        self.complete(&mut response.header);
        Ok(counted(response, share))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let (credentials, request) = self.open(request);
        let caller = self.require_root(&credentials).await?;
        let CompactionRequest { revision, physical } = request;
        let mut response = match self.propose(Op::Compact(request), caller).await? {
            Outcome::Compact(response) => response,
            other => return Err(mismatch(other)),
        };
        if physical {
            let store = self.node.store().clone();
            tokio::task::spawn_blocking(move || store.wait_compacted(revision))
                .await
                .map_err(|error| errors::internal("waiting for a compaction was aborted", error))?;
        }
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }
}

impl Api {
    /// Answers a range for which [`range_bytes::serves`], as bytes behind `prefix` zeros.
    pub(super) async fn range_bytes(
        &self,
        request: Request<RangeRequest>,
        prefix: usize,
    ) -> Result<Response<Vec<BytesMut>>, Status> {
        let (credentials, request) = self.open(request);
        validate::range(&request)?;
        let read = move |view: &_, request: &_, room: &mut Room<'_>| range_bytes::range(view, request, prefix, room);
        let (answer, share) = self.timed("Range").until(self.answer_range(credentials, request, read)).await?;
        let header = self.header(answer.revision);
        Ok(counted(answer.with(&header), share))
    }

    async fn answer_range<T: Send + 'static>(
        &self,
        credentials: Credentials,
        request: RangeRequest,
        range: impl FnOnce(&ReadView, &RangeRequest, &mut Room<'_>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<(T, Share), Status> {
        self.linearize(request.serializable).await?;
        let caller = self.caller(&credentials).await?;
        let (key, range_end) = (request.key.clone(), request.range_end.clone());
        let may = move |access: Access<'_>, _: &ReadView| Ok(access.read(&key, &range_end)?);
        let is_counted = is_count(&request) && self.node.view().keys().is_some();
        let (long, begun) = (is_long(&request) && !is_counted, Instant::now());
        let mut share = self.answers.share(SHARE_STEP);
        let read = move |view: &ReadView| {
            // Short ones have no thread of their own that could wait.
            let mut room = |bytes| if long { share.grow_in_turn(bytes) } else { share.grow(bytes) };
            let answer = range(view, &request, &mut room)?;
            Ok((answer, share))
        };
        let answer = self.read_as(caller, long, may, read).await;
        self.metrics.node.operations.range();
        let labels = Success { success: truth(answer.is_ok()) };
        self.metrics.requests.range_seconds.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
        answer
    }

    async fn answer_read_only(
        &self,
        credentials: Credentials,
        request: TxnRequest,
    ) -> Result<(TxnResponse, Share), Status> {
        self.linearize(validate::is_serializable(&request)).await?;
        let caller = self.caller(&credentials).await?;
        let request = Arc::new(request);
        let (checked, asked) = (Arc::clone(&request), Arc::clone(&request));
        let may = move |access: Access<'_>, view: &ReadView| access.txn(view, &checked);
        let mut share = self.answers.share(SHARE_STEP);
        let read = move |view: &ReadView| {
            Ok((state::txn::read_only(view, &asked, &mut |bytes| share.grow_in_turn(bytes))?, share))
        };
        let (response, share) = self.read_as(caller, true, may, read).await?;
        self.metrics.node.operations.count(Operations::of_txn(&request, &response));
        Ok((response, share))
    }
}

/// An answer that holds its share until the client has it.
fn counted<T>(answer: T, share: Share) -> Response<T> {
    let mut response = Response::new(answer);
    if !share.is_empty() {
        response.extensions_mut().insert(Arc::new(share));
    }
    response
}

/// Whether only the number of the keys of now is asked for: hardly any key is looked at for it, once all were counted.
fn is_count(request: &RangeRequest) -> bool {
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    request.count_only && request.revision <= 0 && filters == [0; 4]
}

fn is_long(request: &RangeRequest) -> bool {
    let short = request.range_end.is_empty() || (1..=SHORT_RANGE_LIMIT).contains(&request.limit);
    !short
}
