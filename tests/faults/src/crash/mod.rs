//! One process after the other is killed before a step that it takes towards what is durable: the first one before its first
//! step, the next one before its second. Each time the kernel may have all that was written, or the power fails, too. What is
//! started then with what is left must have what was acknowledged, and nothing half.

mod force;
mod install;
mod lone;
mod membership;
mod points;
mod restore;
mod truncate;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::check::check;
use crate::client::{Recorder, connect, execute};
use crate::cluster::Member;
use crate::disk::{Condition, Disk, Step};
use crate::fault::CLIENT;
use crate::history::{History, Operation, Request, Span};
use crate::network::Network;

use restore::{By, Restore};

/// A process without work takes no step for so long.
const QUIET: Duration = Duration::from_millis(300);
const SERVES_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The first start of a member, its first writes, a change of the membership, a flush
    Founding,
    /// A segment of the log is full, the next one is a used one, the store is flushed, the log purged, its segment recycled
    Rotation,
    /// A deposed leader's entries are cut off its log, and others take their place
    Truncation,
    /// A member that is new, or lags, receives a snapshot and installs it
    Installation,
    /// A snapshot is restored into a new data directory
    Restore,
    /// A backup is restored before a member's first start, and once more when that was killed
    Recovery,
    /// A learner joins, becomes a voter and is removed, while the leader or another voter dies
    Membership,
    /// The only one that is left of three members removes the others
    ForceNewCluster,
}

/// What happens to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    /// The kernel has it, as after kill -9.
    Nothing,
    /// The power fails as well.
    Unsynced,
    /// The power fails, and some sectors were written.
    Torn,
}

const LOSSES: [Loss; 3] = [Loss::Nothing, Loss::Unsynced, Loss::Torn];

pub struct Settings {
    pub program: PathBuf,
    pub data_dir: PathBuf,
    pub seed: u64,
    /// 1 is every step, with each loss; with more, each of so many, with one loss after the other.
    pub every: u64,
    /// Only this step is tried, and with this loss only.
    pub step: Option<u64>,
    pub loss: Option<Loss>,
    /// The disks forget what was synced, as if nobody had.
    pub early_ack: bool,
}

/// Where a process was killed, by kinds of steps, and what was wrong afterwards.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many steps there are.
    pub steps: u64,
    pub deaths: BTreeMap<String, usize>,
    /// Processes that were ended, and others started with what they left.
    pub restarts: usize,
    /// Deaths that there was no time for.
    pub left: usize,
    pub failures: Vec<Failure>,
}

/// What was wrong after a death, and what brings that about again.
#[derive(Debug)]
pub struct Failure {
    pub step: u64,
    pub loss: Loss,
    pub why: String,
}

impl Settings {
    /// Kills until the time is over, if there is an end to it.
    ///
    /// # Errors
    /// It could not be tried.
    pub async fn run(&self, scenario: Scenario, end: Option<Instant>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut stage = Stage::prepare(self, scenario).await.with_context(|| format!("{scenario:?}: preparing"))?;
        if let Some(step) = self.step {
            let losses = self.loss.as_ref().map_or(&LOSSES[..], std::slice::from_ref);
            // Twice, for every second life has another victim, or begins with something else.
            for loss in losses.iter().chain(losses) {
                self.live(&mut stage, step, *loss, &mut outcome).await;
            }
            return Ok(outcome);
        }
        // At its end it has taken all steps, and tells how many there are.
        for loss in LOSSES {
            self.live(&mut stage, u64::MAX, loss, &mut outcome).await;
        }
        let each = |step: u64| {
            if self.every == 1 { &LOSSES[..] } else { std::slice::from_ref(&LOSSES[(step / self.every % 3) as usize]) }
        };
        let mut points = VecDeque::from(points::spread(outcome.steps, self.every));
        while let Some(step) = points.pop_front() {
            if end.is_some_and(|end| Instant::now() > end) {
                outcome.left = (points.len() + 1) * each(step).len();
                break;
            }
            let mut died = false;
            for loss in each(step) {
                died |= self.live(&mut stage, step, *loss, &mut outcome).await;
            }
            // One life may have more steps than another.
            if died && points.is_empty() {
                points.push_back(outcome.steps.max(step + self.every));
            }
        }
        Ok(outcome)
    }

    /// Whether it died.
    async fn live(&self, stage: &mut Stage, step: u64, loss: Loss, outcome: &mut Outcome) -> bool {
        let mut life = Life { settings: self, step, loss, steps: 0, before: 0, died_at: None };
        let lived = stage.live(&mut life).await;
        let died_at = life.died_at.as_ref().map_or_else(|| "its end".to_owned(), Step::to_string);
        if let Err(error) = lived {
            let step = if step == u64::MAX { life.steps } else { step };
            let why = format!("step {step}, {died_at}, losing {loss:?}: {error:#}");
            outcome.failures.push(Failure { step, loss, why });
        }
        outcome.restarts += 1;
        outcome.steps = outcome.steps.max(life.steps);
        if let Some(step) = &life.died_at {
            *outcome.deaths.entry(step.class()).or_default() += 1;
        }
        life.died_at.is_some()
    }
}

enum Stage {
    Lone(lone::Lone),
    Truncate(truncate::Truncate),
    Install(Box<install::Install>),
    Restore(Restore),
    Membership(Box<membership::Membership>),
    ForceNewCluster(force::Force),
}

impl Stage {
    async fn prepare(settings: &Settings, scenario: Scenario) -> Result<Self> {
        Ok(match scenario {
            Scenario::Founding => Self::Lone(lone::Lone::new()),
            Scenario::Rotation => Self::Lone(lone::Lone::with_full_segment(settings).await?),
            Scenario::Truncation => Self::Truncate(truncate::Truncate::prepare(settings).await?),
            Scenario::Installation => Self::Install(install::Install::prepare(settings).await?.into()),
            Scenario::Restore => Self::Restore(Restore::prepare(settings, By::Person).await?),
            Scenario::Recovery => Self::Restore(Restore::prepare(settings, By::InitContainer).await?),
            Scenario::Membership => Self::Membership(membership::Membership::prepare(settings).await?.into()),
            Scenario::ForceNewCluster => Self::ForceNewCluster(force::Force::prepare(settings).await?),
        })
    }

    async fn live(&mut self, life: &mut Life<'_>) -> Result<()> {
        match self {
            Self::Lone(lone) => lone.live(life).await,
            Self::Truncate(truncate) => truncate.live(life).await,
            Self::Install(install) => install.live(life).await,
            Self::Restore(restore) => restore.live(life).await,
            Self::Membership(membership) => membership.live(life).await,
            Self::ForceNewCluster(force) => force.live(life).await,
        }
    }
}

/// Up to which step it goes, and how it ends.
struct Life<'a> {
    settings: &'a Settings,
    step: u64,
    loss: Loss,
    /// How many its process has taken.
    steps: u64,
    /// Steps of the process before the life began.
    before: u64,
    /// None if it came to its end before that step.
    died_at: Option<Step>,
}

impl Life<'_> {
    /// Its next process dies before the step.
    fn begin(&self, disk: &Disk) {
        disk.set(if self.settings.early_ack { Condition::Lies } else { Condition::Sound });
        disk.kill_at(self.step);
    }

    /// The process that runs dies so many steps later.
    fn begin_running(&mut self, disk: &Disk) {
        self.begin(disk);
        self.before = disk.steps();
        disk.kill_at(self.step.saturating_add(self.before));
    }

    /// Waits until the member has died or is quiet, ends it, and loses what is to be lost.
    async fn end(&mut self, member: &Member) -> Result<()> {
        let disk = disk(member)?;
        disk.quiet(QUIET).await;
        disk.kill_at(u64::MAX);
        member.kill().await;
        self.lose(disk)
    }

    fn lose(&mut self, disk: &Disk) -> Result<()> {
        self.died_at = disk.died_at();
        self.steps = disk.steps() - self.before;
        disk.set(Condition::Sound);
        match self.loss {
            Loss::Nothing => Ok(()),
            Loss::Unsynced => Ok(disk.lose_power(None)?),
            Loss::Torn => Ok(disk.lose_power(Some(&mut StdRng::seed_from_u64(self.settings.seed + self.step)))?),
        }
    }
}

fn disk(member: &Member) -> Result<&Disk> {
    member.disk().context("a member on a disk of ours")
}

fn folder(settings: &Settings) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("keelson-crash-").tempdir_in(&settings.data_dir)?)
}

/// The copy of a folder in another one is as sparse as what it is of.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["--archive", "--sparse=always"]).args([from, to]).status();
    ensure!(copied.context("cp")?.success(), "cp failed");
    Ok(())
}

/// Elections take no time that matters, and the log keeps no more than it must.
fn flags(initial_cluster: &[(&str, Ipv4Addr)]) -> Vec<String> {
    let members = initial_cluster.iter().map(|(name, ip)| format!("{name}={}", crate::cluster::peer_url(*ip)));
    let members: Vec<_> = members.collect();
    let flags = ["--heartbeat-interval=20", "--election-timeout=200", "--snapshot-catchup-entries=1"];
    let cluster = format!("--initial-cluster={}", members.join(","));
    flags.map(str::to_owned).into_iter().chain([cluster]).collect()
}

/// A member on the loopback network, not yet started.
fn member(settings: &Settings, folder: &Path, index: usize, flags: Vec<String>, recorder: &Recorder) -> Member {
    let ip = Network::Loopback.address(index);
    Member::new(index, ip, &settings.program, folder, flags, Vec::new(), recorder.clone())
}

/// Asks the member, once it can be asked; none if it dies before.
async fn ask(member: &Member, recorder: &Recorder, request: Request) -> Result<Option<Operation>> {
    let deadline = Instant::now() + SERVES_WITHIN;
    loop {
        if died(member) {
            return Ok(None);
        }
        match connect(member.client()).await {
            Ok(channel) => return Ok(Some(execute(recorder, CLIENT, member.index, channel, request).await)),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context(format!("{} cannot be reached", member.name));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

/// Waits until it serves.
async fn serves(member: &Member) -> Result<()> {
    let deadline = Instant::now() + SERVES_WITHIN;
    loop {
        match member.read().await {
            Ok(_) => return Ok(()),
            Err(_) if member.has_ended().await => {
                bail!("{} does not start again: {}", member.name, last_lines(&member.log()))
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{} does not serve: {}", member.name, last_lines(&member.log()))));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

/// The same, but for one that is to die.
async fn serves_or_dies(member: &Member) -> Result<()> {
    tokio::select! {
        served = serves(member) => if died(member) { Ok(()) } else { served },
        () = dies(member) => Ok(()),
    }
}

/// Whether it was killed before a step.
fn died(member: &Member) -> bool {
    member.disk().is_some_and(|disk| disk.died_at().is_some())
}

/// Waits for that.
async fn dies(member: &Member) {
    while !died(member) {
        sleep(POLL).await;
    }
}

/// Which of these leads, as soon as one does.
async fn leader(members: &[Member]) -> Result<usize> {
    let leads = async {
        loop {
            for (index, member) in members.iter().enumerate() {
                if member.read().await.is_ok() && member.status().await.is_ok_and(|status| status.leads()) {
                    return index;
                }
            }
            sleep(POLL).await;
        }
    };
    timeout(SERVES_WITHIN, leads).await.context("no leader")
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// What is there, and whether one more write finds its place behind it.
async fn look(member: &Member, recorder: &Recorder) -> Result<()> {
    let all = |serializable| Request::Range { span: Span::all(), revision: 0, serializable, limit: 0 };
    let put = Request::Put { key: "last".into(), value: "last".into(), lease: 0, prev_kv: true };
    for request in [all(true), all(false), put, all(false)] {
        let asked = ask(member, recorder, request).await?.context("the member has died again")?;
        ensure!(asked.revision().is_some(), "after the restart: {asked}");
    }
    Ok(())
}

fn judge(history: &History) -> Result<()> {
    let report = check(history);
    ensure!(report.is_good(), "{}", crate::report::history(history, &report));
    Ok(())
}
