//! A leader is cut off from all others, which elect another one. Those who voted for that lose their power, and see only the old
//! leader when they come back, which does not know that it is none any more: with them it would be a majority. What they promised
//! with their votes is all that stops it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{CLIENT, Stage};
use crate::bug::Bug;
use crate::client::{connect, execute};
use crate::disk::Condition;
use crate::history::Request;
use crate::network::{Link, Switch};

const ELECTED_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Longer than an election.
const TOGETHER: Duration = Duration::from_secs(3);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let members = &stage.cluster.members;
    let switch = stage.cluster.network.switch().context("to cut a leader off needs network namespaces")?;
    let Some(old) = stage.cluster.leader().await else { return Ok(()) };
    let others: Vec<_> = (0..members.len()).filter(|member| *member != old).collect();
    let forgetful = stage.bug == Some(Bug::LostVote);
    for member in others.iter().filter(|_| forgetful) {
        members[*member].disk().context("a disk of ours")?.set(Condition::Lies);
    }
    separate(switch, old, &others);
    let Some(new) = elected(stage, &others).await else {
        switch.heal();
        return Ok(());
    };
    let voters: Vec<_> = others.iter().copied().filter(|member| *member != new).collect();
    for voter in &voters {
        members[*voter].kill().await;
        let disk = members[*voter].disk().context("a disk of ours")?;
        disk.set(Condition::Sound);
        disk.lose_power(None)?;
    }
    switch.heal();
    separate(switch, new, &(0..members.len()).filter(|member| *member != new).collect::<Vec<_>>());
    for voter in &voters {
        members[*voter].start("existing").await?;
    }
    let end = Instant::now() + TOGETHER;
    while Instant::now() < end {
        for member in [old, new] {
            write(stage, member, rng).await;
        }
        sleep(POLL).await;
    }
    members[new].disk().context("a disk of ours")?.set(Condition::Sound);
    switch.heal();
    Ok(())
}

/// In both directions.
fn separate(switch: &Switch, one: usize, others: &[usize]) {
    let cut = Link { cut: true, ..Link::default() };
    for other in others {
        switch.set(one, *other, cut);
        switch.set(*other, one, cut);
    }
}

/// Which of them leads, soon.
async fn elected(stage: &Stage<'_>, of: &[usize]) -> Option<usize> {
    let deadline = Instant::now() + ELECTED_WITHIN;
    while Instant::now() < deadline {
        for index in of {
            let status = stage.cluster.members[*index].status().await;
            if status.is_ok_and(|status| status.leads()) {
                return Some(*index);
            }
        }
        sleep(POLL).await;
    }
    None
}

async fn write(stage: &Stage<'_>, member: usize, rng: &mut StdRng) {
    let Ok(channel) = connect(stage.cluster.members[member].client()).await else { return };
    let value = format!("{member} leads, {:x}", rng.random::<u64>());
    let put = Request::Put { key: "a".into(), value, lease: 0, prev_kv: true };
    execute(stage.recorder, CLIENT, member, channel, put).await;
}
