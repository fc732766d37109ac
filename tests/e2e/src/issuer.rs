//! cert-manager. Where the Kubernetes has none, a stand-in fills the Secrets of Certificates, which is all that the operator waits
//! for: by Issuers of the kind CA, without a status, without renewal, and whatever `privateKey` says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, PATIENCE, resources_of};
use crate::wait_for;

const MANAGER: &str = "keelson-e2e";
/// The kinds that the stand-in knows, with their plurals.
const KINDS: [(&str, &str); 2] = [("Certificate", "certificates"), ("Issuer", "issuers")];

/// Who signs. The name is the same for all, as when an authority is made anew.
pub struct Authority {
    key: KeyPair,
    /// Its certificate, as PEM.
    pub pem: String,
}

impl Authority {
    /// A new one, valid for as long as it is needed.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { pem: Self::params().self_signed(&key)?.pem(), key })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// What a Secret keeps of a certificate that this authority signed, in the way of cert-manager.
    pub fn sign(&self, leaf: &CertificateParams) -> Result<BTreeMap<String, Vec<u8>>> {
        let key = KeyPair::generate()?;
        let issuer = rcgen::Issuer::new(Self::params(), &self.key);
        let certificate = leaf.signed_by(&key, &issuer)?;
        let files = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", self.pem.clone())];
        Ok(files.map(|(name, pem)| (name.to_owned(), pem.into_bytes())).into())
    }
}

/// Writes a Secret of the type `kubernetes.io/tls`.
pub async fn write_secret(cluster: &Cluster, name: &str, data: BTreeMap<String, Vec<u8>>) -> Result<()> {
    let data = data.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
    let mut secret = Secret { data: Some(data), type_: Some("kubernetes.io/tls".into()), ..Default::default() };
    secret.metadata.name = Some(name.into());
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret)).await?;
    Ok(())
}

/// An Issuer in the namespace of a cluster under test.
pub struct CaIssuer {
    cluster: Cluster,
    name: String,
    stand_in: Option<JoinHandle<()>>,
}

impl CaIssuer {
    /// Of cert-manager, if that is there. It signs from [`CaIssuer::renew`] on.
    pub async fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
        let known = definitions.get_opt("certificates.cert-manager.io").await?;
        let theirs = known.is_some_and(|known| known.labels().get("app").is_none_or(|app| app != MANAGER));
        if !theirs {
            for (kind, plural) in KINDS {
                let definition = definition(kind, plural);
                let parameters = PatchParams::apply(MANAGER).force();
                definitions
                    .patch(&format!("{plural}.cert-manager.io"), &parameters, &Patch::Apply(&definition))
                    .await?;
            }
        }
        let issuer = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Issuer",
            "metadata": {"name": name},
            "spec": {"ca": {"secretName": name}},
        });
        let issuer: DynamicObject = serde_json::from_value(issuer)?;
        wait_for("Issuers to be known", PATIENCE, || async {
            Ok(Some(resources(cluster, "Issuer").create(&PostParams::default(), &issuer).await?))
        })
        .await?;
        let stand_in = (!theirs).then(|| tokio::spawn(stand_in(cluster.clone())));
        Ok(Self { cluster: cluster.clone(), name: name.into(), stand_in })
    }

    /// Gives it another authority. What it has signed already stays.
    pub async fn renew(&self) -> Result<Authority> {
        let authority = Authority::new()?;
        let data = [("tls.crt", authority.pem.clone()), ("tls.key", authority.key.serialize_pem())];
        write_secret(&self.cluster, &self.name, data.map(|(name, pem)| (name.to_owned(), pem.into_bytes())).into())
            .await?;
        Ok(authority)
    }

    /// Deletes what it has made for the cluster, and so has it made again.
    pub async fn issue_again(&self) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        for certificate in resources(&self.cluster, "Certificate").list(&ListParams::default()).await? {
            secrets.delete(&certificate.name_any(), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Takes the stand-in away.
    pub async fn end(self) -> Result<()> {
        let Some(stand_in) = self.stand_in else { return Ok(()) };
        stand_in.abort();
        let definitions: Api<CustomResourceDefinition> = Api::all(self.cluster.client);
        for (_, plural) in KINDS {
            definitions.delete(&format!("{plural}.cert-manager.io"), &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

fn resources(cluster: &Cluster, kind: &str) -> Api<DynamicObject> {
    resources_of(&cluster.client, &cluster.namespace, &GroupVersionKind::gvk("cert-manager.io", "v1", kind))
}

/// The kind as far as the stand-in needs it.
fn definition(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.cert-manager.io"), "labels": {"app": MANAGER}},
        "spec": {
            "group": "cert-manager.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// Looks again whenever a Certificate or a Secret has changed: that of the authority may come last.
async fn stand_in(cluster: Cluster) {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let secrets = watcher(secrets, Config::default()).default_backoff().map(drop);
    let certificates = watcher(resources(&cluster, "Certificate"), Config::default()).default_backoff().map(drop);
    let mut changes = pin!(stream::select(secrets, certificates));
    while changes.next().await.is_some() {
        if let Err(error) = fill(&cluster).await {
            println!("the stand-in for cert-manager waits for a change: {error:#}");
        }
    }
}

/// Makes the Secrets that Certificates ask for and that are not there.
async fn fill(cluster: &Cluster) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    for certificate in resources(cluster, "Certificate").list(&ListParams::default()).await? {
        let spec = &certificate.data["spec"];
        let secret = spec["secretName"].as_str().context("no secretName")?;
        if secrets.get_opt(secret).await?.is_some() {
            continue;
        }
        let issuer = resources(cluster, "Issuer").get(spec["issuerRef"]["name"].as_str().context("no issuer")?).await?;
        let signer = cluster.secret(issuer.data["spec"]["ca"]["secretName"].as_str().context("no secretName")?).await?;
        let pem = |key: &str| Ok::<_, anyhow::Error>(String::from_utf8(signer.get(key).context("no key")?.clone())?);
        let authority = Authority { key: KeyPair::from_pem(&pem("tls.key")?)?, pem: pem("tls.crt")? };
        write_secret(cluster, secret, authority.sign(&wanted(spec)?)?).await?;
    }
    Ok(())
}

/// The certificate that the `spec` of a Certificate is about.
fn wanted(spec: &Value) -> Result<CertificateParams> {
    let texts = |field: &str| spec[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut params = CertificateParams::new(texts("dnsNames").map(str::to_owned).collect::<Vec<_>>())?;
    for address in texts("ipAddresses") {
        params.subject_alt_names.push(SanType::IpAddress(address.parse::<IpAddr>()?));
    }
    params.distinguished_name.push(DnType::CommonName, spec["commonName"].as_str().context("no commonName")?);
    let hours: u64 =
        spec["duration"].as_str().and_then(|text| text.strip_suffix('h')?.parse().ok()).context("no hours")?;
    params.not_after = (SystemTime::now() + Duration::from_secs(3600 * hours)).into();
    params.extended_key_usages = texts("usages")
        .filter_map(|usage| match usage {
            "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
            _ => None,
        })
        .collect();
    Ok(params)
}
