//! Linearizable reads: all that wait share one confirmation by a majority.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::Inner;
use super::leader::{Leader, Miss, told};
use crate::error::EtcdError;
use crate::proto::peer as pb;

/// A confirmation that takes longer is slow: etcd asks again after this time.
const SLOW: Duration = Duration::from_millis(500);

/// A read that waits for the index it may read at.
pub type Waiter = oneshot::Sender<Result<u64, EtcdError>>;

impl Inner {
    /// Waits for a confirmation that began after this call, and until its index is applied here.
    pub async fn linearize(self: &Arc<Self>) -> Result<(), EtcdError> {
        let (waiter, index) = oneshot::channel();
        if let Some(batch) = self.gathered_reads.add(waiter) {
            let inner = self.clone();
            tokio::spawn(async move {
                let waiters = batch.take().await;
                let index = inner.confirmed().await;
                answer(waiters, index);
            });
        }
        let index = index.await.map_err(|_| EtcdError::Stopped)??;
        self.wait_applied(index).await
    }

    async fn confirmed(&self) -> Result<u64, EtcdError> {
        let (waiter, index) = oneshot::channel();
        if self.reads.send(waiter).await.is_err() {
            return Err(EtcdError::Stopped);
        }
        let index = tokio::time::timeout(self.request_timeout(), index).await.map_err(|_| EtcdError::Timeout)?;
        index.map_err(|_| EtcdError::Stopped)?
    }

    async fn read_index(&self) -> Result<u64, EtcdError> {
        self.with_leader(|leader| async move {
            match leader {
                Leader::Here => self.read_index_here().await,
                Leader::There(mut caller) => {
                    let request = tonic::Request::new(pb::ReadIndexRequest {});
                    let answer =
                        tokio::time::timeout(2 * self.config.election_timeout, caller.read_index(request)).await;
                    // Asking twice does no harm.
                    let answer = answer.map_err(|_| Miss::Retry)?.map_err(|_| Miss::Retry)?.into_inner();
                    told(&answer.error)?;
                    Ok(answer.index)
                }
            }
        })
        .await
    }

    /// The index to read at, confirmed by a majority as the leader.
    pub async fn read_index_here(&self) -> Result<u64, Miss> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Miss::Retry),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Miss::Retry),
            Err(RaftError::Fatal(_)) => Err(Miss::Fail(EtcdError::Stopped)),
        }
    }
}

/// Serves the waiting reads, a round at a time: whoever comes during a round takes part in the next one.
pub async fn run(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Waiter>) {
    let mut round = Vec::new();
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut round, usize::MAX) => if count == 0 { return },
            () = inner.stop.cancelled() => return,
        }
        let begun = Instant::now();
        let index = inner.read_index().await;
        let metrics = &inner.config.metrics;
        metrics.read_indexes_failed.inc_by(index.is_err().into());
        metrics.slow_read_indexes.inc_by((begun.elapsed() > SLOW).into());
        answer(round.drain(..), index);
    }
}

fn answer(waiters: impl IntoIterator<Item = Waiter>, index: Result<u64, EtcdError>) {
    for waiter in waiters {
        // A reader that went away no longer wants to know.
        let _ = waiter.send(index);
    }
}
