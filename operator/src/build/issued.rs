//! Certificates from elsewhere: which Secrets they are in, and what cert-manager is asked for.

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::metadata;
use crate::crd::EtcdCluster;
use crate::names::Names;
use crate::plan::tls::{Holder, SourceKind};

/// The Secrets that certificates come from, in the order of [`SourceKind::ALL`]; nothing when the operator issues them.
pub fn source_secrets(cluster: &EtcdCluster) -> Option<Vec<String>> {
    let tls = cluster.spec.tls.as_ref()?;
    let names = Names::of(cluster);
    match (&tls.secrets, &tls.issuer_ref) {
        (Some(given), _) => Some(vec![given.server.clone(), given.peer.clone(), given.client.clone()]),
        (None, Some(_)) => Some(SourceKind::ALL.map(|kind| names.issued_secret(kind.as_str())).to_vec()),
        (None, None) => None,
    }
}

/// What the certificates of members must name at least: every pod, and for those between members the headless Service.
pub fn must_name(names: &Names, kind: SourceKind) -> Vec<String> {
    let host = names.members_host();
    match kind {
        SourceKind::Server => vec![format!("*.{host}")],
        SourceKind::Peer => vec![format!("*.{host}"), host],
        SourceKind::Client => Vec::new(),
    }
}

/// cert-manager's kind.
pub fn certificate_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"))
}

/// What cert-manager is asked for; empty without an issuer.
pub fn certificates(cluster: &EtcdCluster) -> Vec<DynamicObject> {
    let names = Names::of(cluster);
    let Some((tls, issuer)) = cluster.spec.tls.as_ref().and_then(|tls| Some((tls, tls.issuer_ref.as_ref()?))) else {
        return Vec::new();
    };
    let one = |kind: SourceKind| {
        let name = names.issued_secret(kind.as_str());
        let mut object = DynamicObject::new(&name, &certificate_resource());
        object.metadata = metadata(&names, name.clone());
        let request = super::shared_request(cluster, kind)?;
        let is_address = |name: &&String| name.parse::<std::net::IpAddr>().is_ok();
        let (addresses, hosts): (Vec<&String>, Vec<&String>) = request.names.iter().partition(is_address);
        let usages = match kind {
            SourceKind::Client => vec!["digital signature", "client auth"],
            _ => vec!["digital signature", "key encipherment", "server auth", "client auth"],
        };
        let mut spec = json!({
            "secretName": name,
            "commonName": request.common_name,
            "duration": tls.validity,
            // cert-manager's way to say when: a third before the end, as with the operator's own.
            "renewBefore": format!("{}s", tls.validity_seconds() / 3),
            "privateKey": {"algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always"},
            "usages": usages,
            "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        });
        if !hosts.is_empty() {
            spec["dnsNames"] = json!(hosts);
            spec["ipAddresses"] = json!(addresses);
        }
        object.data = json!({"spec": spec});
        Some(object)
    };
    SourceKind::ALL.into_iter().filter_map(one).collect()
}

/// Which certificates from elsewhere a holder gets, in the order of its keys.
pub fn sources_of(holder: Holder) -> Vec<SourceKind> {
    match holder {
        Holder::Member(_) => vec![SourceKind::Server, SourceKind::Peer],
        Holder::Operator | Holder::Client => vec![SourceKind::Client],
    }
}
