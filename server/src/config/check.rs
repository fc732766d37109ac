//! Settings to a checked [`Config`], with etcd's rules between them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::Settings;
use super::{
    AuthToken, AutoCompaction, ClusterState, Config, ConfigError, Feature, Features, Keepalive, ListenUrl,
    check_advertised, duration, log, tls,
};
use crate::budget;

const MAX_REQUEST_BYTES: usize = 32 << 20;
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);
const QUOTA_MAX_BYTES: i64 = 8 << 30;
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// Checks settings and puts defaults where nothing was set.
    pub fn from_settings(settings: &mut Settings) -> Result<Self, ConfigError> {
        let name = settings.text("name").to_owned();
        let log = log::read(settings)?;
        let data_dir = data_dir(settings, &name);
        let wal_dir = Some(settings.text("wal-dir")).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let initial_advertise_peer_urls = advertised(settings, "initial-advertise-peer-urls")?;
        let config = Config {
            data_dir,
            wal_dir,
            listen_peer_urls: listeners(settings, "listen-peer-urls")?,
            listen_client_urls: listeners(settings, "listen-client-urls")?,
            listen_client_http_urls: listeners(settings, "listen-client-http-urls")?,
            listen_metrics_urls: listeners(settings, "listen-metrics-urls")?,
            advertise_client_urls: advertise_client_urls(settings)?,
            initial_cluster: initial_cluster(settings, &name, &initial_advertise_peer_urls)?,
            initial_cluster_state: initial_cluster_state(settings)?,
            initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
            heartbeat_interval: milliseconds(settings, "heartbeat-interval"),
            election_timeout: milliseconds(settings, "election-timeout"),
            snapshot_catchup_entries: settings.unsigned("snapshot-catchup-entries"),
            quota_backend_bytes: settings.number("quota-backend-bytes"),
            max_request_bytes: settings.count("max-request-bytes") as usize,
            max_txn_ops: settings.count("max-txn-ops") as usize,
            max_inflight_bytes: settings.unsigned("max-inflight-bytes") as usize,
            max_inflight_request_bytes: settings.unsigned("max-inflight-request-bytes") as usize,
            max_concurrent_streams: settings.count("max-concurrent-streams"),
            max_learners: settings.count("max-learners") as usize,
            strict_reconfig_check: settings.boolean("strict-reconfig-check"),
            pre_vote: settings.boolean("pre-vote"),
            force_new_cluster: settings.boolean("force-new-cluster"),
            force_new_cluster_bump: i64::from(settings.count("force-new-cluster-bump")),
            unsafe_no_fsync: settings.boolean("unsafe-no-fsync"),
            socket_reuse_port: settings.boolean("socket-reuse-port"),
            memory_mlock: settings.boolean("memory-mlock"),
            keepalive: Keepalive {
                interval: settings.duration("grpc-keepalive-interval"),
                timeout: or_default(settings, "grpc-keepalive-timeout"),
            },
            corrupt_check_time: settings.duration("corrupt-check-time"),
            compact_hash_check_time: settings.duration("compact-hash-check-time"),
            auto_compaction: auto_compaction(settings)?,
            watch_progress_notify_interval: progress_interval(settings),
            warning_unary_request_duration: or_default(settings, "warning-unary-request-duration"),
            warning_apply_duration: settings.duration("warning-apply-duration"),
            features: features(settings)?,
            extensive_metrics: settings.text("metrics") == "extensive",
            enable_grpc_gateway: settings.boolean("enable-grpc-gateway"),
            host_whitelist: list(settings, "host-whitelist").map(str::to_owned).collect(),
            cors: origins(settings)?,
            auth_token: AuthToken::parse(settings.text("auth-token"))?,
            auth_token_ttl: auth_token_ttl(settings),
            bcrypt_cost: settings.count("bcrypt-cost"),
            client_tls: tls::of_clients(settings),
            peer_tls: tls::of_peers(settings),
            tls_protocol: tls::protocol(settings)?,
            log,
            initial_advertise_peer_urls,
            name,
        };
        config.check()?;
        advise(settings, &config);
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
        let compact_check = self.compact_hash_check_time;
        rule(
            !compact_check.is_zero(),
            format!("--compact-hash-check-time must be >0 (set to {}s)", compact_check.as_secs()),
        )?;
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
        let clients = &self.listen_client_urls;
        let shared =
            self.listen_client_http_urls.iter().find(|url| clients.iter().any(|other| other.address == url.address));
        if let Some(url) = shared {
            return Err(ConfigError::Rule(format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
            )));
        }
        tls::check(self)
    }

    /// The quota that holds: 2 GiB unless set, `None` without limit.
    pub fn quota(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(2 << 30),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// What answers and events may take on their way, in bytes.
    pub fn inflight_bytes(&self) -> usize {
        match self.max_inflight_bytes {
            0 => budget::default_bytes(),
            bytes => bytes,
        }
    }

    /// What requests may take on their way, in bytes: some of the largest at least.
    pub fn inflight_request_bytes(&self) -> usize {
        let bytes = match self.max_inflight_request_bytes {
            0 => budget::default_request_bytes(),
            bytes => bytes,
        };
        bytes.max(8 * self.max_request_bytes)
    }
}

fn milliseconds(settings: &Settings, name: &'static str) -> Duration {
    Duration::from_millis(settings.count(name).into())
}

fn auth_token_ttl(settings: &Settings) -> Duration {
    match settings.count("auth-token-ttl") {
        0 => Duration::from_secs(300),
        seconds => Duration::from_secs(seconds.into()),
    }
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
        settings.warn(format!("--{name} is raised to its minimum, 100ms"));
    }
    interval.max(WATCH_PROGRESS_INTERVAL_MIN)
}

fn list<'a>(settings: &'a Settings, name: &'static str) -> impl Iterator<Item = &'a str> {
    let items = settings.text(name).split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn listeners(settings: &Settings, name: &'static str) -> Result<Vec<ListenUrl>, ConfigError> {
    let urls: Result<Vec<ListenUrl>, _> = list(settings, name).map(str::parse).collect();
    let mut urls = urls.map_err(|error| ConfigError::Rule(error.to_string()))?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// URLs that others are told of: in order and each once, as etcd tells them.
fn advertised(settings: &Settings, name: &'static str) -> Result<Vec<String>, ConfigError> {
    let mut urls: Vec<String> = list(settings, name).map(str::to_owned).collect();
    urls.sort();
    urls.dedup();
    for url in &urls {
        check_advertised(url).map_err(|error| ConfigError::invalid(name, url, error))?;
        if url.contains("://:") {
            let form = "must be \"host:port\" (unexpected empty host";
            return Err(ConfigError::Rule(format!("--{name} {:?} {form} ({url}))", urls.join(","))));
        }
    }
    Ok(urls)
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
    match settings.text("initial-cluster-state") {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        other => Err(ConfigError::Rule(format!("unexpected clusterState {other:?}"))),
    }
}

/// A bare number is hours or revisions; a duration is allowed for both, and is nanoseconds where revisions count.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, ConfigError> {
    let periodic = match settings.text("auto-compaction-mode") {
        "periodic" => true,
        "revision" => false,
        "" => return Err(ConfigError::Rule("undefined auto-compaction-mode".to_owned())),
        other => return Err(ConfigError::Rule(format!("unknown auto-compaction-mode {other:?}"))),
    };
    let text = settings.text("auto-compaction-retention");
    let number = match text {
        "" => Some(0),
        _ => text.parse::<i64>().ok().filter(|number| *number >= 0),
    };
    let too_long = || ConfigError::Rule(format!("error parsing CompactionRetention: {text} hours are too many"));
    let nanoseconds = match number {
        Some(hours) if periodic => hours.checked_mul(3600 * 1_000_000_000).ok_or_else(too_long)?,
        Some(revisions) => revisions,
        None => {
            let duration = duration::parse(text).and_then(|duration| i64::try_from(duration.as_nanos()).ok());
            let reason = || format!("error parsing CompactionRetention: time: invalid duration {text:?}");
            duration.ok_or_else(|| ConfigError::Rule(reason()))?
        }
    };
    Ok(match nanoseconds {
        0 => AutoCompaction::Off,
        _ if periodic => AutoCompaction::Periodic(Duration::from_nanos(nanoseconds.unsigned_abs())),
        _ => AutoCompaction::Revision(nanoseconds),
    })
}

fn features(settings: &Settings) -> Result<Features, ConfigError> {
    let features = Features::parse(settings.text("feature-gates")).map_err(ConfigError::Rule)?;
    let persists = features.enabled(Feature::LeaseCheckpointPersist);
    match persists && !features.enabled(Feature::LeaseCheckpoint) {
        true => Err(ConfigError::Rule(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".to_owned(),
        )),
        false => Ok(features),
    }
}

fn data_dir(settings: &mut Settings, name: &str) -> PathBuf {
    let folder = match settings.text("data-dir") {
        "" => format!("{name}.etcd"),
        folder => return PathBuf::from(folder),
    };
    settings
        .warn(format!("--data-dir is not set: this member keeps its data in {folder}, below the working directory"));
    PathBuf::from(folder)
}

/// What is allowed, and yet worth a look.
fn advise(settings: &mut Settings, config: &Config) {
    if config.name == "default" {
        settings.warn("--name is not set: members of one cluster need names of their own");
    }
    if config.quota_backend_bytes > QUOTA_MAX_BYTES {
        settings.warn("--quota-backend-bytes is above 8 GiB, the most that etcd is meant for");
    }
    if config.unsafe_no_fsync {
        settings.warn("--unsafe-no-fsync: a crash of the machine loses what was acknowledged");
    }
    for feature in config.features.changed() {
        if let Some(reason) = feature.inert() {
            settings.warn(format!("feature gate {feature} has no effect: {reason}"));
        }
    }
}

/// Origins as browsers send them, or `*` for all.
fn origins(settings: &Settings) -> Result<BTreeSet<String>, ConfigError> {
    let name = "cors";
    let is_origin = |text: &str| text == "*" || text.starts_with("http://") || text.starts_with("https://");
    match list(settings, name).find(|origin| !is_origin(origin)) {
        Some(other) => Err(ConfigError::invalid(name, other, "http://HOST:PORT or https://HOST:PORT is expected")),
        None => Ok(list(settings, name).map(str::to_owned).collect()),
    }
}
