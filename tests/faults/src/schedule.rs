//! Which faults, in which order: by the seed alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::fault::{Kind, Stage};

/// The longest that the cluster is left alone.
const CALM: Duration = Duration::from_secs(3);

/// Until the time is over: one fault, or two at a time, and some calm; how often each kind came.
pub async fn run(stage: &Stage<'_>, kinds: &[Kind], seed: u64, end: Instant) -> Result<BTreeMap<Kind, usize>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts = BTreeMap::new();
    loop {
        sleep(CALM.mul_f64(rng.random_range(0.0..1.0))).await;
        if Instant::now() > end || kinds.is_empty() {
            sleep(end.saturating_duration_since(Instant::now())).await;
            return Ok(counts);
        }
        let mut chosen: Vec<Kind> = kinds.choose(&mut rng).copied().into_iter().collect();
        if rng.random_bool(0.4) {
            let others: Vec<_> = kinds.iter().filter(|kind| kind.goes_with(chosen[0])).collect();
            chosen.extend(others.choose(&mut rng).copied());
        }
        let mut generators = (StdRng::seed_from_u64(rng.random()), StdRng::seed_from_u64(rng.random()));
        let both = async {
            let second = async {
                match chosen.get(1) {
                    Some(kind) => kind.befall(stage, &mut generators.1).await,
                    None => Ok(()),
                }
            };
            tokio::join!(chosen[0].befall(stage, &mut generators.0), second)
        };
        let (first, second) = both.await;
        first.and(second)?;
        for kind in chosen {
            *counts.entry(kind).or_default() += 1;
        }
    }
}
