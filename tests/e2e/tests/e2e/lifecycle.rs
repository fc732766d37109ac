//! Parking, pausing and deletion, by the very lines of docs/lifecycle.md.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters},
    page::Page,
    wait_for,
    writer::Writer,
};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

async fn claims(cluster: &Cluster) -> Result<Vec<(String, Option<String>)>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let claims = api.list(&ListParams::default()).await?;
    Ok(claims.iter().map(|claim| (claim.name_any(), claim.uid())).collect())
}

fn ids(object: &Value) -> Vec<String> {
    let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
    members.iter().map(|member| member["id"].as_str().unwrap_or_default().to_string()).collect()
}

#[tokio::test]
async fn a_cluster_is_parked_resumed_paused_and_deleted_and_keeps_its_data() -> Result<()> {
    let cluster = Cluster::apply("demo", 3).await?;
    cluster.settled(3).await?;
    crate::kubectl::looks_after(&cluster).await?;
    let page = Page::open("lifecycle.md", &cluster.namespace).await?;
    let before = (claims(&cluster).await?, ids(&cluster.get().await?));
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    page.run("--replicas=0").await?;
    cluster.in_phase("Parked").await?;
    ensure!(cluster.pods().await?.is_empty(), "a member of a parked cluster runs");
    ensure!((claims(&cluster).await?, ids(&cluster.get().await?)) == before, "a parked cluster changed");

    page.run("--replicas=3").await?;
    cluster.settled(3).await?;
    ensure!((claims(&cluster).await?, ids(&cluster.get().await?)) == before, "another cluster came back");
    writer.progress(50).await?;

    page.run("\"paused\":true").await?;
    let processes = cluster.starts().await?;
    cluster.scale(1).await?;
    cluster.in_phase("Paused").await?;
    // The spec that asks for one member was seen, and nothing was done about it.
    ensure!(ids(&cluster.get().await?) == before.1 && cluster.starts().await? == processes, "something was changed");
    cluster.scale(3).await?;
    page.run("\"paused\":false").await?;
    cluster.settled(3).await?;
    println!("{} acknowledged writes are there", writer.verify().await?);

    page.run("kubectl delete etcdcluster").await?;
    wait_for("the members to be gone", PATIENCE, || async {
        let gone = clusters(&cluster.client, &cluster.namespace).get_opt(&cluster.name).await?.is_none();
        Ok((gone && cluster.pods().await?.is_empty()).then_some(()))
    })
    .await?;
    ensure!(claims(&cluster).await? == before.0, "claims were not kept");
    cluster.remove_namespace().await
}
