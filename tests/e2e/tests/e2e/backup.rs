//! Backups, by the very lines of docs/backup.md where it has some.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use keelson_e2e::cluster::{Cluster, PATIENCE, clusters, condition, manifest, resources};
use keelson_e2e::page::Page;
use keelson_e2e::s3::S3;
use keelson_e2e::wait_for;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

fn backups(cluster: &Cluster) -> Api<DynamicObject> {
    resources(&cluster.client, &cluster.namespace, "EtcdBackup")
}

async fn status(cluster: &Cluster, name: &str) -> Result<Value> {
    Ok(serde_json::to_value(backups(cluster).get(name).await?)?["status"].clone())
}

/// Makes an EtcdBackup of the cluster in this store.
async fn take(cluster: &Cluster, name: &str, store: Value, more: Value) -> Result<()> {
    let mut spec = json!({"cluster": cluster.name, "store": store});
    spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let object =
        json!({"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdBackup", "metadata": {"name": name}, "spec": spec});
    backups(cluster).create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

async fn reaches(cluster: &Cluster, name: &str, phase: &str) -> Result<Value> {
    wait_for(&format!("backup {name} is {phase}"), PATIENCE, || async {
        let status = status(cluster, name).await?;
        ensure!(status["phase"] == phase, "it is {status}");
        Ok(Some(status))
    })
    .await
}

/// Credentials that moto takes; a real S3's are those of the environment.
async fn credentials(cluster: &Cluster) -> Result<()> {
    let value = |name: &str| {
        let value = std::env::var(name).unwrap_or_else(|_| format!("any {name}"));
        (name.to_string(), ByteString(value.into_bytes()))
    };
    let data = BTreeMap::from(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(value));
    let mut secret = Secret { data: Some(data), ..Default::default() };
    secret.metadata.name = Some("keys".into());
    Api::namespaced(cluster.client.clone(), &cluster.namespace).create(&PostParams::default(), &secret).await?;
    Ok(())
}

/// The files on the volume are seen by a backup's Job only: what is deleted is known by the Job's success.
#[tokio::test]
async fn a_backup_on_a_volume_is_taken_verified_and_deleted_by_the_lines_of_the_page() -> Result<()> {
    let cluster = Cluster::apply("demo", 1).await?;
    cluster.settled(1).await?;
    let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
    client.put("a", "1", None).await?;
    let page = Page::open("backup.md", &cluster.namespace).await?;
    page.run("kubectl apply").await?;
    let told: Value = serde_json::from_str(page.run("jsonpath").await?.rsplit_once('\n').map_or("", |(_, json)| json))?;
    let hash = client.hash_kv(0).await?.hash();
    ensure!((told["hash"].as_u64(), told["revision"].as_i64()) == (Some(hash.into()), Some(2)), "{told}");
    ensure!(told["verification"]["hashCompared"] == true && condition(&told, "Verified") == "True", "{told}");
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    wait_for("Jobs that are done go", PATIENCE, || async {
        Ok(jobs.list(&ListParams::default()).await?.items.is_empty().then_some(()))
    })
    .await?;

    ensure!(page.run("backup-schedule.yaml").await?.contains("demo-nightly"), "there is no schedule");
    crate::kubectl::backs_up(&cluster).await?;
    page.run("recovered.yaml").await?;
    let restored = Cluster { name: "demo-restored".into(), ..cluster.clone() };
    restored.settled(3).await?;
    for endpoint in restored.endpoints().await? {
        let mut member = restored.connect(&endpoint).await?;
        let read = member.get("a", None).await?;
        ensure!(read.kvs().len() == 1, "{endpoint} lacks what was backed up");
        let revision = read.header().map_or(0, etcd_client::ResponseHeader::revision);
        ensure!(revision == 1_000_000_002, "a revision that was given before may come again: {revision}");
        let old = etcd_client::WatchOptions::new().with_start_revision(2);
        let mut watch = member.watch("a", Some(old)).await?;
        let mut cancelled = false;
        while let Some(told) = watch.message().await? {
            cancelled |= told.canceled() && told.compact_revision() == revision;
            if cancelled {
                break;
            }
        }
        ensure!(cancelled, "{endpoint} let an old watch go on");
    }
    let ids = [cluster.get().await?, restored.get().await?].map(|object| object["status"]["clusterID"].clone());
    ensure!(ids[0] != ids[1], "one id for two clusters: {ids:?}");
    // The claim is free when nobody mounts it.
    clusters(&cluster.client, &cluster.namespace).delete("demo-restored", &DeleteParams::default()).await?;
    page.run("kubectl delete").await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    claims.delete("demo-backups", &DeleteParams::default()).await?;
    cluster.remove().await
}

#[tokio::test]
async fn a_backup_of_a_cluster_with_tls_goes_to_a_bucket_and_what_fails_is_told() -> Result<()> {
    let s3 = S3::start().await?;
    let mut cluster = Cluster::unborn("secure").await?;
    cluster.tls = true;
    credentials(&cluster).await?;
    take(&cluster, "early", s3.store(), json!({"verify": true, "deletionPolicy": "Delete"})).await?;
    wait_for("a word on what is missing", PATIENCE, || async {
        let told = status(&cluster, "early").await?;
        ensure!(told["reason"] == "waiting for EtcdCluster secure to be there", "{told}");
        Ok(Some(()))
    })
    .await?;
    let mut object = manifest("secure", 1);
    object["spec"]["tls"] = json!({});
    clusters(&cluster.client, &cluster.namespace)
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    let told = reaches(&cluster, "early", "Succeeded").await?;
    let path = told["path"].as_str().unwrap_or_default().to_string();
    ensure!(s3.keys().await?.contains(&path), "{path} is not among {:?}", s3.keys().await?);

    let mut nowhere = s3.store();
    nowhere["s3"]["bucket"] = "nobodys".into();
    take(&cluster, "nowhere", nowhere, json!({"timeoutSeconds": 20})).await?;
    let failed = reaches(&cluster, "nowhere", "Failed").await?;
    let reason = failed["reason"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("no backup was taken: ") && condition(&failed, "Stalled") == "True", "{failed}");

    lost_data_is_told(&cluster, &s3, &path).await?;
    retention(&cluster, &s3).await?;
    backups(&cluster).delete("early", &DeleteParams::default()).await?;
    wait_for("deletion of the backup", PATIENCE, || async {
        Ok(backups(&cluster).get_opt("early").await?.is_none().then_some(()))
    })
    .await?;
    ensure!(!s3.keys().await?.contains(&path), "{path} is still there");
    cluster.remove().await
}

/// A new cluster out of a file that is not there says so; out of one that is, without its EtcdBackup, it begins.
async fn lost_data_is_told(cluster: &Cluster, s3: &S3, path: &str) -> Result<()> {
    let api = clusters(&cluster.client, &cluster.namespace);
    let recovered = |name: &str, path: &str| {
        let mut object = manifest(name, 1);
        object["spec"]["bootstrap"] = json!({"recovery": {"file": {"store": s3.store(), "path": path}}});
        serde_json::from_value(object)
    };
    api.create(&PostParams::default(), &recovered("lost", "etcd/nothing.db")?).await?;
    api.create(&PostParams::default(), &recovered("found", path)?).await?;
    Cluster { name: "found".into(), tls: false, ..cluster.clone() }.settled(1).await?;
    wait_for("a word on what is missing", PATIENCE, || async {
        let object = serde_json::to_value(api.get("lost").await?)?;
        let waiting = object["status"]["nextAction"]["waitingFor"].as_str().unwrap_or_default().to_string();
        ensure!(waiting.contains("not found"), "it waits for {waiting}");
        Ok(Some(()))
    })
    .await?;
    for name in ["lost", "found"] {
        api.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// A schedule makes a backup within a minute, and keeps one of two; one that is suspended makes none, and keeps none that is old but
/// the last one.
async fn retention(cluster: &Cluster, s3: &S3) -> Result<()> {
    let api = resources(&cluster.client, &cluster.namespace, "EtcdBackupSchedule");
    let backup = json!({"cluster": cluster.name, "store": s3.store(), "deletionPolicy": "Delete"});
    let schedule = async |name: &str, retention: Value, suspend: bool| {
        let spec = json!({"schedule": "* * * * *", "timeZone": "Asia/Kathmandu", "retention": retention,
            "suspend": suspend, "backup": backup});
        let object = json!({"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdBackupSchedule",
            "metadata": {"name": name}, "spec": spec});
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        anyhow::Ok(())
    };
    // What the schedules seem to have made before.
    for (name, by) in [("older", "often"), ("aged-1", "asleep"), ("aged-2", "asleep")] {
        take(cluster, name, s3.store(), json!({"deletionPolicy": "Delete"})).await?;
        let label = json!({"metadata": {"labels": {"keelson.dev/backup-schedule": by}}});
        backups(cluster).patch_metadata(name, &PatchParams::default(), &Patch::Merge(&label)).await?;
    }
    let older = reaches(cluster, "older", "Succeeded").await?["path"].as_str().unwrap_or_default().to_string();
    for name in ["aged-1", "aged-2"] {
        reaches(cluster, name, "Succeeded").await?;
    }
    schedule("asleep", json!({"age": "1s"}), true).await?;
    schedule("often", json!({"count": 1}), false).await?;
    let newest = wait_for("a backup by the clock", PATIENCE, || async {
        let status = serde_json::to_value(api.get("often").await?)?["status"].clone();
        let newest = status["lastSuccessfulBackup"].as_str().unwrap_or_default();
        ensure!(newest.starts_with("often-20") && condition(&status, "Ready") == "True", "it is {status}");
        Ok(Some(newest.to_string()))
    })
    .await?;
    let schedule = serde_json::to_value(api.get("often").await?)?;
    let made = cluster.announced(&schedule, "BackupCreated").await?.related.and_then(|related| related.name);
    ensure!(made.as_ref().is_some_and(|name| name.starts_with("often-20")), "the Event names {made:?}");
    wait_for("the older one to go, with its data", PATIENCE, || async {
        let gone = backups(cluster).get_opt("older").await?.is_none() && !s3.keys().await?.contains(&older);
        Ok(gone.then_some(()))
    })
    .await?;
    let of_asleep = ListParams::default().labels("keelson.dev/backup-schedule=asleep");
    wait_for("the old one of the other schedule to go", PATIENCE, || async {
        let left = backups(cluster).list(&of_asleep).await?.items;
        let left: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
        // None was made at the time when the first schedule made one.
        ensure!(left == ["aged-2"], "there are {left:?}");
        Ok(Some(()))
    })
    .await?;
    let asleep = serde_json::to_value(api.get("asleep").await?)?["status"].clone();
    let has_times = !asleep["nextTime"].is_null() || !asleep["lastTime"].is_null();
    ensure!(!has_times && condition(&asleep, "UpToDate") == "True", "it is {asleep}");

    for name in ["often", "asleep"] {
        api.delete(name, &DeleteParams::default()).await?;
    }
    backups(cluster).delete("aged-2", &DeleteParams::default()).await?;
    ensure!(backups(cluster).get_opt(&newest).await?.is_some(), "the backup went with its schedule");
    backups(cluster).delete(&newest, &DeleteParams::default()).await?;
    Ok(())
}
