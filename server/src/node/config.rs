//! What a node needs to know to start: plain data, already checked for form by the flags' parser.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::{self, Budget};
pub use crate::raft::network::PeerTls;
pub use crate::raft::state_machine::TokenListener;
use crate::state::auth::TokenChange;
use crate::storage::StoreOptions;
use crate::telemetry::NodeMetrics;
use crate::watch::HubOptions;

/// Whether the `initial_*` settings describe a cluster that is being created, or one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialClusterState {
    /// Every member of `initial_cluster` starts with the same list.
    New,
    /// This member was added to a running cluster and asks its peers who it is.
    Existing,
}

/// Settings of one member. The `initial_*` ones matter only while the data directory is empty.
#[derive(Clone)]
pub struct NodeConfig {
    /// The member's name as people see it.
    pub name: String,
    /// Directory of `keelson.json`, the lock, the log and the state.
    pub data_dir: PathBuf,
    /// Directory of the Raft log, if not `data_dir/wal`.
    pub wal_dir: Option<PathBuf>,
    /// Where to listen for peers, such as `http://0.0.0.0:2380`.
    pub listen_peer_urls: Vec<String>,
    /// Let others listen on the same ports.
    pub reuse_port: bool,
    /// Where peers reach this member before the cluster has told otherwise.
    pub initial_advertise_peer_urls: Vec<String>,
    /// Where clients reach this member; published to the cluster after start.
    pub advertise_client_urls: Vec<String>,
    /// Names and peer URLs of the members that bootstrap (or already form) the cluster.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// Create a cluster or join one.
    pub initial_cluster_state: InitialClusterState,
    /// Keeps the ids of clusters with equal URLs apart.
    pub initial_cluster_token: String,
    /// Interval of the leader's heartbeats (etcd: 100 ms).
    pub heartbeat_interval: Duration,
    /// Silence after which a follower calls an election, at least (etcd: 1000 ms).
    pub election_timeout: Duration,
    /// Ask peers before raising the term.
    pub pre_vote: bool,
    /// Entries kept in the log behind what is flushed, so that slow followers need no snapshot (etcd: 5000).
    pub snapshot_catchup_entries: u64,
    /// Learners allowed at once (etcd: 1).
    pub max_learners: usize,
    /// Refuse membership changes that would lose quorum.
    pub strict_reconfig_check: bool,
    /// Size of one segment file of the log, in bytes.
    pub wal_segment_bytes: u64,
    /// Never wait for the disk: a crash of the machine may lose what was acknowledged.
    pub unsafe_no_sync: bool,
    /// Remove all other members at the start, because they are lost for good.
    pub force_new_cluster: bool,
    /// How much larger the revision is then.
    pub force_new_cluster_bump: i64,
    /// Entries whose application takes longer are logged (etcd: 100 ms).
    pub slow_apply: Duration,
    /// Memory for requests that arrive or wait to be applied, and for the newest entries of the log.
    pub requests: Arc<Budget>,
    /// Certificates between members, for `https` peer URLs.
    pub peer_tls: Option<PeerTls>,
    /// What the rooms count.
    pub metrics: Arc<NodeMetrics>,
    /// Buffers of the store.
    pub store: StoreOptions,
    /// Remember in the log what is left of long leases, so that a new leader does not start them anew.
    pub lease_checkpoint: bool,
    /// Compare histories with the others before clients are served.
    pub initial_corrupt_check: bool,
    /// Time between two comparisons of the newest histories by the leader; none is never.
    pub corrupt_check_interval: Option<Duration>,
    /// Time between two comparisons of the compacted histories, likewise.
    pub compact_hash_check_interval: Option<Duration>,
    /// How watches are answered.
    pub watch: HubOptions,
    /// Hears of logins.
    pub tokens: Arc<dyn TokenListener>,
}

impl Default for NodeConfig {
    /// etcd's defaults.
    fn default() -> Self {
        let peer = "http://localhost:2380".to_string();
        NodeConfig {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: None,
            listen_peer_urls: vec![peer.clone()],
            reuse_port: false,
            initial_advertise_peer_urls: vec![peer.clone()],
            advertise_client_urls: vec!["http://localhost:2379".into()],
            initial_cluster: BTreeMap::from([("default".to_string(), vec![peer])]),
            initial_cluster_state: InitialClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            snapshot_catchup_entries: 5000,
            max_learners: 1,
            strict_reconfig_check: true,
            wal_segment_bytes: 64 << 20,
            unsafe_no_sync: false,
            force_new_cluster: false,
            force_new_cluster_bump: 0,
            slow_apply: Duration::from_millis(100),
            requests: Budget::new(budget::default_request_bytes()),
            peer_tls: None,
            metrics: Arc::default(),
            store: StoreOptions::default(),
            lease_checkpoint: false,
            initial_corrupt_check: false,
            corrupt_check_interval: None,
            compact_hash_check_interval: None,
            watch: HubOptions::default(),
            tokens: Arc::new(NoTokens),
        }
    }
}

/// Forgets every login: fit where nobody logs in.
struct NoTokens;

impl TokenListener for NoTokens {
    fn changed(&self, _change: TokenChange) {}

    fn replaced(&self) {}
}

/// Why a member did not start. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other or the data directory.
    #[error("{0}")]
    Config(String),
    /// The data directory is in use, of another cluster, or of a newer format.
    #[error("{0}")]
    DataDir(String),
    /// No peer could be reached, or the peers refused this member.
    #[error("{0}")]
    Unavailable(String),
    /// The disk or the network failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What failed.
        source: std::io::Error,
    },
}
