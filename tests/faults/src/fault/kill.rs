//! Members are killed, one after the other, and started again.

use anyhow::Result;
use rand::rngs::StdRng;

use super::{hold, some};
use crate::cluster::Cluster;

pub async fn befall(cluster: &Cluster, rng: &mut StdRng) -> Result<()> {
    let members = some(cluster, rng).await;
    for member in &members {
        cluster.members[*member].kill().await;
    }
    hold(rng).await;
    for member in members {
        cluster.members[member].start("existing").await?;
    }
    Ok(())
}
