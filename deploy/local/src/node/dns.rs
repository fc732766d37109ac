//! Cluster DNS: names of services and of pods behind headless services, answered from the watched Services and EndpointSlices.
//!
//! Names outside `cluster.local` do not exist here: pods have no way out of the machine anyway.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::network::DNS_SERVICE;

const ZONE: &str = "cluster.local.";
/// Seconds that an answer may be kept, as in CoreDNS's Kubernetes plugin.
const TTL_SECONDS: u32 = 5;
/// What fits an answer over UDP when the client says nothing else.
const UDP_LIMIT: usize = 512;

/// Where names come from.
#[derive(Clone, Debug)]
pub struct Names {
    /// All Services.
    pub services: Store<Service>,
    /// All EndpointSlices.
    pub slices: Store<EndpointSlice>,
}

/// Serves DNS on UDP and TCP until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(names: Names) -> anyhow::Result<()> {
    let udp = UdpSocket::bind((DNS_SERVICE, 53)).await?;
    let tcp = TcpListener::bind((DNS_SERVICE, 53)).await?;
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, peer)) = received else { continue };
                if let Some(answer) = names.answer(&buffer[..length], true) {
                    drop(udp.send_to(&answer, peer).await);
                }
            }
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                tokio::spawn(serve_stream(stream, names.clone()));
            }
        }
    }
}

/// Questions over TCP: each with its length in two bytes before it.
async fn serve_stream(mut stream: TcpStream, names: Names) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await.ok()?;
        let answer = names.answer(&question, false)?;
        stream.write_u16(u16::try_from(answer.len()).ok()?).await.ok()?;
        stream.write_all(&answer).await.ok()?;
    }
}

impl Names {
    /// The encoded answer to an encoded question; none to what is not a question.
    fn answer(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let response = respond(&request, &self.services.state(), &self.slices.state());
        let encoded = response.to_vec().ok()?;
        let limit = usize::from(request.max_payload()).max(UDP_LIMIT);
        if udp && encoded.len() > limit {
            return response.truncate().to_vec().ok();
        }
        Some(encoded)
    }
}

/// What a name stands for.
#[derive(Debug, PartialEq)]
enum Resolved {
    /// Addresses, in the order of the endpoints.
    Addresses(Vec<Ipv4Addr>),
    /// Targets of an SRV question: port and name.
    Services(Vec<(u16, String)>),
    /// A CNAME-like alias (ExternalName) or an inner node of the tree: exists without records of its own.
    Empty,
    /// NXDOMAIN.
    Missing,
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
    let name = query.name().to_ascii().to_ascii_lowercase();
    let record = |data| Record::from_rdata(query.name().clone(), TTL_SECONDS, data);
    match (resolve(&name, services, slices), query.query_type()) {
        (Resolved::Addresses(addresses), RecordType::A | RecordType::ANY) => {
            response.add_answers(addresses.into_iter().map(|address| record(RData::A(A(address)))));
        }
        (Resolved::Services(targets), RecordType::SRV | RecordType::ANY) => {
            for (port, target) in targets {
                if let Ok(target) = Name::from_ascii(&target) {
                    response.add_answer(record(RData::SRV(SRV::new(0, 100, port, target))));
                }
            }
        }
        (Resolved::Missing, _) => response.metadata.response_code = ResponseCode::NXDomain,
        _ => {}
    }
    if response.answers.is_empty()
        && let Some(authority) = start_of_authority()
    {
        response.add_authority(authority);
    }
    response
}

/// The zone's SOA record: how long a "no" may be kept.
fn start_of_authority() -> Option<Record> {
    let zone = Name::from_ascii(ZONE).ok()?;
    let server = Name::from_ascii("ns.dns.cluster.local.").ok()?;
    let person = Name::from_ascii("hostmaster.cluster.local.").ok()?;
    let soa = SOA::new(server, person, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(zone, TTL_SECONDS, RData::SOA(soa)))
}

/// Looks a full name (lower case, with the final dot) up.
fn resolve(name: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Resolved {
    let Some(inside) = name.strip_suffix(ZONE).and_then(|n| n.strip_suffix("svc.")) else {
        return if ZONE == name { Resolved::Empty } else { Resolved::Missing };
    };
    let labels: Vec<&str> = inside.trim_end_matches('.').split('.').collect();
    let (rest, service, namespace) = match labels.as_slice() {
        [] | [""] => return Resolved::Empty,
        [namespace] => {
            let known = services.iter().any(|s| s.namespace().as_deref() == Some(namespace));
            return if known { Resolved::Empty } else { Resolved::Missing };
        }
        [rest @ .., service, namespace] => (rest, *service, *namespace),
    };
    let found = services.iter().find(|s| s.name_any() == service && s.namespace().as_deref() == Some(namespace));
    let Some(found) = found else {
        return Resolved::Missing;
    };
    let cluster_ip = found.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    let cluster_ip = cluster_ip.and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let slices = slices.iter().filter(|slice| {
        slice.namespace().as_deref() == Some(namespace)
            && slice.labels().get("kubernetes.io/service-name").is_some_and(|s| s == service)
    });
    match rest {
        [] if cluster_ip.is_some() => Resolved::Addresses(cluster_ip.into_iter().collect()),
        [] => non_empty(slices.flat_map(|slice| ready(slice)).filter_map(address).collect()),
        [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
            let base = format!("{service}.{namespace}.svc.{ZONE}");
            let targets = slices.flat_map(|slice| srv_targets(slice, &port[1..], &base));
            let targets: Vec<_> = match cluster_ip {
                Some(_) => service_ports(found, &port[1..]).map(|p| (p, base.clone())).collect(),
                None => targets.collect(),
            };
            if targets.is_empty() { Resolved::Missing } else { Resolved::Services(targets) }
        }
        [host] if cluster_ip.is_none() => {
            let named = |e: &&Endpoint| e.hostname.as_deref() == Some(host) || dashed(e) == *host;
            let endpoints = slices.flat_map(|slice| ready(slice)).filter(named);
            match non_empty(endpoints.filter_map(address).collect()) {
                Resolved::Empty => Resolved::Missing,
                found => found,
            }
        }
        _ => Resolved::Missing,
    }
}

fn non_empty(addresses: Vec<Ipv4Addr>) -> Resolved {
    if addresses.is_empty() { Resolved::Empty } else { Resolved::Addresses(addresses) }
}

/// Endpoints that may be given out. For services that publish not-ready addresses the slice says ready for all.
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    let ready = |e: &&Endpoint| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
    slice.endpoints.iter().flatten().filter(ready)
}

fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    endpoint.addresses.first()?.parse().ok()
}

/// The name of an endpoint without a host name: its address with dashes.
fn dashed(endpoint: &Endpoint) -> String {
    endpoint.addresses.first().map(|a| a.replace('.', "-")).unwrap_or_default()
}

fn service_ports(service: &Service, name: &str) -> impl Iterator<Item = u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(move |port| port.name.as_deref() == Some(name)).filter_map(|port| u16::try_from(port.port).ok())
}

fn srv_targets(slice: &EndpointSlice, port: &str, base: &str) -> Vec<(u16, String)> {
    let ports = slice.ports.iter().flatten().filter(|p| p.name.as_deref() == Some(port));
    let numbers: Vec<u16> = ports.filter_map(|p| u16::try_from(p.port?).ok()).collect();
    let target = |e: &Endpoint| format!("{}.{base}", e.hostname.clone().unwrap_or(dashed(e)));
    ready(slice).flat_map(|endpoint| numbers.iter().map(move |port| (*port, target(endpoint)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
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
            ("client.ns.svc.cluster.local.", "10.96.0.7"),
            ("members.ns.svc.cluster.local.", "10.244.0.2 10.244.0.4"),
            ("a-0.members.ns.svc.cluster.local.", "10.244.0.2"),
            ("a-1.members.ns.svc.cluster.local.", "missing"),
            ("10-244-0-4.members.ns.svc.cluster.local.", "10.244.0.4"),
            ("none.ns.svc.cluster.local.", "empty"),
            ("a-0.client.ns.svc.cluster.local.", "missing"),
            ("gone.ns.svc.cluster.local.", "missing"),
            ("client.other.svc.cluster.local.", "missing"),
            ("example.org.", "missing"),
            ("ns.svc.cluster.local.", "empty"),
            (
                "_peer._tcp.members.ns.svc.cluster.local.",
                "2380 a-0.members.ns.svc.cluster.local., \
             2380 10-244-0-4.members.ns.svc.cluster.local.",
            ),
            ("_client._tcp.client.ns.svc.cluster.local.", "2379 client.ns.svc.cluster.local."),
        ] {
            let found = match resolve(name, &services, &slices) {
                Resolved::Addresses(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                Resolved::Services(all) => all.iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>().join(", "),
                Resolved::Empty => "empty".into(),
                Resolved::Missing => "missing".into(),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn answers_keep_the_case_and_refuse_with_an_soa() {
        let (services, slices) = cluster();
        let ask = |name: &str, kind| {
            let mut request = Message::query();
            request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            let request = Message::from_vec(&request.to_vec().unwrap()).unwrap();
            let response = respond(&request, &services, &slices).to_vec().unwrap();
            Message::from_vec(&response).unwrap()
        };
        let found = ask("CLIENT.ns.svc.cluster.local.", RecordType::A);
        assert_eq!(found.answers.len(), 1);
        let other_type = ask("client.ns.svc.cluster.local.", RecordType::AAAA);
        assert_eq!(other_type.metadata.response_code, ResponseCode::NoError);
        assert_eq!((other_type.answers.len(), other_type.authorities.len()), (0, 1));
        let missing = ask("gone.ns.svc.cluster.local.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(missing.authorities.len(), 1);
    }
}
