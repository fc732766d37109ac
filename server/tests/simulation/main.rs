//! Members in simulated time, on disks that forget what was not synced and a network that delays, loses and repeats: Raft, our
//! log and our state machine as they are, everything around them decided by a seed (docs/adr/0007).
//!
//! - KEELSON_SIMULATION_SEED: the first seed (0); that many runs have this and the following ones
//! - KEELSON_SIMULATION_RUNS: how many

mod client;
mod disk;
mod event;
mod fault;
mod invariant;
mod log;
mod machine;
mod member;
mod network;
mod os;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use world::{Bug, Outcome};

/// Runs among the tests.
const RUNS: u64 = 60;
/// Within so many runs a planted bug must show.
const PATIENCE: u64 = 60;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")),
        Err(_) => default,
    }
}

/// One run, on a thread that the simulation has for itself.
fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    thread::Builder::new()
        .name(format!("seed {seed}"))
        .spawn(move || world::run(seed, bug))
        .expect("a thread")
        .join()
        .unwrap_or_else(|_| panic!("seed {seed}: the simulation itself panicked"))
}

#[test]
fn what_raft_promises_holds_for_every_seed() {
    let first = variable("KEELSON_SIMULATION_SEED", 0);
    let count = variable("KEELSON_SIMULATION_RUNS", RUNS);
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let work = || {
            let seeds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            seeds.take_while(|seed| *seed < first + count).map(|seed| run(seed, None)).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "{} runs, {} simulated seconds, {} writes acknowledged, {} faults, {} elections, in {:?}",
        outcomes.len(),
        sum(|outcome| outcome.seconds),
        sum(|outcome| outcome.acknowledged),
        sum(|outcome| outcome.faults),
        sum(|outcome| outcome.elections),
        begun.elapsed()
    );
    let broken: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.violation.is_some()).collect();
    for outcome in &broken {
        let violation = outcome.violation.as_deref().unwrap_or_default();
        println!("KEELSON_SIMULATION_SEED={} KEELSON_SIMULATION_RUNS=1: {violation}", outcome.seed);
    }
    assert!(broken.is_empty(), "{} of {} runs broke a promise", broken.len(), outcomes.len());
    assert!(sum(|outcome| outcome.acknowledged) > 10 * count, "clients hardly got through");
}

#[test]
fn a_seed_is_a_run() {
    let [first, second] = [run(7, None), run(7, None)];
    assert_eq!(first, second);
}

/// The first run that finds a bug, and what it says.
fn found(bug: Bug) -> (u64, String) {
    let found = (0..PATIENCE).find_map(|seed| run(seed, Some(bug)).violation.map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {PATIENCE} runs"));
    println!("{bug:?}: found by seed {seed}: {violation}");
    (seed, violation)
}

#[test]
fn a_forgotten_vote_is_found() {
    found(Bug::ForgottenVote);
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found(Bug::NoSync);
}

#[test]
fn what_is_applied_twice_is_found() {
    found(Bug::AppliedTwice);
}

#[test]
fn a_read_without_asking_the_others_is_found() {
    found(Bug::StaleRead);
}
