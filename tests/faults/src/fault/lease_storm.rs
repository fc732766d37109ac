//! Many leases that end by themselves, some of them kept alive for a while, and take their keys with them.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use tonic::transport::Channel;

use super::{CLIENT, Stage};
use crate::client::{connect, execute};
use crate::history::{Operation, Outcome, Request, Time};
use crate::workload;

const LEASES: usize = 40;

/// A lease, or what may be one.
struct Lease {
    id: i64,
    ttl_seconds: i64,
    /// When it was granted, or kept alive, at the earliest.
    since: Time,
    /// How often it is still to be kept alive.
    renewals: u32,
}

/// Whether a lease is one of a storm: those of other clients, whose ids are far smaller, outlive the round.
pub fn ends(lease: i64) -> bool {
    lease >> 31 != 0
}

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    let (mut leases, mut connection) = (Vec::new(), None);
    for _ in 0..LEASES {
        let Some((member, channel)) = connection.take() else {
            let member = rng.random_range(0..members.len());
            connection = connect(members[member].client()).await.ok().map(|channel| (member, channel));
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        keep_alive(stage, &mut leases, member, &channel).await;
        let (lease, goes_on) = grant(stage, rng, member, &channel).await;
        leases.push(lease);
        connection = Some((member, channel)).filter(|_| goes_on);
    }
    // Also one of which no answer told may be there, and end.
    leases.iter().for_each(|lease| stage.recorder.operation(lease.end()));
    Ok(())
}

/// Grants a lease and attaches keys to it; whether that was answered.
async fn grant(stage: &Stage<'_>, rng: &mut StdRng, member: usize, channel: &Channel) -> (Lease, bool) {
    // No other client's, and no second one of this client's either.
    let id = i64::from(rng.random::<u32>().max(1)) << 31 | i64::from(rng.random::<u32>() >> 1);
    let (ttl_seconds, renewals) =
        (rng.random_range(2..5), if rng.random_bool(0.3) { rng.random_range(1..4) } else { 0 });
    let request = Request::LeaseGrant { lease: id, ttl_seconds };
    let granted = execute(stage.recorder, CLIENT, member, channel.clone(), request).await;
    let is_granted = granted.revision().is_some();
    let lease = Lease { id, ttl_seconds, since: granted.call, renewals: if is_granted { renewals } else { 0 } };
    if !is_granted {
        return (lease, false);
    }
    let put = |key| Request::Put { key, value: format!("lease {id}"), lease: id, prev_kv: false };
    let keys = workload::keys(rng);
    let then = keys.into_iter().take(rng.random_range(1..3)).map(put).collect();
    let txn = Request::Txn { compares: Vec::new(), then, otherwise: Vec::new() };
    let written = execute(stage.recorder, CLIENT, member, channel.clone(), txn).await;
    (lease, written.revision().is_some())
}

/// Keeps one of the leases alive that are to live on, the one that was longest left alone.
async fn keep_alive(stage: &Stage<'_>, leases: &mut [Lease], member: usize, channel: &Channel) {
    let Some(lease) = leases.iter_mut().filter(|lease| lease.renewals > 0).min_by_key(|lease| lease.since) else {
        return;
    };
    let request = Request::LeaseKeepAlive { lease: lease.id };
    let kept = execute(stage.recorder, CLIENT, member, channel.clone(), request).await;
    match kept.outcome {
        Outcome::Ok { .. } => (lease.since, lease.renewals) = (kept.call, lease.renewals - 1),
        // It may have come too late, or nobody knows.
        _ => lease.renewals = 0,
    }
}

impl Lease {
    /// Its end, which nobody asks for, and which comes at this time at the earliest.
    fn end(&self) -> Operation {
        let time = self.since + self.ttl_seconds as Time * 1_000_000_000;
        let outcome = Outcome::Unknown { error: "the time was over".into() };
        let request = Request::LeaseRevoke { lease: self.id };
        Operation { client: CLIENT, member: 0, call: time, returned: time, request, outcome }
    }
}
