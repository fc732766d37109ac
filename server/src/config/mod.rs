//! What a member is told when it starts: etcd's flags, variables and file, checked once, here.

mod auth;
mod check;
pub(crate) mod duration;
mod features;
mod file;
mod flags;
mod log;
mod note;
mod number;
mod parse;
mod tls;
mod url;
mod usage;

pub use auth::AuthToken;
pub use features::{Feature, Features, Stage};
pub use log::{LogConfig, LogFormat, LogLevel, LogOutput, LogRotation};
pub use note::Note;
pub use tls::{TlsConfig, TlsProtocol, TlsVersion};
pub use url::{ListenAddress, ListenUrl, UrlError, check_advertised};
pub use usage::{ETCD_VERSION, STORAGE_VERSION, flags_document, help, usage, version};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a member; the notes are for its log.
    Run(Box<Config>, Vec<Note>),
    /// Print [`usage`] and [`help`].
    Help,
    /// Print [`flags_document`]. Not for people: `--help=markdown`.
    FlagsDocument,
    /// Print [`version`].
    Version,
}

impl Invocation {
    /// Reads arguments (without the program's name), then variables, or the file that they name instead of both.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let given = match parse::command_line(arguments) {
            Err(ConfigError::Help(form)) if form == "markdown" => return Ok(Invocation::FlagsDocument),
            Err(ConfigError::Help(_)) => return Ok(Invocation::Help),
            given => given?,
        };
        if let Some(stray) = given.stray {
            return Err(ConfigError::NotAFlag(stray));
        }
        if given.last("version").and_then(parse::boolean) == Some(true) {
            return Ok(Invocation::Version);
        }
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        let in_variable =
            || variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, file)| file.as_str());
        let file = given.last("config-file").filter(|file| !file.is_empty()).or_else(in_variable).unwrap_or_default();
        let mut settings = match file {
            "" => parse::Settings::read(given, variables)?,
            file => {
                let text =
                    std::fs::read_to_string(file).map_err(|error| ConfigError::File(format!("{file}: {error}")))?;
                let mut settings = file::read(&text)?;
                settings.note(Note::File(file.to_owned()));
                settings
            }
        };
        let config = Config::from_settings(&mut settings)?;
        Ok(Invocation::Run(Box::new(config), settings.into_notes()))
    }
}

/// Why settings were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not an error: help was asked for, in a form or in none.
    #[error("help requested")]
    Help(String),
    /// The command line cannot be read.
    #[error("{0}")]
    Syntax(String),
    /// A word that is no flag.
    #[error("{0:?} is not a valid flag")]
    NotAFlag(String),
    /// A flag and its variable are both set.
    #[error(
        "conflicting environment variable {variable} is shadowed by corresponding command-line flag --{flag} (either \
         unset environment variable or disable flag)"
    )]
    Shadowed {
        /// The variable.
        variable: String,
        /// The flag.
        flag: &'static str,
    },
    /// A value that does not fit.
    #[error("invalid value {value:?} for flag -{name}: {reason}")]
    Invalid {
        /// The flag.
        name: &'static str,
        /// As given.
        value: String,
        /// What is expected.
        reason: String,
    },
    /// A setting that this server cannot honour, and must not ignore.
    #[error("--{0}: {1}")]
    Refused(&'static str, &'static str),
    /// Settings that contradict each other.
    #[error("{0}")]
    Rule(String),
    /// The configuration file cannot be read.
    #[error("configuration file: {0}")]
    File(String),
}

impl ConfigError {
    fn invalid(name: &'static str, value: &str, reason: impl ToString) -> Self {
        ConfigError::Invalid { name, value: value.to_owned(), reason: reason.to_string() }
    }

    fn unknown(name: &str) -> Self {
        // Flags lost this prefix when their features were settled.
        let meant = name.strip_prefix("experimental-").unwrap_or(name);
        let hint = match flags::nearest(meant) {
            Some(flag) => format!("did you mean --{flag}?"),
            None => "--help lists every flag".to_owned(),
        };
        ConfigError::Syntax(format!("flag provided but not defined: -{name}\n{hint}"))
    }
}

/// A member's checked settings. `Default` gives etcd's defaults; [`Config::embedded`] those for use as a library.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This member's name; it finds its own entry in `initial_cluster` by it.
    pub name: String,
    /// Holds everything a member keeps; nothing else may live there.
    pub data_dir: PathBuf,
    /// A folder of its own for the Raft log, on a faster disk.
    pub wal_dir: Option<PathBuf>,
    /// Where the other members reach this one.
    pub listen_peer_urls: Vec<ListenUrl>,
    /// gRPC and HTTP for clients.
    pub listen_client_urls: Vec<ListenUrl>,
    /// HTTP alone for clients; the client URLs then serve gRPC alone.
    pub listen_client_http_urls: Vec<ListenUrl>,
    /// Metrics and probes alone; `https` ones show the certificate for clients and ask for theirs likewise.
    pub listen_metrics_urls: Vec<ListenUrl>,
    /// Peer URLs that the other members are told of.
    pub initial_advertise_peer_urls: Vec<String>,
    /// Client URLs that member lists show.
    pub advertise_client_urls: Vec<String>,
    /// Name and peer URL of the members at bootstrap, in the order given; a name may come more than once.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether this member founds the cluster or joins one.
    pub initial_cluster_state: ClusterState,
    /// Keeps clusters with the same members apart.
    pub initial_cluster_token: String,
    /// Time between two heartbeats of the leader.
    pub heartbeat_interval: Duration,
    /// Silence of the leader after which a follower stands for election.
    pub election_timeout: Duration,
    /// Entries kept in the log for followers that lag.
    pub snapshot_catchup_entries: u64,
    /// Stored bytes above which writes are refused; 0 takes the default of 2 GiB, negative is no limit.
    pub quota_backend_bytes: i64,
    /// Largest request that is proposed.
    pub max_request_bytes: usize,
    /// Most compares, and most operations of a branch, in one txn.
    pub max_txn_ops: usize,
    /// Memory that answers and events may take on their way to clients; 0 is a quarter of what there is.
    pub max_inflight_bytes: usize,
    /// Memory that requests may take until they are applied; 0 is an eighth of what there is.
    pub max_inflight_request_bytes: usize,
    /// Streams that one connection may have open.
    pub max_concurrent_streams: u32,
    /// Learners that the cluster may have at a time.
    pub max_learners: usize,
    /// Refuse changes of the membership that would lose quorum.
    pub strict_reconfig_check: bool,
    /// Ask for votes without a new term first.
    pub pre_vote: bool,
    /// Remove all other members at the start, because they are lost for good.
    pub force_new_cluster: bool,
    /// How much larger the revision is then.
    pub force_new_cluster_bump: i64,
    /// Never wait for the disk.
    pub unsafe_no_fsync: bool,
    /// Let others listen on the same ports.
    pub socket_reuse_port: bool,
    /// Keep the process in memory.
    pub memory_mlock: bool,
    /// HTTP/2 keepalive towards clients.
    pub keepalive: Keepalive,
    /// Time between two comparisons of the members' newest data; zero is never.
    pub corrupt_check_time: Duration,
    /// Time between two comparisons of compacted data, if the feature is on.
    pub compact_hash_check_time: Duration,
    /// Old revisions to drop without being asked.
    pub auto_compaction: AutoCompaction,
    /// Time between progress notifications to a watcher that asked for them.
    pub watch_progress_notify_interval: Duration,
    /// Requests slower than this are logged.
    pub warning_unary_request_duration: Duration,
    /// Entries whose application takes longer are logged.
    pub warning_apply_duration: Duration,
    /// Features that were switched.
    pub features: Features,
    /// Serve JSON under `/v3`.
    pub enable_grpc_gateway: bool,
    /// Host names that HTTP requests without TLS may use; empty or `*` allows all.
    pub host_whitelist: BTreeSet<String>,
    /// Origins whose pages may read answers over HTTP; empty or `*` allows all.
    pub cors: BTreeSet<String>,
    /// Also export the histograms of gRPC calls.
    pub extensive_metrics: bool,
    /// Kind of token that users get.
    pub auth_token: AuthToken,
    /// How long a simple token lives after its last use.
    pub auth_token_ttl: Duration,
    /// Work spent on a password's hash.
    pub bcrypt_cost: u32,
    /// Certificates towards clients.
    pub client_tls: TlsConfig,
    /// Certificates between members.
    pub peer_tls: TlsConfig,
    /// Versions and ciphers of both.
    pub tls_protocol: TlsProtocol,
    /// What is logged, and where to.
    pub log: LogConfig,
}

/// `--initial-cluster-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// The members of `--initial-cluster` found a cluster.
    New,
    /// A running cluster has added this member before it starts.
    Existing,
}

/// HTTP/2 keepalive towards clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which the server pings; zero is never.
    pub interval: Duration,
    /// Time an answer to a ping may take.
    pub timeout: Duration,
}

/// `--auto-compaction-mode` and `--auto-compaction-retention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Only by request.
    Off,
    /// Keep what is younger than this.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

impl Default for Config {
    fn default() -> Self {
        let client = "http://localhost:2379".to_owned();
        let peer = "http://localhost:2380".to_owned();
        let localhost =
            |port| ListenUrl { address: ListenAddress::Tcp(std::net::Ipv4Addr::LOCALHOST.into(), port), tls: false };
        Config {
            name: "default".to_owned(),
            data_dir: PathBuf::from("default.etcd"),
            wal_dir: None,
            listen_peer_urls: vec![localhost(2380)],
            listen_client_urls: vec![localhost(2379)],
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            initial_advertise_peer_urls: vec![peer.clone()],
            advertise_client_urls: vec![client],
            initial_cluster: vec![("default".to_owned(), peer)],
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".to_owned(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            snapshot_catchup_entries: 5000,
            quota_backend_bytes: 0,
            max_request_bytes: 1536 * 1024,
            max_txn_ops: 128,
            max_inflight_bytes: 0,
            max_inflight_request_bytes: 0,
            max_concurrent_streams: u32::MAX,
            max_learners: 1,
            strict_reconfig_check: true,
            pre_vote: true,
            force_new_cluster: false,
            force_new_cluster_bump: 0,
            unsafe_no_fsync: false,
            socket_reuse_port: false,
            memory_mlock: false,
            keepalive: Keepalive { interval: Duration::from_secs(2 * 3600), timeout: Duration::from_secs(20) },
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: Duration::from_secs(60),
            auto_compaction: AutoCompaction::Off,
            watch_progress_notify_interval: Duration::from_secs(600),
            warning_unary_request_duration: Duration::from_millis(300),
            enable_grpc_gateway: true,
            host_whitelist: BTreeSet::from(["*".to_owned()]),
            cors: BTreeSet::from(["*".to_owned()]),
            extensive_metrics: false,
            warning_apply_duration: Duration::from_millis(100),
            features: Features::default(),
            client_tls: TlsConfig::default(),
            peer_tls: TlsConfig::default(),
            tls_protocol: TlsProtocol::default(),
            log: LogConfig::default(),
            auth_token: AuthToken::Simple,
            auth_token_ttl: Duration::from_secs(300),
            bcrypt_cost: 10,
        }
    }
}

impl Config {
    /// A single member inside another program: plaintext for clients at `listen`, nothing else reachable but the
    /// loopback interface.
    pub fn embedded(data_dir: impl AsRef<Path>, listen: ListenUrl) -> Self {
        Config {
            data_dir: data_dir.as_ref().to_owned(),
            advertise_client_urls: vec![listen.to_string()],
            listen_client_urls: vec![listen],
            listen_peer_urls: vec![ListenUrl::loopback()],
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests;
