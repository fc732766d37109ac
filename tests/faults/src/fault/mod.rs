//! What befalls a cluster, one kind a file. Each does harm, lets the clients work with it for a while, and makes it good.

mod kill;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::cluster::Cluster;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Members are killed and started again
    Kill,
}

impl Kind {
    pub const ALL: [Kind; 1] = [Kind::Kill];

    /// From the harm until it is made good.
    pub async fn befall(self, cluster: &Cluster, rng: &mut StdRng) -> Result<()> {
        match self {
            Kind::Kill => kill::befall(cluster, rng).await,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned());
        f.write_str(&name.unwrap_or_default())
    }
}

/// How long a fault lasts: about an election, or a few of them.
async fn hold(rng: &mut StdRng) {
    sleep(Duration::from_secs_f64(rng.random_range(0.2..4.0))).await;
}

/// Some of the members: mostly one, the leader more often than another, at times half of them or more.
async fn some(cluster: &Cluster, rng: &mut StdRng) -> Vec<usize> {
    let all: Vec<_> = (0..cluster.members.len()).collect();
    let leader = cluster.leader().await;
    if let Some(leader) = leader.filter(|_| rng.random_bool(0.4)) {
        return vec![leader];
    }
    let count = if rng.random_bool(0.7) { 1 } else { rng.random_range(1..=all.len()) };
    all.choose_multiple(rng, count).copied().collect()
}
