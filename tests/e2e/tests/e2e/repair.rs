//! Members that are lost, a full store, a lost quorum: by the very lines of docs/repair.md.

use anyhow::{Context, Result, ensure};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters, manifest},
    page::Page,
    wait_for,
    writer::Writer,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// The id of the member of this name, in hexadecimal.
async fn id(cluster: &Cluster, name: &str) -> Result<String> {
    let status = cluster.get().await?["status"].clone();
    let mut members = status["members"].as_array().into_iter().flatten();
    let member = members.find(|member| member["name"] == name).with_context(|| format!("no {name}"))?;
    Ok(member["id"].as_str().unwrap_or_default().to_string())
}

/// Deletes the member's volume with its pod.
async fn lose_volume(cluster: &Cluster, name: &str) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    claims.delete(&format!("data-{name}-0"), &DeleteParams::default()).await?;
    pods.delete(&format!("{name}-0"), &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

/// Waits until three members are there, and the one of this name is another one than `before`.
async fn replaced(cluster: &Cluster, name: &str, before: &str) -> Result<()> {
    wait_for(&format!("{name} to be replaced"), PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        let told = status["replacements"].to_string().contains(before);
        let now = id(cluster, name).await?;
        ensure!(told && now != before, "{name} is {now}: {status}");
        Ok(Some(()))
    })
    .await?;
    cluster.settled(3).await
}

/// As on a node that is lost, the pod does not go: a finalizer holds it. A member under another number takes the place.
async fn replaced_while_its_pod_is_stuck(cluster: &Cluster, name: &str, writer: &Writer) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let (pod, before) = (format!("{name}-0"), id(cluster, name).await?);
    let hold = async |finalizers: &[&str]| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        pods.patch_metadata(&pod, &PatchParams::default(), &patch).await
    };
    cluster.patch(json!({"repair": {"after": "5s"}})).await?;
    hold(&["e2e.keelson.dev/lost-node"]).await?;
    pods.delete(&pod, &DeleteParams::default()).await?;
    wait_for(&format!("another member than {name}"), PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        let told = status["replacements"].to_string().contains(&before);
        ensure!(told && id(cluster, name).await.is_err(), "{name} is still a member: {status}");
        Ok(Some(()))
    })
    .await?;
    cluster.settled(3).await?;
    writer.progress(20).await?;
    ensure!(pods.get(&pod).await?.metadata.deletion_timestamp.is_some(), "{pod} is not held");
    cluster.patch(json!({"repair": {"after": null}})).await?;
    hold(&[]).await?;
    wait_for("what is left of the member to go", PATIENCE, || async {
        let claim = claims.get_opt(&format!("data-{pod}")).await?;
        Ok((claim.is_none() && pods.get_opt(&pod).await?.is_none()).then_some(()))
    })
    .await?;
    cluster.settled(3).await
}

#[tokio::test]
async fn members_that_are_lost_are_replaced_and_a_full_store_is_cleared() -> Result<()> {
    let cluster = Cluster::unborn("demo").await?;
    let mut object = manifest("demo", 3);
    object["spec"]["repair"] = json!({"limit": 4});
    object["spec"]["options"] = json!({"quota-backend-bytes": "20000000"});
    clusters(&cluster.client, &cluster.namespace)
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    cluster.settled(3).await?;
    let page = Page::open("repair.md", &cluster.namespace).await?;
    let writer = Writer::start(&cluster);
    writer.progress(20).await?;

    let before = id(&cluster, "demo-2").await?;
    lose_volume(&cluster, "demo-2").await?;
    replaced(&cluster, "demo-2", &before).await?;
    writer.progress(20).await?;

    // The one that leads: it has to hand over.
    let corrupt = cluster.leader_pod().await?;
    let corrupt = corrupt.strip_suffix("-0").context("no pod of a member")?;
    let before = id(&cluster, corrupt).await?;
    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    let mut alarm = AlarmOptions::new();
    alarm.with_member(u64::from_str_radix(&before, 16)?);
    client.alarm(AlarmAction::Activate, AlarmType::Corrupt, Some(alarm)).await?;
    replaced(&cluster, corrupt, &before).await?;
    writer.progress(20).await?;

    let before = id(&cluster, "demo-1").await?;
    page.run("replace-member").await?;
    replaced(&cluster, "demo-1", &before).await?;
    writer.progress(20).await?;

    replaced_while_its_pod_is_stuck(&cluster, "demo-2", &writer).await?;
    println!("{} acknowledged writes are there", writer.verify().await?);

    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    let mut filled = false;
    for _ in 0..100 {
        let put = client.put("large", vec![b'x'; 1_000_000], None).await;
        if put.is_err_and(|error| error.to_string().contains("database space exceeded")) {
            filled = true;
            break;
        }
    }
    ensure!(filled, "the store took 100 MB");
    wait_for("room for a write", PATIENCE, || async {
        let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
        Ok(client.put("small", "x", None).await.is_ok().then_some(()))
    })
    .await?;
    cluster.settled(3).await?;
    ensure!(cluster.get().await?["status"]["alarms"].is_null(), "an alarm is left");
    cluster.remove().await
}

#[tokio::test]
async fn a_lost_quorum_is_recovered_from_the_member_that_a_person_names() -> Result<()> {
    let cluster = Cluster::apply("demo", 3).await?;
    cluster.settled(3).await?;
    let page = Page::open("repair.md", &cluster.namespace).await?;
    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    let written = client.put("before", "1", None).await?.take_header().context("no header")?.revision();
    for name in ["demo-1", "demo-2"] {
        lose_volume(&cluster, name).await?;
    }
    cluster.in_phase("Unavailable").await?;
    page.run("recover-from").await?;
    cluster.settled(3).await?;
    for endpoint in cluster.endpoints().await? {
        let mut client = cluster.connect(&endpoint).await?;
        let answer = client.get("before", None).await?;
        ensure!(answer.kvs().first().is_some_and(|kv| kv.value() == b"1"), "{endpoint} lost a key");
        let revision = answer.header().context("no header")?.revision();
        ensure!(revision >= written + 1_000_000_000, "{endpoint} is at revision {revision}");
    }
    let annotations = cluster.get().await?["metadata"]["annotations"].clone();
    ensure!(annotations["keelson.dev/recover-from"].is_null(), "the request was not taken back");
    // Whoever restarts now does not leave the others behind.
    let pods = cluster.pods().await?;
    for pod in &pods {
        let arguments = serde_json::to_string(&pod.spec)?;
        ensure!(!arguments.contains("force-new-cluster"), "{arguments}");
    }
    cluster.remove().await
}
