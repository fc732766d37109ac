//! A leader that is cut off takes writes that nobody else has; when it comes back, they are cut off its log.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Life, POLL, QUIET, Settings, ask, flags, folder, judge, look, member, serves, serves_or_dies};
use crate::client::{Recorder, connect, execute};
use crate::cluster::Member;
use crate::fault::CLIENT;
use crate::history::Request;
use crate::network::Network;

const NAMES: [&str; 3] = ["m0", "m1", "m2"];

pub struct Truncate {
    recorder: Recorder,
    /// On disks of ours.
    members: Vec<Member>,
    values: usize,
    _folder: TempDir,
}

impl Truncate {
    pub async fn prepare(settings: &Settings) -> Result<Self> {
        let (folder, recorder) = (folder(settings)?, Recorder::default());
        let addresses = [0, 1, 2].map(|index| (NAMES[index], Network::Loopback.address(index)));
        let mut members = Vec::new();
        for index in 0..NAMES.len() {
            let mut member = member(settings, folder.path(), index, flags(&addresses), &recorder);
            member.put_on_disk()?;
            member.start("new").await?;
            members.push(member);
        }
        for member in &members {
            serves(member).await?;
        }
        Ok(Self { recorder, members, values: 0, _folder: folder })
    }

    pub async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        let leader = super::leader(&self.members).await?;
        let (put, then) = (self.put(), self.put());
        let others: Vec<_> = self.members.iter().filter(|member| member.index != leader).collect();
        let deposed = &self.members[leader];
        for other in &others {
            other.signal(Signal::STOP).await?;
        }
        // It gets into the log of the leader, which cannot answer it.
        let before = super::disk(deposed)?.steps();
        let recorder = self.recorder.clone();
        let (channel, index) = (connect(deposed.client()).await?, deposed.index);
        let unanswered = tokio::spawn(async move { execute(&recorder, CLIENT, index, channel, put).await });
        while super::disk(deposed)?.steps() == before && !unanswered.is_finished() {
            sleep(POLL).await;
        }
        super::disk(deposed)?.quiet(QUIET).await;
        deposed.kill().await;
        unanswered.await?;
        for other in &others {
            other.signal(Signal::CONT).await?;
        }
        serves(others[0]).await?;
        ask(others[0], &self.recorder, then).await?;
        life.begin(super::disk(deposed)?);
        deposed.start("existing").await?;
        serves_or_dies(deposed).await?;
        life.end(deposed).await?;
        deposed.start("existing").await?;
        serves(deposed).await?;
        look(deposed, &self.recorder).await?;
        let revision = deposed.read().await?;
        let mut sums = Vec::new();
        for member in &self.members {
            serves(member).await?;
            sums.push(member.hash(revision).await?);
        }
        ensure!(sums.iter().all(|sum| *sum == sums[0]), "the members differ: {sums:?}");
        judge(&self.recorder.so_far())
    }

    fn put(&mut self) -> Request {
        self.values += 1;
        Request::Put { key: "a".into(), value: self.values.to_string(), lease: 0, prev_kv: false }
    }
}
