//! Our server is killed at some of its steps towards what is durable; `make crashes` tries all of them, and what takes longer.

use std::process::Command;

fn nothing_is_lost(scenario: &str, every: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-faults"))
        .args(["--crash", scenario, "--every", every, "--data-dir"])
        .arg(folder.path())
        .output()
        .expect("keelson-faults");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{told}");
    assert!(told.contains("killed") && !told.contains("killed 0 times"), "it was not tried: {told}");
}

/// One after the other: each is at work all the time.
#[test]
fn nothing_acknowledged_is_missing_and_nothing_is_half_done() {
    for (scenario, every) in [("founding", "11"), ("restore", "11"), ("installation", "40")] {
        nothing_is_lost(scenario, every);
    }
}
