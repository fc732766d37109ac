//! Members end in order and are started again, one after the other, as when they are updated.

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Stage, hold, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let at_once = rng.random_bool(0.5);
    let taken = stage.take(some(stage.cluster, rng).await);
    for member in taken.members() {
        member.terminate().await?;
        if !at_once {
            hold(rng).await;
        }
        member.start("existing").await?;
    }
    Ok(())
}
