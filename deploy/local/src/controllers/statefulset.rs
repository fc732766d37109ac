//! StatefulSets: pods with names that stay, made and removed in order, each with claims of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::{Plan, World, adopt, controlled_by, hash, is_controlled_by, pods};
use crate::objects::{Action, json_of};

const REVISION_LABEL: &str = "controller-revision-hash";

/// Decides for all sets.
pub fn plan(world: &World, now: Timestamp, plan: &mut Plan) {
    for set in world.stateful_sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none()) {
        let pods = world.pods.iter().filter(|pod| ordinal(set, pod).is_some());
        let pods = adopt(set.as_ref(), &set.spec.selector, pods, plan);
        let revisions = adopt(set.as_ref(), &set.spec.selector, &world.revisions, plan);
        if !pods && !revisions {
            Decision::new(world, set, now).decide(plan);
        }
    }
}

/// One set and everything that belongs to it.
struct Decision<'a> {
    set: &'a StatefulSet,
    spec: StatefulSetSpec,
    now: Timestamp,
    /// Its pods by ordinal.
    pods: BTreeMap<i32, &'a Pod>,
    claims: Vec<&'a Arc<PersistentVolumeClaim>>,
    revisions: Vec<&'a Arc<ControllerRevision>>,
    /// The name of the revision that the template stands for.
    update: String,
    /// The revision that was last rolled out completely.
    current: String,
}

impl<'a> Decision<'a> {
    fn new(world: &'a World, set: &'a StatefulSet, now: Timestamp) -> Self {
        let uid = set.uid();
        let spec = set.spec.clone();
        let update = format!("{}-{}", set.name_any(), hash(&spec.template));
        let status = set.status.as_ref();
        let revisions: Vec<_> =
            world.revisions.iter().filter(|r| is_controlled_by(r.as_ref(), uid.as_deref())).collect();
        let current = status.and_then(|status| status.current_revision.clone());
        let current = current.filter(|current| revisions.iter().any(|revision| revision.name_any() == *current));
        let mine = world.pods.iter().filter(|pod| is_controlled_by(pod.as_ref(), uid.as_deref()));
        Self {
            pods: mine.filter_map(|pod| Some((ordinal(set, pod)?, pod.as_ref()))).collect(),
            claims: world.claims.iter().filter(|claim| claim.namespace() == set.namespace()).collect(),
            current: current.unwrap_or_else(|| update.clone()),
            set,
            spec,
            now,
            revisions,
            update,
        }
    }

    fn decide(&self, plan: &mut Plan) {
        self.keep_revisions(plan);
        self.keep_claim_owners(plan);
        let settled = self.scale(plan);
        if settled {
            self.roll(plan);
        }
        self.write_status(plan);
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        let start = self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        start..start + self.spec.replicas.unwrap_or(1).max(0)
    }

    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// The first ordinal that a rolling update reaches; none for OnDelete.
    fn partition(&self) -> Option<i32> {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition);
        Some(self.ordinals().start + partition.unwrap_or(0))
    }

    /// Available, or the plan is to look again when it will be.
    fn is_available(&self, pod: &Pod, plan: &mut Plan) -> bool {
        let available = pods::is_available(pod, self.spec.min_ready_seconds, self.now);
        available.unwrap_or_else(|later| {
            plan.wake_at(later);
            false
        }) && pods::is_active(pod)
    }

    /// Makes missing pods and removes those too many. True when all pods are there and available.
    fn scale(&self, plan: &mut Plan) -> bool {
        let mut settled = true;
        for ordinal in self.ordinals() {
            let available = match self.pods.get(&ordinal) {
                None => {
                    self.create(ordinal, plan);
                    false
                }
                Some(pod) if pods::is_over(pod) && !pods::is_terminating(pod) => {
                    plan.add(Action::delete(*pod));
                    false
                }
                Some(pod) => self.is_available(pod, plan),
            };
            if !available && self.in_order() {
                return false;
            }
            settled &= available;
        }
        let surplus: Vec<_> = self.pods.iter().filter(|(ordinal, _)| !self.ordinals().contains(ordinal)).collect();
        for (_, pod) in surplus.iter().rev() {
            if !pods::is_terminating(pod) {
                plan.add(Action::delete(**pod));
            }
            if self.in_order() {
                return false;
            }
        }
        settled && surplus.is_empty()
    }

    /// Replaces the highest pod of an old revision.
    fn roll(&self, plan: &mut Plan) {
        let Some(partition) = self.partition() else {
            return;
        };
        let outdated = self.ordinals().rev().filter(|ordinal| *ordinal >= partition);
        let outdated = outdated.filter_map(|ordinal| self.pods.get(&ordinal));
        if let Some(pod) = outdated.into_iter().find(|pod| revision_of(pod) != Some(self.update.as_str())) {
            plan.add(Action::delete(*pod));
        }
    }

    fn create(&self, ordinal: i32, plan: &mut Plan) {
        let old = self.partition().is_some_and(|partition| ordinal < partition);
        let old_template = self.template_of(&self.current).filter(|_| old);
        let (revision, template) = match old_template {
            Some(template) => (&self.current, template),
            None => (&self.update, self.spec.template.clone()),
        };
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let name = claim_name(template, self.set, ordinal);
            if !self.claims.iter().any(|claim| claim.name_any() == name) {
                plan.add(Action::create(&self.claim(template, name)));
            }
        }
        plan.add(Action::create(&self.pod(ordinal, revision, &template)));
    }

    fn claim(&self, template: &PersistentVolumeClaim, name: String) -> PersistentVolumeClaim {
        let mut labels = template.labels().clone();
        let selector = self.spec.selector.match_labels.clone();
        labels.extend(selector.unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.set.namespace(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    }

    fn pod(&self, ordinal: i32, revision: &str, template: &PodTemplateSpec) -> Pod {
        let name = format!("{}-{ordinal}", self.set.name_any());
        let labels = [
            ("statefulset.kubernetes.io/pod-name", name.clone()),
            ("apps.kubernetes.io/pod-index", ordinal.to_string()),
            (REVISION_LABEL, revision.to_owned()),
        ];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut pod = pods::from_template(template, self.set.namespace(), controlled_by(self.set), labels);
        pod.metadata.name = Some(name.clone());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name);
            spec.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
            let volumes = spec.volumes.get_or_insert_default();
            for template in self.spec.volume_claim_templates.iter().flatten() {
                volumes.retain(|volume| volume.name != template.name_any());
                volumes.push(Volume {
                    name: template.name_any(),
                    persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                        claim_name: claim_name(template, self.set, ordinal),
                        read_only: None,
                    }),
                    ..Volume::default()
                });
            }
        }
        pod
    }

    fn template_of(&self, revision: &str) -> Option<PodTemplateSpec> {
        let found = self.revisions.iter().find(|known| known.name_any() == revision)?;
        let template = found.data.0.pointer("/spec/template")?;
        serde_json::from_value(template.clone()).ok()
    }

    /// Writes the template down as a revision, for pods that are still to be made from it when there is a newer one, and
    /// drops revisions that nobody uses: there is no history to go back to.
    fn keep_revisions(&self, plan: &mut Plan) {
        if !self.revisions.iter().any(|revision| revision.name_any() == self.update) {
            let latest = self.revisions.iter().filter_map(|revision| revision.revision).max().unwrap_or(0);
            plan.add(Action::create(&ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(self.update.clone()),
                    namespace: self.set.namespace(),
                    labels: self.spec.selector.match_labels.clone(),
                    owner_references: controlled_by(self.set),
                    ..ObjectMeta::default()
                },
                data: RawExtension(json!({ "spec": { "template": json_of(&self.spec.template) } })),
                revision: Some(latest + 1),
            }));
        }
        let used = |revision: &ControllerRevision| {
            let name = revision.name_any();
            let mut pods = self.pods.values();
            name == self.update || name == self.current || pods.any(|pod| revision_of(pod) == Some(name.as_str()))
        };
        for revision in self.revisions.iter().filter(|revision| !used(revision)) {
            plan.add(Action::delete(revision.as_ref()));
        }
    }

    /// Claims belong to the set or to their pod when the retention policy lets them go with it. The owner is what garbage
    /// collection goes by.
    fn keep_claim_owners(&self, plan: &mut Plan) {
        let policy = self.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
        let with_set = policy.when_deleted.as_deref() == Some("Delete");
        let when_scaled = policy.when_scaled.as_deref() == Some("Delete");
        let set_reference = self.set.owner_ref(&());
        for (ordinal, pod) in &self.pods {
            let surplus = when_scaled && !self.ordinals().contains(ordinal);
            let pod_reference = pod.owner_ref(&());
            for template in self.spec.volume_claim_templates.iter().flatten() {
                let name = claim_name(template, self.set, *ordinal);
                let Some(claim) = self.claims.iter().find(|claim| claim.name_any() == name) else {
                    continue;
                };
                let ours =
                    |owner: &&OwnerReference| Some(&owner.uid) != self.set.metadata.uid.as_ref() && owner.kind != "Pod";
                let mut owners: Vec<_> = claim.owner_references().iter().filter(ours).cloned().collect();
                owners.extend(set_reference.clone().filter(|_| with_set));
                owners.extend(pod_reference.clone().filter(|_| surplus));
                if owners != claim.owner_references() {
                    let patch = json!({ "metadata": { "ownerReferences": json_of(&owners) } });
                    plan.add(Action::patch(claim.as_ref(), patch));
                }
            }
        }
    }

    fn write_status(&self, plan: &mut Plan) {
        let mine: Vec<_> = self.pods.values().filter(|pod| !pods::is_terminating(pod)).collect();
        let count = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        let of = |revision: &str| count(mine.iter().filter(|pod| revision_of(pod) == Some(revision)).count());
        let ready = count(mine.iter().filter(|pod| pods::is_ready(pod)).count());
        let available = count(mine.iter().filter(|pod| self.is_available(pod, plan)).count());
        let updated = of(&self.update);
        let wanted = count(self.ordinals().len());
        let complete = updated == wanted && ready == wanted && count(self.pods.len()) == wanted;
        let current = if complete { &self.update } else { &self.current };
        let status = StatefulSetStatus {
            replicas: count(mine.len()),
            ready_replicas: Some(ready),
            available_replicas: Some(available),
            current_replicas: Some(of(current)),
            updated_replicas: Some(updated),
            current_revision: Some(current.clone()),
            update_revision: Some(self.update.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(0),
            conditions: None,
        };
        plan.actions.extend(Action::status(self.set, self.set.status.as_ref(), &status));
    }
}

fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    pod.name_any().strip_prefix(&format!("{}-", set.name_any()))?.parse().ok()
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION_LABEL).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, summary};
    use super::*;
    use serde_json::Value;

    fn set(spec: &Value, current: &str) -> Arc<StatefulSet> {
        let mut value = json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "set", "generation": 1},
            "spec": {"serviceName": "svc", "selector": {"matchLabels": {"app": "x"}},
                     "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c"}]}}},
            "status": {"replicas": 0, "currentRevision": current}});
        value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        object(value)
    }

    /// The name of the revision of the template above.
    fn update() -> String {
        format!("s-{}", hash(&set(&json!({}), "").spec.template))
    }

    /// A pod from `ORDINAL STATE REVISION`.
    fn pod(text: &str) -> Arc<Pod> {
        let words: Vec<_> = text.split(' ').collect();
        let revision = if words[2] == "new" { update() } else { "s-old".into() };
        let mut value = json!({
            "metadata": {"name": format!("s-{}", words[0]), "namespace": "ns", "uid": text,
                "labels": {REVISION_LABEL: revision},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "set", "controller": true}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}});
        match words[1] {
            "ready" => value["status"]["conditions"][0]["status"] = json!("True"),
            "leaving" => value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            "failed" => value["status"]["phase"] = json!("Failed"),
            _ => {}
        }
        object(value)
    }

    fn revisions() -> Vec<Arc<ControllerRevision>> {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "set", "controller": true}]);
        let template = json!({"spec": {"template": {"spec": {"containers": [{"name": "old"}]}}}});
        [(update(), 2), ("s-old".into(), 1)]
            .map(|(name, revision)| {
                let metadata = json!({"name": name, "namespace": "ns", "ownerReferences": owner});
                object(json!({"metadata": metadata, "data": template, "revision": revision}))
            })
            .to_vec()
    }

    fn check(spec: Value, pods: &[&str], expected: &[&str]) {
        let world = World {
            stateful_sets: vec![set(&spec, "s-old")],
            pods: pods.iter().map(|text| pod(text)).collect(),
            revisions: revisions(),
            ..World::default()
        };
        let mut result = Plan::default();
        plan(&world, Timestamp::UNIX_EPOCH, &mut result);
        let summary = summary(&result);
        let acts: Vec<_> = summary.iter().filter(|line| !line.starts_with("status")).collect();
        assert_eq!(acts, expected, "{spec} {pods:?}");
    }

    #[test]
    fn pods_come_and_go_in_order() {
        let three = json!({"replicas": 3});
        check(three.clone(), &[], &["create Pod s-0"]);
        check(three.clone(), &["0 starting new"], &[]);
        check(three.clone(), &["0 ready new"], &["create Pod s-1"]);
        check(three.clone(), &["0 leaving new", "1 ready new"], &[]);
        check(three.clone(), &["0 failed new"], &["delete Pod s-0"]);
        check(three.clone(), &["1 ready new"], &["create Pod s-0"]);
        check(json!({"replicas": 1}), &["0 ready new", "1 ready new", "2 ready new"], &["delete Pod s-2"]);
        check(json!({"replicas": 1}), &["0 ready new", "1 ready new", "2 leaving new"], &[]);
        check(json!({"replicas": 1}), &["0 starting new", "1 ready new"], &[]);
        check(json!({"replicas": 0}), &["0 starting new"], &["delete Pod s-0"]);
        check(json!({"replicas": 2, "ordinals": {"start": 5}}), &["5 ready new"], &["create Pod s-6"]);
    }

    #[test]
    fn parallel_sets_do_not_wait() {
        let parallel = |replicas: i32| json!({"replicas": replicas, "podManagementPolicy": "Parallel"});
        check(parallel(2), &[], &["create Pod s-0", "create Pod s-1"]);
        check(parallel(1), &["0 starting new", "1 ready new", "2 ready new"], &["delete Pod s-2", "delete Pod s-1"]);
    }

    #[test]
    fn updates_roll_from_the_top_when_all_is_well() {
        let three = json!({"replicas": 3});
        check(three.clone(), &["0 ready old", "1 ready old", "2 ready old"], &["delete Pod s-2"]);
        check(three.clone(), &["0 ready old", "1 ready old", "2 leaving old"], &[]);
        check(three.clone(), &["0 ready old", "1 ready old", "2 starting new"], &[]);
        check(three.clone(), &["0 ready old", "1 ready old", "2 ready new"], &["delete Pod s-1"]);
        let partition =
            json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        check(partition.clone(), &["0 ready old", "1 ready old", "2 ready new"], &[]);
        let on_delete = json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}});
        check(on_delete, &["0 ready old", "1 ready old"], &[]);
    }

    #[test]
    fn below_the_partition_a_lost_pod_comes_back_as_it_was() {
        let spec = json!({"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}});
        let world = World { stateful_sets: vec![set(&spec, "s-old")], revisions: revisions(), ..World::default() };
        let mut result = Plan::default();
        plan(&world, Timestamp::UNIX_EPOCH, &mut result);
        let created = result.actions.iter().find_map(|action| match action {
            Action::Create(_, value) => Some(value),
            _ => None,
        });
        let created = created.unwrap();
        assert_eq!(created["spec"]["containers"][0]["name"], "old");
        assert_eq!(created["metadata"]["labels"][REVISION_LABEL], "s-old");
        assert_eq!((&created["spec"]["hostname"], &created["spec"]["subdomain"]), (&json!("s-0"), &json!("svc")));
    }

    #[test]
    fn what_an_earlier_set_left_is_adopted() {
        let mut world = World { stateful_sets: vec![set(&json!({}), "")], ..World::default() };
        for (name, labels) in
            [("s-0", json!({"app": "x"})), ("s-1", json!({"app": "y"})), ("other", json!({"app": "x"}))]
        {
            world.pods.push(object(json!({"metadata": {"name": name, "namespace": "ns", "labels": labels}})));
        }
        let mut result = Plan::default();
        plan(&world, Timestamp::UNIX_EPOCH, &mut result);
        assert_eq!(summary(&result), ["patch Pod s-0"]);
        let Action::Patch(_, patch) = &result.actions[0] else { panic!("{result:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], "set");
    }

    #[test]
    fn each_pod_gets_its_claims_once() {
        let spec = json!({"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
        check(spec, &[], &["create PersistentVolumeClaim data-s-0", "create Pod s-0"]);
    }
}
