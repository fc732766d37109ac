//! A bad network: packets come late, in another order, or not at all.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::Stage;
use crate::network::Link;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let switch = stage.cluster.network.switch().context("a bad network needs network namespaces")?;
    let members = stage.cluster.members.len();
    let milliseconds = |most: u64, rng: &mut StdRng| Duration::from_millis(rng.random_range(0..=most));
    // From a distance between cities to worse than the time of an election.
    let most = [10, 100, 700][rng.random_range(0..3)];
    let (loss, everywhere) = (rng.random_range(0.0..0.25), rng.random_bool(0.5));
    for (from, to) in (0..members).flat_map(|from| (0..members).map(move |to| (from, to))) {
        if everywhere || rng.random_bool(0.5) {
            let (delay, jitter) = (milliseconds(most, rng), milliseconds(most, rng));
            let loss = if rng.random() { loss } else { 0.0 };
            switch.set(from, to, Link { cut: false, loss, delay, jitter });
        }
    }
    sleep(Duration::from_secs_f64(rng.random_range(1.0..8.0))).await;
    switch.heal();
    Ok(())
}
