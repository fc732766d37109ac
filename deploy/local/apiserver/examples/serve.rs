//! Serves the API over an etcd that already runs: `serve ETCD_URL LISTEN DIRECTORY`; writes DIRECTORY/kubeconfig.

use keelson_local_apiserver::{Config, serve, write_kubeconfig};
use std::path::PathBuf;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [etcd, listen, directory] = arguments.as_slice() else {
        anyhow::bail!("usage: serve ETCD_URL LISTEN DIRECTORY");
    };
    let directory = PathBuf::from(directory);
    let config = Config {
        etcd_endpoint: etcd.clone(),
        listen: listen.parse()?,
        unix_socket: directory.join("api.sock"),
        node_socket: directory.join("node.sock"),
        pki_dir: directory.join("pki"),
        token: "local".into(),
    };
    write_kubeconfig(&config, &directory.join("kubeconfig"))?;
    serve(config).await
}
