//! A learner joins two voters, becomes one, and is removed; one of the two dies meanwhile, in turn the leader and the other one.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    Life, POLL, QUIET, SERVES_WITHIN, Settings, died, disk, flags, folder, judge, leader, look, member, serves,
};
use crate::client::{Recorder, connect, execute};
use crate::cluster::Member;
use crate::fault::CLIENT;
use crate::history::Request;
use crate::network::Network;

const NAMES: [&str; 2] = ["m0", "m1"];

pub struct Membership {
    recorder: Recorder,
    /// On disks of ours.
    voters: [Member; 2],
    ids: Vec<u64>,
    /// Without data between two lives.
    joining: Member,
    lives: usize,
    values: usize,
    _folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Add,
    Promote,
    Remove,
}

impl Membership {
    pub async fn prepare(settings: &Settings) -> Result<Self> {
        let (folder, recorder) = (folder(settings)?, Recorder::default());
        let addresses = [0, 1].map(|index| (NAMES[index], Network::Loopback.address(index)));
        let all = [&addresses[..], &[("m2", Network::Loopback.address(2))]].concat();
        let mut voters = [0, 1].map(|index| member(settings, folder.path(), index, flags(&addresses), &recorder));
        for voter in &mut voters {
            voter.put_on_disk()?;
            voter.start("new").await?;
        }
        for voter in &voters {
            serves(voter).await?;
        }
        let ids = voters[0].members().await?;
        let joining = member(settings, folder.path(), 2, flags(&all), &recorder);
        Ok(Self { recorder, voters, ids, joining, lives: 0, values: 0, _folder: folder })
    }

    pub async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        let leads = leader(&self.voters).await?;
        self.lives += 1;
        let victim = (leads + self.lives) % 2;
        disk(&self.voters[victim])?.quiet(QUIET).await;
        life.begin_running(disk(&self.voters[victim])?);
        let done = self.changes(life, victim).await;
        self.joining.kill().await;
        if self.joining.data().exists() {
            self.joining.discard().await?;
        }
        done
    }

    async fn changes(&mut self, life: &mut Life<'_>, victim: usize) -> Result<()> {
        let mut restarted = false;
        for change in [Change::Add, Change::Promote, Change::Remove] {
            let put = self.put(1 - victim).await?;
            let acknowledged = self.is_answered(change, victim).await;
            // It may die of what follows the answer, too.
            while !self.is_settled(change, acknowledged, victim).await? {
                self.restart(life, victim).await?;
                restarted = true;
            }
            put.await?;
            if change == Change::Add {
                self.joining.start("existing").await?;
            }
        }
        if !restarted {
            self.restart(life, victim).await?;
        }
        look(&self.voters[victim], &self.recorder).await?;
        let revision = self.voters[victim].read().await?;
        let mut sums = Vec::new();
        for voter in &self.voters {
            serves(voter).await?;
            ensure!(voter.members().await? == self.ids, "{} knows of other members", voter.name);
            sums.push(voter.hash(revision).await?);
        }
        ensure!(sums[0] == sums[1], "the members differ: {sums:?}");
        judge(&self.recorder.so_far())
    }

    /// Begins a write by this voter.
    async fn put(&mut self, voter: usize) -> Result<tokio::task::JoinHandle<crate::history::Operation>> {
        self.values += 1;
        let put = Request::Put { key: "a".into(), value: self.values.to_string(), lease: 0, prev_kv: false };
        let (recorder, index) = (self.recorder.clone(), self.voters[voter].index);
        let channel = connect(self.voters[voter].client()).await?;
        Ok(tokio::spawn(async move { execute(&recorder, CLIENT, index, channel, put).await }))
    }

    async fn restart(&self, life: &mut Life<'_>, victim: usize) -> Result<()> {
        life.end(&self.voters[victim]).await?;
        self.voters[victim].start("existing").await?;
        for voter in &self.voters {
            serves(voter).await?;
        }
        Ok(())
    }

    /// Asks until the change is acknowledged, or the victim has died.
    async fn is_answered(&self, change: Change, victim: usize) -> bool {
        let asked = async {
            while self.ask(change, 1 - victim).await.is_err() {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            biased;
            () = asked => true,
            () = super::dies(&self.voters[victim]) => false,
        }
    }

    /// Waits until both tell that the change has happened, and asks again for one that was not acknowledged; not if the
    /// victim dies before.
    async fn is_settled(&self, change: Change, acknowledged: bool, victim: usize) -> Result<bool> {
        let deadline = Instant::now() + SERVES_WITHIN;
        while !died(&self.voters[victim]) {
            match self.is_done(change).await {
                Ok(true) => return Ok(true),
                Ok(false) if acknowledged => bail!("{change:?} was acknowledged, and has not happened"),
                Ok(false) => drop(self.ask(change, 1 - victim).await),
                Err(_) => {}
            }
            ensure!(Instant::now() < deadline, "{change:?}: a cluster that is well does not do it");
            sleep(POLL).await;
        }
        Ok(false)
    }

    async fn ask(&self, change: Change, voter: usize) -> Result<()> {
        let voter = &self.voters[voter];
        match change {
            Change::Add => voter.add_member(&self.joining.peer_url(), true).await,
            Change::Promote => voter.promote_member(self.joined(voter).await?.context("no learner")?.0).await,
            Change::Remove => voter.remove_member(self.joined(voter).await?.context("no third member")?.0).await,
        }
    }

    /// As both know.
    async fn is_done(&self, change: Change) -> Result<bool> {
        for voter in &self.voters {
            let joined = self.joined(voter).await?;
            let done = match change {
                Change::Add => joined.is_some(),
                Change::Promote => joined.is_some_and(|(_, is_learner)| !is_learner),
                Change::Remove => joined.is_none(),
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The third member, and whether it is a learner.
    async fn joined(&self, voter: &Member) -> Result<Option<(u64, bool)>> {
        Ok(voter.list().await?.into_iter().find(|(id, _)| !self.ids.contains(id)))
    }
}
