//! Authentication by the lines of docs/auth.md: root, a user with a role, a new password, a backup and a restore of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use etcd_client::{Client as Etcd, ConnectOptions, Error as EtcdError};
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters, condition, manifest, resources},
    page::Page,
    wait_for,
};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

async fn as_user(cluster: &Cluster, user: &str, password: &str) -> Result<Etcd, EtcdError> {
    let endpoints = cluster.endpoints().await.unwrap_or_default();
    let options = ConnectOptions::new().with_user(user, password).with_timeout(Duration::from_secs(10));
    Etcd::connect(endpoints, Some(options)).await
}

#[tokio::test]
async fn users_and_roles_are_as_declared_and_the_operator_goes_on_as_root() -> Result<()> {
    let cluster = Cluster::unborn("demo-auth").await?;
    let page = Page::open("auth.md", &cluster.namespace).await?;
    page.run("kubectl apply").await?;
    cluster.settled(3).await?;
    let mut nobody = cluster.connect(&cluster.endpoints().await?[0]).await?;
    ensure!(nobody.put("/app/a", "1", None).await.is_err(), "somebody without a user wrote");
    let mut app = as_user(&cluster, "app", "first-of-app").await?;
    app.put("/app/a", "1", None).await?;
    ensure!(app.put("/other", "1", None).await.is_err(), "app wrote where it may not");

    // What somebody grants by hand does not stay.
    let password = page.run("demo-auth-root").await?;
    let mut root = as_user(&cluster, "root", &password).await?;
    root.user_grant_role("app", "root").await?;
    wait_for("the role to be taken away", PATIENCE, || async {
        let mut root = as_user(&cluster, "root", &password).await?;
        let roles = root.user_get("app").await?.roles().to_vec();
        ensure!(roles == ["app"], "its roles are {roles:?}");
        Ok(Some(()))
    })
    .await?;

    page.run("patch secret app-password").await?;
    // Its label is why the operator is told at once.
    wait_for("the new password", Duration::from_secs(20), || async {
        as_user(&cluster, "app", "second-of-app").await?;
        Ok(Some(()))
    })
    .await?;
    ensure!(as_user(&cluster, "app", "first-of-app").await.is_err(), "the old password is still good");

    let before = password;
    page.run("patch secret/demo-auth-root").await?;
    wait_for("root's new password", PATIENCE, || async {
        as_user(&cluster, "root", "second-of-root").await?;
        let applied = cluster.secret("demo-auth-root").await?["applied-password"].clone();
        Ok((applied == b"second-of-root").then_some(()))
    })
    .await?;
    ensure!(as_user(&cluster, "root", &before).await.is_err(), "root's old password is still good");

    // Members join and leave a cluster that wants to know who asks.
    cluster.scale(1).await?;
    cluster.settled(1).await?;
    page.run("kubectl delete etcduser/app").await?;
    ensure!(as_user(&cluster, "app", "second-of-app").await.is_err(), "the user is still there");
    restored(&cluster, "second-of-root").await?;
    cluster.remove().await
}

/// Applies an EtcdUser or an EtcdRole.
async fn declare(cluster: &Cluster, kind: &str, name: &str, spec: Value) -> Result<()> {
    let object = json!({"apiVersion": "keelson.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let api = resources(&cluster.client, &cluster.namespace, kind);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

async fn auth_is(cluster: &Cluster, enabled: bool) -> Result<()> {
    wait_for("authentication to be as asked for", PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        let ready = status["auth"]["enabled"] == enabled && condition(&status, "AuthReady") == "True";
        ensure!(ready, "status is {status}");
        Ok(Some(()))
    })
    .await
}

/// The client's certificate is for `client`; the operator's is for nobody that the store knows.
#[tokio::test]
async fn certificates_say_who_clients_are_and_authentication_may_be_turned_off() -> Result<()> {
    let mut cluster = Cluster::unborn("known").await?;
    cluster.tls = true;
    let mut object = manifest("known", 3);
    (object["spec"]["tls"], object["spec"]["auth"]) = (json!({}), json!({}));
    let api = clusters(&cluster.client, &cluster.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    cluster.settled(3).await?;
    auth_is(&cluster, true).await?;
    let permissions = json!([{"key": "/app/", "prefix": true, "access": "ReadWrite"}]);
    declare(&cluster, "EtcdRole", "app", json!({"cluster": "known", "permissions": permissions})).await?;
    declare(&cluster, "EtcdUser", "client", json!({"cluster": "known", "roles": ["app"]})).await?;
    wait_for("the client to be known", PATIENCE, || async {
        let mut client = cluster.connect(&cluster.endpoints().await?[0]).await?;
        client.put("/app/a", "1", None).await?;
        Ok(Some(()))
    })
    .await?;
    for endpoint in cluster.endpoints().await? {
        let mut client = cluster.connect(&endpoint).await?;
        ensure!(client.get("/app/a", None).await?.kvs().len() == 1, "{endpoint} has not what was written");
        ensure!(client.put("/other", "1", None).await.is_err(), "client wrote where it may not, by {endpoint}");
    }

    // Who was started again knows nobody's token, root's neither.
    let pods: Vec<String> = cluster.pods().await?.iter().map(ResourceExt::name_any).collect();
    cluster.kill(&pods[..1]).await?;
    cluster.settled(3).await?;

    copied(&cluster).await?;
    cluster.patch(json!({"auth": {"enabled": false}})).await?;
    auth_is(&cluster, false).await?;
    cluster.connect(&cluster.endpoints().await?[0]).await?.put("/other", "1", None).await?;
    cluster.patch(json!({"auth": null})).await?;
    cluster.scale(1).await?;
    cluster.settled(1).await?;
    cluster.remove().await
}

/// A cluster with the data of this one, which asks for certificates and passwords while it is copied.
async fn copied(cluster: &Cluster) -> Result<()> {
    let mut object = manifest("copied", 1);
    let etcd = json!({"endpoint": format!("https://known-client.{}.svc:2379", cluster.namespace),
        "caSecret": "known-client-tls", "certificateSecret": "known-client-tls", "rootSecret": "known-root"});
    object["spec"]["auth"] = json!({"rootSecret": "known-root"});
    object["spec"]["bootstrap"] = json!({"recovery": {"etcd": etcd}});
    let api = clusters(&cluster.client, &cluster.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let copy = Cluster { name: "copied".into(), tls: false, ..cluster.clone() };
    copy.settled(1).await?;
    let password = String::from_utf8(cluster.secret("known-root").await?["password"].clone())?;
    let mut root = as_user(&copy, "root", &password).await?;
    let read = root.get("/app/a", None).await?;
    ensure!(read.kvs().len() == 1, "what was copied is not there");
    ensure!(read.header().is_some_and(|header| header.revision() > 1_000_000_000), "revisions may be given twice");
    ensure!(root.user_get("client").await?.roles() == ["app"], "users and roles did not come along");
    api.delete("copied", &DeleteParams::default()).await?;
    Ok(())
}

/// A backup is taken as root; a cluster made from it is told root's password by the Secret of the first.
async fn restored(cluster: &Cluster, password: &str) -> Result<()> {
    let store = json!({"volume": {"claimName": "backups"}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "backups"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims: kube::Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> =
        kube::Api::namespaced(cluster.client.clone(), &cluster.namespace);
    claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    let backup = json!({"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdBackup", "metadata": {"name": "guarded"},
        "spec": {"cluster": cluster.name, "store": store}});
    let backups = resources(&cluster.client, &cluster.namespace, "EtcdBackup");
    backups.create(&PostParams::default(), &serde_json::from_value(backup)?).await?;
    let mut object = manifest("again", 1);
    object["spec"]["auth"] = json!({"rootSecret": "demo-auth-root"});
    object["spec"]["bootstrap"] = json!({"recovery": {"backup": "guarded"}});
    let api = clusters(&cluster.client, &cluster.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let again = Cluster { name: "again".into(), ..cluster.clone() };
    again.settled(1).await?;
    let mut root = as_user(&again, "root", password).await?;
    ensure!(root.get("/app/a", None).await?.kvs().len() == 1, "what was backed up is not there");
    api.delete("again", &DeleteParams::default()).await?;
    Ok(())
}
