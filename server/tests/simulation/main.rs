//! Members in simulated time, on disks that forget what was not synced and a network that delays, loses and repeats: Raft, our
//! log and our state machine as they are, everything around them decided by a seed (docs/adr/0007).
//!
//! `make simulation` sets these:
//! - KEELSON_SIMULATION_SEED: the first seed (0)
//! - KEELSON_SIMULATION_RUNS: how many runs have this and the following ones; a single one tells all that happens

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

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use world::{Bug, Outcome, Run};

/// What a process of ours runs, and where it writes what came of it.
const RUN: &str = "KEELSON_SIMULATION_RUN";
const OUTCOME: &str = "KEELSON_SIMULATION_OUTCOME";

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

/// One run, in a process of its own: some of what a process does once, like giving numbers to runtimes, would tell a second run
/// from the first one.
fn run(run: Run) -> Outcome {
    let seed = run.seed;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_run", "--ignored", "--nocapture"])
        .env(RUN, serde_json::to_string(&run).expect("JSON"))
        .env(OUTCOME, file.path())
        .output()
        .expect("this program");
    let told = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}: the simulation itself failed: {}", told());
    serde_json::from_slice(&std::fs::read(file.path()).expect("read")).expect("an outcome")
}

#[test]
#[ignore = "a part of the others, in a process of its own"]
fn a_run() {
    let Ok(run) = std::env::var(RUN) else { return };
    let outcome = world::run(serde_json::from_str(&run).expect("a run"));
    let outcome = serde_json::to_vec(&outcome).expect("JSON");
    std::fs::write(std::env::var_os(OUTCOME).expect("where to write"), outcome).expect("written");
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
            seeds
                .take_while(|seed| *seed < first + count)
                .map(|seed| run(Run { seed, bug: None, traced: count == 1 }))
                .collect::<Vec<_>>()
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
    outcomes.iter().flat_map(|outcome| &outcome.trace).for_each(|line| println!("{line}"));
    for outcome in &broken {
        println!("make simulation SEED={} RUNS=1: {}", outcome.seed, outcome.violation.as_deref().unwrap_or_default());
    }
    assert!(broken.is_empty(), "{} of {} runs broke a promise", broken.len(), outcomes.len());
    assert!(sum(|outcome| outcome.acknowledged) > 10 * count, "clients hardly got through");
}

#[test]
fn a_seed_is_a_run() {
    let first = variable("KEELSON_SIMULATION_SEED", 7);
    for seed in first..first + 3 {
        let [one, other] = [(), ()].map(|()| run(Run { seed, bug: None, traced: true }));
        for (number, (first, second)) in one.trace.iter().zip(&other.trace).enumerate() {
            assert_eq!(first, second, "seed {seed}, line {number}");
        }
        assert_eq!(one, other);
    }
}

/// A run within those that are tried finds this bug by one of the invariants that it breaks.
fn found(bug: Bug, breaks: &[&str]) {
    let patience = variable("KEELSON_SIMULATION_PATIENCE", PATIENCE);
    for seed in 0..patience {
        if let Some(violation) = run(Run { seed, bug: Some(bug), traced: false }).violation {
            println!("{bug:?}, seed {seed}: {violation}");
            if breaks.iter().any(|name| violation.contains(&format!(" {name}: "))) {
                return;
            }
        }
    }
    panic!("{bug:?} was not found in {patience} runs");
}

#[test]
fn a_forgotten_vote_is_found() {
    found(Bug::ForgottenVote, &["election safety"]);
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found(Bug::NoSync, &["election safety", "leader completeness", "state machine safety", "durability"]);
}

#[test]
fn what_is_applied_twice_is_found() {
    found(Bug::AppliedTwice, &["state machine safety"]);
}

#[test]
fn a_read_without_asking_the_others_is_found() {
    found(Bug::StaleRead, &["revision monotonic"]);
}
