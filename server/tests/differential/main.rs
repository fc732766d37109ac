//! The same random programs on this server and on a real etcd, at once: every answer and every event must be the same.
//!
//! Runs against the etcd that KEELSON_REFERENCE_ETCD names, as make sets it, or the one on the PATH; without one the test
//! says so and passes. A program that fails is shrunk and printed with its seed. These variables change what runs:
//!
//! - KEELSON_DIFFERENTIAL_SEED: the first seed (0); that many programs have this and the following ones
//! - KEELSON_DIFFERENTIAL_PROGRAMS: how many programs
//! - KEELSON_DIFFERENTIAL_STEPS: how many steps each has
//! - KEELSON_DIFFERENTIAL_SHRINK_SECONDS: how long a failing program is shrunk

use std::time::{Duration, Instant};

use futures::StreamExt;

mod caller;
mod coverage;
mod exceptions;
mod json;
mod normal;
mod observe;
mod pair;
mod programs;
mod queue;
#[path = "../common/raw.rs"]
mod raw;
mod server;
mod shrink;
mod side;
mod step;
mod watch;
mod wire;

use pair::Reference;

const PROGRAMS: u64 = 60;
const STEPS: u64 = 350;
const SHRINK_SECONDS: u64 = 240;

/// Pairs of servers that run at once: they wait for each other more than they compute.
const AT_ONCE: usize = 4;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_programs_get_etcds_answers() {
    let Some(program) = server::reference() else {
        eprintln!("SKIPPED: no etcd, neither KEELSON_REFERENCE_ETCD nor on PATH (make test installs one)");
        return;
    };
    let reference = Reference { program: &program, version: server::version(&program) };
    let first = variable("KEELSON_DIFFERENTIAL_SEED", 0);
    let count = variable("KEELSON_DIFFERENTIAL_PROGRAMS", PROGRAMS);
    let length = variable("KEELSON_DIFFERENTIAL_STEPS", STEPS) as usize;
    let begun = Instant::now();
    let runs = (first..first + count).map(|seed| async move {
        let program = programs::program(seed, length);
        let steps = program.len();
        match pair::run(&program, reference).await {
            Ok(()) => Ok(steps),
            Err(difference) => Err((seed, program, difference)),
        }
    });
    let mut runs = futures::stream::iter(runs).buffer_unordered(AT_ONCE);
    let mut steps = 0;
    while let Some(run) = runs.next().await {
        match run {
            Ok(more) => steps += more,
            Err((seed, program, difference)) => {
                drop(runs);
                println!("seed {seed} fails at step {}, shrinking:\n{}", difference.at, difference.last_lines());
                let patience = Duration::from_secs(variable("KEELSON_DIFFERENTIAL_SHRINK_SECONDS", SHRINK_SECONDS));
                let failure = shrink::shrink(program, difference, reference, patience).await;
                panic!(
                    "KEELSON_DIFFERENTIAL_SEED={seed} KEELSON_DIFFERENTIAL_PROGRAMS=1, shrunk to {} steps in {} runs:\n{}",
                    failure.program.len(),
                    failure.runs,
                    failure.difference
                );
            }
        }
    }
    let (major, minor) = reference.version;
    println!("{count} programs, {steps} steps, as etcd {major}.{minor} answers them, in {:?}", begun.elapsed());
}
