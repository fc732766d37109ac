//! All members at once, as when the power fails; nobody can help those who have lost something.

use anyhow::Result;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{Stage, hold};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    // None of them sees another one's end.
    for member in members {
        member.signal(Signal::STOP).await?;
    }
    for member in members {
        member.kill().await;
    }
    hold(rng).await;
    for member in members {
        member.start("existing").await?;
    }
    Ok(())
}
