//! Wiring: constructs the rooms of one member and spawns what runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::listen::{Connections, Listener, Traffic};
use crate::api::{Api, Gate, Identity, Limits};
use crate::auth::Tokens;
use crate::budget::Budget;
use crate::compaction;
use crate::config::{ClusterState, Config, Feature, ListenUrl};
use crate::node::config::PeerTls;
use crate::node::{InitialClusterState, Node, NodeConfig};
use crate::telemetry::Metrics;
use crate::tls::{self, ClientTls, Endpoint, Handshakes, ServerTls};
use crate::watch::HubOptions;

/// Time that clients have to take their last answers at shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A running member. Dropping it without [`Server::shutdown`] is like a crash: nothing acknowledged is lost.
pub struct Server {
    node: Node,
    data_dir: PathBuf,
    client_urls: Vec<ListenUrl>,
    metrics_urls: Vec<ListenUrl>,
    connections: Connections,
    state: watch::Receiver<State>,
    serving: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Failed(String),
}

/// Binds every listener, opens the data directory and starts the member; it serves clients once [`Server::ready`].
///
/// Needs a tokio runtime. Neither the global logger nor anything else global is touched, so several members may live
/// in one process.
pub fn start(config: Config) -> BoxFuture<'static, anyhow::Result<Server>> {
    // Boxed here, the server is compiled with this crate, and not again with each program that starts it.
    Box::pin(wire(config))
}

async fn wire(mut config: Config) -> anyhow::Result<Server> {
    config.check()?;
    let peer_tls = peer_tls(&mut config)?;
    let client_tls = client_tls(&mut config)?;
    let grpc = match config.listen_client_http_urls.is_empty() {
        true => Traffic::All,
        false => Traffic::Grpc,
    };
    let handshakes = |check| client_tls.clone().map(|tls| Handshakes::new(tls, Endpoint::Client, check));
    let reuse_port = config.socket_reuse_port;
    let mut clients = bind(&config.listen_client_urls, grpc, handshakes(false), reuse_port).await?;
    clients.extend(bind(&config.listen_client_http_urls, Traffic::Http, handshakes(false), reuse_port).await?);
    // Only there does etcd compare clients' addresses with their certificates.
    let probes = bind(&config.listen_metrics_urls, Traffic::All, handshakes(true), reuse_port).await?;
    let client_urls = urls(&clients);
    let metrics_urls = urls(&probes);

    let metrics = Arc::new(Metrics::new(config.extensive_metrics));
    let stop = CancellationToken::new();
    let connections = Connections::new(&config, stop.clone()).context("starting threads")?;
    let tokens = Tokens::open(&config.auth_token, config.auth_token_ttl)?;
    let mut settings = node_config(&config, &metrics);
    if let Tokens::Simple(tokens) = &tokens {
        settings.tokens = tokens.clone();
    }
    settings.peer_tls = Some(peer_tls);
    let node = Node::start(settings).await?;
    let identity = Identity::new(&config, tokens);
    let api = Arc::new(Api::new(node.clone(), identity, Limits::new(&config), metrics, stop.clone()));

    let mut serving = Vec::new();
    for listener in probes {
        let router = crate::api::metrics_router(api.clone());
        let answer = move |request| crate::api::answer(router.clone(), request);
        serving.push(tokio::spawn(connections.for_probes().serve(listener, answer)));
    }
    serving.push(tokio::spawn(compaction::run(config.auto_compaction, node.clone(), stop.clone())));
    let (report, state) = watch::channel(State::Starting);
    serving.push(tokio::spawn(open_doors(node.clone(), Gate::new(api), clients, connections.clone(), report)));
    Ok(Server { node, data_dir: config.data_dir, client_urls, metrics_urls, connections, state, serving, stop })
}

/// Certificates between members, made if that is asked for.
fn peer_tls(config: &mut Config) -> anyhow::Result<PeerTls> {
    let (tls, protocol) = (&mut config.peer_tls, &config.tls_protocol);
    let made = tls::prepare(Endpoint::Peer, tls, &config.data_dir, &config.listen_peer_urls, protocol)
        .context("--peer-auto-tls")?;
    let server = ServerTls::open(tls, protocol).context("TLS between members")?;
    let server = server.map(|server| Handshakes::new(server, Endpoint::Peer, true));
    let client = ClientTls::open(tls, protocol, made).context("TLS between members")?;
    Ok(PeerTls { server, client })
}

/// Certificates towards clients, made if that is asked for.
fn client_tls(config: &mut Config) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let (tls, protocol) = (&mut config.client_tls, &config.tls_protocol);
    let urls = [config.listen_client_urls.as_slice(), &config.listen_client_http_urls].concat();
    tls::prepare(Endpoint::Client, tls, &config.data_dir, &urls, protocol).context("--auto-tls")?;
    ServerTls::open(tls, protocol).context("TLS towards clients")
}

async fn bind(
    urls: &[ListenUrl],
    traffic: Traffic,
    tls: Option<Handshakes>,
    reuse_port: bool,
) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    let twin = |url: &ListenUrl, tls| ListenUrl { tls, ..url.clone() };
    // Both at one address are one listener, unless the system chooses the ports.
    let shared =
        |url: &ListenUrl| url.is_fixed_tcp() && urls.contains(&twin(url, true)) && urls.contains(&twin(url, false));
    for url in urls.iter().filter(|url| url.tls || !shared(url)) {
        let listener = Listener::bind(url, traffic, tls.clone(), shared(url), reuse_port).await;
        listeners.push(listener.with_context(|| format!("listening on {url}"))?);
    }
    Ok(listeners)
}

fn urls(listeners: &[Listener]) -> Vec<ListenUrl> {
    listeners.iter().map(|listener| listener.url().clone()).collect()
}

/// Lets clients in as soon as the member has caught up, so that none reads what is older than its last start.
async fn open_doors(
    node: Node,
    gate: Gate,
    listeners: Vec<Listener>,
    connections: Connections,
    report: watch::Sender<State>,
) {
    if let Err(error) = node.wait_ready().await {
        report.send_replace(State::Failed(error.to_string()));
        return;
    }
    if let Err(error) = node.check_initially().await {
        report.send_replace(State::Failed(error.to_string()));
        return;
    }
    tracing::info!("ready to serve client requests");
    let mut serving = tokio::task::JoinSet::new();
    for listener in listeners {
        let traffic = match listener.traffic() {
            Traffic::All => "grpc+http",
            Traffic::Grpc => "grpc",
            Traffic::Http => "http",
        };
        let address = listener.url().host();
        match listener.is_secure() {
            true => tracing::info!(traffic, address, "serving client traffic securely"),
            false => {
                tracing::info!(traffic, address, "serving client traffic insecurely; this is strongly discouraged!")
            }
        }
        let gate = gate.clone().behind(listener.traffic(), listener.is_secure());
        let answer = move |request| gate.clone().serve(request);
        serving.spawn(connections.clone().serve(listener, answer));
    }
    report.send_replace(State::Ready);
    serving.join_all().await;
}

fn node_config(config: &Config, metrics: &Metrics) -> NodeConfig {
    let mut initial_cluster = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (name, url) in &config.initial_cluster {
        initial_cluster.entry(name.clone()).or_default().push(url.clone());
    }
    NodeConfig {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        listen_peer_urls: config.listen_peer_urls.iter().map(ListenUrl::to_string).collect(),
        initial_advertise_peer_urls: config.initial_advertise_peer_urls.clone(),
        advertise_client_urls: config.advertise_client_urls.clone(),
        initial_cluster,
        initial_cluster_state: match config.initial_cluster_state {
            ClusterState::New => InitialClusterState::New,
            ClusterState::Existing => InitialClusterState::Existing,
        },
        initial_cluster_token: config.initial_cluster_token.clone(),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        pre_vote: config.pre_vote,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        max_learners: config.max_learners,
        strict_reconfig_check: config.strict_reconfig_check,
        unsafe_no_sync: config.unsafe_no_fsync,
        reuse_port: config.socket_reuse_port,
        force_new_cluster: config.force_new_cluster,
        force_new_cluster_bump: config.force_new_cluster_bump,
        slow_apply: config.warning_apply_duration,
        lease_checkpoint: config.features.enabled(Feature::LeaseCheckpoint),
        metrics: metrics.node.clone(),
        initial_corrupt_check: config.features.enabled(Feature::InitialCorruptCheck),
        corrupt_check_interval: Some(config.corrupt_check_time).filter(|time| !time.is_zero()),
        compact_hash_check_interval: config
            .features
            .enabled(Feature::CompactHashCheck)
            .then_some(config.compact_hash_check_time),
        requests: Budget::new(config.inflight_request_bytes()),
        watch: HubOptions {
            progress_interval: config.watch_progress_notify_interval,
            fragment_bytes: Limits::new(config).max_message_bytes(),
            budget: Budget::new(config.inflight_bytes() / 2),
            ..HubOptions::default()
        },
        ..NodeConfig::default()
    }
}

impl Server {
    /// Where clients are served, with the ports that were given for port 0.
    pub fn client_urls(&self) -> &[ListenUrl] {
        &self.client_urls
    }

    /// Where metrics and probes are served alone, likewise.
    pub fn metrics_urls(&self) -> &[ListenUrl] {
        &self.metrics_urls
    }

    /// Returns once the member has caught up with its cluster and answers clients.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut state = self.state.clone();
        match &*state.wait_for(|state| *state != State::Starting).await? {
            State::Failed(reason) => anyhow::bail!("the member did not become ready: {reason}"),
            _ => Ok(()),
        }
    }

    /// Returns when the member cannot go on by itself: why.
    pub async fn failed(&self) -> anyhow::Error {
        let (mut state, mut status) = (self.state.clone(), self.node.watch_status());
        let failed = async {
            match &*state.wait_for(|state| matches!(state, State::Failed(_))).await? {
                State::Failed(reason) => anyhow::bail!("the member did not become ready: {reason}"),
                _ => Ok(()),
            }
        };
        let removed = status.wait_for(|status| status.removed);
        tokio::select! {
            Err(error) = failed => error,
            Ok(_) = removed => anyhow::anyhow!(
                "this member was removed from the cluster for good: remove its data directory {}",
                self.data_dir.display()
            ),
            else => anyhow::anyhow!("the member has stopped"),
        }
    }

    /// Hands leadership over, ends the clients' streams, flushes and stops.
    pub async fn shutdown(self) {
        self.node.shutdown().await;
        self.stop.cancel();
        for task in self.serving {
            task.abort();
        }
        if tokio::time::timeout(LAST_ANSWERS, self.connections.closed()).await.is_err() {
            tracing::warn!("clients did not close their connections in time");
        }
    }
}
