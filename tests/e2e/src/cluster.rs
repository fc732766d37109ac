//! An EtcdCluster in a namespace of its own, as a user sees it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::wait_for;

/// How long a 2-core machine may take for one change of a cluster.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// One EtcdCluster under test. Its namespace is deleted by [`Cluster::remove`].
#[derive(Clone)]
pub struct Cluster {
    /// The Kubernetes client, for whatever a test looks at beside the cluster.
    pub client: Client,
    /// The namespace made for this cluster.
    pub namespace: String,
    /// The name of the EtcdCluster.
    pub name: String,
    /// Whether its members speak TLS.
    pub tls: bool,
}

/// The EtcdClusters of a namespace.
pub fn clusters(client: &Client, namespace: &str) -> Api<DynamicObject> {
    resources(client, namespace, "EtcdCluster")
}

/// The resources of a kind of `keelson.dev` in a namespace.
pub fn resources(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    resources_of(client, namespace, &GroupVersionKind::gvk("keelson.dev", "v1alpha1", kind))
}

/// The resources of a kind in a namespace.
pub fn resources_of(client: &Client, namespace: &str, kind: &GroupVersionKind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(kind))
}

/// An EtcdCluster of `size` members with a small volume each.
pub fn manifest(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdCluster",
        "metadata": {"name": name},
        "spec": {"size": size, "storage": {"size": "1Gi"}},
    })
}

/// Makes a namespace with a generated name. Whatever does not keep to the restricted pod security standard has no pods there.
async fn make_namespace(client: &Client) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = serde_json::from_value(json!({"metadata": {"generateName": "keelson-e2e-", "labels": labels}}))?;
    let made = namespaces.create(&PostParams::default(), &namespace).await.context("make a namespace")?;
    Ok(made.name_any())
}

impl Cluster {
    /// Applies an EtcdCluster of `size` members in a new namespace; does not wait.
    pub async fn apply(name: &str, size: i64) -> Result<Self> {
        let cluster = Self::unborn(name).await?;
        clusters(&cluster.client, &cluster.namespace)
            .create(&PostParams::default(), &serde_json::from_value(manifest(name, size))?)
            .await
            .context("create the EtcdCluster")?;
        Ok(cluster)
    }

    /// A new namespace in which nobody has applied the EtcdCluster yet.
    pub async fn unborn(name: &str) -> Result<Self> {
        let client = Client::try_default().await.context("no Kubernetes: run these tests by `make e2e`")?;
        let namespace = make_namespace(&client).await?;
        Ok(Self { client, namespace, name: name.into(), tls: false })
    }

    /// Changes the spec by a merge patch.
    pub async fn patch(&self, spec: Value) -> Result<()> {
        let patch = json!({"spec": spec});
        let api = clusters(&self.client, &self.namespace);
        api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// The resource as it stands.
    pub async fn get(&self) -> Result<Value> {
        let object = clusters(&self.client, &self.namespace).get(&self.name).await?;
        Ok(serde_json::to_value(object)?)
    }

    /// Sets the size by the scale subresource, as `kubectl scale` does.
    pub async fn scale(&self, size: i64) -> Result<()> {
        let scale = json!({"spec": {"replicas": size}});
        clusters(&self.client, &self.namespace)
            .patch_scale(&self.name, &PatchParams::default(), &Patch::Merge(&scale))
            .await?;
        Ok(())
    }

    /// Waits until the cluster has exactly `size` ready voters, says that it is Available and is not Progressing.
    pub async fn settled(&self, size: i64) -> Result<()> {
        let what = format!("{} with {size} members", self.name);
        wait_for(&what, PATIENCE, || async {
            let object = self.get().await?;
            let status = &object["status"];
            let generation = object["metadata"]["generation"].as_i64();
            let members = status["members"].as_array().map_or(0, Vec::len);
            let voters = status["members"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|m| m["healthy"] == true && m["role"] != "Learner")
                .count();
            let done = status["observedGeneration"].as_i64() == generation
                && condition(status, "Available") == "True"
                && condition(status, "Progressing") == "False"
                && members as i64 == size
                && voters as i64 == size;
            anyhow::ensure!(done, "status is {status}");
            Ok(Some(()))
        })
        .await
    }

    /// The members' pods that are not going away, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&format!("keelson.dev/cluster={}", self.name));
        let mut items = pods.list(&params).await?.items;
        items.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        items.sort_by_key(ResourceExt::name_any);
        Ok(items)
    }

    /// What identifies the processes of the members: the pods' uids, and how often each was restarted.
    pub async fn starts(&self) -> Result<Vec<(String, i32)>> {
        let restarts = |pod: &Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
            statuses.iter().map(|status| status.restart_count).sum()
        };
        let pods = self.pods().await?;
        Ok(pods.iter().map(|pod| (pod.uid().unwrap_or_default(), restarts(pod))).collect())
    }

    /// Waits until the status says that the cluster is in this phase, for the spec as it is now.
    pub async fn in_phase(&self, phase: &str) -> Result<()> {
        wait_for(&format!("{} to be {phase}", self.name), PATIENCE, || async {
            let object = self.get().await?;
            let status = &object["status"];
            let answered = status["observedGeneration"] == object["metadata"]["generation"];
            anyhow::ensure!(answered && status["phase"] == phase, "status is {status}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the status says this somewhere.
    pub async fn tells(&self, text: &str) -> Result<()> {
        wait_for(&format!("{} to tell {text:?}", self.name), PATIENCE, || async {
            let status = self.get().await?["status"].to_string();
            anyhow::ensure!(status.contains(text), "status is {status}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until an Event of Kubernetes with this reason is about the object.
    pub async fn announced(&self, object: &Value, reason: &str) -> Result<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let (kind, uid) = (object["kind"].as_str(), object["metadata"]["uid"].as_str());
        wait_for(&format!("an Event {reason} about {}", object["metadata"]["name"]), PATIENCE, || async {
            let events = api.list(&ListParams::default()).await?.items;
            let about = |event: &Event| {
                let regarding = event.regarding.clone().unwrap_or_default();
                (regarding.kind.as_deref(), regarding.uid.as_deref()) == (kind, uid)
            };
            Ok(events.into_iter().find(|event| about(event) && event.reason.as_deref() == Some(reason)))
        })
        .await
    }

    /// The client URL of each member that runs.
    pub async fn endpoints(&self) -> Result<Vec<String>> {
        let pods = self.pods().await?;
        let addresses = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
        let scheme = if self.tls { "https" } else { "http" };
        Ok(addresses.map(|ip| format!("{scheme}://{ip}:2379")).collect())
    }

    /// A client of one endpoint, with short timeouts; with TLS as the Secret for applications is at this moment.
    pub async fn connect(&self, endpoint: &str) -> Result<etcd_client::Client> {
        let mut options = etcd_client::ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_timeout(Duration::from_secs(10));
        if self.tls {
            options = options.with_tls(self.tls_options().await?);
        }
        Ok(etcd_client::Client::connect([endpoint], Some(options)).await?)
    }

    async fn tls_options(&self) -> Result<etcd_client::TlsOptions> {
        let secret = self.secret(&format!("{}-client-tls", self.name)).await?;
        let value = |key: &str| secret.get(key).cloned().with_context(|| format!("the Secret has no {key}"));
        let identity = etcd_client::Identity::from_pem(value("tls.crt")?, value("tls.key")?);
        Ok(etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(value("ca.crt")?))
            .identity(identity)
            .domain_name(format!("{}-client.{}.svc", self.name, self.namespace)))
    }

    /// The values of a Secret.
    pub async fn secret(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data = api.get(name).await?.data.unwrap_or_default();
        Ok(data.into_iter().map(|(key, value)| (key, value.0)).collect())
    }

    /// The name of the pod whose member leads.
    pub async fn leader_pod(&self) -> Result<String> {
        let scheme = if self.tls { "https" } else { "http" };
        wait_for("a leader", PATIENCE, || async {
            for pod in self.pods().await? {
                let Some(ip) = pod.status.as_ref().and_then(|s| s.pod_ip.clone()) else {
                    continue;
                };
                let Ok(mut client) = self.connect(&format!("{scheme}://{ip}:2379")).await else {
                    continue;
                };
                let Ok(status) = client.status().await else {
                    continue;
                };
                let own = status.header().map(etcd_client::ResponseHeader::member_id);
                if status.leader() != 0 && own == Some(status.leader()) {
                    return Ok(Some(pod.name_any()));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Ends the pods' processes by SIGKILL: deletion without grace. Returns when pods of these names are ready again.
    pub async fn kill(&self, names: &[String]) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut killed = Vec::new();
        for name in names {
            killed.push((name, pods.get(name).await?.uid()));
            pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        }
        for (name, uid) in killed {
            wait_for(&format!("{name} to come back"), PATIENCE, || async {
                let Some(pod) = pods.get_opt(name).await? else {
                    return Ok(None);
                };
                Ok((pod.uid() != uid && is_ready(&pod)).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes the cluster and its namespace, and waits until the EtcdCluster is gone.
    ///
    /// # Errors
    /// Somebody told in its log what a Secret of the namespace keeps.
    pub async fn remove(self) -> Result<()> {
        self.nobody_tells_secrets().await?;
        self.delete().await?;
        self.remove_namespace().await
    }

    /// What Secrets of the namespace keep is in no log: not the operator's, and not that of a pod that is here.
    async fn nobody_tells_secrets(&self) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut hidden = Vec::new();
        for secret in secrets.list(&ListParams::default()).await? {
            let name = secret.name_any();
            let values = secret.data.unwrap_or_default();
            hidden.extend(values.iter().flat_map(|(key, value)| hidden_lines(&format!("{name}/{key}"), &value.0)));
        }
        let pods: Api<Pod> = Api::all(self.client.clone());
        let operators = ListParams::default().labels("app.kubernetes.io/name=keelson-operator");
        let mut who = pods.list(&operators).await?.items;
        anyhow::ensure!(!who.is_empty(), "there is no pod of an operator whose log could be read");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        who.extend(pods.list(&ListParams::default()).await?);
        let mut read = 0;
        for pod in who {
            let name = pod.name_any();
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
                let params = LogParams { container: Some(container.name.clone()), ..Default::default() };
                // One that has not been started has told nothing.
                let log = pods.logs(&name, &params).await.unwrap_or_default();
                read += log.len();
                let told = hidden.iter().find(|(_, line)| log.contains(line));
                anyhow::ensure!(
                    told.is_none(),
                    "{name} told what is in Secret {}",
                    told.map_or("", |(secret, _)| secret)
                );
            }
        }
        anyhow::ensure!(read > 0, "no log could be read");
        Ok(())
    }

    /// Deletes the EtcdCluster, and waits until it is gone.
    pub async fn delete(&self) -> Result<()> {
        let api = clusters(&self.client, &self.namespace);
        api.delete(&self.name, &DeleteParams::default()).await?;
        wait_for("deletion of the EtcdCluster", PATIENCE, || async {
            Ok(api.get_opt(&self.name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Deletes the namespace with whatever is left in it.
    pub async fn remove_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// The lines of a Secret's value that nobody else may see, with whose they are. What is short is a word that others say, too;
/// certificates and user names are known to all.
fn hidden_lines(whose: &str, value: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(value);
    let known = text.contains("BEGIN CERTIFICATE") || whose.ends_with("/username") || whose.ends_with("_ID");
    let lines = text.lines().filter(|line| !known && line.len() >= 8 && !line.starts_with("-----"));
    lines.map(|line| (whose.to_owned(), line.to_owned())).collect()
}

/// Whether the pod's Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The status of a condition: True, False, Unknown, or empty when it is absent.
pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind)
        .and_then(|c| c["status"].as_str())
        .unwrap_or_default()
}
