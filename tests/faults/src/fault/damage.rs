//! A file of a member that is down is damaged: a bit is another one, or the end is gone. The member serves nothing but what is right, or it
//! ends; then another one without data takes its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::{Stage, hold, membership};

const STARTS_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

pub async fn befall(stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
    let member = &stage.cluster.members[rng.random_range(0..stage.cluster.members.len())];
    let id = membership::id(member).await?;
    member.kill().await;
    strike(&member.data(), rng)?;
    member.disk().map_or(Ok(()), |disk| disk.settle())?;
    member.start("existing").await?;
    let deadline = Instant::now() + STARTS_WITHIN;
    while Instant::now() < deadline && member.read().await.is_err() && !member.has_ended().await {
        sleep(POLL).await;
    }
    // Clients work with it, if it serves.
    hold(rng).await;
    membership::replace(stage, member, id, rng.random()).await
}

/// In the first half of what is used of a file: what was written last, and is damaged, looks like what a crash left.
fn strike(data: &Path, rng: &mut StdRng) -> Result<()> {
    let files = files(data)?;
    let file = files.choose(rng).context("a member without files")?;
    let mut bytes = fs::read(file)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let place = rng.random_range(0..used.div_ceil(2).max(1));
    if rng.random() {
        bytes.truncate(place);
    } else if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << rng.random_range(0..8);
    }
    fs::write(file, bytes).with_context(|| file.display().to_string())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    // The seed chooses, not the file system.
    found.sort();
    Ok(found)
}
