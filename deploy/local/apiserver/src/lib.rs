//! The Kubernetes API of keelson-local: one process, one etcd-compatible store, no authentication but by a token.
//!
//! A request goes through `http` (TLS, token, routing), `request` (what does the path name?), `verbs` or `watch`
//! (read, compute, compare and swap) to `store` (etcd). What computes is pure: `object`, `admission`, `validation`,
//! `patch`, `apply`, `table`. Behind it run the tasks of `crds` and `gc`.
//!
//! It is for trying out and for tests. It does not do: admission webhooks, API aggregation, conversion
//! webhooks, answers in protobuf, audit.

mod admission;
mod apply;
mod cel;
mod convert;
mod crds;
mod discovery;
mod fields;
mod gc;
mod http;
mod kinds;
mod object;
mod openapi;
mod patch;
mod pki;
mod pods;
mod protobuf;
mod rbac;
mod request;
mod schema;
mod selectors;
mod status;
mod store;
mod table;
mod validation;
mod verbs;
mod watch;

pub use cel::parse_quantity;
pub use pki::write_private;

use anyhow::Context;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

/// Where the server listens and what it uses.
#[derive(Debug, Clone)]
pub struct Config {
    /// Plaintext URL of an etcd v3 server, e.g. `http://127.0.0.1:2379`.
    pub etcd_endpoint: String,
    /// Address of the HTTPS listener.
    pub listen: SocketAddr,
    /// Unix socket with the same TLS server, for a relay of raw TCP out of the pods' network.
    pub unix_socket: PathBuf,
    /// Unix socket of the node agent, which answers logs and exec.
    pub node_socket: PathBuf,
    /// Directory of the CA and the server's certificate and key; filled when empty.
    pub pki_dir: PathBuf,
    /// The bearer token that every request needs, except for health and version.
    pub token: String,
    /// Whether service accounts may do only what RBAC objects permit; otherwise everybody may do everything.
    pub authorize: bool,
}

/// What requests share.
pub(crate) struct App {
    pub(crate) store: store::Store,
    pub(crate) config: Config,
    pub(crate) ca_certificate: String,
    registry: RwLock<Arc<kinds::Registry>>,
    /// What service accounts were permitted to do, and did.
    pub(crate) rights_used: Mutex<BTreeSet<String>>,
}

impl App {
    /// The kinds that are served now.
    pub(crate) fn registry(&self) -> Arc<kinds::Registry> {
        self.registry.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Serves other kinds from now on.
    pub(crate) fn set_registry(&self, registry: kinds::Registry) {
        *self.registry.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(registry);
    }
}

/// Serves until the future is dropped or a listener fails. Creates the namespaces and objects that every cluster has.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let ca_certificate = pki::ensure(&config.pki_dir)?;
    let tls = pki::server_config(&config.pki_dir)?;
    let store = store::Store::connect(&config.etcd_endpoint).await.context("connecting to the store")?;
    let registry = RwLock::new(Arc::new(kinds::Registry::new(Vec::new())));
    let app = Arc::new(App { store, config, ca_certificate, registry, rights_used: Mutex::default() });
    app.load_crds().await.map_err(|error| anyhow::anyhow!("loading CRDs: {}", error.message))?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(app.store.clone().compact_forever());
    tasks.spawn(gc::run(app.clone()));
    http::listen(app, tls).await
}

/// Writes a kubeconfig for the server at `listen`; `serve` may be called before or after with the same configuration.
pub fn write_kubeconfig(config: &Config, path: &Path) -> anyhow::Result<()> {
    let ca = pki::ensure(&config.pki_dir)?;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca);
    let name = "keelson-local";
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{}", config.listen), "certificate-authority-data": encoded}}],
        "users": [{"name": name, "user": {"token": config.token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
    });
    pki::write_private(path, &serde_yaml::to_string(&kubeconfig)?)
}
