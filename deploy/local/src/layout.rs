//! Where everything is below the data directory, and how the programs find each other through it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The data directory.
#[derive(Clone, Debug)]
pub struct Layout(PathBuf);

impl Layout {
    /// The layout below `directory`, which is made if it does not exist.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let layout = Self(directory.canonicalize()?);
        for directory in [layout.at("run"), layout.pods(), layout.volumes()] {
            std::fs::create_dir_all(directory)?;
        }
        Ok(layout)
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }
    /// A place that only one program knows; what is below `run` only matters while it runs.
    pub fn at(&self, place: &str) -> PathBuf {
        self.0.join(place)
    }
    /// A directory for each pod: logs, files, emptyDirs.
    pub fn pods(&self) -> PathBuf {
        self.at("pods")
    }
    /// A directory for each claim.
    pub fn volumes(&self) -> PathBuf {
        self.at("volumes")
    }
    /// The bearer token of everybody.
    pub fn token(&self) -> PathBuf {
        self.at("token")
    }
    /// The kubeconfig for the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.at("kubeconfig")
    }
    /// The kubeconfig for the pods' network.
    pub fn pod_kubeconfig(&self) -> PathBuf {
        self.at("kubeconfig.pods")
    }
    /// Where the API server is reached from the pods' network.
    pub fn api_socket(&self) -> PathBuf {
        self.at("run/api.sock")
    }
    /// Where the API server reaches the node agent.
    pub fn node_socket(&self) -> PathBuf {
        self.at("run/node.sock")
    }
    /// Where published ports reach the pods' network.
    pub fn publish_socket(&self) -> PathBuf {
        self.at("run/publish.sock")
    }
    /// The process id of `up`.
    pub fn pid(&self) -> PathBuf {
        self.at("run/up.pid")
    }
    /// The process id of the node, which holds the pods' network.
    pub fn node_pid(&self) -> PathBuf {
        self.at("run/node.pid")
    }

    /// Locks one of the files below `run` for as long as the answer lives.
    pub fn lock(&self, name: &str) -> anyhow::Result<File> {
        let path = self.at("run").join(name);
        let file = File::options().create(true).append(true).open(&path)?;
        file.try_lock().with_context(|| format!("{} is in use by another process", path.display()))?;
        Ok(file)
    }

    /// A process id that was written down, if it was.
    pub fn read_pid(path: &Path) -> Option<i32> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

/// A client from a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
