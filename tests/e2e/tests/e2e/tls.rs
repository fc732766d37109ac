//! `spec.tls`, by the very lines of docs/operator-tls.md.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::jiff::Timestamp;
use keelson_e2e::{
    cluster::{Cluster, PATIENCE, clusters, condition, manifest},
    issuer::{Authority, CaIssuer, write_secret},
    page::Page,
    wait_for,
    writer::Writer,
};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use serde_json::{Value, json};

fn certificates(object: &Value) -> Vec<(String, String)> {
    let list = object["status"]["tls"]["certificates"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    list.iter().map(|it| (text(&it["secret"]), text(&it["notAfter"]))).collect()
}

/// Waits until all certificates but the authority are others than these.
async fn replaced(cluster: &Cluster, before: &[(String, String)]) -> Result<Vec<(String, String)>> {
    wait_for("other certificates", PATIENCE, || async {
        let object = cluster.get().await?;
        let now = certificates(&object);
        let replaced = now.iter().zip(before).filter(|(now, before)| now.1 != before.1).count();
        let waits = &object["status"]["tls"]["waitingFor"];
        ensure!(replaced == 5 && waits.is_null(), "{replaced} are others, waiting for {waits}");
        Ok(Some(now))
    })
    .await
}

/// Certificates that are good for a minute after they were made: when that is over, every member shows another one.
async fn renewed_in_time(cluster: &Cluster) -> Result<()> {
    let before = certificates(&cluster.get().await?);
    cluster.patch(json!({"tls": {"validity": "2m"}})).await?;
    let short = replaced(cluster, &before).await?;
    let times = short[1..].iter().map(|(_, time)| anyhow::Ok(time.parse::<Timestamp>()?));
    let last = times.collect::<Result<Vec<_>>>()?.into_iter().max();
    wait_for("the end of the certificates", PATIENCE, || async { Ok((Some(Timestamp::now()) > last).then_some(())) })
        .await?;
    for endpoint in cluster.endpoints().await? {
        cluster.connect(&endpoint).await?.get("hello", None).await?;
    }
    let status = cluster.get().await?["status"].clone();
    ensure!(condition(&status, "TLSReady") == "True", "status is {status}");
    Ok(())
}

#[tokio::test]
async fn certificates_and_their_authority_are_replaced_under_a_client_that_writes() -> Result<()> {
    let mut cluster = Cluster::unborn("secure").await?;
    cluster.tls = true;
    let page = Page::open("operator-tls.md", &cluster.namespace).await?;
    page.run("kubectl apply").await?;
    cluster.settled(3).await?;
    ensure!(page.run("etcdctl").await?.contains("OK"), "etcdctl did not write");
    strangers_are_refused(&cluster).await?;

    let before = cluster.starts().await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    let issued = certificates(&cluster.get().await?);
    ensure!(issued.len() == 6, "an authority, two clients, three members: {issued:?}");
    page.run("720h").await?;
    replaced(&cluster, &issued).await?;
    writer.progress(50).await?;

    let authority = cluster.secret("secure-ca").await?["ca.crt"].clone();
    page.run("generation").await?;
    wait_for("another authority alone", PATIENCE, || async {
        let now = cluster.secret("secure-ca").await?;
        let object = cluster.get().await?;
        ensure!(condition(&object["status"], "TLSReady") == "True", "not ready: {}", object["status"]);
        let alone = !now.contains_key("next.crt") && !now.contains_key("old.crt");
        let everywhere = cluster.secret("secure-client-tls").await?["ca.crt"] == now["ca.crt"];
        Ok((now["ca.crt"] != authority && alone && everywhere).then_some(()))
    })
    .await?;
    writer.progress(50).await?;
    renewed_in_time(&cluster).await?;

    ensure!(cluster.starts().await? == before, "members were restarted");
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster
        .patch(json!({"storage": {"retention": {"whenScaled": "Retain"}}, "tls": {"whenDeleted": "Retain"}}))
        .await?;
    cluster.scale(1).await?;
    cluster.settled(1).await?;
    wait_for("the Secrets of former members to go", PATIENCE, || async {
        let left = certificates(&cluster.get().await?);
        Ok((left.len() == 4).then_some(()))
    })
    .await?;
    cluster.delete().await?;
    are_kept(&cluster).await?;
    cluster.remove_namespace().await
}

/// The volumes of all members, of former ones too, and the Secrets, which have no owner that would take them along.
async fn are_kept(cluster: &Cluster) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    for ordinal in 0..3 {
        let claim = claims.get(&format!("data-secure-{ordinal}-0")).await?;
        ensure!(claim.metadata.deletion_timestamp.is_none(), "the claim of member {ordinal} goes");
    }
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let kept = secrets.list(&ListParams::default().labels("keelson.dev/cluster=secure")).await?.items;
    let names: Vec<String> = kept.iter().map(ResourceExt::name_any).collect();
    for name in ["secure-ca", "secure-client-tls", "secure-operator-tls"] {
        ensure!(names.iter().any(|kept| kept == name), "Secret {name} is not among {names:?}");
    }
    ensure!(names.len() == 4, "with that of the last member: {names:?}");
    ensure!(kept.iter().all(|secret| secret.owner_references().is_empty()), "a Secret goes with its owner");
    Ok(())
}

/// Certificates of an authority of the test's own, in three Secrets.
async fn give(cluster: &Cluster) -> Result<()> {
    let authority = Authority::new()?;
    let host = format!("{}-members.{}.svc", cluster.name, cluster.namespace);
    let service = format!("{}-client.{}.svc", cluster.name, cluster.namespace);
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    let kinds = [
        ("server", vec![format!("*.{host}"), service], vec![server.clone(), client.clone()]),
        ("peer", vec![format!("*.{host}"), host], vec![server, client.clone()]),
        ("client", Vec::new(), vec![client]),
    ];
    for (name, names, usages) in kinds {
        let mut leaf = CertificateParams::new(names)?;
        leaf.extended_key_usages = usages;
        write_secret(cluster, name, authority.sign(&leaf)?).await?;
    }
    Ok(())
}

/// Waits until members and clients trust one authority, and applications have the certificate that is in this Secret.
async fn handed_out(cluster: &Cluster, source: &str) -> Result<()> {
    wait_for("certificates of the other authority", PATIENCE, || async {
        let (given, now) =
            (cluster.secret(source).await?, cluster.secret(&format!("{}-client-tls", cluster.name)).await?);
        let authorities = cluster.secret(&format!("{}-ca", cluster.name)).await?;
        let alone = !authorities.contains_key("old.crt") && !authorities.contains_key("next.crt");
        let trusted = authorities["ca.crt"] == given["ca.crt"] && now["ca.crt"] == given["ca.crt"];
        Ok((alone && trusted && now["tls.crt"] == given["tls.crt"]).then_some(()))
    })
    .await
}

/// Waits until the status names this Secret as what is missing.
async fn awaits(cluster: &Cluster, secret: &str) -> Result<()> {
    wait_for("a word on what is missing", PATIENCE, || async {
        let status = cluster.get().await?["status"].clone();
        Ok((status["tls"]["waitingFor"] == format!("Secret {secret} to be there")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn certificates_of_an_issuer_are_renewed_and_come_from_another_authority() -> Result<()> {
    let mut cluster = Cluster::unborn("issued").await?;
    cluster.tls = true;
    let issuer = CaIssuer::new(&cluster, "our-ca").await?;
    let mut object = manifest("issued", 3);
    object["spec"]["tls"] = json!({"overlap": "2s", "issuerRef": {"name": "our-ca"}});
    let api = clusters(&cluster.client, &cluster.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    awaits(&cluster, "issued-server-issued").await?;
    issuer.renew().await?;
    cluster.settled(3).await?;
    strangers_are_refused(&cluster).await?;
    let before = cluster.starts().await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    let issued = certificates(&cluster.get().await?);
    issuer.issue_again().await?;
    replaced(&cluster, &issued).await?;
    handed_out(&cluster, "issued-client-issued").await?;
    writer.progress(50).await?;

    let authority = issuer.renew().await?;
    issuer.issue_again().await?;
    wait_for("the other authority", PATIENCE, || async {
        Ok((cluster.secret("issued-client-tls").await?["ca.crt"] == authority.pem.as_bytes()).then_some(()))
    })
    .await?;
    handed_out(&cluster, "issued-client-issued").await?;
    writer.progress(50).await?;
    ensure!(cluster.starts().await? == before, "members were restarted");
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await?;
    issuer.end().await
}

#[tokio::test]
async fn given_certificates_are_replaced_by_those_of_another_authority_and_by_the_operators() -> Result<()> {
    let mut cluster = Cluster::unborn("given").await?;
    cluster.tls = true;
    let mut object = manifest("given", 3);
    object["spec"]["tls"] =
        json!({"overlap": "2s", "secrets": {"server": "server", "peer": "peer", "client": "client"}});
    let api = clusters(&cluster.client, &cluster.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    awaits(&cluster, "server").await?;
    give(&cluster).await?;
    cluster.settled(3).await?;
    let before = cluster.starts().await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;

    give(&cluster).await?;
    handed_out(&cluster, "client").await?;
    writer.progress(50).await?;

    cluster.patch(json!({"tls": {"secrets": null}})).await?;
    wait_for("an authority of the operator", PATIENCE, || async {
        let now = cluster.secret("given-ca").await?;
        Ok((now.contains_key("ca.key") && !now.contains_key("old.crt")).then_some(()))
    })
    .await?;
    writer.progress(50).await?;
    ensure!(cluster.starts().await? == before, "members were restarted");
    println!("{} acknowledged writes are there", writer.verify().await?);
    cluster.remove().await
}

#[tokio::test]
async fn tls_is_turned_on_and_off_under_clients_that_write() -> Result<()> {
    let mut cluster = Cluster::apply("plain", 3).await?;
    cluster.settled(3).await?;
    let page = Page::open("operator-tls.md", &cluster.namespace).await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;
    page.run("\"plaintext\":true").await?;
    cluster.settled(3).await?;
    writer.progress(50).await?;
    println!("{} acknowledged writes in plaintext are there", writer.verify().await?);

    cluster.tls = true;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;
    page.run("\"plaintext\":false").await?;
    cluster.settled(3).await?;
    strangers_are_refused(&cluster).await?;
    writer.progress(50).await?;
    println!("{} acknowledged writes under TLS are there", writer.verify().await?);

    page.run("\"tls\":null").await?;
    cluster.tls = false;
    cluster.settled(3).await?;
    let writer = Writer::start(&cluster);
    writer.progress(50).await?;
    println!("{} acknowledged writes in plaintext are there", writer.verify().await?);
    cluster.remove().await
}

/// Plaintext, and clients without a certificate.
async fn strangers_are_refused(cluster: &Cluster) -> Result<()> {
    for endpoint in cluster.endpoints().await? {
        let plain = Cluster { tls: false, ..cluster.clone() };
        for url in [endpoint.replace("https", "http"), endpoint] {
            let answer = async { Ok::<_, anyhow::Error>(plain.connect(&url).await?.get("hello", None).await?) };
            ensure!(answer.await.is_err(), "{url} answered a stranger");
        }
    }
    Ok(())
}
