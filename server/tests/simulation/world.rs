//! One run: what there is, what is known of it, and from its begin to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use keelson_server::mvcc::View;
use keelson_server::mvcc::range::{range, unbounded};
use keelson_server::proto::etcdserverpb::RangeRequest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::disk::{Disk, Loss};
use crate::event::{Event, Write};
use crate::invariant::{self, Invariant};
use crate::member::{Life, Member};
use crate::network::Conditions;
use crate::{client, fault, os};

/// Simulated time with faults.
const DURATION: Duration = Duration::from_secs(15);
/// Simulated time after which members that nothing befalls any more agree.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients.
const CLIENTS: u64 = 3;

/// A bug that members are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bug {
    /// Votes are not written.
    ForgottenVote,
    /// Syncs do nothing.
    NoSync,
    /// The store's effects and the number of its last entry are not written together.
    AppliedTwice,
    /// A leader reads without asking whether it still leads.
    StaleRead,
}

/// What is run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    pub seed: u64,
    pub bug: Option<Bug>,
    /// What happens is wanted in words, too.
    pub traced: bool,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub seed: u64,
    /// Simulated seconds.
    pub seconds: u64,
    pub acknowledged: u64,
    pub faults: u64,
    pub elections: u64,
    /// Sum over all that happened, and when.
    pub sum: u64,
    /// The same in words, if they were asked for.
    pub trace: Vec<String>,
    pub violation: Option<String>,
}

/// What is known of what has happened.
struct Known {
    invariants: Vec<Box<dyn Invariant + Send>>,
    violation: Option<String>,
    acknowledged: Vec<Write>,
    revision: i64,
    leaders: BTreeSet<(u64, u64)>,
    faults: u64,
    sum: DefaultHasher,
    trace: Option<Vec<String>>,
}

/// Everything in a run.
pub struct World {
    pub bug: Option<Bug>,
    /// How many members there are.
    pub size: u64,
    root: TempDir,
    begun: Instant,
    random: Mutex<StdRng>,
    lives: AtomicU64,
    dirs: AtomicU64,
    closing: AtomicBool,
    network: Mutex<Conditions>,
    latencies: Mutex<BTreeMap<u64, Duration>>,
    disks: Mutex<BTreeMap<u64, (Arc<Life>, Disk)>>,
    members: Mutex<BTreeMap<u64, Arc<Member>>>,
    known: Mutex<Known>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// Runs a seed on this thread, in a process that has not run another one.
pub fn run(Run { seed, bug, traced }: Run) -> Outcome {
    let in_memory = Path::new("/dev/shm");
    let root = if in_memory.is_dir() { TempDir::new_in(in_memory) } else { TempDir::new() };
    let root = root.expect("a folder");
    let below = root.path().canonicalize().expect("a folder");
    // Of the world that is made further down.
    let place = Arc::new(Mutex::new(None::<Arc<World>>));
    let heard = place.clone();
    os::simulate(seed, move |path| {
        path.starts_with(&below) && {
            if let Some(world) = &*lock(&heard) {
                world.synced(&path);
            }
            true
        }
    });
    let mut random = StdRng::seed_from_u64(seed);
    let size = if random.random_range(0..4) == 0 { 5 } else { 3 };
    let made = Arc::new(World {
        bug,
        size,
        root,
        begun: Instant::now(),
        random: Mutex::new(random),
        lives: AtomicU64::new(1),
        dirs: AtomicU64::new(0),
        closing: AtomicBool::new(false),
        network: Mutex::default(),
        latencies: Mutex::default(),
        disks: Mutex::default(),
        members: Mutex::default(),
        known: Mutex::new(Known {
            invariants: invariant::all(),
            violation: None,
            acknowledged: Vec::new(),
            revision: 0,
            leaders: BTreeSet::new(),
            faults: 0,
            sum: DefaultHasher::new(),
            trace: traced.then(Vec::new),
        }),
    });
    *lock(&place) = Some(made.clone());
    let runtime = os::runtime();
    let lived = runtime.block_on(made.clone().live());
    if let Err(error) = lived {
        made.violate(error);
    }
    let outcome = made.outcome(seed);
    drop(runtime);
    // What knows the world ends, so that its folder is removed.
    lock(&made.members).clear();
    *lock(&place) = None;
    outcome
}

impl World {
    async fn live(self: Arc<Self>) -> Result<(), String> {
        for id in 1..=self.size {
            let member = Member::start(&self, id, self.new_dir()).await?;
            self.add(member);
        }
        for member in self.members() {
            member.initialize(self.size).await;
        }
        tokio::spawn(fault::look_after(self.clone()));
        self.settle().await?;
        let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client::run(self.clone(), number))).collect();
        let faults = tokio::spawn(fault::run(self.clone()));
        let end = tokio::time::Instant::now() + DURATION;
        while tokio::time::Instant::now() < end && self.is_whole() {
            sleep(Duration::from_millis(100)).await;
            for member in self.members() {
                self.see(&member.life, &Event::Has { member: member.life.member, log: &member.log().await });
            }
        }
        self.closing.store(true, Ordering::Relaxed);
        for task in clients.into_iter().chain([faults]) {
            task.await.map_err(|error| error.to_string())?;
        }
        self.settle().await?;
        self.judge_the_end();
        Ok(())
    }

    fn is_whole(&self) -> bool {
        lock(&self.known).violation.is_none()
    }

    /// Waits until a write is acknowledged and applied by all.
    async fn settle(&self) -> Result<(), String> {
        let settled = async {
            while self.is_whole() {
                sleep(Duration::from_millis(100)).await;
                let Some(member) = self.leader().and_then(|leader| self.member(leader)) else { continue };
                let before = lock(&self.known).acknowledged.len();
                client::write(self, &member, "settled".to_owned(), before.to_string()).await;
                let index = lock(&self.known).acknowledged.get(before).map(|write| write.index);
                let Some(index) = index else { continue };
                let has_all = |member: &Arc<Member>| member.shared.state().index() >= index;
                for _ in 0..20 {
                    sleep(Duration::from_millis(100)).await;
                    let members = self.members();
                    if members.len() as u64 == self.size && members.iter().all(has_all) {
                        return;
                    }
                }
            }
        };
        timeout(PATIENCE, settled).await.map_err(|_| format!("members do not agree within {PATIENCE:?}"))
    }

    fn judge_the_end(&self) {
        let writes = lock(&self.known).acknowledged.clone();
        for member in self.members() {
            let (id, view) = (member.life.member, member.shared.store.view());
            for write in &writes {
                let request =
                    RangeRequest { key: write.key.clone().into(), revision: write.revision, ..RangeRequest::default() };
                let found = range(&view, &request, &mut unbounded).ok();
                let kv = found.as_ref().and_then(|found| found.kvs.first());
                let value = kv.filter(|kv| kv.mod_revision == write.revision);
                let value = value.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
                self.see(&member.life, &Event::Finds { member: id, write, value: value.as_deref() });
            }
            match member.shared.store.hash_kv(0) {
                Ok(hash) => {
                    let ends = Event::Ends { member: id, revision: view.revision(), hash: hash.hash };
                    self.see(&member.life, &ends);
                }
                Err(error) => self.violate(format!("{id} has no hash: {error}")),
            }
        }
    }

    fn outcome(&self, seed: u64) -> Outcome {
        let known = lock(&self.known);
        Outcome {
            seed,
            seconds: self.begun.elapsed().as_secs(),
            acknowledged: known.acknowledged.len() as u64,
            faults: known.faults,
            elections: known.leaders.len() as u64,
            sum: known.sum.finish(),
            trace: known.trace.clone().unwrap_or_default(),
            violation: known.violation.clone(),
        }
    }

    /// Shows an event to the invariants. What an ended run does is no event.
    pub fn see(&self, life: &Life, event: &Event<'_>) {
        if life.is_over() {
            return;
        }
        let mut known = lock(&self.known);
        let line = format!("{:?} {event:?}", self.begun.elapsed());
        line.hash(&mut known.sum);
        known.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        let broken = known.invariants.iter_mut().find_map(|invariant| {
            let broken = invariant.see(event).err()?;
            Some(format!("{}: {broken}", invariant.name()))
        });
        drop(known);
        if let Some(broken) = broken {
            self.violate(broken);
        }
    }

    /// Something is wrong; what was first is told.
    pub fn violate(&self, what: String) {
        let after = self.begun.elapsed();
        lock(&self.known).violation.get_or_insert(format!("after {after:?}: {what}"));
    }

    /// A member speaks as the leader of a term.
    pub async fn leads(&self, life: &Life, term: u64) {
        let Some(member) = self.member(life.member).filter(|_| !life.is_over()) else { return };
        if lock(&self.known).leaders.insert((term, life.member)) {
            self.see(life, &Event::Leads { member: life.member, term, log: &member.log().await });
        }
    }

    /// A client is told of a write.
    pub fn acknowledge(&self, life: &Life, write: Write) {
        self.see(life, &Event::Acknowledged(&write));
        let mut known = lock(&self.known);
        known.revision = known.revision.max(write.revision);
        known.acknowledged.push(write);
    }

    /// The newest revision that any client was told of.
    pub fn acknowledged_revision(&self) -> i64 {
        lock(&self.known).revision
    }

    pub fn count_fault(&self) {
        lock(&self.known).faults += 1;
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A number below the bound.
    pub fn below(&self, bound: u64) -> u64 {
        lock(&self.random).random_range(0..bound)
    }

    /// True once in so many times.
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time between two, in milliseconds.
    pub fn between(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    /// How long a message takes, if it arrives.
    pub fn travel(&self, from: u64, to: u64) -> Option<Duration> {
        let network = lock(&self.network).clone();
        let arrives = network.connects(from, to) && self.below(100) >= u64::from(network.lost);
        arrives.then(|| self.between(0, network.slowest.as_millis() as u64))
    }

    pub fn change_network(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut lock(&self.network));
    }

    /// Somebody has got a vote. Where members look for a leader that not all of them reach, the voter may lose its power now,
    /// and the others not hear of whom it voted for.
    pub fn voted(&self, candidate: u64, voter: &Member) {
        if lock(&self.network).cut.is_some() && self.one_in(2) {
            voter.life.end(Loss::Unsynced);
            self.change_network(|network| network.groups = BTreeMap::from([(candidate, 1)]));
        }
    }

    /// How long a member's disk takes for the next write.
    pub fn disk_latency(&self, member: u64) -> Duration {
        let slow = lock(&self.latencies).get(&member).copied();
        slow.unwrap_or_else(|| self.between(1, 3))
    }

    pub fn slow_disks(&self, latencies: BTreeMap<u64, Duration>) {
        *lock(&self.latencies) = latencies;
    }

    /// A run that no other has been.
    pub fn new_life(&self, member: u64) -> Arc<Life> {
        Arc::new(Life::new(member, self.lives.fetch_add(1, Ordering::Relaxed)))
    }

    /// A directory that is not there yet.
    pub fn new_dir(&self) -> PathBuf {
        let root = self.root.path().canonicalize().expect("a folder");
        root.join(self.dirs.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub fn plug_in(&self, life: &Arc<Life>, disk: Disk) {
        lock(&self.disks).insert(life.number, (life.clone(), disk));
    }

    pub fn unplug(&self, life: &Life) -> Disk {
        lock(&self.disks).remove(&life.number).expect("a disk").1
    }

    /// Hears of a sync.
    fn synced(&self, path: &Path) {
        let mut disks = lock(&self.disks);
        let Some((life, disk)) = disks.values_mut().find(|(_, disk)| disk.has(path)) else { return };
        if !life.is_over() && disk.synced(path) {
            life.end(if self.one_in(2) { Loss::Torn } else { Loss::Unsynced });
        }
    }

    /// After so many syncs the member loses its power.
    pub fn lose_power_after(&self, member: u64, syncs: u32) {
        let mut disks = lock(&self.disks);
        let running = disks.values_mut().filter(|(life, _)| life.member == member && !life.is_over());
        running.for_each(|(_, disk)| disk.power_ends_in = Some(syncs));
    }

    pub fn add(&self, member: Arc<Member>) {
        lock(&self.members).insert(member.life.member, member);
    }

    pub fn remove(&self, member: u64) {
        lock(&self.members).remove(&member);
    }

    /// A member that runs.
    pub fn member(&self, member: u64) -> Option<Arc<Member>> {
        lock(&self.members).get(&member).filter(|member| !member.life.is_over()).cloned()
    }

    /// Those that run, and those whose end was not noticed yet.
    pub fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).values().cloned().collect()
    }

    /// Who leads, as the one of the newest term sees it.
    pub fn leader(&self) -> Option<u64> {
        let led = lock(&self.known).leaders.clone();
        led.iter()
            .rev()
            .map(|(_, member)| *member)
            .find(|member| self.member(*member).is_some_and(|member| member.leads()))
    }
}
