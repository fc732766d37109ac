//! The leader is told to hand over, a few times.

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Stage, hold};

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    for _ in 0..rng.random_range(1..4) {
        let target = rng.random_range(0..members.len());
        // It may be refused: the target may be down, or the leader another one by now.
        if let (Some(leader), Ok(status)) = (stage.cluster.leader().await, members[target].status().await) {
            let _ = members[leader].move_leader(status.member_id).await;
        }
        hold(rng).await;
    }
    Ok(())
}
