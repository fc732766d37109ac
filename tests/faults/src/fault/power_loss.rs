//! The power fails, for some members or for all of them at once: what was not synced is gone, or torn.

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{Stage, hold, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let all = &stage.cluster.members;
    // What a server with a bug has not synced must be nowhere.
    let everything = stage.bug.is_some();
    let chosen = if everything || rng.random() { (0..all.len()).collect() } else { some(stage.cluster, rng).await };
    // None of them sees another one's end.
    for member in &chosen {
        all[*member].signal(Signal::STOP).await?;
    }
    for member in &chosen {
        all[*member].kill().await;
        let torn = (!everything && rng.random()).then_some(&mut *rng);
        all[*member].disk().context("a loss of power needs a disk of ours")?.lose_power(torn)?;
    }
    hold(rng).await;
    for member in chosen {
        all[member].start("existing").await?;
    }
    Ok(())
}
