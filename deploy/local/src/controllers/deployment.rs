//! Deployments through ReplicaSets, and the pods of ReplicaSets.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::json;

use super::{Plan, World, adopt, controlled_by, hash, is_controlled_by, pdb, pods};
use crate::objects::Action;

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Old ReplicaSets that are kept for `kubectl rollout undo` when the Deployment says nothing.
const HISTORY: i32 = 10;

/// Decides for all Deployments, then for all ReplicaSets.
pub fn plan(world: &World, now: Timestamp, plan: &mut Plan) {
    for deployment in world.deployments.iter().filter(|d| d.metadata.deletion_timestamp.is_none()) {
        if !adopt(deployment.as_ref(), &deployment.spec.selector, &world.replica_sets, plan) {
            plan_deployment(world, deployment, now, plan);
        }
    }
    for set in world.replica_sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none()) {
        let pods = world.pods.iter().filter(|pod| pods::is_active(pod));
        if !adopt(set.as_ref(), &set.spec.selector, pods, plan) {
            plan_replica_set(world, set, now, plan);
        }
    }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn plan_deployment(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let spec = deployment.spec.clone();
    let uid = deployment.uid();
    let mut sets: Vec<&ReplicaSet> = world.replica_sets.iter().map(AsRef::as_ref).collect();
    sets.retain(|set| is_controlled_by(*set, uid.as_deref()));
    sets.sort_by_key(|set| revision(set));
    let name = format!("{}-{}", deployment.name_any(), hash(&spec.template));
    let (new, old): (Vec<&ReplicaSet>, Vec<&ReplicaSet>) = sets.iter().partition(|set| set.name_any() == name);
    let latest = sets.last().map_or(0, |set| revision(set));
    let Some(new) = new.first() else {
        if spec.paused != Some(true) {
            plan.add(Action::create(&new_replica_set(deployment, &spec, name, latest + 1)));
        }
        return write_status(deployment, &spec, None, &sets, now, plan);
    };
    if revision(new) < latest {
        let patch = json!({ "metadata": { "annotations": { REVISION: (latest + 1).to_string() } } });
        plan.add(Action::patch(*new, patch));
    }
    let new_revision = revision(new).max(1).to_string();
    if deployment.annotations().get(REVISION) != Some(&new_revision) {
        plan.add(Action::patch(deployment, json!({ "metadata": { "annotations": { REVISION: new_revision } } })));
    }
    if spec.paused != Some(true) {
        let running_pods = |set: &ReplicaSet| {
            world.pods.iter().any(|pod| is_controlled_by(pod.as_ref(), set.uid().as_deref()) && !pods::is_over(pod))
        };
        let old_gone = old.iter().all(|set| wanted(set) == 0 && !running_pods(set));
        for (set, replicas) in rollout(&spec, new, &old, old_gone) {
            plan.add(Action::patch(set, json!({ "spec": { "replicas": replicas } })));
        }
        forget_old(&spec, &old, plan);
    }
    write_status(deployment, &spec, Some(new), &sets, now, plan);
}

fn new_replica_set(deployment: &Deployment, spec: &DeploymentSpec, name: String, revision: i64) -> ReplicaSet {
    let hash = name.rsplit('-').next().unwrap_or_default().to_owned();
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: deployment.namespace(),
            labels: Some(labels.clone()),
            annotations: Some([(REVISION.to_owned(), revision.to_string())].into()),
            owner_references: controlled_by(deployment),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// The next sizes of the ReplicaSets, only those that change.
fn rollout<'a>(
    spec: &DeploymentSpec,
    new: &'a ReplicaSet,
    old: &[&'a ReplicaSet],
    old_gone: bool,
) -> Vec<(&'a ReplicaSet, i32)> {
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        let down = old.iter().filter(|set| wanted(set) > 0).map(|set| (*set, 0));
        let up = (old_gone && wanted(new) != replicas).then_some((new, replicas));
        return down.chain(up).collect();
    }
    let (surge, unavailable) = margins(spec);
    let mut changes = Vec::new();
    let total: i32 = old.iter().map(|set| wanted(set)).sum::<i32>() + wanted(new);
    let room = (replicas + surge - total).max(0);
    let target = (wanted(new) + room).min(replicas);
    if wanted(new) != target {
        changes.push((new, target));
    }
    let all_available: i32 = old.iter().map(|set| available(set)).sum::<i32>() + available(new);
    let mut spare = (all_available - (replicas - unavailable)).max(0);
    for set in old.iter().filter(|set| wanted(set) > 0) {
        let broken = wanted(set) - available(set).min(wanted(set));
        let cut = broken + (wanted(set) - broken).min(spare);
        spare -= cut - broken;
        if cut > 0 {
            changes.push((*set, wanted(set) - cut));
        }
    }
    changes
}

/// How many pods there may be too many and too few.
fn margins(spec: &DeploymentSpec) -> (i32, i32) {
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return (0, 0);
    }
    let replicas = spec.replicas.unwrap_or(1);
    let rolling = strategy.rolling_update.unwrap_or_default();
    let quarter = || IntOrString::String("25%".into());
    let surge = pdb::share(&rolling.max_surge.unwrap_or_else(quarter), replicas);
    let unavailable = pdb::share_rounded_down(&rolling.max_unavailable.unwrap_or_else(quarter), replicas);
    (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}

fn forget_old(spec: &DeploymentSpec, old: &[&ReplicaSet], plan: &mut Plan) {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY)).unwrap_or(0);
    let empty = |set: &&&ReplicaSet| wanted(set) == 0 && set.status.as_ref().is_none_or(|s| s.replicas == 0);
    let unused: Vec<_> = old.iter().filter(empty).collect();
    for set in unused.iter().take(unused.len().saturating_sub(limit)) {
        plan.add(Action::delete(**set));
    }
}

fn write_status(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    sets: &[&ReplicaSet],
    now: Timestamp,
    plan: &mut Plan,
) {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&ReplicaSetStatus) -> i32| sets.iter().filter_map(|s| s.status.as_ref()).map(of).sum::<i32>();
    let replicas = spec.replicas.unwrap_or(1);
    let total = sum(|status| status.replicas);
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let complete = updated == replicas && total == replicas && available == replicas;
    let enough = available >= replicas - margins(spec).1;
    let conditions = [
        ("Available", enough, if enough { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" }),
        ("Progressing", true, if complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" }),
    ];
    let conditions = conditions.map(|(type_, truth, reason)| condition(&old, type_, truth, reason, now));
    let status = DeploymentStatus {
        replicas: Some(total),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((replicas - available).max(0)),
        updated_replicas: Some(updated),
        observed_generation: deployment.metadata.generation,
        conditions: Some(conditions.to_vec()),
        ..DeploymentStatus::default()
    };
    plan.actions.extend(Action::status(deployment, deployment.status.as_ref(), &status));
}

fn condition(old: &DeploymentStatus, type_: &str, truth: bool, reason: &str, now: Timestamp) -> DeploymentCondition {
    let status = if truth { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(type_));
    let second = Time(Timestamp::from_second(now.as_second()).unwrap_or_default());
    let same_reason = before.filter(|c| c.status.as_deref() == Some(status) && c.reason.as_deref() == Some(reason));
    let same_status = before.filter(|c| c.status.as_deref() == Some(status));
    DeploymentCondition {
        type_: Some(type_.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: None,
        last_update_time: same_reason.map_or_else(|| Some(second.clone()), |c| c.last_update_time.clone()),
        last_transition_time: same_status.map_or_else(|| Some(second.clone()), |c| c.last_transition_time.clone()),
    }
}

fn plan_replica_set(world: &World, set: &ReplicaSet, now: Timestamp, plan: &mut Plan) {
    let uid = set.uid();
    let mine = world.pods.iter().filter(|pod| is_controlled_by(pod.as_ref(), uid.as_deref()));
    let mut active: Vec<&Pod> = mine.map(AsRef::as_ref).filter(|pod| pods::is_active(pod)).collect();
    active.sort_by_key(|pod| pods::rank(pod));
    let have = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let spec = &set.spec;
    if let Some(template) = &spec.template {
        for _ in have..wanted(set) {
            let mut pod = pods::from_template(template, set.namespace(), controlled_by(set), Default::default());
            pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
            plan.add(Action::create(&pod));
        }
    }
    let surplus = usize::try_from(have - wanted(set)).unwrap_or(0);
    for pod in active.iter().take(surplus) {
        plan.add(Action::delete(*pod));
    }
    let mut ready_for_long = 0;
    for pod in &active {
        match pods::is_available(pod, spec.min_ready_seconds, now) {
            Ok(available) => ready_for_long += i32::from(available),
            Err(later) => plan.wake_at(later),
        }
    }
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let status = ReplicaSetStatus {
        replicas: have,
        ready_replicas: Some(i32::try_from(ready).unwrap_or(i32::MAX)),
        available_replicas: Some(ready_for_long),
        fully_labeled_replicas: Some(have),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    };
    plan.actions.extend(Action::status(set, set.status.as_ref(), &status));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{object, summary};
    use super::*;

    fn set(name: &str, wanted: i32, available: i32) -> Arc<ReplicaSet> {
        object(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"replicas": wanted, "selector": {}},
            "status": {"replicas": wanted, "availableReplicas": available}}))
    }

    #[test]
    fn rollouts_keep_within_surge_and_unavailability() {
        let rolling = |replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value| {
            let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
            json!({"replicas": replicas, "strategy": {"rollingUpdate": rolling}})
        };
        let recreate = json!({"replicas": 2, "strategy": {"type": "Recreate"}});
        let default = json!({"replicas": 4});
        for (spec, new, old, old_gone, expected) in [
            (default.clone(), (0, 0), (4, 4), false, "new=1 old=3"),
            (default.clone(), (1, 0), (3, 3), false, "new=2"),
            (default.clone(), (2, 2), (3, 3), false, "old=1"),
            (default, (4, 4), (0, 0), true, ""),
            (rolling(3, json!(1), json!(0)), (0, 0), (3, 3), false, "new=1"),
            (rolling(3, json!(1), json!(0)), (1, 1), (3, 3), false, "old=2"),
            (rolling(3, json!(0), json!(1)), (0, 0), (3, 3), false, "old=2"),
            (rolling(1, json!("25%"), json!("25%")), (0, 0), (1, 1), false, "new=1"),
            (rolling(1, json!("25%"), json!("25%")), (1, 0), (1, 0), false, "old=0"),
            (recreate.clone(), (0, 0), (2, 2), false, "old=0"),
            (recreate.clone(), (0, 0), (0, 0), false, ""),
            (recreate, (0, 0), (0, 0), true, "new=2"),
        ] {
            let mut full = json!({"selector": {}, "template": {}});
            full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let spec_: DeploymentSpec = serde_json::from_value(full).unwrap();
            let (new_set, old_set) = (set("new", new.0, new.1), set("old", old.0, old.1));
            let changes = rollout(&spec_, &new_set, &[&old_set], old_gone);
            let text: Vec<_> = changes.iter().map(|(set, n)| format!("{}={n}", set.name_any())).collect();
            assert_eq!(text.join(" "), expected, "{spec} {new:?} {old:?}");
        }
    }

    #[test]
    fn a_deployment_is_available_with_no_more_missing_than_it_allows() {
        for (strategy, available, expected) in [
            (json!({"rollingUpdate": {"maxUnavailable": 0}}), 3, "False"),
            (json!({"rollingUpdate": {"maxUnavailable": "50%"}}), 2, "True"),
            (json!({"rollingUpdate": {"maxUnavailable": "49%"}}), 2, "False"),
            (json!({}), 3, "True"),
            (json!({"type": "Recreate"}), 3, "False"),
        ] {
            let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "d"},
                "spec": {"replicas": 4, "strategy": strategy, "selector": {}, "template": {}}}))
            .unwrap();
            let mut result = Plan::default();
            let set = set("d", 4, available);
            write_status(&deployment, &deployment.spec, Some(&set), &[&set], Timestamp::UNIX_EPOCH, &mut result);
            let Action::Status(_, status) = &result.actions[0] else { panic!("{result:?}") };
            assert_eq!(status["conditions"][0]["status"], expected, "{strategy} {available}");
        }
    }

    #[test]
    fn replica_sets_keep_their_number_and_delete_the_unready_first() {
        let pod = |name: &str, ready: &str| {
            object::<Pod>(json!({"metadata": {"name": name, "namespace": "ns", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
        };
        for (replicas, expected) in [(3, "create Pod r-"), (1, "delete Pod b"), (2, "")] {
            let world = World {
                replica_sets: vec![object(json!({"metadata": {"name": "r", "namespace": "ns", "uid": "r"},
                    "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": []}}}}))],
                pods: vec![pod("a", "True"), pod("b", "False")],
                ..World::default()
            };
            let mut result = Plan::default();
            plan(&world, Timestamp::UNIX_EPOCH, &mut result);
            let acts: Vec<_> = summary(&result).into_iter().filter(|line| !line.starts_with("status")).collect();
            assert_eq!(acts.join(" "), expected);
        }
    }
}
