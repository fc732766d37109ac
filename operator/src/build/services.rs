//! The headless Service, by which members find each other, and the Service for clients.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::crd::EtcdCluster;
use crate::names::{CLIENT_PORT, METRICS_PORT, Names, PEER_PORT, ROLE_LABEL};
use crate::plan::PodRole;

/// Gives each pod a DNS name from the moment that it has an address: a joining member is dialled before it is ready.
pub fn members_service(cluster: &EtcdCluster) -> Service {
    let names = Names::of(cluster);
    Service {
        metadata: metadata(&names, names.members_service()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names.selector()),
            ports: Some(vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)]),
            ..Default::default()
        }),
        status: None,
    }
}

/// Where clients connect: ready members that have a vote. A learner refuses most requests.
pub fn client_service(cluster: &EtcdCluster) -> Service {
    let names = Names::of(cluster);
    let mut metadata = metadata(&names, names.client_service());
    let wanted = &cluster.spec.service;
    if !wanted.annotations.is_empty() {
        metadata.annotations = Some(wanted.annotations.clone());
    }
    let mut selector = names.selector();
    selector.insert(ROLE_LABEL.into(), PodRole::Voter.as_str().into());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(wanted.type_.as_str().into()),
            selector: Some(selector),
            ports: Some(vec![port("client", CLIENT_PORT)]),
            ..Default::default()
        }),
        status: None,
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}
