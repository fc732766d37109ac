//! Bugs that a server may have, in front of or below ours, which has none of them: each is found. The fourth one that there is,
//! a forgotten vote, has a scenario of its own.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Rounds in which a bug may hide: whether it shows is up to the faults that a seed brings, and to the machine.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// One round at a time, for the clusters take all of the machine.
static ALONE: Mutex<()> = Mutex::new(());

fn is_found(bug: &str, complaint: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for seed in SEEDS {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Command::new(env!("CARGO_BIN_EXE_keelson-faults"))
            .args(["--plant", bug, "--seed", &seed.to_string(), "--seconds", "10", "--data-dir"])
            .arg(folder.path())
            .arg("--output")
            .arg(folder.path().join("failed"))
            .output()
            .expect("keelson-faults");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{told}");
        if output.status.code() == Some(1) {
            assert!(told.contains(complaint), "{told}");
            return;
        }
        assert_eq!(output.status.code(), Some(0), "{told}");
    }
    panic!("{bug} was not found");
}

#[test]
fn an_answer_before_the_sync() {
    is_found("early-ack", "VIOLATION of");
}

#[test]
fn a_stale_read() {
    is_found("stale-read", "VIOLATION of RealTime");
}

#[test]
fn an_event_that_is_left_out() {
    is_found("skipped-event", "VIOLATION of WatchReliable");
}
