//! What certificates are to say, and the Secrets that hold them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::metadata;
use crate::crd::{EtcdCluster, TlsSpec};
use crate::names::Names;
use crate::pki::{Pair, Purpose, Request};
use crate::plan::tls::{Holder, Leaf, SourceKind, Tls};

/// Keys of a member's Secret: the certificate that it shows to clients, the one between members, and whom it trusts.
pub const SERVER: [&str; 2] = ["server.crt", "server.key"];
/// See [`SERVER`].
pub const PEER: [&str; 2] = ["peer.crt", "peer.key"];
/// Keys of a client's Secret, as Kubernetes names them.
pub const CLIENT: [&str; 2] = ["tls.crt", "tls.key"];
/// Key of the trusted authorities in each of them.
pub const BUNDLE: &str = "ca.crt";

/// Keys of the certificates in the holder's Secret, in the order of [`requests`].
pub fn keys(holder: Holder) -> Vec<[&'static str; 2]> {
    match holder {
        Holder::Member(_) => vec![SERVER, PEER],
        Holder::Operator | Holder::Client => vec![CLIENT],
    }
}

/// The name of the holder's Secret.
pub fn secret_name(names: &Names, holder: Holder) -> String {
    match holder {
        Holder::Operator => names.operator_secret(),
        Holder::Client => names.client_secret(),
        Holder::Member(ordinal) => names.member_secret(ordinal),
    }
}

/// The certificates that a holder has; for a member first the one that it shows to clients. Empty without `spec.tls`.
pub fn requests(cluster: &EtcdCluster, holder: Holder) -> Vec<Request> {
    let Some(spec) = &cluster.spec.tls else {
        return Vec::new();
    };
    let names = Names::of(cluster);
    let request = |common_name: String, names: Vec<String>, purpose: Purpose| Request {
        common_name,
        names,
        purpose,
        seconds: spec.validity_seconds(),
    };
    match holder {
        // A client is known by its Common Name where authentication is on; it has no host names.
        Holder::Operator => vec![request("keelson-operator".into(), Vec::new(), Purpose::Client)],
        Holder::Client => vec![request("client".into(), Vec::new(), Purpose::Client)],
        Holder::Member(ordinal) => {
            let between = member_names(&names, spec, ordinal);
            let towards = [between.clone(), client_names(&names, spec)].concat();
            vec![request("server".into(), towards, Purpose::Member), request("peer".into(), between, Purpose::Member)]
        }
    }
}

/// The same for a holder whose certificates are made anew as they are, while TLS is being turned off.
pub fn requests_alike(cluster: &EtcdCluster, holder: Holder, leaves: &[Leaf]) -> Vec<Request> {
    let mut cluster = cluster.clone();
    cluster.spec.tls.get_or_insert_default();
    let alike = |(request, leaf): (Request, &Leaf)| Request {
        names: leaf.names.iter().cloned().collect(),
        seconds: leaf.lifetime(),
        ..request
    };
    requests(&cluster, holder).into_iter().zip(leaves).map(alike).collect()
}

/// The certificate that all members share, or all clients, when it comes from elsewhere.
pub fn shared_request(cluster: &EtcdCluster, kind: SourceKind) -> Option<Request> {
    let holder = if kind == SourceKind::Client { Holder::Client } else { Holder::Member(0) };
    let mut request = requests(cluster, holder).into_iter().nth(usize::from(kind == SourceKind::Peer))?;
    let pod = Names::of(cluster).host(0);
    request.names.retain(|name| !name.starts_with(&pod));
    Some(request)
}

/// The pod's name, and the names of the headless Service: by the latter, all of whose addresses are members, a member recognises
/// another that connects to it.
fn member_names(names: &Names, spec: &TlsSpec, ordinal: u32) -> Vec<String> {
    let service = names.members_host();
    let mut list = Vec::new();
    for name in [names.host(ordinal), format!("*.{service}"), service] {
        list.push(format!("{name}.{}", spec.cluster_domain));
        list.push(name);
    }
    list.extend(["localhost".into(), "127.0.0.1".into(), "::1".into()]);
    list
}

/// The names of the client Service, and those that a person gave.
fn client_names(names: &Names, spec: &TlsSpec) -> Vec<String> {
    let (service, namespace) = (names.client_service(), &names.namespace);
    let mut list = vec![
        service.clone(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{}", spec.cluster_domain),
    ];
    list.extend(spec.extra_names.iter().map(|name| match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }));
    list
}

/// The holder's Secret with these certificates and trusted authorities.
pub fn certificates_secret(cluster: &EtcdCluster, holder: Holder, pairs: &[Pair], bundle: &str) -> Secret {
    let names = Names::of(cluster);
    let mut data = BTreeMap::from([(BUNDLE.to_string(), text(bundle))]);
    for ([certificate, key], pair) in keys(holder).into_iter().zip(pairs) {
        data.insert(certificate.into(), text(&pair.certificate));
        data.insert(key.into(), text(&pair.key));
    }
    let type_ = match holder {
        Holder::Member(_) => "Opaque",
        Holder::Operator | Holder::Client => "kubernetes.io/tls",
    };
    let mut metadata = metadata(&names, secret_name(&names, holder));
    if let Holder::Member(ordinal) = holder {
        metadata.labels = Some(names.member_labels(ordinal));
    }
    Secret { metadata, data: Some(data), type_: Some(type_.into()), ..Default::default() }
}

/// The Secret of the authority.
pub fn authority_secret(cluster: &EtcdCluster, data: BTreeMap<String, ByteString>) -> Secret {
    let names = Names::of(cluster);
    let metadata = metadata(&names, names.authority_secret());
    Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Default::default() }
}

/// The Secrets that were seen, the authority's first, and when the first certificate of each expires (Unix time).
pub fn expiring(names: &Names, tls: &Tls) -> Vec<(String, i64)> {
    let authority = tls.authority.iter().flat_map(|authority| &authority.current).map(|root| root.not_after).min();
    let authority = authority.map(|not_after| (names.authority_secret(), not_after));
    let held = tls.held.iter().map(|(holder, held)| (secret_name(names, *holder), held.expires()));
    authority.into_iter().chain(held).collect()
}

/// A value of a Secret.
pub fn text(value: &str) -> ByteString {
    ByteString(value.as_bytes().to_vec())
}
