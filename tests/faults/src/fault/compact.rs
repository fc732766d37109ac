//! Compactions up to the newest revision: watches that are behind are cancelled, members that lag have nothing to ask for.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{CLIENT, Stage};
use crate::client::{connect, execute};
use crate::history::Request;

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    for _ in 0..rng.random_range(2..6) {
        let member = &members[rng.random_range(0..members.len())];
        if let (Ok(revision), Ok(channel)) = (member.read().await, connect(member.client()).await) {
            execute(stage.recorder, CLIENT, member.index, channel, Request::Compact { revision }).await;
        }
        sleep(Duration::from_secs_f64(rng.random_range(0.0..1.0))).await;
    }
    Ok(())
}
