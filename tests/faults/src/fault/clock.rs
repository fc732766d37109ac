//! The clocks of some members jump, forwards or back, by seconds to days, at times again and again, and are set right.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Stage, hold, some};

const DAY: u64 = 24 * 60 * 60;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = some(stage.cluster, rng).await;
    let clocks = || {
        members.iter().map(|member| stage.cluster.members[*member].clock().context("a clock that jumps must be ours"))
    };
    for _ in 0..rng.random_range(1..=3) {
        for clock in clocks() {
            let most = [5, 60, 3600, 30 * DAY][rng.random_range(0..4)];
            clock?.set(rng.random(), Duration::from_secs(rng.random_range(1..=most)))?;
        }
        hold(rng).await;
    }
    for clock in clocks() {
        clock?.set(false, Duration::ZERO)?;
    }
    Ok(())
}
