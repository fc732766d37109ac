//! Members are killed, one after the other, and started again.

use anyhow::Result;
use rand::rngs::StdRng;

use super::{Stage, hold, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let taken = stage.take(some(stage.cluster, rng).await);
    for member in taken.members() {
        member.kill().await;
    }
    hold(rng).await;
    for member in taken.members() {
        member.start("existing").await?;
    }
    Ok(())
}
