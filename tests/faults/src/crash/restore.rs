//! A snapshot is restored into a data directory by one of the server's own commands.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Life, Settings, ask, flags, folder, member, serves};
use crate::client::{Recorder, call, connect};
use crate::cluster::Member;
use crate::history::{Request, Response, Span};
use crate::network::Network;

const VALUES: usize = 30;

/// Which command it is, and what is done when it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `snapshot restore`, as etcdutl's: what it has begun is refused.
    Person,
    /// `backup restore`, once more before each start: it goes on, or has nothing to do.
    InitContainer,
}

pub struct Restore {
    by: By,
    /// With the file.
    folder: TempDir,
    stored: Response,
}

impl Restore {
    pub async fn prepare(settings: &Settings, by: By) -> Result<Self> {
        let (folder, recorder) = (folder(settings)?, Recorder::default());
        let saved = new_member(settings, &folder, &recorder);
        saved.start("new").await?;
        for number in 0..VALUES {
            let (key, value) = (format!("{}", number % 7), format!("{number}"));
            ask(&saved, &recorder, Request::Put { key, value, lease: 0, prev_kv: false }).await?;
        }
        saved.save_snapshot(&folder.path().join("snapshot.db")).await?;
        let stored = stored(&saved).await?;
        saved.kill().await;
        Ok(Self { by, folder, stored })
    }

    pub async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        let (folder, recorder) = (folder(life.settings)?, Recorder::default());
        let mut restored = new_member(life.settings, &folder, &recorder);
        restored.put_on_disk()?;
        let disk = super::disk(&restored)?;
        life.begin(disk);
        let complete = self.restore(life.settings, &restored).await?;
        disk.kill_at(u64::MAX);
        life.lose(disk)?;
        ensure!(complete || life.died_at.is_some(), "the command fails");
        if self.by == By::InitContainer {
            ensure!(self.restore(life.settings, &restored).await?, "the command fails when it is begun once more");
        }
        restored.start("new").await?;
        match serves(&restored).await {
            Ok(()) => {
                let found = stored(&restored).await?;
                // Without a trace of what was begun it is a new member, like any other.
                let is_new = matches!(&found, Response::Range { count: 0, .. }) && !complete && self.by == By::Person;
                ensure!(found == self.stored || is_new, "half of what was in the snapshot: {found:?}");
            }
            Err(refused) => {
                ensure!(!complete && self.by == By::Person, "{refused}");
                let log = std::fs::read_to_string(restored.log())?;
                ensure!(log.contains("holds data, but"), "the refusal does not tell what to do: {log}");
            }
        }
        restored.kill().await;
        Ok(())
    }

    /// Whether the command came to its end.
    async fn restore(&self, settings: &Settings, into: &Member) -> Result<bool> {
        let snapshot = self.folder.path().join("snapshot.db").display().to_string();
        let mut command = Command::new(&settings.program);
        match self.by {
            By::Person => command.args(["snapshot", "restore"]).arg(snapshot),
            By::InitContainer => command.args(["backup", "restore"]).arg(format!("file://{snapshot}")),
        };
        command
            .args(["--name=m0", "--data-dir"])
            .arg(into.data())
            .arg(format!("--initial-advertise-peer-urls={}", into.peer_url()))
            .arg(format!("--initial-cluster=m0={}", into.peer_url()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let attached = super::disk(into)?.attach(&mut command)?;
        let mut process = command.spawn().context("the server's command")?;
        attached.serve()?;
        Ok(process.wait().await?.success())
    }
}

fn new_member(settings: &Settings, folder: &TempDir, recorder: &Recorder) -> Member {
    member(settings, folder.path(), 0, flags(&[("m0", Network::Loopback.address(0))]), recorder)
}

async fn stored(member: &Member) -> Result<Response> {
    let request = Request::Range { span: Span::all(), revision: 0, serializable: false, limit: 0 };
    Ok(call(connect(member.client()).await?, &request).await?.1)
}
