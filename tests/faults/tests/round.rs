//! A short round on our server. The seed chooses some kinds of faults; `make faults` takes others.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

#[test]
fn nothing_is_violated_in_a_short_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let left_before = left_in_memory();
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-faults"))
        .args(["--seed", "102", "--seconds", "45", "--members", "3", "--data-dir"])
        .arg(folder.path())
        .args(["--output", concat!(env!("CARGO_TARGET_TMPDIR"), "/faults")])
        .output()
        .expect("keelson-faults");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{told}");
    assert!(told.contains("no violation"), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
    let left: Vec<_> = left_in_memory().difference(&left_before).cloned().collect();
    assert_eq!(left, [""; 0], "of members that were killed");
}

/// What libfaketime keeps in memory that processes share, of processes that are gone.
fn left_in_memory() -> BTreeSet<String> {
    let shared = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let of_clocks = shared.filter_map(|file| Some(file.file_name().to_str()?.split_once("faketime_")?.1.to_owned()));
    let is_gone = |name: &String| name.rsplit('_').next().is_some_and(|pid| !Path::new("/proc").join(pid).exists());
    of_clocks.filter(is_gone).collect()
}
