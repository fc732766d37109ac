//! The power fails, for some members or for all of them at once: what was not synced is gone, or torn.

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{Stage, hold, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let all = (0..stage.cluster.members.len()).collect();
    // What a server with a bug has not synced must be nowhere.
    let everything = stage.bug.is_some();
    let wanted = if everything || rng.random() { all } else { some(stage.cluster, rng).await };
    let taken = stage.take(wanted);
    // None of them sees another one's end.
    for member in taken.members() {
        member.signal(Signal::STOP).await?;
    }
    for member in taken.members() {
        member.kill().await;
        let torn = (!everything && rng.random()).then_some(&mut *rng);
        member.disk().context("a loss of power needs a disk of ours")?.lose_power(torn)?;
    }
    hold(rng).await;
    for member in taken.members() {
        member.start("existing").await?;
    }
    Ok(())
}
