//! The operator and its clusters, as a user of Kubernetes sees them. `make e2e` runs these on keelson-local, or on the
//! Kubernetes that KUBECONFIG names.

#[path = "e2e/auth.rs"]
mod auth;
#[path = "e2e/backup.rs"]
mod backup;
#[path = "e2e/kubectl.rs"]
mod kubectl;
#[path = "e2e/lifecycle.rs"]
mod lifecycle;
#[path = "e2e/memory.rs"]
mod memory;
#[path = "e2e/repair.rs"]
mod repair;
#[path = "e2e/tls.rs"]
mod tls;
#[path = "e2e/upgrades.rs"]
mod upgrades;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters, manifest},
    wait_for,
    writer::Writer,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_cluster_becomes_available_and_every_member_serves() -> Result<()> {
    let start = Instant::now();
    let cluster = Cluster::apply("demo", 3).await?;
    cluster.settled(3).await?;
    println!("apply to Available: {:.1} s", start.elapsed().as_secs_f64());

    let endpoints = cluster.endpoints().await?;
    for (n, endpoint) in endpoints.iter().enumerate() {
        let mut client = cluster.connect(endpoint).await?;
        client.put(format!("from-{n}"), endpoint.as_str(), None).await?;
        for other in &endpoints {
            // Linearizable: visible at once on every member.
            let mut client = cluster.connect(other).await?;
            let answer = client.get(format!("from-{n}"), None).await?;
            assert_eq!(answer.kvs()[0].value_str()?, endpoint, "read on {other}");
        }
    }
    nothing_is_written_while_nothing_changes(&cluster).await?;
    cluster.remove().await
}

/// The resource versions of all that belongs to the cluster stay as they are for 40 seconds: longer than the 30 seconds
/// after which a member flushes what was written, and its size changes a last time.
async fn nothing_is_written_while_nothing_changes(cluster: &Cluster) -> Result<()> {
    wait_for("40 seconds without a write", PATIENCE, || async {
        let before = versions(cluster).await?;
        tokio::time::sleep(Duration::from_secs(40)).await;
        let after = versions(cluster).await?;
        ensure!(before == after, "{before:?} became {after:?}");
        Ok(Some(()))
    })
    .await
}

async fn versions(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Service, policy::v1::PodDisruptionBudget};
    let (client, namespace) = (&cluster.client, &cluster.namespace);
    let mut all = Vec::new();
    let mut note = |kind: &str, meta: &kube::core::ObjectMeta| {
        let name = format!("{kind}/{}", meta.name.clone().unwrap_or_default());
        all.push((name, meta.resource_version.clone().unwrap_or_default()));
    };
    let every = ListParams::default();
    for item in clusters(client, namespace).list(&every).await? {
        note("EtcdCluster", &item.metadata);
    }
    for item in Api::<StatefulSet>::namespaced(client.clone(), namespace).list(&every).await? {
        note("StatefulSet", &item.metadata);
    }
    for item in Api::<Service>::namespaced(client.clone(), namespace).list(&every).await? {
        note("Service", &item.metadata);
    }
    for item in Api::<PodDisruptionBudget>::namespaced(client.clone(), namespace).list(&every).await? {
        note("PodDisruptionBudget", &item.metadata);
    }
    Ok(all)
}

#[tokio::test]
async fn killed_members_come_back_and_lose_nothing() -> Result<()> {
    let cluster = Cluster::apply("killed", 3).await?;
    cluster.settled(3).await?;
    let writer = Writer::start(&cluster);

    writer.progress(50).await?;
    let leader = cluster.leader_pod().await?;
    cluster.kill(&[leader]).await?;
    writer.progress(50).await?;
    cluster.settled(3).await?;

    let pods = cluster.pods().await?;
    let majority: Vec<String> = pods.iter().take(2).map(ResourceExt::name_any).collect();
    cluster.kill(&majority).await?;
    writer.progress(50).await?;
    cluster.settled(3).await?;

    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await
}

#[tokio::test]
async fn scaling_out_and_in_loses_nothing() -> Result<()> {
    let cluster = Cluster::apply("scaled", 3).await?;
    cluster.settled(3).await?;
    let writer = Writer::start(&cluster);
    for size in [5, 3, 1, 3] {
        let start = Instant::now();
        cluster.scale(size).await?;
        cluster.settled(size).await?;
        writer.progress(20).await?;
        println!("to {size} members: {:.1} s", start.elapsed().as_secs_f64());
    }
    let object = cluster.get().await?;
    for reason in ["LearnerAdded", "MemberPromoted", "MemberRemoved"] {
        let member = cluster.announced(&object, reason).await?.related.and_then(|related| related.name);
        ensure!(member.as_ref().is_some_and(|name| name.starts_with("scaled-")), "{reason} names {member:?}");
    }
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await
}

#[tokio::test]
async fn the_operator_may_be_killed_at_every_step() -> Result<()> {
    let cluster = Cluster::apply("steps", 1).await?;
    cluster.settled(1).await?;
    let writer = Writer::start(&cluster);
    cluster.scale(3).await?;

    let mut steps = Vec::new();
    let start = Instant::now();
    loop {
        let status = cluster.get().await?["status"].clone();
        let step = status["nextAction"]["action"].as_str().unwrap_or("none").to_owned();
        let voters = status["members"].as_array().into_iter().flatten().filter(|m| m["role"] != "Learner").count();
        if voters == 3 && step == "none" {
            break;
        }
        let step = format!("{step} with {voters} voters");
        if !steps.contains(&step) {
            kill_the_operator(&cluster.client).await?;
            steps.push(step);
        }
        ensure!(start.elapsed() < PATIENCE * 2, "stuck after {steps:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.settled(3).await?;
    println!("the operator was killed at: {steps:#?}");
    ensure!(steps.len() >= 3, "too few steps were seen: {steps:?}");
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await
}

async fn kill_the_operator(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let operators = ListParams::default().labels("app.kubernetes.io/name=keelson-operator");
    for pod in pods.list(&operators).await? {
        let namespaced: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        namespaced.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn invalid_clusters_are_refused_with_the_name_of_the_field() -> Result<()> {
    // None of them gets in, so there is nothing to clean up.
    let api = clusters(&Client::try_default().await?, "default");
    let with = |path: &[&str], value: Value| {
        let mut object = manifest("invalid", 3);
        let mut place = &mut object["spec"];
        for key in path {
            place = &mut place[*key];
        }
        *place = value;
        object
    };
    let cases = [
        (with(&["size"], json!(99)), "spec.size"),
        (with(&["storage", "size"], json!("many")), "spec.storage.size"),
        (with(&["options"], json!({"name": "mine"})), "spec.options"),
    ];
    for (object, field) in cases {
        let spec = object["spec"].clone();
        let created = api.create(&PostParams::default(), &serde_json::from_value(object)?).await;
        let message = created.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(field), "{spec}: {field} is not named in '{message}'");
    }
    Ok(())
}
