//! What somebody needs who is to help: objects, events and logs in one text. No Secrets; what may not be read is left out.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, LogParams};
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::Place;
use crate::names::{CLUSTER_LABEL, SERVER_CONTAINER};

/// Kinds of which those with the cluster's label are told.
const CHILDREN: [(&str, &str, &str); 5] = [
    ("apps", "v1", "StatefulSet"),
    ("", "v1", "Pod"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "Service"),
    ("policy", "v1", "PodDisruptionBudget"),
];
/// Kinds of `keelson.dev`, and where each names its cluster.
const NAMING: [(&str, &str); 4] = [
    ("EtcdBackup", "/spec/cluster"),
    ("EtcdBackupSchedule", "/spec/backup/cluster"),
    ("EtcdUser", "/spec/cluster"),
    ("EtcdRole", "/spec/cluster"),
];
/// How much of a log is told.
const LINES: i64 = 300;

impl Place {
    /// Prints the report.
    pub async fn report(&self, name: &str) -> anyhow::Result<()> {
        let cluster = self.cluster(name).await?;
        println!(
            "# EtcdCluster {name} in namespace {}, by kubectl keelson {}",
            self.namespace,
            env!("CARGO_PKG_VERSION")
        );
        tell(serde_json::to_value(&cluster)?)?;
        let labelled = ListParams::default().labels(&format!("{CLUSTER_LABEL}={name}"));
        for (group, version, kind) in CHILDREN {
            self.tell_those(&GroupVersionKind::gvk(group, version, kind), &labelled, |_| true).await?;
        }
        for (kind, pointer) in NAMING {
            let ours = |object: &Value| object.pointer(pointer).is_some_and(|cluster| cluster == name);
            let kind = GroupVersionKind::gvk("keelson.dev", "v1alpha1", kind);
            self.tell_those(&kind, &ListParams::default(), ours).await?;
        }
        // Those about the cluster, its members, their pods and claims.
        let (members, claims) = (format!("{name}-"), format!("data-{name}-"));
        let about = |event: &Value| {
            let object = event["involvedObject"]["name"].as_str().unwrap_or_default();
            object == name || object.starts_with(&members) || object.starts_with(&claims)
        };
        self.tell_those(&GroupVersionKind::gvk("", "v1", "Event"), &ListParams::default(), about).await?;
        self.tell_logs(self.api(), &labelled, Some(SERVER_CONTAINER)).await;
        let operators = ListParams::default().labels("app.kubernetes.io/name=keelson-operator");
        self.tell_logs(Api::all(self.client.clone()), &operators, None).await;
        Ok(())
    }

    async fn tell_those(
        &self,
        kind: &GroupVersionKind,
        list: &ListParams,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let resource = ApiResource::from_gvk(kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        match api.list(list).await {
            Ok(objects) => {
                for mut object in objects {
                    object.types.get_or_insert_with(|| kube::core::TypeMeta {
                        api_version: kind.api_version(),
                        kind: kind.kind.clone(),
                    });
                    let object = serde_json::to_value(&object)?;
                    if wanted(&object) {
                        tell(object)?;
                    }
                }
            }
            Err(error) => println!("---\n# {} cannot be read: {error}", kind.kind),
        }
        Ok(())
    }

    async fn tell_logs(&self, pods: Api<Pod>, list: &ListParams, container: Option<&str>) {
        let found = match pods.list(list).await {
            Ok(found) => found,
            Err(error) => return println!("---\n# Pods cannot be read: {error}"),
        };
        for pod in found {
            let namespace = pod.namespace().unwrap_or_default();
            let one: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let parameters =
                LogParams { container: container.map(str::to_string), tail_lines: Some(LINES), ..Default::default() };
            let name = pod.name_any();
            match one.logs(&name, &parameters).await {
                Ok(log) => {
                    println!("---\n# The end of the log of pod {name} in namespace {namespace}");
                    log.lines().for_each(|line| println!("# {line}"));
                }
                Err(error) => println!("---\n# The log of pod {name} cannot be read: {error}"),
            }
        }
    }
}

/// Prints an object, without what only the API server needs.
fn tell(mut object: Value) -> anyhow::Result<()> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    print!("---\n{}", serde_yaml::to_string(&object)?);
    Ok(())
}
