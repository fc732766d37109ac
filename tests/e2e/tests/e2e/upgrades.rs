//! Rollouts, one that fails, and larger volumes, by the very lines of docs/upgrades.md.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, is_ready},
    page::Page,
    wait_for,
    writer::Writer,
};
use kube::ResourceExt;
use serde_json::{Value, json};

fn arguments(pod: &Pod) -> String {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.iter().flat_map(|container| container.args.iter().flatten()).cloned().collect::<Vec<_>>().join(" ")
}

/// The uids of the members' pods.
async fn pods(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.pods().await?.iter().filter_map(ResourceExt::uid).collect())
}

/// The members in the order in which they were restarted with these options, once all three were.
async fn order(cluster: &Cluster, options: &Value) -> Result<Vec<String>> {
    wait_for("all members to be restarted", PATIENCE, || async {
        let rollout = cluster.get().await?["status"]["rollout"].clone();
        let members: Vec<String> = serde_json::from_value(rollout["members"].clone()).unwrap_or_default();
        ensure!(members.len() == 3 && rollout["target"]["options"] == *options, "the rollout is {rollout}");
        Ok(Some(members))
    })
    .await
}

/// With `onDeadline: RollBack` the member that fails gets back what it ran before, though the spec still asks for the rest.
async fn is_taken_back(cluster: &Cluster) -> Result<()> {
    let before = pods(cluster).await?;
    let template = cluster.get().await?["status"]["template"].clone();
    let rollout = json!({"progressDeadline": "20s", "onDeadline": "RollBack"});
    cluster.patch(json!({"options": {"no-such-flag": "1"}, "rollout": rollout})).await?;
    wait_for("the rollout to be taken back", PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let stalled = conditions.find(|it| it["type"] == "Stalled").cloned().unwrap_or_default();
        ensure!(stalled["status"] == "True" && stalled["reason"] == "RolledBack", "status is {status}");
        ensure!(status["template"] == template, "members are to run {}", status["template"]);
        for pod in cluster.pods().await? {
            let runs = is_ready(&pod) && !arguments(&pod).contains("no-such-flag");
            ensure!(runs, "{} does not run what it ran before", pod.name_any());
        }
        Ok(Some(()))
    })
    .await?;
    let now = pods(cluster).await?;
    ensure!(now.iter().filter(|uid| before.contains(uid)).count() == 2, "more than the one was restarted");
    cluster
        .patch(json!({"options": {"no-such-flag": null}, "rollout": {"progressDeadline": "10m", "onDeadline": null}}))
        .await?;
    cluster.settled(3).await?;
    ensure!(pods(cluster).await? == now, "members were restarted with what they run");
    Ok(())
}

#[tokio::test]
async fn rollouts_keep_their_target_stop_when_they_fail_and_are_taken_back() -> Result<()> {
    let cluster = Cluster::apply("demo", 3).await?;
    cluster.settled(3).await?;
    let page = Page::open("upgrades.md", &cluster.namespace).await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    let before = pods(&cluster).await?;
    let leader = cluster.leader_pod().await?;
    page.run("v0.1.1").await?;
    let told = page.run("=RollingOut");
    let edited = async {
        cluster.in_phase("RollingOut").await?;
        cluster
            .patch(json!({"podTemplate": {"labels": {"team": "storage"}}, "options": {"snapshot-count": "30000"}}))
            .await?;
        let target = json!({"snapshot-count": "20000"});
        let options = cluster.get().await?["status"]["rollout"]["target"]["options"].clone();
        ensure!(options == target, "the target is {options}");
        let order = order(&cluster, &target).await?;
        let last = format!("{}-0", order[2]);
        ensure!(last == leader, "{leader} led, and they were restarted in the order {order:?}");
        Ok(())
    };
    let (told, edited) = tokio::join!(told, edited);
    edited?;
    ensure!(told?.contains("demo-"), "no member was named");
    cluster.settled(3).await?;
    let after = cluster.pods().await?;
    for pod in &after {
        ensure!(!before.contains(&pod.uid().unwrap_or_default()), "{} was not restarted", pod.name_any());
        ensure!(arguments(pod).contains("--snapshot-count=30000"), "{} has not the last option", pod.name_any());
        ensure!(pod.labels().get("team").is_some_and(|team| team == "storage"), "{} has no label", pod.name_any());
    }
    ensure!(cluster.get().await?["status"]["serverVersion"] == "v0.1.1", "another version runs");
    writer.progress(50).await?;

    let before = pods(&cluster).await?;
    page.run("no-such-flag\":\"1").await?;
    let why = page.run("condition=Stalled").await?;
    ensure!(why.contains("no progress within 20s, waiting for demo-"), "{why}");
    let same = pods(&cluster).await?.iter().filter(|uid| before.contains(uid)).count();
    ensure!(same == 2, "{same} members were left alone");
    writer.progress(50).await?;
    page.run("no-such-flag\":null").await?;
    cluster.settled(3).await?;
    let back = pods(&cluster).await?;
    ensure!(back.iter().filter(|uid| before.contains(uid)).count() == 2, "more than the one was restarted");
    is_taken_back(&cluster).await?;
    let back = pods(&cluster).await?;
    writer.progress(50).await?;

    page.run("\"size\":\"2Gi\"").await?;
    cluster.patch(json!({"podTemplate": {"labels": {"team": "data"}}})).await?;
    cluster.settled(3).await?;
    ensure!(pods(&cluster).await? == back, "members were restarted for larger volumes or a label");
    let smaller = cluster.patch(json!({"storage": {"size": "1Gi"}})).await;
    let refusal = smaller.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refusal.contains("volumes do not shrink"), "{refusal}");

    page.run("restarted").await?;
    cluster.settled(3).await?;
    let restarted = pods(&cluster).await?;
    ensure!(restarted.len() == 3 && !restarted.iter().any(|uid| back.contains(uid)), "a member was not restarted");
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await
}

#[tokio::test]
async fn a_member_that_is_alone_is_restarted_when_that_is_accepted_and_says_why_it_does_not_start() -> Result<()> {
    let cluster = Cluster::apply("demo", 1).await?;
    cluster.settled(1).await?;
    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    client.put("before", "kept", None).await?;

    let before = pods(&cluster).await?;
    cluster.patch(json!({"options": {"snapshot-count": "20000"}})).await?;
    cluster.in_phase("RollingOut").await?;
    let waits = cluster.get().await?["status"]["nextAction"]["waitingFor"].to_string();
    ensure!(waits.contains("spec.rollout.allowInterruption"), "{waits}");
    ensure!(pods(&cluster).await? == before, "it was interrupted");

    Page::open("upgrades.md", &cluster.namespace).await?.run("allowInterruption").await?;
    cluster.settled(1).await?;
    let after = cluster.pods().await?;
    ensure!(arguments(&after[0]).contains("--snapshot-count=20000"), "it has not the option");

    cluster.patch(json!({"options": {"no-such-flag": "1"}})).await?;
    cluster.tells("flag provided but not defined: -no-such-flag").await?;
    cluster.patch(json!({"options": {"no-such-flag": null}})).await?;
    cluster.settled(1).await?;
    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    ensure!(client.get("before", None).await?.count() == 1, "what was written is gone");
    cluster.remove().await
}
