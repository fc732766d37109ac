//! A disk has no room left, from one moment to the next: a member that cannot write its log must end, any other one go on when there
//! is room again, or end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Stage, hold, revive};
use crate::disk::Condition;

const ENDS_WITHIN: Duration = Duration::from_secs(10);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take_one(rng);
    let Some(member) = taken.members().next() else { return Ok(()) };
    let disk = member.disk().context("a full disk must be ours")?;
    let before = disk.failed();
    disk.set(Condition::Full { copies: rng.random() });
    // Little else is written that needs room. It may be refused, or never answered.
    let _ = member.defragment().await;
    hold(rng).await;
    let unused = disk.failed() == before;
    let ended = unused || member.ends(ENDS_WITHIN).await?;
    disk.set(Condition::Sound);
    ensure!(ended, "disk-full: {} goes on {ENDS_WITHIN:?} after there was no room for its log", member.name);
    if unused { revive(stage, member, rng).await } else { member.start("existing").await }
}
