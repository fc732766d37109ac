//! The scheduler: every pod goes to the one node, unless its node selector says otherwise.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::{Plan, World, pods};
use crate::objects::{Action, Target};

/// Binds pods without a node.
pub fn plan(world: &World, plan: &mut Plan) {
    let Some(node) = world.nodes.iter().find(|node| accepts(node)) else {
        return;
    };
    for pod in &world.pods {
        let spec = pod.spec.as_ref();
        let gated = spec.is_some_and(|spec| spec.scheduling_gates.iter().flatten().next().is_some());
        let waiting = !gated && spec.is_some_and(|spec| spec.node_name.is_none());
        if waiting && pods::is_active(pod) && fits(pod, node) && has_claims(world, pod) {
            plan.add(Action::Bind(Target::of(pod.as_ref()), node.name_any()));
        }
    }
}

/// A cordoned node takes no new pods.
fn accepts(node: &Node) -> bool {
    node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true))
}

/// Whether all claims that the pod mounts are bound.
fn has_claims(world: &World, pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut names = volumes.filter_map(|volume| Some(&volume.persistent_volume_claim.as_ref()?.claim_name));
    names.all(|name| {
        let mut claims = world.claims.iter().filter(|claim| claim.namespace() == pod.namespace());
        let claim = claims.find(|claim| claim.name_any() == *name);
        claim.is_some_and(|claim| {
            claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
                && claim.metadata.deletion_timestamp.is_none()
        })
    })
}

fn fits(pod: &Pod, node: &Node) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    selector.into_iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, summary};
    use super::*;
    use serde_json::json;

    #[test]
    fn waiting_pods_are_bound() {
        let pod = |name: &str, spec| object(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}));
        let mut world = World {
            nodes: vec![object(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}}))],
            pods: vec![
                pod("a", json!({"containers": []})),
                pod("bound", json!({"containers": [], "nodeName": "n"})),
                pod("fits", json!({"containers": [], "nodeSelector": {"disk": "ssd"}})),
                pod(
                    "unbound",
                    json!({"containers": [], "volumes": [
                        {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]}),
                ),
                pod("gated", json!({"containers": [], "schedulingGates": [{"name": "example.org/later"}]})),
                pod("not", json!({"containers": [], "nodeSelector": {"disk": "hdd"}})),
            ],
            ..World::default()
        };
        let plan_of = |world: &World| {
            let mut result = Plan::default();
            plan(world, &mut result);
            summary(&result)
        };
        assert_eq!(plan_of(&world), ["bind a n", "bind fits n"]);
        world.nodes = vec![object(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}}))];
        assert_eq!(plan_of(&world), [""; 0]);
    }
}
