//! The benchmark against our server: that it measures, not what.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs it, and gives back its report.
fn run(arguments: &[&str], folder: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-bench"))
        .args(["--quick", "--servers", "keelson", "--data-dir"])
        .arg(folder)
        .arg("--output")
        .arg(folder.join("reports"))
        .args(arguments)
        .output()
        .expect("keelson-bench");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reports = std::fs::read_dir(folder.join("reports")).expect("reports");
    let mut files = reports.map(|file| file.expect("a report").path());
    let json = files.find(|file| file.extension().is_some_and(|extension| extension == "json")).expect("a JSON report");
    let left = std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(left, 1, "only the reports are left");
    serde_json::from_str(&std::fs::read_to_string(json).expect("a report")).expect("JSON")
}

/// A unary call, a watch and a stream, each with figures and nothing that failed.
#[test]
fn workloads_have_figures_and_nothing_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let workloads = ["fill", "put", "watch-kubernetes", "lease-keep-alive"];
    let report = run(&["--workload", &workloads.join(","), "--clients", "10"], folder.path());
    let outcomes = report["outcomes"].as_array().expect("outcomes");
    let names: Vec<_> = outcomes.iter().map(|outcome| outcome["case"]["workload"].as_str().expect("a name")).collect();
    assert_eq!(names, workloads);
    for outcome in outcomes {
        let round = &outcome["keelson"]["rounds"][0];
        assert_eq!((&round["failed"], &round["error"]), (&0.into(), &Value::Null), "{outcome}");
        for figure in ["per_second", "p50_ms", "p99_ms", "resident_mib"] {
            assert!(round[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} of {outcome}");
        }
    }
    let reports = folder.path().join("reports");
    let mut merge = Command::new(env!("CARGO_BIN_EXE_keelson-bench"));
    let merged = merge.arg("--merge").args([&reports, &reports]).arg("--output").arg(&reports).output();
    let table = String::from_utf8(merged.expect("keelson-bench").stdout).expect("Markdown");
    assert!(table.starts_with("2 runs:") && table.contains(" put, 10 clients "), "{table}");
}
