//! One operator with many clusters: what it takes, and how soon it answers. `make scale` runs this on a Kubernetes of its own.
//!
//! The clusters are real ones, of one member each, so that the operator has all to do that it has for a cluster at rest: it reads
//! the resource, asks the member, and compares what there is with what should be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use keelson_e2e::cluster::{Cluster, clusters, manifest};
use keelson_e2e::faulty::Faulty;
use keelson_e2e::operator::Operator;
use keelson_e2e::wait_for;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// What is promised: the most that the operator takes of a core at rest, of memory in MiB, and until a change is answered.
const CORE: f64 = 0.10;
const MEMORY: u64 = 150;
const ANSWER: Duration = Duration::from_secs(2);

/// How many start at the same time: this is no test of how many servers a machine can start.
const BATCH: usize = 20;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn running(cluster: &Cluster) -> Result<usize> {
    let all = clusters(&cluster.client, &cluster.namespace).list(&ListParams::default()).await?;
    let is_running = |object: &&kube::api::DynamicObject| {
        let status = &object.data["status"];
        status["phase"] == "Running" && status["observedGeneration"].as_i64() == object.metadata.generation
    };
    Ok(all.items.iter().filter(is_running).count())
}

#[tokio::test]
async fn one_operator_looks_after_many_clusters() -> Result<()> {
    let count = setting("KEELSON_SCALE_CLUSTERS", 200);
    let rest = Duration::from_secs(setting("KEELSON_SCALE_SECONDS", 60) as u64);
    let one = Cluster::unborn("c000").await?;
    let operator = Operator::start(&one.namespace, "first").await?;
    operator.leads().await?;
    let api = clusters(&one.client, &one.namespace);
    let begun = Instant::now();
    for first in (0..count).step_by(BATCH) {
        let last = (first + BATCH).min(count);
        for number in first..last {
            let object = serde_json::from_value(manifest(&format!("c{number:03}"), 1))?;
            api.create(&PostParams::default(), &object).await?;
        }
        wait_for(&format!("{last} clusters"), Duration::from_secs(240), || async {
            let running = running(&one).await?;
            ensure!(running == last, "{running} are");
            Ok(Some(()))
        })
        .await?;
    }
    println!("{count} clusters of one member run after {:.0} s", begun.elapsed().as_secs_f64());

    at_rest(&operator, rest).await?;
    changes(&one, count).await?;
    let (_, most) = operator.memory()?;
    println!("memory: at most {most} MiB in all this time");
    ensure!(most < MEMORY, "that is more than {MEMORY} MiB");
    drop(operator);

    audit(&one, count).await?;
    one.remove_namespace().await
}

/// What it takes while nothing changes.
async fn at_rest(operator: &Operator, rest: Duration) -> Result<()> {
    // Sizes change a last time when members flush what was written.
    wait_for("a rest", Duration::from_secs(300), || async {
        let written = operator.metric("status_writes_total", "").await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok((operator.metric("status_writes_total", "").await? == written).then_some(()))
    })
    .await?;
    let passes = operator.metric("reconcile_passes_total", "").await?;
    let asked = operator.metric("api_requests_total", "").await?;
    let (spent, begun) = (operator.processor_seconds()?, Instant::now());
    tokio::time::sleep(rest).await;
    let seconds = begun.elapsed().as_secs_f64();
    let core = (operator.processor_seconds()? - spent) / seconds;
    let passes = (operator.metric("reconcile_passes_total", "").await? - passes) / seconds;
    let asked = (operator.metric("api_requests_total", "").await? - asked) / seconds;
    let (memory, _) = operator.memory()?;
    println!(
        "at rest: {:.1} % of a core, {memory} MiB, {passes:.1} passes and {asked:.1} requests a second",
        core * 100.0
    );
    ensure!(core < CORE, "that is more than {:.0} % of a core", CORE * 100.0);
    Ok(())
}

/// How long it takes until a label that a spec asks for is on the running pod, and the status says that all is done.
async fn changes(one: &Cluster, count: usize) -> Result<()> {
    let mut times = Vec::new();
    for number in (0..count).step_by((count / 10).max(1)) {
        let changed = Cluster { name: format!("c{number:03}"), ..one.clone() };
        let pods: Api<Pod> = Api::namespaced(one.client.clone(), &one.namespace);
        let begun = Instant::now();
        let patch = json!({"spec": {"podTemplate": {"labels": {"scale": "changed"}}}});
        clusters(&one.client, &one.namespace)
            .patch(&changed.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        loop {
            let object = changed.get().await?;
            let answered = object["status"]["observedGeneration"] == object["metadata"]["generation"]
                && object["status"]["phase"] == "Running";
            let pod = pods.get(&format!("{}-0-0", changed.name)).await?;
            let labelled = pod.metadata.labels.is_some_and(|labels| labels.contains_key("scale"));
            if answered && labelled {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "{} is not changed: {object}", changed.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.push(begun.elapsed());
    }
    times.sort();
    let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("a change is answered after {:.2} s, at most {:.2} s", middle.as_secs_f64(), most.as_secs_f64());
    ensure!(most < ANSWER, "that is more than {ANSWER:?}");
    Ok(())
}

/// Another operator takes over: what it asks the API server for.
async fn audit(one: &Cluster, count: usize) -> Result<()> {
    let proxy = Faulty::start().await?;
    let begun = Instant::now();
    let operator = Operator::on(&proxy, &one.namespace, "second").await?;
    operator.leads().await?;
    let led = Instant::now();
    wait_for("all clusters were looked at", Duration::from_secs(120), || async {
        Ok((operator.metric("reconcile_passes_total", "kind=\"cluster\"").await? >= count as f64).then_some(()))
    })
    .await?;
    println!(
        "another operator leads after {:.1} s and has looked at all clusters {:.1} s later",
        (led - begun).as_secs_f64(),
        led.elapsed().as_secs_f64()
    );
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut kinds = BTreeMap::<String, usize>::new();
    for seen in proxy.seen().iter().filter(|it| !it.asked.is_lease()) {
        let is_named = |part: &str| part.starts_with('c') && part[1..].starts_with(|c: char| c.is_ascii_digit());
        let parts: Vec<&str> = seen.asked.path.split('/').map(|part| if is_named(part) { "*" } else { part }).collect();
        let what = if seen.asked.watches { "WATCH" } else { seen.asked.method.as_str() };
        *kinds.entry(format!("{what} {}", parts.join("/"))).or_default() += 1;
        let query = &seen.asked.query;
        let all_pods = seen.asked.path.ends_with("/pods") && !query.contains("labelSelector");
        ensure!(!all_pods, "all pods were asked for: {query}");
    }
    println!("its requests in the first {:.0} s:", begun.elapsed().as_secs_f64());
    kinds.iter().for_each(|(kind, count)| println!("{count:>6} {kind}"));
    let writes: Vec<&String> =
        kinds.keys().filter(|kind| !kind.starts_with("GET") && !kind.starts_with("WATCH")).collect();
    println!("writes: {writes:?}");
    Ok(())
}
