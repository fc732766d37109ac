//! A cluster whose log does not go back to its beginning: a new member gets a snapshot, and dies while it does.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Life, POLL, SERVES_WITHIN, Settings, ask, flags, folder, member, serves};
use crate::client::{Recorder, call, connect};
use crate::cluster::Member;
use crate::history::{Request, Response, Span};
use crate::network::Network;

/// Enough for a flush, after which the log is purged.
const VALUES: usize = 66;
const VALUE_BYTES: usize = 1 << 20;

pub struct Install {
    leader: Member,
    _folder: TempDir,
}

impl Install {
    pub async fn prepare(settings: &Settings) -> Result<Self> {
        let (folder, recorder) = (folder(settings)?, Recorder::default());
        let leader = member(settings, folder.path(), 0, flags(&[("m0", Network::Loopback.address(0))]), &recorder);
        leader.start("new").await?;
        for number in 0..VALUES {
            let (key, value) = (format!("{}", number % 3), format!("{number}:{}", "x".repeat(VALUE_BYTES)));
            ask(&leader, &recorder, Request::Put { key, value, lease: 0, prev_kv: false }).await?;
        }
        Ok(Self { leader, _folder: folder })
    }

    pub async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        let (folder, recorder) = (folder(life.settings)?, Recorder::default());
        let addresses = [("m0", Network::Loopback.address(0)), ("m1", Network::Loopback.address(1))];
        let mut learner = member(life.settings, folder.path(), 1, flags(&addresses), &recorder);
        learner.put_on_disk()?;
        self.leader.add_member(&learner.peer_url(), true).await?;
        let done = self.join(life, &learner).await;
        let known = self.leader.members().await?;
        let own = self.leader.status().await?.member_id;
        for id in known.into_iter().filter(|id| *id != own) {
            self.leader.remove_member(id).await?;
        }
        done
    }

    async fn join(&self, life: &mut Life<'_>, learner: &Member) -> Result<()> {
        life.begin(super::disk(learner)?);
        learner.start("existing").await?;
        self.caught_up(learner).await?;
        life.end(learner).await?;
        learner.start("existing").await?;
        ensure!(self.caught_up(learner).await?, "the learner has died again");
        learner.kill().await;
        Ok(())
    }

    /// Waits until the learner has what the leader has; not if it dies before.
    async fn caught_up(&self, learner: &Member) -> Result<bool> {
        serves(&self.leader).await?;
        let wanted = stored(&self.leader).await.context("the leader's data")?;
        let deadline = Instant::now() + SERVES_WITHIN;
        loop {
            if super::disk(learner)?.died_at().is_some() {
                return Ok(false);
            }
            match stored(learner).await {
                Ok(found) if found == wanted => return Ok(true),
                Ok((revision, _)) if Instant::now() > deadline => {
                    anyhow::bail!("the learner is at revision {revision}, the leader at {}", wanted.0)
                }
                _ if super::disk(learner)?.died_at().is_some() => return Ok(false),
                Err(error) if Instant::now() > deadline || learner.has_ended().await => {
                    let log = super::last_lines(&learner.log());
                    return Err(error.context(format!("the learner does not serve: {log}")));
                }
                _ => sleep(POLL).await,
            }
        }
    }
}

/// Revision and keys with their revisions, as this member has them.
async fn stored(member: &Member) -> Result<(i64, Response)> {
    let request = Request::Range { span: Span::all(), revision: 0, serializable: true, limit: 0 };
    Ok(call(connect(member.client()).await?, &request).await?)
}
