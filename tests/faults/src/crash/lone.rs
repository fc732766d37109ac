//! A member alone: new, or with a log that is about to go on in the next segment.

use std::path::Path;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::{Life, SERVES_WITHIN, Settings, ask, copy, flags, folder, judge, look, member, serves};
use crate::client::Recorder;
use crate::cluster::Member;
use crate::history::{History, Request};
use crate::network::Network;
use crate::workload::Workload;

const OPERATIONS: usize = 15;
const MEBIBYTE: usize = 1 << 20;
/// A segment of the log is 64 MiB, and as much is written before the store is flushed. With so many values the first segment
/// was used, and is kept to be used again; the second one is almost full.
const VALUES: usize = 126;
/// With these it is full.
const MORE_VALUES: usize = 5;

pub struct Lone {
    /// What each life begins with, and how it came there.
    base: Option<(TempDir, History)>,
}

impl Lone {
    pub fn new() -> Self {
        Self { base: None }
    }

    pub async fn with_full_segment(settings: &Settings) -> Result<Self> {
        let recorder = Recorder::default();
        let folder = folder(settings)?;
        let member = new_member(settings, folder.path(), &recorder);
        member.start("new").await?;
        for number in 0..VALUES {
            put(&member, &recorder, number).await?;
        }
        member.kill().await;
        ensure!(spares(&member.data())? > 0, "no segment of the log was used up by {VALUES} MiB");
        drop(member);
        Ok(Self { base: Some((folder, recorder.take())) })
    }

    pub async fn live(&self, life: &mut Life<'_>) -> Result<()> {
        let folder = folder(life.settings)?;
        let recorder = match &self.base {
            Some((base, history)) => {
                copy(&base.path().join("m0"), folder.path())?;
                Recorder::continuing(history.clone())
            }
            None => Recorder::default(),
        };
        let mut member = new_member(life.settings, folder.path(), &recorder);
        member.put_on_disk()?;
        life.begin(super::disk(&member)?);
        member.start("new").await?;
        let added = self.work(life.settings, &member, &recorder).await?;
        life.end(&member).await?;
        member.start("new").await?;
        serves(&member).await?;
        look(&member, &recorder).await?;
        let members = member.members().await?.len();
        ensure!(members >= added, "{members} members, where {added} were acknowledged");
        member.kill().await;
        judge(&recorder.take())
    }

    /// Until the member dies, or everything is done; how many members there are at least.
    async fn work(&self, settings: &Settings, member: &Member, recorder: &Recorder) -> Result<usize> {
        for number in (VALUES..VALUES + MORE_VALUES).filter(|_| self.base.is_some()) {
            put(member, recorder, number).await?;
        }
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let mut workload = Workload::new(0, true);
        for _ in 0..OPERATIONS {
            let Some(done) = ask(member, recorder, workload.next(&mut rng)).await? else { return Ok(1) };
            workload.learn(&done);
        }
        if self.base.is_none() {
            // Neither is answered by one that has died.
            let added = member.add_member("http://127.0.0.1:1", true).await;
            let _ = member.defragment().await;
            return Ok(1 + usize::from(added.is_ok()));
        }
        Ok(1)
    }
}

fn new_member(settings: &Settings, folder: &Path, recorder: &Recorder) -> Member {
    let flags = flags(&[("m0", Network::Loopback.address(0))]);
    member(settings, folder, 0, flags, recorder)
}

async fn put(member: &Member, recorder: &Recorder, number: usize) -> Result<()> {
    let value = format!("{number}:{}", "x".repeat(MEBIBYTE));
    let put = Request::Put { key: "large".into(), value, lease: 0, prev_kv: false };
    tokio::time::timeout(SERVES_WITHIN, ask(member, recorder, put)).await??;
    Ok(())
}

/// Files of the log that wait to be used again.
fn spares(data: &Path) -> Result<usize> {
    let files = std::fs::read_dir(data.join("wal"))?.flatten();
    Ok(files.filter(|file| file.path().extension().is_some_and(|extension| extension == "spare")).count())
}
