//! The plugin of kubectl on clusters of other scenarios, by the very lines of docs/kubectl.md.

use anyhow::{Result, ensure};
use keelson_e2e::{cluster::Cluster, page::Page};

/// Commands for a cluster `demo` of three members.
pub async fn looks_after(cluster: &Cluster) -> Result<()> {
    let page = Page::open("kubectl.md", &cluster.namespace).await?;
    ensure!(page.run("ln -sf").await?.contains("Usage: kubectl keelson"), "it does not know its name");

    let told = page.run("keelson status").await?;
    ensure!(told.contains("Running") && told.matches("healthy").count() >= 3, "{told}");
    let told = page.run("move-leader").await?;
    ensure!(told.contains("demo-1 leads"), "{told}");
    ensure!(cluster.leader_pod().await? == "demo-1-0", "another member leads");
    let told = page.run("keelson defrag").await?;
    ensure!(told.contains("demo-0, demo-1, demo-2"), "{told}");
    cluster.announced(&cluster.get().await?, "MemberDefragmented").await?;
    let told = page.run("--disarm").await?;
    ensure!(told.contains("no alarms"), "{told}");
    let annotations = cluster.get().await?["metadata"]["annotations"].to_string();
    ensure!(!annotations.contains("keelson.dev/"), "a request is left: {annotations}");
    let told = page.run("keelson pause").await?;
    ensure!(told.contains("paused") && told.contains("resumed"), "{told}");

    page.run("keelson report").await?;
    let report = std::fs::read_to_string(page.folder.path().join("demo-report.yaml"))?;
    for part in ["kind: EtcdCluster", "kind: StatefulSet", "log of pod demo-2-0 in", "log of pod keelson-operator"] {
        ensure!(report.contains(part), "the report lacks {part:?}");
    }
    ensure!(!report.contains("kind: Secret\n"), "the report has a Secret");
    Ok(())
}

/// Commands for a cluster `demo` with a claim `demo-backups`.
pub async fn backs_up(cluster: &Cluster) -> Result<()> {
    let page = Page::open("kubectl.md", &cluster.namespace).await?;
    let told = page.run("keelson backup").await?;
    ensure!(told.contains("etcdbackup/demo-second is complete"), "{told}");
    let told = page.run("keelson restore").await?;
    ensure!(told.contains("demo-again created (server dry run)"), "{told}");
    Ok(())
}
