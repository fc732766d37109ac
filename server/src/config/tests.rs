use std::time::Duration;

use super::*;

fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let arguments = arguments.iter().map(|text| text.to_string());
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    match Invocation::read(arguments, variables) {
        Ok(Invocation::Run(config, warnings)) => Ok((*config, warnings)),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn error(arguments: &[&str]) -> String {
    read(arguments, &[]).expect_err("settings must be refused")
}

#[test]
fn defaults_are_those_of_etcd() {
    assert_eq!(read(&[], &[]), Ok((Config::default(), vec![])));
}

#[test]
fn go_syntax_in_all_forms() {
    let (config, warnings) = read(
        &[
            "-name",
            "a",
            "--heartbeat-interval=50",
            "--strict-reconfig-check=f",
            "--pre-vote",
            "-grpc-keepalive-interval",
            "1m30s",
            "--initial-advertise-peer-urls",
            "http://a.example:2380",
        ],
        &[("ETCD_NAME", "b"), ("ETCD_ELECTION_TIMEOUT", "500"), ("ETCD_METRICS", ""), ("HOME", "/")],
    )
    .expect("valid");
    assert_eq!(config.name, "a");
    assert_eq!(config.data_dir, Path::new("a.etcd"));
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(500));
    assert!(!config.strict_reconfig_check && config.pre_vote);
    assert_eq!(config.keepalive.interval, Duration::from_secs(90));
    let own = ("a".to_owned(), "http://a.example:2380".to_owned());
    assert_eq!(config.initial_cluster, [own]);
    assert_eq!(warnings, ["ETCD_NAME is ignored: --name is set on the command line"]);
}

#[test]
fn kubeadm_flags_without_tls() {
    let (config, _) = read(
        &[
            "--name=n1",
            "--data-dir=/var/lib/etcd",
            "--listen-peer-urls=http://10.0.0.1:2380",
            "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379",
            "--advertise-client-urls=http://10.0.0.1:2379",
            "--initial-advertise-peer-urls=http://10.0.0.1:2380",
            "--initial-cluster=n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380",
            "--initial-cluster-state=existing",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--snapshot-count=10000",
            "--feature-gates=InitialCorruptCheck=true",
            "--watch-progress-notify-interval=5s",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=8",
            "--auto-tls=false",
            "--cert-file=",
        ],
        &[],
    )
    .expect("valid");
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.initial_cluster[1].0, "n2");
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(8 * 3600)));
}

#[test]
fn refusals_say_what_to_do() {
    for (arguments, message) in [
        (&["--data_dir=x"][..], "flag provided but not defined: -data_dir (did you mean --data-dir?)"),
        (
            &["--experimental-watch-progress-notify-interval=5s"],
            "flag provided but not defined: -experimental-watch-progress-notify-interval (did you mean --watch-progress-notify-interval?)",
        ),
        (&["gateway"], "'gateway' is not a valid flag"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--heartbeat-interval=abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--pre-vote=maybe"], "invalid value \"maybe\" for flag -pre-vote: parse error"),
        (&["--cert-file=/a.crt"], "--cert-file: TLS is not supported yet"),
        (
            &["--heartbeat-interval=900"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[900ms]",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--listen-peer-urls=https://127.0.0.1:1"], "https://127.0.0.1:1: TLS is not supported yet"),
        (
            &["--max-request-bytes=67108864"],
            "--max-request-bytes must be at most 33554432: members exchange no larger messages",
        ),
        (&["--initial-cluster=a"], "invalid value \"a\" for flag -initial-cluster: NAME=URL is expected"),
    ] {
        assert_eq!(error(arguments), message);
    }
}

#[test]
fn flags_without_effect_warn_unless_default() {
    let (_, warnings) = read(&["--max-wals=7", "--cors=*"], &[("ETCD_TYPO", "1")]).expect("valid");
    assert_eq!(
        warnings,
        [
            "--max-wals has no effect: log segments are reused as soon as they are not needed",
            "unrecognized environment variable ETCD_TYPO",
        ]
    );
}

#[test]
fn file_replaces_flags_and_variables() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("etcd.yml");
    let text = "name: f\nheartbeat-interval: 60\nlog-outputs: [stdout, stderr]\ngrpc-keepalive-timeout: 7000000000\n\
                peer-transport-security:\n  client-cert-auth: false\nproxy: off\ninitial-cluster:\n";
    std::fs::write(&file, text).expect("written");
    let path = file.to_str().expect("UTF-8");
    // Not even what would be refused counts.
    let (config, warnings) = read(
        &["--config-file", path, "--name=flag", "--cert-file=/a"],
        &[("ETCD_METRICS", "extensive"), ("ETCD_KEY_FILE", "/a")],
    )
    .expect("valid");
    assert_eq!(config.name, "f");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(60));
    assert_eq!(config.keepalive.timeout, Duration::from_secs(7));
    assert_eq!(config.log.outputs, [LogOutput::Stdout, LogOutput::Stderr]);
    assert!(!config.extensive_metrics);
    assert_eq!(warnings.len(), 1);

    // A file may leave out what flags must not.
    std::fs::write(&file, "listen-client-urls: http://127.0.0.1:1\n").expect("written");
    assert!(read(&[], &[("ETCD_CONFIG_FILE", path)]).is_ok());

    std::fs::write(&file, "peer-transport-security:\n  cert-file: /a\n").expect("written");
    assert_eq!(error(&["--config-file", path]), "--peer-cert-file: TLS is not supported yet");
}

#[test]
fn durations_of_nothing_are_the_defaults_and_too_short_ones_are_raised() {
    let (config, _) = read(
        &["--watch-progress-notify-interval=0", "--warning-unary-request-duration=0s", "--grpc-keepalive-timeout=0s"],
        &[],
    )
    .expect("valid");
    assert_eq!(config, Config::default());
    let (config, warnings) = read(&["--watch-progress-notify-interval=1ms"], &[]).expect("valid");
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!(warnings, ["--watch-progress-notify-interval is raised to its minimum, 100ms"]);
}

#[test]
fn version_starts_as_scripts_expect() {
    assert!(version().starts_with("etcd Version: 3.7.1\n"));
    assert!(usage().contains("--listen-client-urls"));
}
