//! The command line as a person or kubeadm uses it.

use std::process::Command;

use crate::common::{self, Member, PROGRAM};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM)
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn version_and_help() {
    let (code, out, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("etcd Version: 3.7.1\n"), "{out}");
    let (code, out, err) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--initial-cluster-state"), "{out}");
    assert!(err.starts_with("Usage:"), "{err}");
}

/// As etcd: what cannot be read ends with 2, usage and plain text; what cannot be used with 1 and a line in the log.
#[test]
fn wrong_flags_are_refused_with_a_hint() {
    for (arguments, variables, code, hint) in [
        (&["--listen-client-url=x"][..], &[][..], 2, "-listen-client-url\ndid you mean --listen-client-urls?"),
        (&["--max-txn-ops=x"], &[], 2, "invalid value \"x\" for flag -max-txn-ops: parse error\nUsage:"),
        (&["--cert-file=a.crt"], &[], 1, "KeyFile and CertFile must both be present[key: , cert: a.crt]"),
        (&["--election-timeout=100"], &[], 1, "at least as 5 times"),
        (
            &[],
            &[("ETCD_HEARTBEAT_INTERVAL", "x")],
            1,
            "invalid value \\\"x\\\" for ETCD_HEARTBEAT_INTERVAL: parse error",
        ),
        (&["--name=a"], &[("ETCD_NAME", "a")], 1, "ETCD_NAME is shadowed"),
        (&["--config-file=/does/not/exist"], &[], 1, "/does/not/exist"),
        (&["gateway"], &[], 1, "\\\"gateway\\\" is not a valid flag"),
    ] {
        let (exit, _, err) = run(arguments, variables);
        assert_eq!(exit, Some(code), "{err}");
        assert!(err.contains(hint), "{err}");
        if code == 1 {
            let line: serde_json::Value = serde_json::from_str(&err).expect("one line of JSON");
            assert_eq!(line["msg"], "failed to verify flags");
        }
    }
}

#[tokio::test]
async fn a_taken_port_and_a_used_data_directory_are_told() {
    let (first, _client) = common::single().await;
    let output = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&arguments, &[])
    };
    let listen = |member: &Member| {
        vec![
            format!("--listen-client-urls={}", member.client_url()),
            format!("--advertise-client-urls={}", member.client_url()),
            format!("--listen-peer-urls={}", member.peer_url()),
        ]
    };
    let (code, _, err) = output(&listen(&first));
    assert_eq!(code, Some(1));
    assert!(err.contains(&first.client_url()), "{err}");

    let other = Member::new("other");
    let mut arguments = listen(&other);
    arguments.push(format!("--data-dir={}", first.data_dir().display()));
    let (code, _, err) = output(&arguments);
    assert_eq!(code, Some(1));
    assert!(err.contains(&first.data_dir().display().to_string()), "{err}");
}
