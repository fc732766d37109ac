//! Members cannot reach each other: two groups, one link, or one direction; at times the clients are cut off as well.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::{Stage, some};
use crate::network::Link;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let switch = stage.cluster.network.switch().context("a partition needs network namespaces")?;
    let all: Vec<_> = (0..stage.cluster.members.len()).collect();
    let cut = Link { cut: true, ..Link::default() };
    let group = some(stage.cluster, rng).await;
    let mut others: Vec<_> = all.iter().copied().filter(|member| !group.contains(member)).collect();
    let one_way = rng.random::<bool>();
    let (partial, out, inward) = match rng.random_range(0..4) {
        0 | 1 => (false, true, true),
        2 => (true, true, true),
        _ => (false, one_way, !one_way),
    };
    if partial {
        others = others.choose(rng).copied().into_iter().collect();
    }
    if rng.random_bool(0.2) {
        others.push(switch.clients());
    }
    for (member, other) in group.iter().flat_map(|member| others.iter().map(move |other| (*member, *other))) {
        if out {
            switch.set(member, other, cut);
        }
        if inward {
            switch.set(other, member, cut);
        }
    }
    sleep(Duration::from_secs_f64(rng.random_range(0.5..7.0))).await;
    switch.heal();
    Ok(())
}
