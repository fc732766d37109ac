//! Our server is killed at some of its steps towards what is durable; `make crashes` tries all of them.

use std::process::Command;

fn crashes(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-faults"))
        .arg("--data-dir")
        .arg(folder.path())
        .args(arguments)
        .output()
        .expect("keelson-faults");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    (output.status.code(), told)
}

/// One after the other: each is at work all the time.
#[test]
fn nothing_acknowledged_is_missing_and_nothing_is_half_done() {
    let few = [("founding", "11"), ("restore", "11"), ("recovery", "11"), ("installation", "40"), ("membership", "10")];
    for (scenario, every) in
        few.into_iter().chain([("truncation", "14"), ("rotation", "30"), ("force-new-cluster", "30")])
    {
        let (code, told) = crashes(&["--crash", scenario, "--every", every]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("killed") && !told.contains("killed 0 times"), "it was not tried: {told}");
    }
    // What was acknowledged before it was synced is missed.
    for scenario in ["founding", "membership"] {
        let (code, told) = crashes(&["--crash", scenario, "--every", "100", "--plant", "early-ack"]);
        assert_eq!((code, told.contains("VIOLATION")), (Some(1), true), "{told}");
        if scenario == "founding" {
            // The same death is wrong again.
            let again = told.lines().find_map(|line| line.strip_prefix("once more: keelson-faults "));
            let (code, told) = crashes(&again.expect("a command").split(' ').collect::<Vec<_>>());
            assert_eq!((code, told.contains("VIOLATION")), (Some(1), true), "{told}");
        }
    }
}
