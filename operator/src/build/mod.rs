//! Renders the objects of a cluster, one file for each kind: functions of the EtcdCluster and the plan, without input or output.

mod certificates;
mod etcd;
mod issued;
mod job;
mod pdb;
mod pod;
mod root;
mod services;
mod statefulset;
mod store;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use certificates::{
    BUNDLE, CLIENT, authority_secret, certificates_secret, expiring, keys, requests, requests_alike, secret_name,
    shared_request, text,
};
pub use issued::{certificate_resource, certificates, must_name, source_secrets, sources_of};
pub use job::{BACKUP_CONTAINER, backup_job, backup_path};
pub use pdb::pod_disruption_budget;
pub use pod::SETTLED;
pub use root::{APPLIED, PASSWORD, root_secret};
pub use services::{client_service, members_service};
pub use statefulset::stateful_set;

use crate::crd::{EtcdCluster, MemberTemplate};
use crate::names::{APPLIED_HASH, Names};
use crate::plan::Start;

/// A short hash of a value as it is rendered; equal values have equal hashes whatever the API server adds to them.
pub fn hash(value: &impl Serialize) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let digest = Sha256::digest(&text);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of the part of the pod template whose change needs a restart: without the image, which is an upgrade, and without
/// what only matters to an empty data directory. Labels are changed on pods that run; how the image is pulled and how long a
/// member may take to stop count from its next start. Annotations need a restart: it is what they are changed for.
pub fn config_hash(cluster: &EtcdCluster) -> String {
    let mut cluster = cluster.clone();
    let spec = &mut cluster.spec;
    spec.image = Some(String::new());
    spec.version = None;
    spec.image_pull_policy = None;
    spec.pod_template.image_pull_secrets.clear();
    spec.pod_template.termination_grace_period_seconds = None;
    let names = Names::of(&cluster);
    hash(&pod::spec(&cluster, &names, 0, &Start::Settled)) + &hash(&cluster.spec.pod_template.annotations)[..4]
}

/// The cluster, if its members were asked to run this; without its status.
pub fn with_template(cluster: &EtcdCluster, template: &MemberTemplate) -> EtcdCluster {
    let (metadata, mut spec) = (cluster.metadata.clone(), cluster.spec.clone());
    template.put_into(&mut spec);
    EtcdCluster { metadata, spec, status: None }
}

/// How the hash of a pod ends whose member goes on alone: it is never that of a usual pod.
const ALONE: &str = "-alone";

/// The hash that a member's pod carries.
pub fn pod_hash(cluster: &EtcdCluster, start: &Start) -> String {
    let hash = config_hash(cluster);
    match start {
        Start::Alone => hash + ALONE,
        _ => hash,
    }
}

/// Whether a pod with this hash tells its member to go on alone.
pub fn is_alone(hash: &str) -> bool {
    hash.ends_with(ALONE)
}

/// Puts the hash of a rendered object on it, and returns it.
pub fn stamp<K: Resource + Serialize>(mut object: K) -> (K, String) {
    let hash = hash(&object);
    let annotations = object.meta_mut().annotations.get_or_insert_default();
    annotations.insert(APPLIED_HASH.into(), hash.clone());
    (object, hash)
}

/// Metadata of a child: named, labelled, owned by the EtcdCluster.
fn metadata(names: &Names, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(names.namespace.clone()),
        labels: Some(names.labels()),
        owner_references: Some(vec![owner(names)]),
        ..Default::default()
    }
}

fn owner(names: &Names) -> OwnerReference {
    OwnerReference {
        api_version: EtcdCluster::api_version(&()).into_owned(),
        kind: EtcdCluster::kind(&()).into_owned(),
        name: names.cluster.clone(),
        uid: names.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests;
