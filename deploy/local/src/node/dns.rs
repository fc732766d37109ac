//! Cluster DNS: names of services and of pods behind headless services, answered from the watched Services and EndpointSlices.
//!
//! There are only addresses (type A), over UDP. Names outside `cluster.local` do not exist here: pods have no way out of the
//! machine anyway.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::net::UdpSocket;

use super::network::DNS_SERVICE;

const SERVICES: &str = ".svc.cluster.local.";
/// Seconds that an answer may be kept, as in CoreDNS's Kubernetes plugin.
const TTL_SECONDS: u32 = 5;
/// So many addresses fit an answer of 512 bytes, the most that every client takes over UDP.
const MOST_ADDRESSES: usize = 20;

/// Where names come from.
#[derive(Clone, Debug)]
pub struct Names {
    /// All Services.
    pub services: Store<Service>,
    /// All EndpointSlices.
    pub slices: Store<EndpointSlice>,
}

/// Serves DNS on UDP until the process ends.
pub async fn serve(names: Names) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((DNS_SERVICE, 53)).await?;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = names.answer(&buffer[..length]) {
                drop(socket.send_to(&answer, peer).await);
            }
        }
    });
    Ok(())
}

impl Names {
    /// The encoded answer to an encoded question; none to what is not a question.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        respond(&request, &self.services.state(), &self.slices.state()).to_vec().ok()
    }
}

fn respond(request: &Message, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.authoritative = true;
    let Some(query) = request.queries.first() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    };
    response.add_query(query.clone());
    if request.metadata.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return response;
    }
    match addresses(&query.name().to_ascii().to_ascii_lowercase(), services, slices) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(found) if query.query_type() == RecordType::A => {
            let record = |address| Record::from_rdata(query.name().clone(), TTL_SECONDS, RData::A(A(address)));
            response.add_answers(found.into_iter().take(MOST_ADDRESSES).map(record));
        }
        Some(_) => {}
    }
    response
}

/// The addresses of a full name (lower case, with the final dot), in the order of the endpoints; none if there is no such
/// name.
fn addresses(name: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Option<Vec<Ipv4Addr>> {
    let labels: Vec<&str> = name.strip_suffix(SERVICES)?.split('.').collect();
    let (host, name, namespace) = match labels.as_slice() {
        [service, namespace] => (None, *service, *namespace),
        [host, service, namespace] => (Some(*host), *service, *namespace),
        _ => return None,
    };
    let service = services.iter().find(|s| s.name_any() == name && s.namespace().as_deref() == Some(namespace))?;
    let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()?.parse().ok());
    if cluster_ip.is_some() {
        return cluster_ip.filter(|_| host.is_none()).map(|address| vec![address]);
    }
    let endpoints = slices_of(service, slices).flat_map(ready);
    let named = endpoints.filter(|e| host.is_none_or(|host| e.hostname.as_deref() == Some(host) || dashed(e) == host));
    let found: Vec<_> = named.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok()).collect();
    (host.is_none() || !found.is_empty()).then_some(found)
}

/// The slices of a service.
pub fn slices_of<'a>(
    service: &Service,
    slices: &'a [Arc<EndpointSlice>],
) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
    let (namespace, name) = (service.namespace(), service.name_any());
    slices.iter().map(AsRef::as_ref).filter(move |slice| {
        slice.namespace() == namespace && slice.labels().get("kubernetes.io/service-name") == Some(&name)
    })
}

/// Endpoints that may be given out. For services that publish not-ready addresses the slice says ready for all.
pub fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    let ready = |e: &&Endpoint| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
    slice.endpoints.iter().flatten().filter(ready)
}

/// The name of an endpoint without a host name: its address with dashes.
fn dashed(endpoint: &Endpoint) -> String {
    endpoint.addresses.first().map(|a| a.replace('.', "-")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;
    use serde_json::json;

    fn cluster() -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
        let service = |name: &str, ip: &str| {
            let ports = json!([{"name": "client", "port": 2379}]);
            let value =
                json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterIP": ip, "ports": ports}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let slice = json!({
            "metadata": {"name": "x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "members"}},
            "addressType": "IPv4",
            "ports": [{"name": "peer", "port": 2380}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "hostname": "a-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "hostname": "a-1", "conditions": {"ready": false}},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": true}},
            ],
        });
        let services = vec![service("client", "10.96.0.7"), service("members", "None"), service("none", "None")];
        (services, vec![Arc::new(serde_json::from_value(slice).unwrap())])
    }

    #[test]
    fn names_resolve_as_in_kubernetes() {
        let (services, slices) = cluster();
        for (name, expected) in [
            ("client.ns", Some("10.96.0.7")),
            ("members.ns", Some("10.244.0.2 10.244.0.4")),
            ("a-0.members.ns", Some("10.244.0.2")),
            ("a-1.members.ns", None),
            ("10-244-0-4.members.ns", Some("10.244.0.4")),
            ("none.ns", Some("")),
            ("a-0.client.ns", None),
            ("gone.ns", None),
            ("client.other", None),
            ("ns", None),
        ] {
            let found = addresses(&format!("{name}.svc.cluster.local."), &services, &slices);
            let found = found.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), expected, "{name}");
        }
        assert_eq!(addresses("example.org.", &services, &slices), None);
    }

    #[test]
    fn answers_keep_the_case_and_know_only_addresses() {
        let (services, slices) = cluster();
        for (name, kind, code, answers) in [
            ("CLIENT.ns", RecordType::A, ResponseCode::NoError, 1),
            ("client.ns", RecordType::AAAA, ResponseCode::NoError, 0),
            ("gone.ns", RecordType::A, ResponseCode::NXDomain, 0),
        ] {
            let mut request = Message::query();
            let name = Name::from_ascii(format!("{name}.svc.cluster.local.")).unwrap();
            request.add_query(Query::query(name.clone(), kind));
            let response = respond(&request, &services, &slices).to_vec().unwrap();
            let response = Message::from_vec(&response).unwrap();
            assert_eq!((response.metadata.response_code, response.answers.len()), (code, answers), "{name}");
            assert!(response.answers.iter().all(|answer| answer.name == name));
        }
    }
}
