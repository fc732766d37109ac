//! Some members rewrite their storage while they serve.

use anyhow::Result;
use rand::rngs::StdRng;

use super::{Stage, some};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    for member in some(stage.cluster, rng).await {
        // One that is down has nothing to rewrite.
        let _ = stage.cluster.members[member].defragment().await;
    }
    Ok(())
}
