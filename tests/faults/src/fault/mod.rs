//! What befalls a cluster, one kind a file. Each does harm, lets the clients work with it for a while, and makes it good.

mod clock;
mod compact;
mod damage;
mod defragment;
mod degrade;
mod deposed_leader;
mod disk_error;
mod disk_full;
mod kill;
mod kill_all;
pub mod lease_storm;
mod membership;
mod move_leader;
mod partition;
mod pause;
mod power_loss;
mod read_error;
mod restart;
mod slow_disk;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::bug::Bug;
use crate::client::{Recorder, connect, execute};
use crate::cluster::{Cluster, Member};
use crate::history::Request;

/// The client that faults are in the history.
pub const CLIENT: u32 = 1000;
/// Longer than any fault of the network that comes with another one.
const GOES_ON_WITHIN: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Members are killed, at times most of them, and started again
    Kill,
    /// All members are killed at once, and started again
    KillAll,
    /// The power fails for members, at times for all: what they had not synced is gone, or torn
    PowerLoss,
    /// A member's disk fails: it has to end by itself
    DiskError,
    /// A member's disk cannot be read: it answers nothing wrong, and ends, or goes on later
    ReadError,
    /// A member's disk is full: it ends, or goes on when there is room again
    DiskFull,
    /// A file of a member is damaged: it serves what is right, or ends; then a new one takes its place
    Damage,
    /// Members' disks take long to sync
    SlowDisk,
    /// Members are stopped (SIGSTOP) long enough to lose leadership, then go on
    Pause,
    /// Members end in order and are started again
    Restart,
    /// A member is removed, and comes back as a new one without data, a voter or a learner at first
    Membership,
    /// Members cannot reach each other: groups, single links, one direction only
    Partition,
    /// A leader is cut off while another one is elected; those who voted lose their power, and then see only the old one
    DeposedLeader,
    /// Packets between members come late, in another order, or not at all
    Degrade,
    /// The leader hands over to another member
    MoveLeader,
    /// Members' clocks jump, by seconds to days; their timers go on
    Clock,
    /// Members rewrite their storage
    Defragment,
    /// Everything old is compacted, again and again
    Compact,
    /// Many leases that are over in a few seconds, with keys attached
    LeaseStorm,
}

/// Two faults at a time are of two classes, or have other members: what is done to one process is not undone by the other fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Processes,
    Disks,
    Network,
    Requests,
    Clocks,
}

/// What a fault has to do with.
pub struct Stage<'a> {
    pub cluster: &'a Cluster,
    /// Of operations that clients have to know of.
    pub recorder: &'a Recorder,
    pub bug: Option<Bug>,
    /// Members that a fault has for itself.
    taken: Mutex<BTreeSet<usize>>,
}

impl<'a> Stage<'a> {
    pub fn new(cluster: &'a Cluster, recorder: &'a Recorder, bug: Option<Bug>) -> Self {
        Self { cluster, recorder, bug, taken: Mutex::default() }
    }

    /// Those of the members that no other fault has for itself.
    fn take(&self, wanted: Vec<usize>) -> Taken<'_> {
        let mut taken = lock(&self.taken);
        let free = wanted.into_iter().filter(|member| taken.insert(*member)).collect();
        Taken { stage: self, members: free }
    }

    /// Any one, if there is one that no other fault has for itself.
    fn take_one(&self, rng: &mut StdRng) -> Taken<'_> {
        let mut taken = lock(&self.taken);
        let free: Vec<_> = (0..self.cluster.members.len()).filter(|member| !taken.contains(member)).collect();
        let one = free.choose(rng).copied();
        taken.extend(one);
        Taken { stage: self, members: one.into_iter().collect() }
    }
}

/// Members that a fault has for itself, as long as this is there.
struct Taken<'a> {
    stage: &'a Stage<'a>,
    members: Vec<usize>,
}

impl Taken<'_> {
    fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|member| &self.stage.cluster.members[*member])
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        lock(&self.stage.taken).retain(|member| !self.members.contains(member));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kind {
    pub fn class(self) -> Class {
        match self {
            Kind::Kill | Kind::KillAll | Kind::Pause | Kind::Restart | Kind::Membership => Class::Processes,
            Kind::PowerLoss | Kind::DiskError | Kind::ReadError | Kind::DiskFull => Class::Processes,
            Kind::Damage | Kind::DeposedLeader => Class::Processes,
            Kind::SlowDisk => Class::Disks,
            Kind::Partition | Kind::Degrade => Class::Network,
            Kind::Clock => Class::Clocks,
            Kind::MoveLeader | Kind::Defragment | Kind::Compact | Kind::LeaseStorm => Class::Requests,
        }
    }

    /// Whether both may happen at a time.
    pub fn goes_with(self, other: Self) -> bool {
        self.class() != other.class() || (self != other && self.takes_members() && other.takes_members())
    }

    /// Whether it leaves alone what another one has taken, and needs none of the others to be made good.
    fn takes_members(self) -> bool {
        let is_of_disks = matches!(self, Kind::PowerLoss | Kind::DiskError | Kind::ReadError | Kind::DiskFull);
        is_of_disks || matches!(self, Kind::Kill | Kind::Pause | Kind::Restart)
    }

    pub fn needs_network(self) -> bool {
        self.class() == Class::Network || self == Kind::DeposedLeader
    }

    pub fn needs_own_disks(self) -> bool {
        let is_of_disks = matches!(self, Kind::DiskError | Kind::ReadError | Kind::DiskFull | Kind::SlowDisk);
        is_of_disks || matches!(self, Kind::PowerLoss | Kind::DeposedLeader)
    }

    pub fn needs_own_clocks(self) -> bool {
        self.class() == Class::Clocks
    }

    /// From the harm until it is made good.
    ///
    /// # Errors
    /// It cannot be made good.
    pub async fn befall(self, stage: &Stage<'_>, rng: &mut StdRng) -> Result<()> {
        match self {
            Kind::Kill => kill::befall(stage, rng).await,
            Kind::KillAll => kill_all::befall(stage, rng).await,
            Kind::PowerLoss => power_loss::befall(stage, rng).await,
            Kind::DiskError => disk_error::befall(stage, rng).await,
            Kind::ReadError => read_error::befall(stage, rng).await,
            Kind::DiskFull => disk_full::befall(stage, rng).await,
            Kind::Damage => damage::befall(stage, rng).await,
            Kind::SlowDisk => slow_disk::befall(stage, rng).await,
            Kind::Pause => pause::befall(stage, rng).await,
            Kind::Restart => restart::befall(stage, rng).await,
            Kind::Membership => membership::befall(stage, rng).await,
            Kind::Partition => partition::befall(stage, rng).await,
            Kind::DeposedLeader => deposed_leader::befall(stage, rng).await,
            Kind::Degrade => degrade::befall(stage, rng).await,
            Kind::MoveLeader => move_leader::befall(stage, rng).await,
            Kind::Clock => clock::befall(stage, rng).await,
            Kind::Defragment => defragment::befall(stage, rng).await,
            Kind::Compact => compact::befall(stage, rng).await,
            Kind::LeaseStorm => lease_storm::befall(stage, rng).await,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned());
        f.write_str(&name.unwrap_or_default())
    }
}

/// How long a fault lasts: less than an election, or a few of them.
async fn hold(rng: &mut StdRng) {
    sleep(Duration::from_secs_f64(rng.random_range(0.2..4.0))).await;
}

/// Waits until a member whose disk is well again has written something, and starts it again if it ends by itself.
async fn revive(stage: &Stage<'_>, member: &Member, rng: &mut StdRng) -> Result<()> {
    let deadline = Instant::now() + GOES_ON_WITHIN;
    while !member.ends(POLL).await? {
        let value = format!("{} is well, {:x}", member.name, rng.random::<u64>());
        let put = Request::Put { key: "a".into(), value, lease: 0, prev_kv: false };
        if let Ok(channel) = connect(member.client()).await
            && execute(stage.recorder, CLIENT, member.index, channel, put).await.revision().is_some()
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} neither goes on nor ends within {GOES_ON_WITHIN:?}", member.name);
    }
    member.start("existing").await
}

/// Some of the members: mostly one, the leader more often than another, at times most of them.
async fn some(cluster: &Cluster, rng: &mut StdRng) -> Vec<usize> {
    let all: Vec<_> = (0..cluster.members.len()).collect();
    let leader = cluster.leader().await;
    if let Some(leader) = leader.filter(|_| rng.random_bool(0.4)) {
        return vec![leader];
    }
    let count = if rng.random_bool(0.7) { 1 } else { rng.random_range(1..=all.len()) };
    all.choose_multiple(rng, count).copied().collect()
}
