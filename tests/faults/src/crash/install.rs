//! A cluster whose log does not go back to its beginning: a member that is new, or has been away, gets a snapshot, and dies while it
//! does.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{Life, POLL, SERVES_WITHIN, Settings, ask, copy, died, flags, folder, member, serves};
use crate::client::{Recorder, call, connect};
use crate::cluster::Member;
use crate::history::{Request, Response, Span};
use crate::network::Network;

/// Enough for a flush, after which the log is purged.
const VALUES: usize = 66;
const VALUE_BYTES: usize = 1 << 20;

/// A leader, and the learner that gets its snapshot: in one life a new one, in the next one that has been away for long.
const PAIRS: [[(usize, &str); 2]; 2] = [[(0, "m0"), (1, "m1")], [(2, "m2"), (3, "m3")]];

pub struct Install {
    leaders: [Member; 2],
    /// What the learner has that was away.
    base: TempDir,
    lives: usize,
    _folder: TempDir,
}

impl Install {
    pub async fn prepare(settings: &Settings) -> Result<Self> {
        let (base, folder, recorder) = (folder(settings)?, folder(settings)?, Recorder::default());
        let leaders = PAIRS.map(|[leader, _]| new_member(settings, folder.path(), &[leader], &recorder));
        for leader in &leaders {
            leader.start("new").await?;
            serves(leader).await?;
        }
        let learner = new_member(settings, base.path(), &PAIRS[1], &recorder);
        leaders[1].add_member(&learner.peer_url(), true).await?;
        learner.start("existing").await?;
        has_caught_up(&leaders[1], &learner).await?;
        learner.kill().await;
        for leader in &leaders {
            for number in 0..VALUES {
                let (key, value) = (format!("{}", number % 3), format!("{number}:{}", "x".repeat(VALUE_BYTES)));
                ask(leader, &recorder, Request::Put { key, value, lease: 0, prev_kv: false }).await?;
            }
        }
        Ok(Self { leaders, base, lives: 0, _folder: folder })
    }

    pub async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        let (folder, recorder) = (folder(life.settings)?, Recorder::default());
        let was_away = self.lives % 2 == 1;
        self.lives += 1;
        let (leader, pair) = (&self.leaders[usize::from(was_away)], &PAIRS[usize::from(was_away)]);
        if was_away {
            copy(&self.base.path().join(pair[1].1), folder.path())?;
        }
        let mut learner = new_member(life.settings, folder.path(), pair, &recorder);
        learner.put_on_disk()?;
        if was_away {
            // As no leader believes that a learner has less than it had before, it must not know what that had.
            leader.kill().await;
            leader.start("existing").await?;
            return join(life, leader, &learner).await;
        }
        leader.add_member(&learner.peer_url(), true).await?;
        let done = join(life, leader, &learner).await;
        let known = leader.members().await?;
        let own = leader.status().await?.member_id;
        for id in known.into_iter().filter(|id| *id != own) {
            leader.remove_member(id).await?;
        }
        done
    }
}

/// The last one of these.
fn new_member(settings: &Settings, folder: &Path, members: &[(usize, &str)], recorder: &Recorder) -> Member {
    let addresses: Vec<_> = members.iter().map(|(index, name)| (*name, Network::Loopback.address(*index))).collect();
    member(settings, folder, members[members.len() - 1].0, flags(&addresses), recorder)
}

async fn join(life: &mut Life<'_>, leader: &Member, learner: &Member) -> Result<()> {
    life.begin(super::disk(learner)?);
    learner.start("existing").await?;
    has_caught_up(leader, learner).await?;
    life.end(learner).await?;
    learner.start("existing").await?;
    ensure!(has_caught_up(leader, learner).await?, "the learner has died again");
    learner.kill().await;
    Ok(())
}

/// Waits until the learner has what the leader has; not if it dies before.
async fn has_caught_up(leader: &Member, learner: &Member) -> Result<bool> {
    serves(leader).await?;
    let wanted = stored(leader).await.context("the leader's data")?;
    let deadline = Instant::now() + SERVES_WITHIN;
    loop {
        if died(learner) {
            return Ok(false);
        }
        match stored(learner).await {
            Ok(found) if found == wanted => return Ok(true),
            Ok((revision, _)) if Instant::now() > deadline => {
                anyhow::bail!("the learner is at revision {revision}, the leader at {}", wanted.0)
            }
            _ if died(learner) => return Ok(false),
            Err(error) if Instant::now() > deadline || learner.has_ended().await => {
                let log = super::last_lines(&learner.log());
                return Err(error.context(format!("the learner does not serve: {log}")));
            }
            _ => sleep(POLL).await,
        }
    }
}

/// Revision and keys with their revisions, as this member has them.
async fn stored(member: &Member) -> Result<(i64, Response)> {
    let request = Request::Range { span: Span::all(), revision: 0, serializable: true, limit: 0 };
    Ok(timeout(SERVES_WITHIN, call(connect(member.client()).await?, &request)).await.context("no answer")??)
}
