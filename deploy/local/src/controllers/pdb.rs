//! PodDisruptionBudget status: how many pods may be evicted now. The API server's eviction reads it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{Plan, World, pods, selects};
use crate::objects::Action;

/// How long an evicted pod counts as disrupted before its deletion is seen.
const DISRUPTED_SECONDS: i64 = 120;

/// Brings the status of all budgets up to date.
pub fn plan(world: &World, now: Timestamp, plan: &mut Plan) {
    for budget in &world.budgets {
        let status = status(world, budget, now);
        plan.actions.extend(Action::status(budget.as_ref(), budget.status.as_ref(), &status));
    }
}

fn status(world: &World, budget: &PodDisruptionBudget, now: Timestamp) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let chosen: Vec<&Pod> = world
        .pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| pod.namespace() == budget.namespace())
        .filter(|pod| selects(spec.selector.as_ref(), pod.labels()))
        .filter(|pod| !pods::is_over(pod))
        .collect();
    let expected = match spec.min_available {
        Some(IntOrString::Int(_)) => count(chosen.len()),
        _ => expected(world, &chosen),
    };
    let desired = match (&spec.min_available, &spec.max_unavailable) {
        (Some(minimum), _) => share(minimum, expected),
        (None, Some(maximum)) => (expected - share(maximum, expected)).max(0),
        (None, None) => 0,
    };
    let recent = now.checked_sub(SignedDuration::from_secs(DISRUPTED_SECONDS)).unwrap_or(Timestamp::MIN);
    let disrupted = old.disrupted_pods.map(|disrupted| {
        let present = |name: &String| chosen.iter().any(|pod| pod.name_any() == *name && !pods::is_terminating(pod));
        disrupted.into_iter().filter(|(name, Time(time))| *time > recent && present(name)).collect()
    });
    let disrupted: std::collections::BTreeMap<_, _> = disrupted.unwrap_or_default();
    let healthy = chosen
        .iter()
        .filter(|pod| pods::is_ready(pod) && !pods::is_terminating(pod) && !disrupted.contains_key(&pod.name_any()));
    let healthy = count(healthy.count());
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(old.conditions.as_deref(), allowed > 0, budget.metadata.generation, now)]),
    }
}

fn condition(old: Option<&[Condition]>, allowed: bool, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if allowed { "True" } else { "False" };
    let same = old.into_iter().flatten().find(|c| c.type_ == "DisruptionAllowed" && c.status == status);
    let second = Timestamp::from_second(now.as_second()).unwrap_or_default();
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: if allowed { "SufficientPods" } else { "InsufficientPods" }.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: same.map_or(Time(second), |condition| condition.last_transition_time.clone()),
    }
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// A number, or a percentage of `whole` rounded up.
pub fn share(value: &IntOrString, whole: i32) -> i32 {
    scaled(value, whole, 99)
}

/// A number, or a percentage of `whole` rounded down.
pub fn share_rounded_down(value: &IntOrString, whole: i32) -> i32 {
    scaled(value, whole, 0)
}

fn scaled(value: &IntOrString, whole: i32, round_up: i64) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            i32::try_from((percent * i64::from(whole) + round_up) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// The replicas that the pods' controllers want; pods without a controller that is known here count as they are.
fn expected(world: &World, chosen: &[&Pod]) -> i32 {
    let mut counted = BTreeSet::new();
    let mut sum = 0;
    for pod in chosen {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        let replicas = owner.and_then(|owner| replicas(world, &owner.uid));
        match (owner, replicas) {
            (Some(owner), Some(replicas)) => {
                if counted.insert(owner.uid.clone()) {
                    sum += replicas;
                }
            }
            _ => sum += 1,
        }
    }
    sum
}

fn replicas(world: &World, uid: &str) -> Option<i32> {
    let of = |found: Option<String>| found.as_deref() == Some(uid);
    let set = world.stateful_sets.iter().find(|set| of(set.uid()));
    let set = set.map(|set| set.spec.replicas.unwrap_or(1));
    let replica_set = world.replica_sets.iter().find(|set| of(set.uid()));
    set.or(replica_set.map(|set| set.spec.replicas.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::object;
    use super::*;
    use serde_json::json;

    #[test]
    fn budgets_count_healthy_pods_against_what_is_wanted() {
        let pod = |name: &str, ready: &str| {
            object::<Pod>(json!({
                "metadata": {"name": name, "namespace": "ns", "labels": {"app": "x"}, "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s", "controller": true}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let world = World {
            stateful_sets: vec![object(json!({"metadata": {"name": "s", "namespace": "ns", "uid": "s"},
                "spec": {"replicas": 4, "selector": {}, "serviceName": "s", "template": {}}}))],
            pods: vec![pod("a", "True"), pod("b", "True"), pod("c", "False")],
            ..World::default()
        };
        for (spec, expected) in [
            (json!({"minAvailable": 1}), [2, 1, 1, 3]),
            (json!({"minAvailable": 3}), [2, 3, 0, 3]),
            (json!({"minAvailable": "50%"}), [2, 2, 0, 4]),
            (json!({"maxUnavailable": 1}), [2, 3, 0, 4]),
            (json!({"maxUnavailable": "75%"}), [2, 1, 1, 4]),
        ] {
            let mut spec = spec;
            spec["selector"] = json!({"matchLabels": {"app": "x"}});
            let budget = object(json!({"metadata": {"name": "b", "namespace": "ns"}, "spec": spec}));
            let s = status(&world, &budget, Timestamp::UNIX_EPOCH);
            let seen = [s.current_healthy, s.desired_healthy, s.disruptions_allowed, s.expected_pods];
            assert_eq!(seen.map(Option::unwrap), expected, "{spec}");
        }
    }
}
