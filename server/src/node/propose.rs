//! Writes.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use openraft::errors::ClientWriteError;
use prost::Message;
use tokio::sync::oneshot;

use super::Inner;
use super::leader::{Leader, Miss, miss, told};
use crate::error::EtcdError;
use crate::lease::TimeToLive;
use crate::proto::command::command::Op;
use crate::proto::command::{Command, Outcome};
use crate::proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest};
use crate::proto::peer as pb;
use crate::raft::types::Request;

/// Committed entries that may wait to be applied before further writes are refused (etcd's limit).
const MAX_BEHIND: u64 = 5000;

/// A command on its way to Raft, and who waits for what applying it gives.
pub type Proposal = (Request, oneshot::Sender<Result<(u64, Outcome), Miss>>);

/// Leases must be revoked under any load, or the load's own leases never end.
fn is_exempt(command: &Command) -> bool {
    matches!(command.op, Some(Op::LeaseRevoke(_)))
}

impl Inner {
    /// Replicates a command; see [`super::Node::propose`].
    pub async fn propose(self: &Arc<Self>, command: Command) -> Result<Outcome, EtcdError> {
        if !is_exempt(&command) && self.is_behind(MAX_BEHIND) {
            return Err(EtcdError::RequestTooManyRequests);
        }
        let request = self.admit(&command, command.encode_to_vec().into())?;
        // Its bytes are those of the request as it came.
        drop(command);
        let here = match self.leads() {
            true => self.propose_here(request.clone()).await,
            false => Err(Miss::Retry),
        };
        let (index, outcome) = match here {
            Ok(answer) => answer,
            Err(Miss::Fail(error)) => return Err(error),
            // On the heap: it is larger than all else.
            Err(Miss::Retry) => Box::pin(self.propose_to_leader(request)).await?,
        };
        self.wait_applied(index).await?;
        match outcome.refusal() {
            Some(error) => Err(error),
            None => Ok(outcome),
        }
    }

    /// Takes a share of the memory for requests for a command and its encoded form, unless there is none left.
    pub fn admit(&self, command: &Command, bytes: Bytes) -> Result<Request, EtcdError> {
        let mut share = self.config.requests.share(1);
        if !share.grow(bytes.len()) && !is_exempt(command) {
            return Err(EtcdError::RequestTooManyRequests);
        }
        Ok(Request::counted(bytes, share))
    }

    async fn propose_to_leader(self: &Arc<Self>, request: Request) -> Result<(u64, Outcome), EtcdError> {
        self.with_leader(|leader| {
            let request = request.clone();
            async move {
                match leader {
                    Leader::Here => self.propose_here(request).await,
                    Leader::There(mut caller) => {
                        let answer = caller.propose(pb::ProposeRequest { command: request.0 }).await;
                        let answer = answer.map_err(|status| miss(&status))?.into_inner();
                        told(&answer.error)?;
                        Ok((answer.index, answer.outcome.unwrap_or_default()))
                    }
                }
            }
        })
        .await
    }

    /// Proposes as the leader. Answers once the command is applied, or when a request's time is over.
    pub async fn propose_here(self: &Arc<Self>, request: Request) -> Result<(u64, Outcome), Miss> {
        let (answer, answered) = oneshot::channel();
        if let Some(batch) = self.gathered_proposals.add((request, answer)) {
            let inner = self.clone();
            tokio::spawn(async move { inner.propose_all(batch.take().await).await });
        }
        answered.await.unwrap_or(Err(Miss::Fail(EtcdError::Stopped)))
    }

    /// They share a time limit: a timer for each would cost more than the rest of its way.
    async fn propose_all(&self, proposals: Vec<Proposal>) {
        let changes = self.status.borrow().leader_changes;
        let mut over = pin!(tokio::time::sleep(self.request_timeout()));
        let (requests, answers): (Vec<_>, Vec<_>) = proposals.into_iter().unzip();
        let mut results = tokio::select! {
            biased;
            proposed = self.raft.client_write_many(requests) => match proposed {
                Ok(results) => results.right_stream(),
                // Whoever waits hears that nobody will answer.
                Err(_) => return,
            },
            () = over.as_mut() => futures::stream::pending().left_stream(),
        };
        for answer in answers {
            let result = tokio::select! {
                biased;
                result = results.next() => match result {
                    Some(Ok(Ok(response))) => Ok((response.log_id.index, response.response)),
                    Some(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Err(Miss::Retry),
                    // Another leader took over; it may or may not have the entry.
                    Some(Ok(Err(_))) => Err(Miss::Fail(EtcdError::TimeoutDueToLeaderFail)),
                    Some(Err(_)) | None => Err(Miss::Fail(EtcdError::Stopped)),
                },
                () = over.as_mut() => Err(Miss::Fail(self.late(changes))),
            };
            // A client that went away no longer wants to know.
            let _ = answer.send(result);
        }
    }

    /// Renews a lease, or only looks at it if `query`.
    pub async fn ask_lease(self: &Arc<Self>, id: i64, query: bool) -> Result<TimeToLive, EtcdError> {
        self.with_leader(|leader| async move {
            match leader {
                Leader::Here => self.lease_here(id, query).await,
                Leader::There(mut caller) => {
                    let answer = caller.renew_lease(pb::LeaseRequest { id, query }).await;
                    // Renewing twice does no harm.
                    let answer = answer.map_err(|_| Miss::Retry)?.into_inner();
                    told(&answer.error)?;
                    Ok(TimeToLive {
                        remaining_seconds: answer.ttl_seconds,
                        granted_seconds: answer.granted_ttl_seconds,
                    })
                }
            }
        })
        .await
    }

    /// Renews a lease, or looks at it, as the leader.
    pub async fn lease_here(self: &Arc<Self>, id: i64, query: bool) -> Result<TimeToLive, Miss> {
        // A new leader knows all leases only once it has applied what was committed before it.
        if !self.current_status().is_leader() || !self.lessor.is_leading() {
            return Err(Miss::Retry);
        }
        if !query && self.lessor.has_checkpoint(id) {
            // Or a new leader would end the renewed lease as early as before.
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
            let command =
                Command { op: Some(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })), ..Default::default() };
            self.propose_here(Request::new(command.encode_to_vec())).await?;
        }
        let found = match query {
            true => self.lessor.time_to_live(id),
            false => self.lessor.renew(id),
        };
        found.ok_or(Miss::Fail(EtcdError::LeaseNotFound))
    }
}
