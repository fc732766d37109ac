//! Members stop where they are, and go on as if nothing had happened: a leader that was deposed meanwhile does not know.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Stage, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take(some(stage.cluster, rng).await);
    for member in taken.members() {
        member.signal(Signal::STOP).await?;
    }
    // The others elect a leader within two seconds.
    sleep(Duration::from_secs_f64(rng.random_range(0.5..6.0))).await;
    for member in taken.members() {
        member.signal(Signal::CONT).await?;
    }
    Ok(())
}
