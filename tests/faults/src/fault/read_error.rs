//! A disk cannot be read: a member does not start without its log. One that serves already answers nothing wrong, and when the disk
//! is well again it goes on, or ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{POLL, Stage, hold, revive};
use crate::disk::Condition;

const SERVES_WITHIN: Duration = Duration::from_secs(5);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take_one(rng);
    let Some(member) = taken.members().next() else { return Ok(()) };
    let disk = member.disk().context("an error of the disk needs a disk of ours")?;
    // What it has in memory it need not read.
    member.kill().await;
    if rng.random() {
        let before = disk.failed();
        disk.set(Condition::FailsReads);
        member.start("existing").await?;
        let ended = member.ends(ENDS_WITHIN).await? || disk.failed() == before;
        disk.set(Condition::Sound);
        ensure!(ended, "read-error: {} goes on {ENDS_WITHIN:?} after it could not read its log", member.name);
        return member.start("existing").await;
    }
    member.start("existing").await?;
    let deadline = Instant::now() + SERVES_WITHIN;
    while member.read().await.is_err() && Instant::now() < deadline {
        sleep(POLL).await;
    }
    disk.set(Condition::FailsReads);
    // To rewrite everything it must read everything.
    let _ = member.defragment().await;
    hold(rng).await;
    disk.set(Condition::Sound);
    revive(stage, member, rng).await
}
