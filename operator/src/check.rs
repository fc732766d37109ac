//! What `helm test` runs beside an operator: is it ready, and may its account read what it has to?

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::api::{Api, ListParams};
use kube::{Client, Config};

use crate::crd::EtcdCluster;

/// How long the operator may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails with the reason when something is missing; `None` among the namespaces stands for all.
pub async fn run(operator: http::Uri, namespaces: &[Option<String>]) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("finding the API server")?;
    for namespace in namespaces {
        let (clusters, place) = match namespace {
            Some(name) => (Api::<EtcdCluster>::namespaced(client.clone(), name), name.as_str()),
            None => (Api::all(client.clone()), "all namespaces"),
        };
        let answer = clusters.list_metadata(&ListParams::default().limit(1)).await;
        answer.with_context(|| format!("reading the EtcdClusters of {place}"))?;
        println!("EtcdClusters of {place} can be read");
    }
    let started = Instant::now();
    let mut config = Config::new(operator.clone());
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(5));
    let probe = Client::try_from(config)?;
    while let Err(error) = probe.request_text(http::Request::get("/readyz").body(Vec::new())?).await {
        if started.elapsed() > PATIENCE {
            bail!("the operator at {operator} is not ready: {error}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("the operator is ready");
    Ok(())
}
