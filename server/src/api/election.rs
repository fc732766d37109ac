//! v3electionpb.Election: whoever has the oldest key under the name leads, and the key's value is what it proclaims.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::concurrency::{Caller, created_at, created_by, first, op, prefix, prefix_end, queue_key, range_in};
use super::{Api, errors};
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request as Operation;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, WatchCreateRequest,
};
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::*;

/// Leaders that an observer has not taken yet.
const WAITING_LEADERS: usize = 16;

#[tonic::async_trait]
impl Election for Arc<Api> {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let (caller, CampaignRequest { name, lease, value }) = Caller::of(self, request);
        let lease = caller.lease(lease).await?;
        let prefix = prefix(&name);
        let key = queue_key(&prefix, lease);
        let put = PutRequest { key: key.clone(), value: value.clone(), lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let entered = caller
            .txn(TxnRequest {
                compare: vec![created_at(key.clone(), 0)],
                success: vec![op(Operation::RequestPut(put))],
                failure: vec![op(Operation::RequestRange(get))],
            })
            .await?;
        let rev = created_by(&entered).ok_or_else(|| errors::internal("a candidate has no key", "an empty answer"))?;
        let leader = LeaderKey { name, key, rev, lease };
        if range_in(&entered, 0).is_some_and(|kv| kv.value != value) {
            // It has campaigned before, with another value.
            if let Err(status) = proclaim(&caller, &leader, value).await {
                // What failed tells more than what fails in its wake.
                let _ = resign(&caller, &leader).await;
                return Err(status);
            }
        }
        let mut candidacy = Candidacy { caller: &caller, leader: Some(leader) };
        let waited = caller.wait_for_older(&prefix, rev).await;
        // Only a candidate that goes away is taken out of the queue, not one whose wait fails.
        let leader = candidacy.leader.take();
        waited?;
        Ok(Response::new(CampaignResponse { header: entered.header, leader }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, ProclaimRequest { leader, value }) = Caller::of(self, request);
        let mut leader = leader.ok_or_else(missing_leader)?;
        leader.lease = caller.lease(leader.lease).await?;
        let header = proclaim(&caller, &leader, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (caller, LeaderRequest { name }) = Caller::of(self, request);
        let found = caller.range(first(&prefix(&name), SortOrder::Ascend)).await?;
        match found.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header: found.header, kv: Some(kv) })),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (caller, LeaderRequest { name }) = Caller::of(self, request);
        let (leaders, receiver) = mpsc::channel(WAITING_LEADERS);
        let observer = Observer { caller, prefix: prefix(&name), leaders };
        tokio::spawn(observer.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (caller, ResignRequest { leader }) = Caller::of(self, request);
        let mut leader = leader.ok_or_else(missing_leader)?;
        leader.lease = caller.lease(leader.lease).await?;
        let header = resign(&caller, &leader).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

fn missing_leader() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

async fn proclaim(caller: &Caller, leader: &LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
    let put = PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..PutRequest::default() };
    let request = TxnRequest {
        compare: vec![created_at(leader.key.clone(), leader.rev)],
        success: vec![op(Operation::RequestPut(put))],
        failure: Vec::new(),
    };
    let answer = caller.txn(request).await?;
    match answer.succeeded {
        true => Ok(answer.header),
        false => Err(Status::unknown("election: not leader")),
    }
}

async fn resign(caller: &Caller, leader: &LeaderKey) -> Result<Option<ResponseHeader>, Status> {
    let delete = DeleteRangeRequest { key: leader.key.clone(), ..DeleteRangeRequest::default() };
    let request = TxnRequest {
        compare: vec![created_at(leader.key.clone(), leader.rev)],
        success: vec![op(Operation::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    Ok(caller.txn(request).await?.header)
}

/// A candidate that waits. If nobody waits for it any more, it must not hold up those behind it.
struct Candidacy<'a> {
    caller: &'a Caller,
    leader: Option<LeaderKey>,
}

impl Drop for Candidacy<'_> {
    fn drop(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        let caller = self.caller.clone();
        tokio::spawn(async move {
            if let Err(error) = resign(&caller, &leader).await {
                tracing::debug!(%error, "a candidate's key stays until its lease ends");
            }
        });
    }
}

/// Tells the leaders of an election, one after the other, until nobody listens or something breaks. As in etcd, a break
/// ends the stream without an error.
struct Observer {
    caller: Caller,
    prefix: Bytes,
    leaders: mpsc::Sender<Result<LeaderResponse, Status>>,
}

impl Observer {
    async fn run(self) {
        tokio::select! {
            ended = self.observe() => if let Some(Err(status)) = ended {
                tracing::debug!(%status, "an observer of an election ends");
            },
            () = self.leaders.closed() => {}
        }
    }

    async fn observe(&self) -> Option<Result<(), Status>> {
        loop {
            match self.one_leader().await {
                Ok(Some(())) => {}
                Ok(None) => return None,
                Err(status) => return Some(Err(status)),
            }
        }
    }

    /// Tells of one leader until its key is gone; `None` if a watch has ended.
    async fn one_leader(&self) -> Result<Option<()>, Status> {
        let found = self.caller.range(first(&self.prefix, SortOrder::Ascend)).await?;
        let header = found.header.unwrap_or_default();
        let (revision, kv) = match found.kvs.into_iter().next() {
            Some(kv) => (header.revision, kv),
            None => match self.next_candidate(header.revision).await? {
                Some(kv) => (kv.mod_revision, kv),
                None => return Ok(None),
            },
        };
        let key = kv.key.clone();
        self.tell(ResponseHeader { revision, ..header }, kv).await;
        let create = WatchCreateRequest { key, start_revision: revision + 1, ..WatchCreateRequest::default() };
        let mut responses = self.caller.watch(create).await?;
        while let Some(response) = self.caller.next(&mut responses).await? {
            let header = response.header.unwrap_or_default();
            for event in response.events {
                match (event.r#type(), event.kv) {
                    (EventType::Put, Some(kv)) => self.tell(header, kv).await,
                    _ => return Ok(Some(())),
                }
            }
        }
        Ok(None)
    }

    /// The first key that is put under the prefix.
    async fn next_candidate(&self, start_revision: i64) -> Result<Option<KeyValue>, Status> {
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: prefix_end(&self.prefix),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let mut responses = self.caller.watch(create).await?;
        while let Some(response) = self.caller.next(&mut responses).await? {
            let put = response.events.into_iter().find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                return Ok(Some(kv));
            }
        }
        Ok(None)
    }

    async fn tell(&self, header: ResponseHeader, kv: KeyValue) {
        // Nobody may listen any more; then the whole observer is dropped.
        let _ = self.leaders.send(Ok(LeaderResponse { header: Some(header), kv: Some(kv) })).await;
    }
}
