//! etcdserverpb.KV: read, write, compact.

use tonic::{Request, Response, Status};

use super::{Api, errors, mismatch, range_stream, validate};
use crate::mvcc::range::range;
use crate::proto::command::command::Op;
use crate::proto::command::outcome::Result as Outcome;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::*;
use crate::state;

/// A range with a smaller limit is read at once; others go to a thread of their own.
const SHORT_RANGE_LIMIT: i64 = 100;

#[tonic::async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        validate::range(&request)?;
        self.linearize(request.serializable).await?;
        let mut response = self.read(is_long(&request), move |view| range(view, &request)).await?;
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = range_stream::Chunks;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = request.into_inner();
        validate::range(&request)?;
        range_stream::check(&request)?;
        self.linearize(request.serializable).await?;
        let view = self.node.view();
        let header = self.header(0);
        Ok(Response::new(range_stream::chunks(view, request, header)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        validate::put(&request)?;
        self.check_quota(request.key.len() + request.value.len()).await?;
        match self.propose(Op::Put(request)).await? {
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
        let request = request.into_inner();
        validate::delete_range(&request)?;
        match self.propose(Op::DeleteRange(request)).await? {
            Outcome::DeleteRange(mut response) => {
                self.complete(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(mismatch(other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        validate::txn(&request, self.limits.max_txn_ops)?;
        let mut response = if state::txn::is_read_only(&request) {
            self.linearize(validate::is_serializable(&request)).await?;
            self.read(true, move |view| state::txn::read_only(view, &request)).await?
        } else {
            if state::txn::has_put(&request) {
                self.check_quota(prost::Message::encoded_len(&request)).await?;
            }
            match self.propose(Op::Txn(request)).await? {
                Outcome::Txn(response) => response,
                other => return Err(mismatch(other)),
            }
        };
        // The answers inside keep only the revision, as etcd's do.
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let request = request.into_inner();
        let CompactionRequest { revision, physical } = request;
        let mut response = match self.propose(Op::Compact(request)).await? {
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

fn is_long(request: &RangeRequest) -> bool {
    let short = request.range_end.is_empty() || (1..=SHORT_RANGE_LIMIT).contains(&request.limit);
    !short
}
