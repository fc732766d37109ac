//! The StatefulSet of one member: one replica, or none while it is parked; replaced only by the operator.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{metadata, pod, pod_hash};
use crate::crd::EtcdCluster;
use crate::names::{
    CONFIG_HASH, IMAGE, INITIAL_CLUSTER, MEMBER_LABEL, Names, ROLE_LABEL, TRANSPORT, UID_LABEL, VOLUME_SIZE,
};
use crate::plan::{PodRole, Start};

/// The name of the volume, and the first part of its claim's.
pub(super) const VOLUME: &str = "data";

/// Renders member `ordinal`, which starts as `start` says if its directory is empty.
pub fn stateful_set(cluster: &EtcdCluster, ordinal: u32, start: &Start, role: PodRole) -> StatefulSet {
    let names = Names::of(cluster);
    let mut metadata = metadata(&names, names.member(ordinal));
    metadata.labels = Some(names.member_labels(ordinal));
    metadata.annotations = Some([(VOLUME_SIZE.into(), cluster.spec.storage.size.clone())].into());
    let mut selector = names.selector();
    selector.insert(MEMBER_LABEL.into(), names.member(ordinal));
    selector.insert(UID_LABEL.into(), names.uid.clone());
    StatefulSet {
        metadata,
        spec: StatefulSetSpec {
            replicas: Some(i32::from(*start != Start::Parked)),
            service_name: Some(names.members_service()),
            selector: LabelSelector { match_labels: Some(selector), ..Default::default() },
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            pod_management_policy: Some("Parallel".into()),
            revision_history_limit: Some(1),
            template: template(cluster, &names, ordinal, start, role),
            volume_claim_templates: (!cluster.spec.in_memory()).then(|| vec![claim(cluster, &names, ordinal)]),
            ..Default::default()
        },
        status: None,
    }
}

fn template(cluster: &EtcdCluster, names: &Names, ordinal: u32, start: &Start, role: PodRole) -> PodTemplateSpec {
    let wanted = &cluster.spec.pod_template;
    let mut labels: BTreeMap<String, String> = wanted.labels.clone();
    labels.extend(names.member_labels(ordinal));
    labels.insert(ROLE_LABEL.into(), role.as_str().into());
    let mut annotations = wanted.annotations.clone();
    annotations.insert(CONFIG_HASH.into(), pod_hash(cluster, start));
    annotations.insert(IMAGE.into(), cluster.spec.server_image());
    annotations.insert(TRANSPORT.into(), cluster.spec.transport().as_str().into());
    if cluster.spec.in_memory() {
        annotations.insert(INITIAL_CLUSTER.into(), pod::founding_members(names, ordinal, start));
    }
    let mut spec = pod::spec(cluster, names, ordinal, start);
    // Not a part of what is hashed: a pod that does not have it is not restarted for it.
    for container in &mut spec.containers {
        container.termination_message_policy = Some("FallbackToLogsOnError".into());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..Default::default() }),
        spec: Some(spec),
    }
}

fn claim(cluster: &EtcdCluster, names: &Names, ordinal: u32) -> PersistentVolumeClaim {
    let storage = &cluster.spec.storage;
    let requests = BTreeMap::from([("storage".to_string(), Quantity(storage.size.clone()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.into()),
            labels: Some(names.member_labels(ordinal)),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(storage.access_modes.clone()),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            ..Default::default()
        }),
        status: None,
    }
}
