//! The command line as a person or kubeadm uses it.

mod common;

use std::process::Command;

use common::{Member, PROGRAM};

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
    let (code, out, _) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--initial-cluster-state"), "{out}");
}

#[test]
fn wrong_flags_are_refused_with_a_hint() {
    for (arguments, variables, hint) in [
        (&["--listen-client-url=x"][..], &[][..], "did you mean --listen-client-urls?"),
        (&["--cert-file=a.crt"], &[], "TLS is not supported yet"),
        (&["--election-timeout=100"], &[], "at least as 5 times"),
        (&[], &[("ETCD_HEARTBEAT_INTERVAL", "x")], "-heartbeat-interval: parse error"),
        (&["--config-file=/does/not/exist"], &[], "/does/not/exist"),
    ] {
        let (code, _, err) = run(arguments, variables);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(hint), "{err}");
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
