//! EndpointSlices: which pods stand behind a Service with a selector. One slice for each.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::json;

use super::{Plan, World, controlled_by, is_controlled_by, pods};
use crate::objects::{Action, json_of};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Creates and updates slices. A slice goes with its Service, by owner reference.
pub fn plan(world: &World, plan: &mut Plan) {
    for service in &world.services {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            continue;
        };
        let chosen: Vec<&Pod> = world
            .pods
            .iter()
            .map(AsRef::as_ref)
            .filter(|pod| pod.namespace() == service.namespace())
            .filter(|pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
            .filter(|pod| !pods::is_over(pod) && address(pod).is_some())
            .collect();
        let desired = slice(service, &chosen);
        let uid = service.uid();
        let mut mine = world.slices.iter().filter(|slice| is_controlled_by(slice.as_ref(), uid.as_deref()));
        match mine.next() {
            None => plan.add(Action::create(&desired)),
            Some(current) if current.endpoints != desired.endpoints || current.ports != desired.ports => {
                let patch = json!({ "endpoints": json_of(&desired.endpoints), "ports": json_of(&desired.ports) });
                plan.add(Action::patch(current.as_ref(), patch));
            }
            Some(_) => {}
        }
    }
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

fn slice(service: &Service, chosen: &[&Pod]) -> EndpointSlice {
    let spec = service.spec.clone().unwrap_or_default();
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_LABEL.into(), service.name_any());
    labels.insert("endpointslice.kubernetes.io/managed-by".into(), "endpointslice-controller.k8s.io".into());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-local", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: controlled_by(service),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".into(),
        endpoints: Some(chosen.iter().map(|pod| endpoint(service, pod)).collect()),
        ports: Some(spec.ports.iter().flatten().filter_map(|port| endpoint_port(port, chosen)).collect()),
    }
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let all = service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let spec = pod.spec.as_ref();
    let in_service = spec.and_then(|spec| spec.subdomain.clone()) == Some(service.name_any());
    Endpoint {
        addresses: address(pod).map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.and_then(|spec| spec.hostname.clone()).filter(|_| in_service),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The port of the pods behind a service's port; named ports are those of the first pod that has them.
fn endpoint_port(port: &ServicePort, chosen: &[&Pod]) -> Option<EndpointPort> {
    let number = match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => chosen.iter().find_map(|pod| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }),
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number?),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::object;
    use super::*;

    #[test]
    fn endpoints_follow_readiness_unless_all_are_published() {
        let pod = |name: &str, ready: &str, extra: serde_json::Value| {
            let mut pod = json!({
                "metadata": {"name": name, "namespace": "ns", "labels": {"app": "x"}},
                "spec": {"hostname": name, "subdomain": "s",
                         "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"podIP": "10.244.0.2", "phase": "Running",
                           "conditions": [{"type": "Ready", "status": ready}]}});
            pod["metadata"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            object::<Pod>(pod)
        };
        let service = |publish: bool| {
            object::<Service>(json!({"metadata": {"name": "s", "namespace": "ns", "uid": "u"}, "spec": {
                "selector": {"app": "x"}, "publishNotReadyAddresses": publish,
                "ports": [{"port": 80, "targetPort": "web"}]}}))
        };
        let pods = [
            pod("a", "True", json!({})),
            pod("b", "False", json!({})),
            pod("c", "True", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ];
        let chosen: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        for (publish, expected) in [(false, [true, false, false]), (true, [true, true, true])] {
            let slice = slice(&service(publish), &chosen);
            let ready: Vec<_> =
                slice.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready.unwrap()).collect();
            assert_eq!(ready, expected);
            assert_eq!(slice.endpoints.as_ref().unwrap()[0].hostname.as_deref(), Some("a"));
            assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
        }
    }
}
