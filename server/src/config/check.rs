//! Settings to a checked [`Config`], with etcd's rules between them.

use std::path::PathBuf;
use std::time::Duration;

use super::parse::{Settings, boolean};
use super::{
    AutoCompaction, ClusterState, Config, ConfigError, Keepalive, ListenUrl, LogConfig, LogFormat, LogLevel, LogOutput,
    check_advertised, duration,
};

/// Features that etcd 3.7 lets one switch; none changes anything here.
const FEATURES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

const MAX_REQUEST_BYTES: usize = 32 << 20;
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// Checks settings and puts defaults where nothing was set.
    pub fn from_settings(settings: &mut Settings) -> Result<Self, ConfigError> {
        let name = settings.text("name").to_owned();
        let data_dir = match settings.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            folder => PathBuf::from(folder),
        };
        let wal_dir = Some(settings.text("wal-dir")).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let initial_advertise_peer_urls = advertised(settings, "initial-advertise-peer-urls")?;
        let config = Config {
            data_dir,
            wal_dir,
            listen_peer_urls: listeners(settings, "listen-peer-urls")?,
            listen_client_urls: listeners(settings, "listen-client-urls")?,
            listen_metrics_urls: listeners(settings, "listen-metrics-urls")?,
            advertise_client_urls: advertise_client_urls(settings)?,
            initial_cluster: initial_cluster(settings, &name, &initial_advertise_peer_urls)?,
            initial_cluster_state: initial_cluster_state(settings)?,
            initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
            heartbeat_interval: milliseconds(settings, "heartbeat-interval"),
            election_timeout: milliseconds(settings, "election-timeout"),
            snapshot_catchup_entries: settings.count("snapshot-catchup-entries").into(),
            quota_backend_bytes: settings.number("quota-backend-bytes"),
            max_request_bytes: settings.count("max-request-bytes") as usize,
            max_txn_ops: settings.count("max-txn-ops") as usize,
            max_concurrent_streams: settings.count("max-concurrent-streams"),
            max_learners: settings.count("max-learners") as usize,
            strict_reconfig_check: settings.boolean("strict-reconfig-check"),
            pre_vote: settings.boolean("pre-vote"),
            keepalive: Keepalive {
                min_time: settings.duration("grpc-keepalive-min-time"),
                interval: settings.duration("grpc-keepalive-interval"),
                timeout: or_default(settings, "grpc-keepalive-timeout"),
            },
            auto_compaction: auto_compaction(settings)?,
            watch_progress_notify_interval: progress_interval(settings),
            warning_unary_request_duration: or_default(settings, "warning-unary-request-duration"),
            extensive_metrics: extensive_metrics(settings)?,
            log: log(settings)?,
            initial_advertise_peer_urls,
            name,
        };
        check_features(settings)?;
        config.check()?;
        Ok(config)
    }

    /// Rules between settings; also for a [`Config`] that was not read from flags.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (heartbeat, election) = (self.heartbeat_interval.as_millis(), self.election_timeout.as_millis());
        let rule = |holds: bool, text: String| match holds {
            true => Ok(()),
            false => Err(ConfigError::Rule(text)),
        };
        rule(heartbeat > 0, format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"))?;
        rule(election > 0, format!("--election-timeout must be >0 (set to {election}ms)"))?;
        rule(
            5 * heartbeat <= election,
            format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ),
        )?;
        rule(
            self.election_timeout <= ELECTION_TIMEOUT_MAX,
            format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {}ms",
                ELECTION_TIMEOUT_MAX.as_millis()
            ),
        )?;
        rule(
            self.max_request_bytes <= MAX_REQUEST_BYTES,
            format!("--max-request-bytes must be at most {MAX_REQUEST_BYTES}: members exchange no larger messages"),
        )?;
        rule(
            !self.listen_client_urls.is_empty() && !self.listen_peer_urls.is_empty(),
            "--listen-client-urls and --listen-peer-urls must not be empty".to_owned(),
        )?;
        rule(
            !self.initial_advertise_peer_urls.is_empty(),
            "--initial-advertise-peer-urls must not be empty".to_owned(),
        )?;
        let mut listeners =
            self.listen_client_urls.iter().chain(&self.listen_peer_urls).chain(&self.listen_metrics_urls);
        match listeners.find(|url| url.tls) {
            Some(url) => Err(ConfigError::Rule(format!("{url}: TLS is not supported yet"))),
            None => Ok(()),
        }
    }

    /// The quota that holds: 2 GiB unless set, `None` without limit.
    pub fn quota(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(2 << 30),
            bytes => u64::try_from(bytes).ok(),
        }
    }
}

fn milliseconds(settings: &Settings, name: &'static str) -> Duration {
    Duration::from_millis(settings.count(name).into())
}

/// A duration for which zero means the default.
fn or_default(settings: &Settings, name: &'static str) -> Duration {
    match settings.duration(name) {
        Duration::ZERO => settings.default_duration(name),
        duration => duration,
    }
}

/// Shorter intervals are raised to the shortest one, as in etcd.
fn progress_interval(settings: &mut Settings) -> Duration {
    let name = "watch-progress-notify-interval";
    let interval = or_default(settings, name);
    if interval < WATCH_PROGRESS_INTERVAL_MIN {
        settings.warnings.push(format!("--{name} is raised to its minimum, 100ms"));
    }
    interval.max(WATCH_PROGRESS_INTERVAL_MIN)
}

fn list<'a>(settings: &'a Settings, name: &'static str) -> impl Iterator<Item = &'a str> {
    let items = settings.text(name).split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn listeners(settings: &Settings, name: &'static str) -> Result<Vec<ListenUrl>, ConfigError> {
    list(settings, name).map(|url| url.parse().map_err(|error| ConfigError::invalid(name, url, error))).collect()
}

fn advertised(settings: &Settings, name: &'static str) -> Result<Vec<String>, ConfigError> {
    list(settings, name)
        .map(|url| match check_advertised(url) {
            Ok(()) => Ok(url.to_owned()),
            Err(error) => Err(ConfigError::invalid(name, url, error)),
        })
        .collect()
}

fn advertise_client_urls(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    let name = "advertise-client-urls";
    if !settings.from_file && settings.is_set("listen-client-urls") && !settings.is_set(name) {
        return Err(ConfigError::Rule(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly".into(),
        ));
    }
    advertised(settings, name)
}

/// `a=url,b=url,b=other`. By default this member alone, with its own name and URLs.
fn initial_cluster(
    settings: &Settings,
    member: &str,
    peer_urls: &[String],
) -> Result<Vec<(String, String)>, ConfigError> {
    let name = "initial-cluster";
    if !settings.is_set(name) {
        return Ok(peer_urls.iter().map(|url| (member.to_owned(), url.clone())).collect());
    }
    list(settings, name)
        .map(|entry| {
            let invalid = |reason: String| ConfigError::invalid(name, entry, reason);
            let (member, url) = entry
                .split_once('=')
                .filter(|(member, _)| !member.is_empty())
                .ok_or_else(|| invalid("NAME=URL is expected".to_owned()))?;
            check_advertised(url).map_err(|error| invalid(error.to_string()))?;
            Ok((member.to_owned(), url.to_owned()))
        })
        .collect()
}

fn initial_cluster_state(settings: &Settings) -> Result<ClusterState, ConfigError> {
    let name = "initial-cluster-state";
    match settings.text(name) {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        other => Err(ConfigError::invalid(name, other, "new or existing is expected")),
    }
}

fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, ConfigError> {
    let name = "auto-compaction-retention";
    let text = settings.text(name);
    let invalid = |reason| ConfigError::invalid(name, text, reason);
    match settings.text("auto-compaction-mode") {
        "periodic" => {
            let retention = match text.parse::<u32>() {
                Ok(hours) => Duration::from_secs(3600 * u64::from(hours)),
                Err(_) => duration::parse(text).ok_or_else(|| invalid("a duration is expected"))?,
            };
            Ok(match retention {
                Duration::ZERO => AutoCompaction::Off,
                _ => AutoCompaction::Periodic(retention),
            })
        }
        "revision" => match text.parse::<u32>() {
            Ok(0) => Ok(AutoCompaction::Off),
            Ok(revisions) => Ok(AutoCompaction::Revision(revisions.into())),
            Err(_) => Err(invalid("a number of revisions is expected")),
        },
        other => Err(ConfigError::invalid("auto-compaction-mode", other, "periodic or revision is expected")),
    }
}

fn extensive_metrics(settings: &Settings) -> Result<bool, ConfigError> {
    match settings.text("metrics") {
        "basic" => Ok(false),
        "extensive" => Ok(true),
        other => Err(ConfigError::invalid("metrics", other, "basic or extensive is expected")),
    }
}

fn check_features(settings: &mut Settings) -> Result<(), ConfigError> {
    let name = "feature-gates";
    let gates: Vec<String> = list(settings, name).map(str::to_owned).collect();
    for gate in gates {
        let known =
            gate.split_once('=').filter(|(feature, value)| FEATURES.contains(feature) && boolean(value).is_some());
        let Some((feature, _)) = known else {
            let reason = format!("NAME=true or NAME=false is expected; names: {FEATURES:?}");
            return Err(ConfigError::invalid(name, &gate, reason));
        };
        settings.warnings.push(format!("feature gate {feature} has no effect"));
    }
    Ok(())
}

fn log(settings: &Settings) -> Result<LogConfig, ConfigError> {
    let invalid = |name, expected: &str| ConfigError::invalid(name, settings.text(name), expected.to_owned());
    if settings.text("logger") != "zap" {
        return Err(invalid("logger", "zap is expected"));
    }
    Ok(LogConfig {
        level: match settings.text("log-level").to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" | "dpanic" | "panic" | "fatal" => LogLevel::Error,
            _ => {
                return Err(invalid("log-level", "debug, info, warn, error, panic or fatal is expected"));
            }
        },
        format: match settings.text("log-format") {
            "json" => LogFormat::Json,
            "console" => LogFormat::Console,
            _ => return Err(invalid("log-format", "json or console is expected")),
        },
        outputs: list(settings, "log-outputs")
            .map(|output| match output {
                "default" | "stderr" | "systemd/journal" => LogOutput::Stderr,
                "stdout" => LogOutput::Stdout,
                file => LogOutput::File(file.into()),
            })
            .collect(),
    })
}
