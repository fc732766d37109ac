//! An S3 server that pods can reach.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::PATIENCE;
use crate::wait_for;

/// Where pods of keelson-local see the machine that they run on.
const NODE: &str = "10.244.0.1";
/// The bucket that tests use.
pub const BUCKET: &str = "keelson-e2e";

/// A server with an empty bucket.
pub struct S3 {
    /// Its URL.
    pub endpoint: String,
    server: Option<Child>,
}

impl S3 {
    /// The one that `KEELSON_E2E_S3` names, with the bucket there; without it moto, which the pods of keelson-local can reach.
    pub async fn start() -> Result<Self> {
        if let Ok(endpoint) = std::env::var("KEELSON_E2E_S3") {
            return Ok(Self { endpoint, server: None });
        }
        let cache =
            std::env::var("KEELSON_CACHE").context("KEELSON_CACHE is not set: run these tests by `make e2e`")?;
        // Free again at the end of the line, for the server.
        let free = || std::net::TcpListener::bind((NODE, 0))?.local_addr();
        let port = free().context("not in the network of keelson-local's pods")?.port();
        let server = Command::new("python3")
            .args(["-m", "moto.server", "-H", NODE, "-p", &port.to_string()])
            .env("PYTHONPATH", PathBuf::from(cache).join("moto"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let this = Self { endpoint: format!("http://{NODE}:{port}"), server: Some(server) };
        wait_for("a bucket", PATIENCE, || async { this.request("PUT", BUCKET).await.map(Some) }).await?;
        Ok(this)
    }

    /// The keys in the bucket.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let list = self.request("GET", &format!("{BUCKET}?list-type=2")).await?;
        let keys = list.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_string()).collect())
    }

    /// `spec.store` of a backup; the credentials are in a Secret `keys`.
    pub fn store(&self) -> Value {
        json!({"s3": {"bucket": BUCKET, "prefix": "etcd", "region": "us-east-1", "endpoint": self.endpoint,
            "credentialsSecret": "keys"}})
    }

    async fn request(&self, method: &str, path: &str) -> Result<String> {
        let output = tokio::process::Command::new("curl")
            .args(["-sSf", "-X", method, &format!("{}/{path}", self.endpoint)])
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
