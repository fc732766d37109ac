//! Clusters whose data are in memory, and end with their pods.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters, manifest},
    wait_for,
    writer::Writer,
};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

/// The ids of the members by their names.
async fn ids(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let status = cluster.get().await?["status"].clone();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    Ok(members.iter().map(|member| (text(&member["name"]), text(&member["id"]))).collect())
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

/// Deletes a member's pod, and waits until three members are there again, none of which has its id.
async fn lose(cluster: &Cluster, pod: &str) -> Result<()> {
    let name = pod.strip_suffix("-0").context("no pod of a member")?;
    let before = ids(cluster).await?;
    let (_, id) = before.iter().find(|(member, _)| member == name).context("no such member")?;
    pods(cluster).delete(pod, &DeleteParams::default()).await?;
    wait_for(&format!("{name} to be replaced"), PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        let told = status["replacements"].to_string().contains(id.as_str());
        ensure!(told && ids(cluster).await?.iter().all(|(_, other)| other != id), "{id} is still there: {status}");
        Ok(Some(()))
    })
    .await?;
    cluster.settled(3).await
}

/// What identifies the members and their pods.
async fn all(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all: Vec<String> = ids(cluster).await?.into_iter().map(|(_, id)| id).collect();
    all.extend(cluster.pods().await?.iter().filter_map(ResourceExt::uid));
    Ok(all)
}

#[tokio::test]
async fn members_in_memory_are_replaced_with_their_pods_and_exchanged_by_rollouts() -> Result<()> {
    let cluster = Cluster::unborn("fast").await?;
    let mut object = manifest("fast", 3);
    object["spec"]["storage"] = json!({"size": "256Mi", "medium": "Memory"});
    clusters(&cluster.client, &cluster.namespace)
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    cluster.settled(3).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    ensure!(claims.list(&ListParams::default()).await?.items.is_empty(), "there are volume claims");
    let parked = cluster.scale(0).await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(parked.contains("spec.size cannot be 0"), "{parked}");
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    let leader = cluster.leader_pod().await?;
    let all_pods = cluster.pods().await?;
    let follower = all_pods.iter().map(ResourceExt::name_any).find(|pod| *pod != leader).context("no follower")?;
    // More often than the limits for other repairs would allow.
    for pod in [follower.clone(), leader, follower] {
        let there = cluster.pods().await?.iter().any(|it| it.name_any() == pod);
        let pod = if there { pod } else { cluster.leader_pod().await? };
        lose(&cluster, &pod).await?;
        writer.progress(20).await?;
    }

    let before = all(&cluster).await?;
    cluster.patch(json!({"options": {"snapshot-count": "20000"}})).await?;
    cluster.settled(3).await?;
    writer.progress(20).await?;
    for pod in cluster.pods().await? {
        let spec = serde_json::to_string(&pod.spec)?;
        ensure!(spec.contains("--snapshot-count=20000"), "{} has not the option", pod.name_any());
    }
    let after = all(&cluster).await?;
    ensure!(!after.iter().any(|it| before.contains(it)), "{before:?} became {after:?}");

    // With an option that no member starts with, nobody leaves.
    let rollout = json!({"progressDeadline": "20s"});
    cluster.patch(json!({"options": {"no-such-flag": "1"}, "rollout": rollout})).await?;
    cluster.in_phase("Blocked").await?;
    cluster.tells("the rollout was stopped: no progress within 20s").await?;
    ensure!(all(&cluster).await? == after, "members were exchanged");
    cluster.patch(json!({"options": {"no-such-flag": null}, "rollout": null})).await?;
    cluster.settled(3).await?;
    ensure!(all(&cluster).await? == after, "members were exchanged for what they run");
    println!("{} acknowledged writes are there", writer.verify().await?);

    is_not_begun_anew(&cluster).await?;
    cluster.remove().await
}

/// Two of three pods at once: what the third one has can still be fetched, and no member starts without its data.
async fn is_not_begun_anew(cluster: &Cluster) -> Result<()> {
    let lost: Vec<String> = cluster.pods().await?.iter().take(2).map(ResourceExt::name_any).collect();
    let (at_once, api) = (DeleteParams::default().grace_period(0), pods(cluster));
    tokio::try_join!(api.delete(&lost[0], &at_once), api.delete(&lost[1], &at_once))?;
    cluster.tells("are gone with their pods, and the other members are no quorum").await?;
    cluster.in_phase("Unavailable").await?;
    for pod in &lost {
        let status = api.get(pod).await?.status.unwrap_or_default();
        let started = status.container_statuses.iter().flatten().any(|container| container.started == Some(true));
        ensure!(status.phase.as_deref() == Some("Pending") && !started, "{pod} started: {status:?}");
    }
    let survivor = cluster.endpoints().await?.pop().context("no member runs")?;
    let mut stream = cluster.connect(&survivor).await?.snapshot().await?;
    let mut bytes = 0;
    while let Some(part) = stream.message().await? {
        bytes += part.blob().len();
    }
    ensure!(bytes > 0, "no snapshot of {survivor}");
    Ok(())
}
