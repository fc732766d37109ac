//! Syncing takes long, on some members or on all.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Stage, hold, some};
use crate::disk::Condition;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = some(stage.cluster, rng).await;
    let condition = Condition::Slow(Duration::from_millis(rng.random_range(5..500)));
    let set = |condition| {
        members.iter().try_for_each(|member| {
            let disk = stage.cluster.members[*member].disk().context("a slow disk needs a disk of ours")?;
            disk.set(condition);
            anyhow::Ok(())
        })
    };
    set(condition)?;
    hold(rng).await;
    set(Condition::Sound)
}
