//! The operator on an API server that fails in every way that a real one does. It must lose nothing, do nothing twice, and leave an
//! API server alone that is in trouble. `tests/e2e/run.sh` runs these before an operator is installed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use keelson_e2e::cluster::{Cluster, clusters, manifest, resources};
use keelson_e2e::faulty::{Asked, Fault, Faulty, Seen};
use keelson_e2e::operator::Operator;
use keelson_e2e::wait_for;
use keelson_e2e::writer::Writer;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// How long an API server is away.
const AWAY: Duration = Duration::from_secs(30);

/// Requests fail at random, each kind of fault in its turn; those about the Lease do not. A pass makes several requests: more
/// than every second one comes to nothing.
fn storm(seed: u64) -> impl FnMut(&Asked) -> Option<Fault> + Send {
    let mut random = StdRng::seed_from_u64(seed);
    let mut reads = Fault::READS.iter().cycle();
    let mut writes = Fault::WRITES.iter().cycle();
    let mut watches = Fault::WATCHES.iter().cycle();
    move |asked| {
        let (of, percent) = match (asked.watches, asked.writes()) {
            (true, _) => (&mut watches, 50),
            (_, true) => (&mut writes, 15),
            _ => (&mut reads, 10),
        };
        let strikes = !asked.is_lease() && random.random_range(0..100) < percent;
        if strikes { of.next().copied() } else { None }
    }
}

fn seed() -> u64 {
    let given = std::env::var("KEELSON_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000))
}

async fn create(cluster: &Cluster, size: i64) -> Result<()> {
    let object = serde_json::from_value(manifest(&cluster.name, size))?;
    clusters(&cluster.client, &cluster.namespace).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// What was created more than once, but for Events.
fn created_twice(seen: &[Seen]) -> Vec<String> {
    let created = seen.iter().filter(|it| it.code == Some(201) && !it.asked.path.contains("/events"));
    let mut counts = BTreeMap::<&str, usize>::new();
    // A POST names the kind only; what it makes has names that cannot be given twice.
    for it in created.filter(|it| it.asked.method == Method::PATCH) {
        *counts.entry(&it.asked.path).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(path, count)| format!("{path} {count} times")).collect()
}

/// Faults that did not happen.
fn missing(seen: &[Seen]) -> Vec<Fault> {
    let all = Fault::READS.into_iter().chain(Fault::WRITES).chain(Fault::WATCHES);
    all.filter(|fault| !seen.iter().any(|it| it.fault == Some(*fault))).collect()
}

/// Every line of the log is JSON; those out of passes, of which there must be some of each kind, name the cluster and its namespace.
/// How many those are.
fn lines_of_passes(log: &str, cluster: &str, namespace: &str) -> Result<usize> {
    let lines: Vec<Value> =
        log.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("a line is no JSON")?;
    let is = |line: &Value, message: &str| line["message"] == message;
    let passes = ["done", "phase", "the pass failed"];
    for line in lines.iter().filter(|line| passes.iter().any(|message| is(line, message))) {
        let span = &line["span"];
        let named = span["cluster"] == cluster && span["namespace"] == namespace && span["kind"] == "cluster";
        ensure!(named && span["object"] == cluster, "whose is {line}");
    }
    let missing: Vec<&str> = passes.into_iter().filter(|message| !lines.iter().any(|line| is(line, message))).collect();
    ensure!(missing.is_empty(), "the log does not say {missing:?}");
    Ok(lines.iter().filter(|line| line["span"]["cluster"] == cluster).count())
}

/// These clusters keep no secrets, and their operators have no pods whose logs could tell them.
async fn end(cluster: Cluster) -> Result<()> {
    cluster.delete().await?;
    cluster.remove_namespace().await
}

#[tokio::test]
async fn a_cluster_is_founded_changed_and_deleted_once_though_requests_fail() -> Result<()> {
    let seed = seed();
    println!("KEELSON_E2E_SEED={seed}");
    let cluster = Cluster::unborn("stormy").await?;
    let faulty = Faulty::start().await?;
    faulty.rule(storm(seed));
    let mut operator = Operator::on(&faulty, &cluster.namespace, "one").await?;
    let begun = Instant::now();

    create(&cluster, 3).await?;
    cluster.settled(3).await?;
    let id = cluster.get().await?["status"]["clusterID"].clone();
    let writer = Writer::start(&cluster);
    cluster.patch(json!({"options": {"snapshot-count": "5000"}})).await?;
    cluster.settled(3).await?;
    writer.progress(20).await?;
    println!("founded and rolled out after {:.0} s", begun.elapsed().as_secs_f64());

    let mut member = cluster.connect(&cluster.endpoints().await?[0]).await?;
    let listed = member.member_list().await?;
    let mut names: Vec<&str> = listed.members().iter().map(|member| member.name()).collect();
    names.sort_unstable();
    ensure!(names == ["stormy-0", "stormy-1", "stormy-2"], "a member was added twice: {names:?}");
    ensure!(cluster.get().await?["status"]["clusterID"] == id, "another cluster was founded");

    cluster.scale(1).await?;
    cluster.settled(1).await?;
    println!("{} acknowledged writes are there", writer.verify().await?);
    ensure!(cluster.get().await?["status"]["clusterID"] == id, "another cluster was founded");

    // Until each fault has struck.
    for count in 0.. {
        let missing = missing(&faulty.seen());
        if missing.is_empty() {
            break;
        }
        ensure!(count < 30, "these did not happen: {missing:?}");
        // Watches that have met no fault would go on for minutes: they begin anew.
        faulty.cut();
        cluster.patch(json!({"podTemplate": {"labels": {"count": count.to_string()}}})).await?;
        cluster.settled(1).await?;
    }
    for kind in ["api", "act", "watch"] {
        let count = operator.metric("reconcile_failures_total", &format!("kind=\"{kind}\"")).await?;
        println!("{count} failures of kind {kind}");
    }
    ensure!(operator.metric("reconcile_failures_total", "kind=\"watch\"").await? > 0.0, "no watch failed");
    ensure!(operator.metric("reconcile_failures_total", "kind=\"a").await? > 0.0, "no pass failed");
    for code in ["409", "410", "429", "500", "503", "none"] {
        let count = operator.metric("api_requests_total", &format!("code=\"{code}\"")).await?;
        ensure!(count > 0.0, "no request ended in {code}");
    }

    let api = clusters(&cluster.client, &cluster.namespace);
    api.delete(&cluster.name, &DeleteParams::default()).await?;
    wait_for("nothing is told of the cluster any more", Duration::from_secs(120), || async {
        ensure!(api.get_opt(&cluster.name).await?.is_none(), "it is still there");
        Ok((!operator.metrics().await?.contains("cluster=\"stormy\"")).then_some(()))
    })
    .await?;
    ensure!(operator.ended()?.is_none(), "the operator ended");
    let lines = lines_of_passes(&operator.log(), "stormy", &cluster.namespace)?;
    println!("{lines} lines of the log name the cluster");

    let seen = faulty.seen();
    let twice = created_twice(&seen);
    ensure!(twice.is_empty(), "created again: {twice:?}");
    let mut counts = BTreeMap::<Fault, usize>::new();
    seen.iter().filter_map(|it| it.fault).for_each(|fault| *counts.entry(fault).or_default() += 1);
    println!("{} requests in {:.0} s, of which failed: {counts:?}", seen.len(), begun.elapsed().as_secs_f64());
    cluster.remove_namespace().await
}

#[tokio::test]
async fn an_api_server_that_is_away_is_asked_less_and_less_and_the_operator_goes_on_when_it_is_back() -> Result<()> {
    let cluster = Cluster::unborn("away").await?;
    let faulty = Faulty::start().await?;
    let mut operator = Operator::on(&faulty, &cluster.namespace, "one").await?;
    create(&cluster, 1).await?;
    // There is nothing that it could be in: a pass is made every few seconds.
    let user = json!({
        "apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdUser", "metadata": {"name": "u"},
        "spec": {"cluster": "elsewhere"},
    });
    let users = resources(&cluster.client, &cluster.namespace, "EtcdUser");
    users.create(&PostParams::default(), &serde_json::from_value(user)?).await?;
    cluster.settled(1).await?;

    // All but the Lease, or the operator would end.
    faulty.rule(|asked| (!asked.is_lease()).then_some(Fault::Unavailable));
    faulty.cut();
    cluster.scale(3).await?;
    tokio::time::sleep(AWAY).await;
    let (all, late) = (faulty.count_within(AWAY), faulty.count_within(AWAY / 2));
    println!("{all} requests in {} s that were refused, {late} of them in the second half", AWAY.as_secs());
    ensure!(all > 0 && late <= all / 2, "they do not become fewer: {all}, {late}");
    ensure!(all < 150, "they are too many: {all}");

    let back = Instant::now();
    faulty.rule(|_| None);
    cluster.settled(3).await?;
    println!("what was asked for meanwhile was done {:.0} s after it was back", back.elapsed().as_secs_f64());
    ensure!(operator.ended()?.is_none(), "the operator ended");
    end(cluster).await
}

#[tokio::test]
async fn an_operator_that_cannot_renew_its_lease_has_ended_before_another_writes() -> Result<()> {
    let cluster = Cluster::unborn("leased").await?;
    let (first, second) = (Faulty::start().await?, Faulty::start().await?);
    let mut leader = Operator::on(&first, &cluster.namespace, "first").await?;
    leader.leads().await?;
    let stand_by = Operator::on(&second, &cluster.namespace, "second").await?;
    create(&cluster, 1).await?;
    cluster.settled(1).await?;

    // It has much to do when its renewals fail.
    cluster.scale(3).await?;
    first.rule(|asked| if asked.is_lease() { Some(Fault::Stalled) } else { None });
    let ended = wait_for("the first one ends", Duration::from_secs(60), || {
        let ended = leader.ended();
        async move { ended }
    })
    .await?;
    let at = Instant::now();
    ensure!(!ended.success(), "it ended as if all was well");
    ensure!(leader.log().contains("lost the lease"), "it does not say why: {}", leader.log());
    ensure!(leader.log().lines().count() > 0);

    stand_by.leads().await?;
    cluster.settled(3).await?;
    let seen = wait_for("the second one writes", Duration::from_secs(60), || async {
        let seen = second.seen();
        Ok(seen.iter().any(|it| !it.asked.is_lease() && it.asked.writes()).then_some(seen))
    })
    .await?;
    let took = seen.iter().filter(|it| it.asked.is_lease() && it.code == Some(200) && it.asked.writes());
    let took = took.map(|it| it.asked.at).min();
    let wrote = seen.iter().filter(|it| !it.asked.is_lease() && it.asked.writes()).map(|it| it.asked.at).min();
    ensure!(took.is_some_and(|took| took > at), "the Lease was taken before the first one had ended");
    ensure!(wrote > took, "the second one wrote before it led");
    let last = first.seen().into_iter().filter(|it| !it.asked.is_lease()).map(|it| it.asked.at).max();
    ensure!(last < wrote, "both wrote");
    end(cluster).await
}

#[tokio::test]
async fn an_operator_whose_lease_another_took_ends_at_once() -> Result<()> {
    let cluster = Cluster::unborn("taken").await?;
    let faulty = Faulty::start().await?;
    let mut operator = Operator::on(&faulty, &cluster.namespace, "first").await?;
    operator.leads().await?;
    let leases: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
        kube::Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let taken = json!({"spec": {"holderIdentity": "another"}});
    leases.patch("keelson-operator", &PatchParams::default(), &Patch::Merge(&taken)).await?;
    let ended = wait_for("the operator ends", Duration::from_secs(8), || {
        let ended = operator.ended();
        async move { ended }
    })
    .await?;
    ensure!(!ended.success(), "it ended as if all was well");
    let lease = leases.get("keelson-operator").await?;
    ensure!(lease.spec.and_then(|spec| spec.holder_identity).as_deref() == Some("another"), "it took the Lease back");
    cluster.remove_namespace().await
}
