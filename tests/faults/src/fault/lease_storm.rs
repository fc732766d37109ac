//! Many leases that end by themselves, and take their keys with them.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{CLIENT, Stage};
use crate::client::{connect, execute};
use crate::history::{Operation, Outcome, Request, Time};
use crate::workload;

const LEASES: usize = 40;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    let mut connection = None;
    for _ in 0..LEASES {
        let Some((member, channel)) = connection.take() else {
            let member = rng.random_range(0..members.len());
            connection = connect(members[member].client()).await.ok().map(|channel| (member, channel));
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        // No other client's: those are far smaller, and no second one of this client's either.
        let (lease, ttl_seconds) =
            (i64::from(rng.random::<u32>()) << 31 | i64::from(rng.random::<u32>() >> 1), rng.random_range(2..5));
        let grant = Request::LeaseGrant { lease, ttl_seconds };
        let granted = execute(stage.recorder, CLIENT, member, tonic::transport::Channel::clone(&channel), grant).await;
        // Also one of which no answer told may be there, and end.
        stage.recorder.operation(end(lease, granted.call, ttl_seconds));
        if granted.revision().is_some() {
            let put = |key| Request::Put { key, value: format!("lease {lease}"), lease, prev_kv: false };
            let keys = workload::keys(rng);
            let then = keys.into_iter().take(rng.random_range(1..3)).map(put).collect();
            let txn = Request::Txn { compares: Vec::new(), then, otherwise: Vec::new() };
            let written = execute(stage.recorder, CLIENT, member, channel.clone(), txn).await;
            connection = Some((member, channel)).filter(|_| written.revision().is_some());
        }
    }
    Ok(())
}

/// Its end, which nobody asks for, and which comes at this time at the earliest.
fn end(lease: i64, granted: Time, ttl_seconds: i64) -> Operation {
    let time = granted + ttl_seconds as Time * 1_000_000_000;
    let outcome = Outcome::Unknown { error: "the time was over".into() };
    let request = Request::LeaseRevoke { lease };
    Operation { client: CLIENT, member: 0, call: time, returned: time, request, outcome }
}
