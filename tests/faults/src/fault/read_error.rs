//! A disk cannot be read any more, from some moment of a start on, or later: the member answers nothing wrong, and ends, or goes on
//! when the disk is well again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{POLL, Stage, hold, revive};
use crate::disk::Condition;

/// A start takes about half of them.
const READS: u64 = 60;
const SERVES_WITHIN: Duration = Duration::from_secs(5);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take_one(rng);
    let Some(member) = taken.members().next() else { return Ok(()) };
    let disk = member.disk().context("an error of the disk needs a disk of ours")?;
    // What it has in memory it need not read.
    member.kill().await;
    disk.set(Condition::FailsReads { after: rng.random_range(0..READS) });
    member.start("existing").await?;
    let deadline = Instant::now() + SERVES_WITHIN;
    while member.read().await.is_err() && !member.has_ended().await && Instant::now() < deadline {
        sleep(POLL).await;
    }
    // To rewrite everything it must read everything.
    let _ = member.defragment().await;
    hold(rng).await;
    disk.set(Condition::Sound);
    revive(stage, member, rng).await
}
