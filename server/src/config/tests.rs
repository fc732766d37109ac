use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fuzz::{self, Damage};

fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let arguments = arguments.iter().map(|text| text.to_string());
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    match Invocation::read(arguments, variables) {
        Ok(Invocation::Run(config, notes)) => Ok((*config, notes.iter().map(Note::to_string).collect())),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn error(arguments: &[&str]) -> String {
    read(arguments, &[]).expect_err("settings must be refused")
}

/// Flags with which nothing is to be remarked.
const NAMED: [&str; 2] = ["--name=n", "--data-dir=d"];

/// What is remarked about these flags and variables.
fn notes(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    read(&[&NAMED, arguments].concat(), variables).expect("valid").1
}

#[test]
fn defaults_are_those_of_etcd() {
    let (config, notes) = read(&[], &[]).expect("valid");
    assert_eq!(config, Config::default());
    assert_eq!(
        notes,
        [
            "--data-dir is not set: this member keeps its data in default.etcd, below the working directory",
            "--name is not set: members of one cluster need names of their own",
        ]
    );
    assert_eq!(read(&NAMED, &[]).expect("valid").1, [""; 0]);
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
        &[("ETCD_DATA_DIR", "/d"), ("ETCD_ELECTION_TIMEOUT", "0x1F4"), ("HOME", "/")],
    )
    .expect("valid");
    assert_eq!(config.name, "a");
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(500));
    assert!(!config.strict_reconfig_check && config.pre_vote);
    assert_eq!(config.keepalive.interval, Duration::from_secs(90));
    let own = ("a".to_owned(), "http://a.example:2380".to_owned());
    assert_eq!(config.initial_cluster, [own]);
    assert_eq!(
        warnings,
        [
            "recognized and used environment variable ETCD_DATA_DIR=/d",
            "recognized and used environment variable ETCD_ELECTION_TIMEOUT=0x1F4",
        ]
    );
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
        (&["--data_dir=x"][..], "flag provided but not defined: -data_dir\ndid you mean --data-dir?"),
        (
            &["--experimental-watch-progress-notify-interval=5s"],
            "flag provided but not defined: -experimental-watch-progress-notify-interval\n\
             did you mean --watch-progress-notify-interval?",
        ),
        (&["gateway", "--nonsense"], "\"gateway\" is not a valid flag"),
        (&["--", "--name"], "\"--name\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&["---name=a"], "bad flag syntax: ---name=a"),
        (&["--=a"], "bad flag syntax: --=a"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--heartbeat-interval=abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--heartbeat-interval=-1"], "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
        (
            &["--heartbeat-interval=18446744073709551616"],
            "invalid value \"18446744073709551616\" for flag -heartbeat-interval: value out of range",
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            "invalid value \"4294967296\" for flag -max-concurrent-streams: \
             strconv.ParseUint: parsing \"4294967296\": value out of range",
        ),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--initial-cluster-state=old"], "invalid value \"old\" for flag -initial-cluster-state: invalid value"),
        (
            &["--listen-peer-urls=localhost:2380"],
            "invalid value \"localhost:2380\" for flag -listen-peer-urls: \
             URL scheme must be http, https, unix, or unixs: localhost:2380",
        ),
        (&["--listen-peer-urls=http://db.example:1"], "expected IP in URL for binding (http://db.example:1)"),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--feature-gates=Nonsense=true"],
            "invalid value \"Nonsense=true\" for flag -feature-gates: unrecognized feature gate: Nonsense",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--auto-compaction-mode=hourly"], "unknown auto-compaction-mode \"hourly\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--auto-compaction-retention=1x"], "error parsing CompactionRetention: time: invalid duration \"1x\""),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--logger=x"], "unknown logger option \"x\""),
        (&["--log-format=xml"], "unknown log format: xml, supported values json, console"),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
        (&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet"),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=/a,/b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=/a", "--log-rotation-config-json={"],
            "improperly formatted log rotation config: EOF while parsing an object at line 1 column 1",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=/a", "--log-rotation-config-json={\"maxsize\":\"1\"}"],
            "invalid log rotation config: invalid type: string \"1\", expected u32 at line 1 column 14",
        ),
        (
            &["--heartbeat-interval=900"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[900ms]",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
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
    assert_eq!(
        notes(
            &["--max-wals=7", "--cors=*", "-vv", "--feature-gates=SetMemberLocalAddr=true,FastLeaseKeepAlive=true"],
            &[]
        ),
        [
            "flag is no longer supported - ignoring: --vv",
            "--max-wals has no effect: log segments are reused as soon as they are not needed",
            "feature gate SetMemberLocalAddr has no effect: the system chooses the address that connections to peers come \
             from",
        ]
    );
}

#[test]
fn variables_are_told_and_must_not_contradict_flags() {
    assert_eq!(
        notes(
            &[],
            &[
                ("ETCD_TYPO", "1"),
                ("ETCD_METRICS", ""),
                ("ETCD_VERSION", "3"),
                ("ETCD_PRE_VOTE", "true"),
                ("ETCDX", "")
            ]
        ),
        [
            "unrecognized environment variable ETCD_METRICS=",
            "recognized and used environment variable ETCD_PRE_VOTE=true",
            "unrecognized environment variable ETCD_TYPO=1",
            "cannot set special environment variable: ETCD_VERSION=3",
        ]
    );
    for (variable, message) in [
        (
            ("ETCD_NAME", ""),
            "conflicting environment variable ETCD_NAME is shadowed by corresponding command-line flag --name (either \
             unset environment variable or disable flag)",
        ),
        (("ETCD_MAX_TXN_OPS", "x"), "invalid value \"x\" for ETCD_MAX_TXN_OPS: parse error"),
        (("ETCD_SOCKET_REUSE_PORT", "yes"), "invalid value \"yes\" for ETCD_SOCKET_REUSE_PORT: parse error"),
    ] {
        assert_eq!(read(&NAMED, &[variable]).expect_err("refused"), message);
    }
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    let hours = |hours: u64| AutoCompaction::Periodic(Duration::from_secs(hours * 3600));
    for (mode, retention, expected) in [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "", AutoCompaction::Off),
        ("periodic", "0s", AutoCompaction::Off),
        ("periodic", "8", hours(8)),
        ("periodic", "90m", AutoCompaction::Periodic(Duration::from_secs(5400))),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        // etcd reads a duration here too, and counts its nanoseconds.
        ("revision", "1us", AutoCompaction::Revision(1000)),
    ] {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={retention}");
        let (config, _) = read(&[&mode, &retention], &[]).expect("valid");
        assert_eq!(config.auto_compaction, expected, "{mode} {retention}");
    }
}

#[test]
fn urls_are_told_in_order_and_once() {
    let (config, _) = read(&["--advertise-client-urls=http://b:1, http://a:1,http://b:1"], &[]).expect("valid");
    assert_eq!(config.advertise_client_urls, ["http://a:1", "http://b:1"]);
}

#[test]
fn outputs_of_the_log() {
    let outputs = |text: &str| read(&[&format!("--log-outputs={text}")], &[]).expect("valid").0.log.outputs;
    assert_eq!(outputs("default"), [LogOutput::Stderr]);
    assert_eq!(outputs(""), [LogOutput::Stderr]);
    assert_eq!(outputs("systemd/journal"), [LogOutput::Journal]);
    assert_eq!(outputs("stdout,/b,stdout"), [LogOutput::File("/b".into()), LogOutput::Stdout]);
    assert_eq!(outputs("stdout,/dev/null"), []);
    let json = r#"--log-rotation-config-json={"maxsize": 7, "compress": true, "else": 1}"#;
    let (config, _) = read(&["--enable-log-rotation", "--log-outputs=/a", json], &[]).expect("valid");
    assert_eq!(config.log.rotation, Some(LogRotation { maxsize: 7, compress: true, ..LogRotation::default() }));
}

/// Reads a configuration file with this text, and flags and variables that must not count.
fn read_file(text: &str) -> Result<(Config, Vec<String>), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("etcd.yml");
    std::fs::write(&file, text).expect("written");
    let path = file.to_str().expect("UTF-8");
    // Not even what would be refused counts.
    let ignored = &[("ETCD_METRICS", "extensive"), ("ETCD_KEY_FILE", "/a"), ("ETCD_NAME", "variable")];
    let read = read(&["--config-file", path, "--name=flag", "--cert-file=/a"], ignored);
    read.map(|(config, notes)| (config, notes.into_iter().filter(|note| !note.contains("etcd.yml")).collect()))
}

#[test]
fn file_replaces_flags_and_variables() {
    let text = "Name: f\ndata-dir: d\nheartbeat-interval: 60\nlog-outputs: [stdout, stderr]\ngrpc-keepalive-timeout: 7000000000\n\
                peer-transport-security:\n  client-cert-auth: no\nproxy: off\ninitial-cluster:\n\
                auto-compaction-retention: 5\ncert-file: /a\n";
    let (config, notes) = read_file(text).expect("valid");
    assert_eq!(config.name, "f");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(60));
    assert_eq!(config.keepalive.timeout, Duration::from_secs(7));
    assert_eq!(config.log.outputs, [LogOutput::Stderr, LogOutput::Stdout]);
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(5 * 3600)));
    assert!(!config.extensive_metrics);
    assert_eq!(
        notes,
        [
            "setting \"proxy\" of the file is ignored: etcd's configuration file has no such key",
            "setting \"cert-file\" of the file is ignored: in a file it belongs to client-transport-security",
        ]
    );
    // A file may leave out what flags must not.
    assert!(read_file("listen-client-urls: http://127.0.0.1:1\n").is_ok());
    assert!(read_file("socket-options:\n  reuse-port: true\n").expect("valid").0.socket_reuse_port);
    assert!(read_file("").is_ok());
}

#[test]
fn files_are_as_strict_as_etcds() {
    for (text, message) in [
        ("peer-transport-security:\n  cert-file: /a\n", "KeyFile and CertFile must both be present[key: , cert: /a]"),
        ("peer-transport-security: 1\n", "configuration file: peer-transport-security: a mapping is expected"),
        ("name: [a]\n", "configuration file: name: a text is expected"),
        ("log-outputs: stdout\n", "configuration file: log-outputs: a list is expected"),
        ("pre-vote: maybe\n", "configuration file: pre-vote: true or false is expected"),
        ("max-txn-ops: many\n", "configuration file: max-txn-ops: a number is expected"),
        ("max-txn-ops: -1\n", "configuration file: max-txn-ops: parse error"),
        (
            "election-timeout: 1000\nwatch-progress-notify-interval: 10m\n",
            "configuration file: watch-progress-notify-interval: whole nanoseconds are expected in a file, such as \
             600000000000 for 10m",
        ),
        ("initial-cluster-state: old\n", "configuration file: initial-cluster-state: invalid value"),
        ("feature-gates: A=true\n", "configuration file: feature-gates: unrecognized feature gate: A"),
        (
            "socket-options:\n  reuse-port: 1\n",
            "configuration file: socket-options.reuse-port: true or false is expected",
        ),
        (
            "client-transport-security:\n  allowed-cn: a\n",
            "configuration file: client-transport-security.allowed-cn: a list is expected",
        ),
        (
            "discovery-config:\n  client:\n    endpoints: [a]\n",
            "--discovery-endpoints: discovery is not supported: name the members in --initial-cluster, or let the operator \
             do it",
        ),
        ("- a\n", "configuration file: a mapping of settings is expected"),
    ] {
        assert_eq!(read_file(text).expect_err("refused"), message);
    }
    let missing = error(&["--config-file=/does/not/exist"]);
    assert!(missing.starts_with("configuration file: /does/not/exist: "), "{missing}");
}

#[test]
fn durations_of_nothing_are_the_defaults_and_too_short_ones_are_raised() {
    let (config, _) = read(
        &["--watch-progress-notify-interval=0", "--warning-unary-request-duration=0s", "--grpc-keepalive-timeout=0s"],
        &[],
    )
    .expect("valid");
    assert_eq!(config, Config::default());
    let (config, _) = read(&["--watch-progress-notify-interval=1ms"], &[]).expect("valid");
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    let warnings = notes(&["--watch-progress-notify-interval=1ms"], &[]);
    assert_eq!(warnings, ["--watch-progress-notify-interval is raised to its minimum, 100ms"]);
}

#[test]
fn version_starts_as_scripts_expect() {
    assert!(version().starts_with("etcd Version: 3.7.1\n"));
}

#[test]
fn kubeadm_flags_with_tls() {
    let (config, notes) = read(
        &[
            "--name=n1",
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
            "--advertise-client-urls=https://10.0.0.1:2379",
            "--listen-peer-urls=https://10.0.0.1:2380",
            "--initial-advertise-peer-urls=https://10.0.0.1:2380",
            "--initial-cluster=n1=https://10.0.0.1:2380",
            "--cert-file=/pki/server.crt",
            "--key-file=/pki/server.key",
            "--trusted-ca-file=/pki/ca.crt",
            "--client-cert-auth=true",
            "--peer-cert-file=/pki/peer.crt",
            "--peer-key-file=/pki/peer.key",
            "--peer-trusted-ca-file=/pki/ca.crt",
            "--peer-client-cert-auth=true",
            "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            "--tls-max-version=TLS1.3",
        ],
        &[("ETCD_X", ""), ("ETCD_PEER_CERT_ALLOWED_CN", "")],
    )
    .expect("valid");
    let of = |name: &str| Some(PathBuf::from("/pki").join(name));
    let side = |cert: &str, key: &str| TlsConfig {
        cert_file: of(cert),
        key_file: of(key),
        trusted_ca_file: of("ca.crt"),
        client_cert_auth: true,
        ..TlsConfig::default()
    };
    assert_eq!(config.client_tls, side("server.crt", "server.key"));
    assert_eq!(config.peer_tls, side("peer.crt", "peer.key"));
    assert_eq!(
        config.client_tls.to_string(),
        "cert = /pki/server.crt, key = /pki/server.key, client-cert=, client-key=, trusted-ca = /pki/ca.crt, \
         client-cert-auth = true, crl-file = "
    );
    assert_eq!(config.tls_protocol.cipher_suites.len(), 2);
    assert!(notes.iter().all(|note| note.contains("environment variable")), "{notes:?}");
}

#[test]
fn rules_of_tls_are_told_in_etcds_words() {
    let pair = ["--cert-file=/a", "--key-file=/b"];
    let peers = ["--peer-cert-file=/a", "--peer-key-file=/b"];
    let client = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    for (arguments, message) in [
        (
            &client[..],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-client-urls=unixs:///a", "--advertise-client-urls=unixs:///a"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url unixs:///a with HTTPS scheme",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (&["--key-file=/b"], "KeyFile and CertFile must both be present[key: /b, cert: ]"),
        (
            &[peers[0], peers[1], "--peer-client-key-file=/c"],
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: /c, cert: ]",
        ),
        (
            &[peers[0], peers[1], "--peer-cert-allowed-cn=a,b", "--peer-cert-allowed-hostname=c"],
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\" \"b\"], hostnames=[\"c\"])",
        ),
        (&["--tls-min-version=TLS1.1"], "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (
            &[
                "--listen-client-urls=http://127.0.0.1:1",
                "--advertise-client-urls=http://127.0.0.1:1",
                "--listen-client-http-urls=http://127.0.0.1:1",
            ],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:1",
        ),
    ] {
        assert_eq!(error(arguments), message);
    }
    for (suites, message) in [
        ("", "unexpected TLS cipher suite \"\" (must be one of: TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "),
        ("TLS_AES_128_GCM_SHA256,aes", "unexpected TLS cipher suite \"aes\" (must be one of: "),
        ("TLS_RSA_WITH_RC4_128_SHA", "--cipher-suites: TLS_RSA_WITH_RC4_128_SHA is not supported: CBC, RC4, 3DES "),
    ] {
        let message_is = error(&[&format!("--cipher-suites={suites}")]);
        assert!(message_is.starts_with(message), "{message_is}");
    }
    // None of these is an error: plaintext URLs ignore certificates, and certificates can be made.
    for arguments in [&pair[..], &["--auto-tls", client[0], client[1]], &["--client-cert-auth"]] {
        assert!(read(arguments, &[]).is_ok(), "{arguments:?}");
    }
}

#[test]
fn a_file_has_two_settings_of_tls_that_are_no_flags() {
    let text = "name: n\ndata-dir: d\nclient-transport-security:\n  cert-file: /a\n  key-file: /b\n  allowed-cn: [c, d]\n  \
                skip-client-san-verification: true\npeer-transport-security:\n  allowed-cn: []\n  allowed-hostname: [e]\n";
    let (config, notes) = read_file(text).expect("valid");
    assert_eq!(config.client_tls.allowed_cns, ["c", "d"]);
    assert!(config.client_tls.skip_client_san_verification);
    assert!(config.peer_tls.allowed_cns.is_empty());
    assert_eq!(config.peer_tls.allowed_hostnames, ["e"]);
    assert!(notes.is_empty(), "{notes:?}");
    // An empty name is one: of certificates without a Common Name.
    let (config, _) = read(&["--peer-cert-allowed-cn="], &[]).expect("valid");
    assert_eq!(config.peer_tls.allowed_cns, [""]);
}

/// What flags of all kinds take, and what none does.
fn values() -> impl Strategy<Value = String> {
    let valid = prop::sample::select(vec![
        "true",
        "5m",
        "1h30m",
        "-1",
        "9223372036854775808",
        "1e400",
        "http://127.0.0.1:2379,unix://a:1",
        "https://[::1]:0",
        "a=http://10.0.0.1:2380,b=https://b:2380",
        "jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m",
        "TLS1.3",
        "AllAlpha=true,LeaseCheckpoint=false",
        "periodic",
        "*",
        "{\"maxsize\":100}",
    ]);
    let damaged = Damage::to(valid.prop_map(|text| text.as_bytes().to_vec()));
    damaged.prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn names() -> impl Strategy<Value = &'static str> {
    let names: Vec<_> = flags::FLAGS.iter().map(|flag| flag.name).filter(|name| *name != "config-file").collect();
    prop::sample::select(names)
}

proptest! {
    #![proptest_config(fuzz::cases(400))]

    /// Flags and variables of any content are settings, or an error that says something.
    #[test]
    fn any_flags_and_variables_are_settings_or_an_error(
        flags in prop::collection::vec((names(), values()), 0..5),
        variables in prop::collection::vec((names(), values()), 0..3),
    ) {
        let flags = flags.iter().map(|(name, value)| format!("--{name}={value}"));
        let variable = |name: &str| format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
        let variables = variables.into_iter().map(|(name, value)| (variable(name), value));
        if let Err(error) = Invocation::read(flags, variables) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// So is a configuration file.
    #[test]
    fn any_file_is_settings_or_an_error(
        lines in prop::collection::vec((names(), values()), 0..5),
        damages in prop::collection::vec(Damage::any(), 0..4),
    ) {
        let text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let mut bytes = (text + "client-transport-security:\n  cert-file: a\n  client-cert-auth: true\n").into_bytes();
        damages.into_iter().for_each(|damage| damage.strike(&mut bytes));
        if let Err(error) = file::read(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
