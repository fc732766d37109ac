//! Members are killed, one after the other, and started again.

use anyhow::Result;
use rand::rngs::StdRng;

use super::{Stage, hold, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = some(stage.cluster, rng).await;
    for member in &members {
        stage.cluster.members[*member].kill().await;
    }
    hold(rng).await;
    for member in members {
        stage.cluster.members[member].start("existing").await?;
    }
    Ok(())
}
