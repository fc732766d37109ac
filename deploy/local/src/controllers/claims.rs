//! Claims: each becomes a PersistentVolume over a directory of its own, removed with the claim.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::json;

use super::{Plan, World, pods};
use crate::node::claim_directory;
use crate::objects::{Action, json_of};

/// The only storage class, the default.
const CLASS: &str = "local";
const PROVISIONER: &str = "keelson.dev/directory";
/// Keeps a claim while a pod uses it, as in Kubernetes.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Binds new claims, frees deleted ones, and removes volumes that no claim needs.
pub fn plan(world: &World, directory: &Path, plan: &mut Plan) {
    if !world.classes.iter().any(|class| class.name_any() == CLASS) {
        plan.add(Action::create(&class()));
    }
    for claim in &world.claims {
        match claim.metadata.deletion_timestamp {
            Some(_) => release(world, claim, plan),
            None => bind(world, claim, directory, plan),
        }
    }
    for volume in world.volumes.iter().filter(|volume| is_ours(volume)) {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let uid = reference.and_then(|reference| reference.uid.clone());
        if world.claims.iter().any(|claim| claim.uid() == uid) {
            continue;
        }
        let retain = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        if retain == Some("Retain") {
            let released = PersistentVolumeStatus { phase: Some("Released".into()), ..Default::default() };
            plan.actions.extend(Action::status(volume.as_ref(), volume.status.as_ref(), &released));
            continue;
        }
        if let Some(path) = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()) {
            plan.add(Action::RemoveDirectory(path.path.clone().into()));
        }
        plan.add(Action::delete(volume.as_ref()));
    }
}

fn class() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.into()),
            annotations: Some([("storageclass.kubernetes.io/is-default-class".into(), "true".into())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("Immediate".into()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotations().get("pv.kubernetes.io/provisioned-by").is_some_and(|by| by == PROVISIONER)
}

/// Lets a deleted claim go once no pod uses it.
fn release(world: &World, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let used = world.pods.iter().any(|pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        pod.namespace() == claim.namespace()
            && !pods::is_over(pod)
            && claims.any(|used| used.claim_name == claim.name_any())
    });
    let finalizers = claim.finalizers();
    if !used && finalizers.iter().any(|finalizer| finalizer == PROTECTION) {
        let rest: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != PROTECTION).collect();
        plan.add(Action::patch(claim, json!({ "metadata": { "finalizers": rest } })));
    }
}

fn bind(world: &World, claim: &PersistentVolumeClaim, directory: &Path, plan: &mut Plan) {
    let spec = claim.spec.clone().unwrap_or_default();
    let class = spec.storage_class_name.as_deref().unwrap_or(CLASS);
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    if class != CLASS || spec.volume_name.as_ref().is_some_and(|volume| *volume != name) {
        return;
    }
    let namespace = claim.namespace().unwrap_or_default();
    let requested = spec.resources.as_ref().and_then(|resources| resources.requests.clone());
    let volume_spec = PersistentVolumeSpec {
        access_modes: spec.access_modes.clone(),
        capacity: requested.clone(),
        storage_class_name: Some(CLASS.into()),
        persistent_volume_reclaim_policy: Some("Delete".into()),
        volume_mode: Some("Filesystem".into()),
        claim_ref: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: Some(namespace.clone()),
            name: Some(claim.name_any()),
            uid: claim.uid(),
            ..ObjectReference::default()
        }),
        host_path: Some(HostPathVolumeSource {
            path: directory.join(claim_directory(&name, &namespace, &claim.name_any())).display().to_string(),
            type_: Some("DirectoryOrCreate".into()),
        }),
        ..PersistentVolumeSpec::default()
    };
    let bound = PersistentVolumeStatus { phase: Some("Bound".into()), ..PersistentVolumeStatus::default() };
    match world.volumes.iter().find(|volume| volume.name_any() == name) {
        None => plan.add(Action::create(&PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                annotations: Some([("pv.kubernetes.io/provisioned-by".into(), PROVISIONER.into())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(volume_spec),
            status: None,
        })),
        Some(volume) => {
            if volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()) != requested.as_ref() {
                plan.add(Action::patch(volume.as_ref(), json!({ "spec": { "capacity": json_of(&requested) } })));
            }
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase != Some("Bound") {
                plan.actions.extend(Action::status(volume.as_ref(), None, &bound));
            }
        }
    }
    if spec.volume_name.is_none() {
        let mut finalizers = claim.finalizers().to_vec();
        if !finalizers.iter().any(|finalizer| finalizer == PROTECTION) {
            finalizers.push(PROTECTION.into());
        }
        let patch = json!({ "metadata": { "finalizers": finalizers },
                            "spec": { "volumeName": name, "storageClassName": CLASS } });
        plan.add(Action::patch(claim, patch));
    }
    let status = PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: spec.access_modes,
        capacity: requested,
        ..claim.status.clone().unwrap_or_default()
    };
    plan.actions.extend(Action::status(claim, claim.status.as_ref(), &status));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, summary};
    use super::*;

    fn plan_of(world: &World) -> Vec<String> {
        let mut result = Plan::default();
        plan(world, Path::new("/v"), &mut result);
        summary(&result)
    }

    #[test]
    fn a_claim_lives_bound_and_protected_until_its_pod_is_gone() {
        let claim = |extra: serde_json::Value| {
            let mut claim = json!({
                "metadata": {"name": "data", "namespace": "ns", "uid": "u1"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
            for (pointer, value) in extra.as_object().unwrap() {
                let (parent, key) = pointer.split_once('.').unwrap();
                claim[parent][key] = value.clone();
            }
            object::<PersistentVolumeClaim>(claim)
        };
        let mut world = World { classes: vec![object(json_of(&class()))], ..World::default() };
        world.claims = vec![claim(json!({}))];
        assert_eq!(
            plan_of(&world),
            ["create PersistentVolume pvc-u1", "patch PersistentVolumeClaim data", "status PersistentVolumeClaim data"]
        );
        world.claims = vec![claim(json!({"spec.storageClassName": "other"}))];
        assert_eq!(plan_of(&world), [""; 0], "a class that nobody serves");

        let deleted =
            json!({"metadata.deletionTimestamp": "2026-01-01T00:00:00Z", "metadata.finalizers": [PROTECTION]});
        world.claims = vec![claim(deleted)];
        world.pods = vec![object(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}))];
        assert_eq!(plan_of(&world), [""; 0]);
        world.pods.clear();
        assert_eq!(plan_of(&world), ["patch PersistentVolumeClaim data"]);
    }

    #[test]
    fn the_directory_goes_with_the_claim_even_if_a_new_one_has_its_name() {
        let volume = json!({
            "metadata": {"name": "pvc-old", "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
            "spec": {"claimRef": {"uid": "old", "name": "data"}, "hostPath": {"path": "/v/pvc-old_ns_data"},
                     "persistentVolumeReclaimPolicy": "Delete"}});
        let world = World {
            classes: vec![object(json_of(&class()))],
            volumes: vec![object(volume)],
            claims: vec![object(json!({"metadata": {"name": "data", "namespace": "ns", "uid": "new"},
                "spec": {"storageClassName": "other"}}))],
            ..World::default()
        };
        assert_eq!(plan_of(&world), ["remove /v/pvc-old_ns_data", "delete PersistentVolume pvc-old"]);
    }
}
