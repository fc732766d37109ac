//! The Node object and its lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::NAME;
use super::network::GATEWAY;
use super::status::now;

/// How often the lease is renewed: seldom, for an idle machine, and nobody here evicts pods of a silent node.
const RENEW: Duration = Duration::from_secs(120);

/// Creates or updates the Node.
pub async fn register(client: &Client) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.split_whitespace().nth(1).unwrap_or("0").to_owned() + "Ki";
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let capacity = json!({ "cpu": cores.to_string(), "memory": memory, "pods": "253", "ephemeral-storage": "100Gi" });
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": NAME, "labels": {
            "kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture,
        } },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] },
    });
    let status = json!({ "apiVersion": "v1", "kind": "Node", "status": {
        "capacity": capacity, "allocatable": capacity,
        "addresses": [
            { "type": "InternalIP", "address": GATEWAY }, { "type": "Hostname", "address": NAME },
        ],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "keelson-local is ready",
            "lastTransitionTime": now(), "lastHeartbeatTime": now(),
        }],
        "nodeInfo": {
            "kubeletVersion": concat!("v1.37.0-keelson-local-", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
            "containerRuntimeVersion": "bubblewrap://", "osImage": "the host", "operatingSystem": "linux",
            "architecture": architecture, "kernelVersion": kernel.trim(), "machineID": "", "systemUUID": "", "bootID": "",
        },
    } });
    let api: Api<Node> = Api::all(client.clone());
    let parameters = PatchParams::apply("kubelet").force();
    api.patch(NAME, &parameters, &Patch::Apply(node)).await?;
    api.patch_status(NAME, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Renews the lease for as long as the node runs.
pub async fn heartbeat(client: Client) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let parameters = PatchParams::apply("kubelet").force();
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NAME },
            "spec": {
                "holderIdentity": NAME, "leaseDurationSeconds": RENEW.as_secs() * 2,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        if let Err(error) = api.patch(NAME, &parameters, &Patch::Apply(lease)).await {
            tracing::debug!(%error, "lease not renewed");
        }
        tokio::time::sleep(RENEW).await;
    }
}
