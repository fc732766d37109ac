//! One request, one answer.

use tonic::Status;
use tonic::transport::Channel;

use crate::history::{Request, Response};
use crate::wire::proto::etcdserverpb::kv_client::KvClient;
use crate::wire::proto::etcdserverpb::lease_client::LeaseClient;
use crate::wire::proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, ResponseHeader,
};
use crate::wire::{delete, put, range, txn};

/// The revision that the answer's header tells, and the answer.
pub async fn call(channel: Channel, request: &Request) -> Result<(i64, Response), Status> {
    let mut kv = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel);
    Ok(match request {
        Request::Put { key, value, lease, prev_kv } => {
            let answer = kv.put(put(key, value, *lease, *prev_kv)).await?.into_inner();
            (revision(answer.header.as_ref())?, answer.into())
        }
        Request::Delete { span, prev_kv } => {
            let answer = kv.delete_range(delete(span, *prev_kv)).await?.into_inner();
            (revision(answer.header.as_ref())?, answer.into())
        }
        Request::Range { span, revision: at, serializable, limit } => {
            let answer = kv.range(range(span, *at, *serializable, *limit)).await?.into_inner();
            (revision(answer.header.as_ref())?, answer.into())
        }
        Request::Txn { compares, then, otherwise } => {
            let answer = kv.txn(txn(compares, then, otherwise)).await?.into_inner();
            (revision(answer.header.as_ref())?, answer.into())
        }
        Request::LeaseGrant { lease, ttl_seconds } => {
            let answer = leases.lease_grant(LeaseGrantRequest { ttl: *ttl_seconds, id: *lease }).await?.into_inner();
            (revision(answer.header.as_ref())?, Response::LeaseGrant)
        }
        Request::LeaseRevoke { lease } => {
            let answer = leases.lease_revoke(LeaseRevokeRequest { id: *lease }).await?.into_inner();
            (revision(answer.header.as_ref())?, Response::LeaseRevoke)
        }
        Request::LeaseKeepAlive { lease } => {
            let one = tokio_stream::once(LeaseKeepAliveRequest { id: *lease });
            let answer = leases.lease_keep_alive(one).await?.into_inner().message().await?;
            let answer = answer.ok_or_else(|| Status::internal("a stream without an answer"))?;
            if answer.ttl <= 0 {
                return Err(Status::not_found("etcdserver: requested lease not found"));
            }
            (revision(answer.header.as_ref())?, Response::LeaseKeepAlive)
        }
        Request::Compact { revision: at } => {
            let answer = kv.compact(CompactionRequest { revision: *at, physical: false }).await?.into_inner();
            (revision(answer.header.as_ref())?, Response::Compact)
        }
    })
}

fn revision(header: Option<&ResponseHeader>) -> Result<i64, Status> {
    header.map(|header| header.revision).ok_or_else(|| Status::internal("an answer without a header"))
}
