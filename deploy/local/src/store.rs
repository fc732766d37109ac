//! The store behind the API server: Keelson's own server, one member, embedded.

use keelson_server::config::{Config, ListenUrl};
use keelson_server::server::{self, Server};

use crate::layout::Layout;

/// A running store of one member.
pub struct Store {
    server: Server,
    endpoint: String,
}

impl Store {
    /// Starts the store on its data below the data directory and waits until it serves.
    pub async fn start(layout: &Layout) -> anyhow::Result<Self> {
        let config = Config::embedded(layout.at("store"), ListenUrl::loopback());
        let server = server::start(config).await?;
        server.ready().await?;
        let endpoint = server.client_urls().first().map(ToString::to_string).unwrap_or_default();
        Ok(Self { server, endpoint })
    }

    /// Where it is reached, as a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns when the store cannot go on: why.
    pub async fn failed(&self) -> anyhow::Error {
        self.server.failed().await
    }

    /// Stops it and waits until its data is on disk.
    pub async fn stop(self) {
        self.server.shutdown().await;
    }
}
