//! One round: a new cluster, clients at work while faults happen, then peace, and what the clients saw is judged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bug::Bug;
use crate::check::{Report, check};
use crate::client::{Phase, Recorder, Watcher, Worker};
use crate::cluster::{Cluster, Member};
use crate::disk::Condition;
use crate::expiry;
use crate::fault::{Kind, Stage};
use crate::history::{Hash, History};
use crate::network::Network;
use crate::schedule;

/// Watches have told everything so long after the faults have ended.
const WATCHES_WITHIN: Duration = Duration::from_secs(20);
/// Members that are well have compacted alike after this time.
const HASHES_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Settings {
    pub program: PathBuf,
    pub flags: Vec<String>,
    pub data_dir: PathBuf,
    pub seed: u64,
    pub duration: Duration,
    pub members: usize,
    pub workers: u32,
    pub watchers: u32,
    pub pace: Duration,
    pub kinds: Vec<Kind>,
    /// What is wrong with the servers, as their clients and disks see it.
    pub bug: Option<Bug>,
    /// Members' files are on disks of ours.
    pub own_disks: bool,
}

pub struct Round {
    pub history: History,
    pub report: Report,
    pub faults: BTreeMap<Kind, usize>,
    /// What else went wrong: a cluster that does not come back, a process that ended by itself.
    pub failures: Vec<String>,
    pub cluster: Cluster,
}

pub async fn run(settings: &Settings, network: Network) -> Result<Round> {
    let recorder = Recorder::default();
    let Settings { program, flags, members, data_dir, own_disks, .. } = settings;
    let cluster = Cluster::start(program, flags, *members, data_dir, network, *own_disks, &recorder).await?;
    if settings.bug == Some(Bug::EarlyAck) {
        cluster.members.iter().filter_map(Member::disk).for_each(|disk| disk.set(Condition::Lies));
    }
    let (phase, follow) = watch::channel(Phase::Work);
    let (mut workers, mut watchers) = (JoinSet::new(), JoinSet::new());
    for id in 0..settings.workers {
        let (members, recorder, phase) = (cluster.clients(), recorder.clone(), follow.clone());
        let worker = Worker { id, members, recorder, phase, pace: settings.pace, compactions: true, bug: settings.bug };
        workers.spawn(worker.run(seed(settings.seed, id)));
    }
    for id in settings.workers..settings.workers + settings.watchers {
        let (members, recorder, phase) = (cluster.clients(), recorder.clone(), follow.clone());
        let faithful = id == settings.workers;
        watchers
            .spawn(Watcher { id, members, recorder, phase, faithful, bug: settings.bug }.run(seed(settings.seed, id)));
    }
    let end = Instant::now() + settings.duration;
    let mut failures = Vec::new();
    let faults =
        schedule::run(&Stage::new(&cluster, &recorder, settings.bug), &settings.kinds, settings.seed, end).await;
    let faults = faults.unwrap_or_else(|error| {
        failures.push(format!("{error:#}"));
        BTreeMap::new()
    });
    if let Some(switch) = cluster.network.switch() {
        switch.heal();
    }
    cluster.members.iter().filter_map(Member::disk).for_each(|disk| disk.set(Condition::Sound));
    if let Err(error) = finish(&cluster, &recorder, &phase, workers, watchers).await {
        failures.push(format!("{error:#}"));
    }
    for member in &cluster.members {
        failures.extend(member.crashes().await);
    }
    // The next round's members listen at the same addresses, so these have to be gone.
    for member in &cluster.members {
        member.kill().await;
    }
    let history = recorder.take();
    let report = check(&history);
    Ok(Round { history, report, faults, failures, cluster })
}

/// Of a client's own.
fn seed(seed: u64, client: u32) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(u64::from(client) + 1)
}

/// Ends the clients' work when all members are well, lets the watches catch up, and compares the members.
async fn finish(
    cluster: &Cluster,
    recorder: &Recorder,
    phase: &watch::Sender<Phase>,
    mut workers: JoinSet<()>,
    mut watchers: JoinSet<bool>,
) -> Result<()> {
    let recovered = cluster.recovered().await;
    // What clients do with a cluster that is well again is a part of the history, too.
    sleep(Duration::from_secs(1)).await;
    let _ = phase.send(Phase::Rest);
    while let Some(done) = workers.join_next().await {
        done.context("a client failed")?;
    }
    recovered?;
    let revision = cluster.recovered().await?;
    let _ = phase.send(Phase::Finish { revision });
    let watches = timeout(WATCHES_WITHIN, async {
        let mut all = true;
        while let Some(done) = watchers.join_next().await {
            all &= done.context("a watcher failed")?;
        }
        anyhow::Ok(all)
    });
    let told = watches.await.unwrap_or(Ok(false))?;
    let settled = expiry::settled(cluster).await;
    let _ = phase.send(Phase::Stop);
    while let Some(done) = watchers.join_next().await {
        done.context("a watcher failed")?;
    }
    hashes(cluster, recorder, revision).await?;
    settled?;
    if !told {
        bail!("not all watches have told everything {WATCHES_WITHIN:?} after the last fault");
    }
    Ok(())
}

/// Asks all members for their sums until they agree; what was said last is what counts.
async fn hashes(cluster: &Cluster, recorder: &Recorder, revision: i64) -> Result<()> {
    let deadline = Instant::now() + HASHES_WITHIN;
    loop {
        let mut hashes = Vec::new();
        for member in &cluster.members {
            let (compact_revision, hash) = member.hash(revision).await.context("HashKV")?;
            hashes.push(Hash { member: member.index as u32, revision, compact_revision, hash });
        }
        let agree = hashes
            .iter()
            .all(|hash| (hash.hash, hash.compact_revision) == (hashes[0].hash, hashes[0].compact_revision));
        if agree || Instant::now() > deadline {
            hashes.into_iter().for_each(|hash| recorder.sum(hash));
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}
