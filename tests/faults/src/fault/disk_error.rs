//! A disk fails: nobody knows then what is on it, and the member must not go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Stage, hold};
use crate::disk::Condition;

/// By then it has written something, unless it is cut off.
const USED_WITHIN: Duration = Duration::from_secs(5);
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take_one(rng);
    let Some(member) = taken.members().next() else { return Ok(()) };
    let disk = member.disk().context("an error of the disk needs a disk of ours")?;
    let (before, deadline) = (disk.failed(), Instant::now() + USED_WITHIN);
    disk.set(Condition::Fails);
    // One that is just starting may end before it has written.
    while disk.failed() == before && !member.has_ended().await && Instant::now() < deadline {
        sleep(POLL).await;
    }
    // One error may be that of a file that it can do without.
    let unused = disk.failed() == before && !member.has_ended().await;
    let ended = unused || member.ends(ENDS_WITHIN).await?;
    disk.set(Condition::Sound);
    ensure!(ended, "disk-error: {} goes on {ENDS_WITHIN:?} after its disk began to fail", member.name);
    member.kill().await;
    hold(rng).await;
    member.start("existing").await
}
