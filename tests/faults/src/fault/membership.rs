//! A member is removed while the cluster works, and one without data takes its place: a voter, or a learner at first.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Stage, hold};
use crate::cluster::Member;

/// A healthy cluster accepts a change within this time; etcd waits until members have been connected for some seconds.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(200);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let leaver = &stage.cluster.members[rng.random_range(0..stage.cluster.members.len())];
    let (first_down, as_learner) = (rng.random_bool(0.3), rng.random_bool(0.5));
    let id = id(leaver).await?;
    if first_down {
        leaver.kill().await;
    }
    remove(stage, leaver, id).await?;
    if rng.random() {
        hold(rng).await;
    }
    add(stage, leaver, as_learner).await
}

pub async fn id(member: &Member) -> Result<u64> {
    until_done("its id", || async { Ok(member.status().await?.member_id) }).await
}

/// Another one without data takes the member's place.
pub async fn replace(stage: &Stage<'_>, member: &Member, id: u64, as_learner: bool) -> Result<()> {
    remove(stage, member, id).await?;
    add(stage, member, as_learner).await
}

async fn remove(stage: &Stage<'_>, leaver: &Member, id: u64) -> Result<()> {
    until_done("the removal", || async {
        let other = another(stage, leaver).await?;
        // It may have been done by a request that was not answered.
        let there = other.members().await?.contains(&id);
        if there { other.remove_member(id).await } else { Ok(()) }
    })
    .await
}

async fn add(stage: &Stage<'_>, newcomer: &Member, as_learner: bool) -> Result<()> {
    newcomer.discard().await?;
    until_done("the addition", || async {
        let other = another(stage, newcomer).await?;
        if other.members().await?.len() < stage.cluster.members.len() {
            other.add_member(&newcomer.peer_url(), as_learner).await?;
        }
        Ok(())
    })
    .await?;
    newcomer.start("existing").await?;
    if as_learner {
        until_done("the promotion", || async {
            let status = newcomer.status().await?;
            if status.is_learner {
                let other = another(stage, newcomer).await?;
                other.promote_member(status.member_id).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Another one that serves.
async fn another<'a>(stage: &Stage<'a>, leaver: &Member) -> Result<&'a Member> {
    for member in stage.cluster.members.iter().filter(|member| member.index != leaver.index) {
        if member.read().await.is_ok() {
            return Ok(member);
        }
    }
    bail!("none of the others serves")
}

async fn until_done<T, F: Future<Output = Result<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> Result<T> {
    let deadline = Instant::now() + ACCEPTED_WITHIN;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("membership: {what} was not done in {ACCEPTED_WITHIN:?}")));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}
