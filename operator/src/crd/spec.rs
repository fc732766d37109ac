//! `EtcdCluster.spec`: what a person asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::options::{owned_flags_message, owned_flags_rule};
use super::{AuthSpec, BootstrapSpec, EtcdClusterStatus, RepairSpec, RolloutSpec, TlsSpec, Transport};

/// The server version that a cluster gets when it names none: the one released together with this operator.
pub const DEFAULT_VERSION: &str = "v0.1.0";
/// Where the server images are, without a tag.
pub const DEFAULT_REPOSITORY: &str = "keelson/keelson-server";
/// The largest size. More members make every write slower and protect no better.
pub const MAX_SIZE: i32 = 9;
/// The longest name: `NAME-N` names a StatefulSet, whose pods carry it with a suffix of eleven characters in a label of 63.
pub const MAX_NAME_LENGTH: usize = 48;

/// A cluster of keelson-server members: a replicated key-value store that speaks etcd's API.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keelson.dev",
    version = "v1alpha1",
    kind = "EtcdCluster",
    plural = "etcdclusters",
    shortname = "etcd",
    category = "keelson",
    namespaced,
    status = "EtcdClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster of keelson-server members: a replicated key-value store that speaks etcd's API.",
    scale(
        spec_replicas_path = ".spec.size",
        status_replicas_path = ".status.size",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Size", type_ = "integer", json_path = ".spec.size", description = "Members asked for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyMembers", description = "Voting members that answer"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.serverVersion", description = "Image tag that members run"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "API", type_ = "string", json_path = ".status.version", priority = 1, description = "Lowest version of etcd's API that a member reports"),
    printcolumn(name = "Waiting for", type_ = "string", json_path = ".status.nextAction.waitingFor", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 48").message("metadata.name must have at most 48 characters: pods, volumes and DNS names are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must start with a letter and have only lower-case letters, digits and dashes: Services are named after it"),
    validation = Rule::new("self.spec.storage.size == oldSelf.spec.storage.size || !has(self.status) || !has(self.status.volumeSize) || !quantity(self.spec.storage.size).isLessThan(quantity(self.status.volumeSize))").message("spec.storage.size cannot be smaller than the volumes (status.volumeSize): volumes do not shrink"),
)]
#[x_kube(
    validation = Rule::new("!(has(self.image) && has(self.version))").message("spec.image and spec.version exclude each other: spec.image already names a version"),
    validation = Rule::new("has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || self.bootstrap == oldSelf.bootstrap)").message("spec.bootstrap cannot be changed: it says how a cluster begins; make another EtcdCluster to restore a backup"),
    validation = Rule::new("self.storage.medium != 'Memory' || self.size > 0").message("spec.size cannot be 0 with spec.storage.medium Memory: nothing would be left of the data; delete the EtcdCluster for that"),
    validation = Rule::new("!has(oldSelf.auth) || has(self.auth) || !oldSelf.auth.enabled").message("spec.auth cannot be removed while it is enabled: the operator would not get in any more; set spec.auth.enabled to false first"),
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdClusterSpec {
    /// How many voting members the cluster has, up to 9. An odd number: an even one tolerates no more failures than the odd
    /// number below it. Change it here or with `kubectl scale`; members join and leave one at a time. 0 parks the cluster: all
    /// members stop and keep their volumes, and start again with any other size; not with `storage.medium: Memory`.
    #[serde(default = "default_size")]
    #[schemars(range(min = 0, max = 9))]
    pub size: i32,

    /// The server version, such as `v0.1.0`; it is the tag of the image `keelson/keelson-server`. Left out: the version
    /// released together with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub version: Option<String>,

    /// A complete image reference in place of `version`, for a registry of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// When the image is pulled: Always, IfNotPresent or Never. Left out: as Kubernetes decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Where each member keeps its data.
    #[serde(default)]
    pub storage: StorageSpec,

    /// CPU and memory of each member's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// How the pods look beyond what the operator decides.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// Server flags by name, without dashes, each with its value as text: `auto-compaction-retention: "1h"`.
    /// A change restarts the members one at a time.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new(owned_flags_rule()).message(owned_flags_message().as_str()))]
    pub options: BTreeMap<String, String>,

    /// The Service that clients use, `NAME-client`, port 2379.
    #[serde(default)]
    pub service: ServiceSpec,

    /// TLS between members and towards clients. Left out: plaintext. It may be added and removed while a cluster serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// Whether clients must say who they are. Left out: everybody may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// How members that are lost are replaced, and a full store is cleared.
    #[serde(default)]
    pub repair: RepairSpec,

    /// How another version, options, resources or pod template come to the members: one member at a time.
    #[serde(default)]
    pub rollout: RolloutSpec,

    /// How the cluster begins. Left out: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,

    /// While true the operator changes nothing, it only reports.
    #[serde(default)]
    pub paused: bool,
}

fn default_size() -> i32 {
    3
}

impl EtcdClusterSpec {
    /// The image that members run.
    pub fn server_image(&self) -> String {
        match (&self.image, &self.version) {
            (Some(image), _) => image.clone(),
            (None, Some(version)) => format!("{DEFAULT_REPOSITORY}:{version}"),
            (None, None) => format!("{DEFAULT_REPOSITORY}:{DEFAULT_VERSION}"),
        }
    }

    /// Whether the data of a member end with its pod.
    pub fn in_memory(&self) -> bool {
        self.storage.medium == StorageMedium::Memory
    }

    /// What members are to speak.
    pub fn transport(&self) -> Transport {
        match &self.tls {
            None => Transport::Plain,
            Some(tls) if tls.plaintext => Transport::Both,
            Some(_) => Transport::Tls,
        }
    }
}

impl EtcdCluster {
    /// Whether all members speak TLS, and are to be spoken to in it: what they run counts, not yet what the spec asks for.
    pub fn speaks_tls(&self) -> bool {
        let settled = self.status.as_ref().and_then(|status| status.template.as_ref());
        match settled.map(|template| template.transport) {
            Some(Transport::Plain) => false,
            Some(Transport::Tls) => true,
            Some(Transport::Both) | None => self.spec.tls.is_some(),
        }
    }

    /// Whether a member that joins now is to be reached by TLS. While members speak both it is not, unless some give up plaintext: others
    /// may have given up TLS.
    pub fn is_joined_by_tls(&self) -> bool {
        let status = self.status.as_ref();
        let rollout = status.and_then(|status| status.rollout.as_ref());
        let mut targets = rollout.iter().flat_map(|it| it.refused.iter().chain([&it.target]));
        match status.and_then(|status| status.template.as_ref()).map(|template| template.transport) {
            Some(Transport::Both) => targets.any(|target| target.transport == Transport::Tls),
            _ => self.speaks_tls(),
        }
    }

    /// The image of whatever else works on the cluster's data: what members run, whatever is being rolled out to them.
    pub fn settled_image(&self) -> String {
        let settled = self.status.as_ref().and_then(|status| status.template.as_ref());
        settled.map_or_else(|| self.spec.server_image(), |template| template.image.clone())
    }
}

/// When Kubernetes pulls the image.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never; it must be on the node.
    Never,
}

impl PullPolicy {
    /// The name that Kubernetes has for it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Where a member keeps its data.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("spec.storage.storageClassName cannot be changed: a volume keeps its class for life"),
    validation = Rule::new("self.accessModes == oldSelf.accessModes").message("spec.storage.accessModes cannot be changed: a volume keeps its modes for life"),
    validation = Rule::new("self.medium == oldSelf.medium").message("spec.storage.medium cannot be changed: make another EtcdCluster with the data of this one (spec.bootstrap.recovery)"),
    validation = Rule::new("self.medium != 'Memory' || !has(self.storageClassName)").message("spec.storage.storageClassName is of volume claims, which members with spec.storage.medium Memory do not have"),
    validation = Rule::new("self.medium != 'Memory' || self.accessModes == ['ReadWriteOnce']").message("spec.storage.accessModes is of volume claims, which members with spec.storage.medium Memory do not have"),
    validation = Rule::new("self.medium != 'Memory' || self.size == oldSelf.size").message("spec.storage.size cannot be changed with spec.storage.medium Memory"),
)]
pub struct StorageSpec {
    /// `Volume`: each member has a volume claim. `Memory`: its data are in the memory of its node and end with its pod, whose member is
    /// then replaced; for clusters that may be lost as a whole.
    #[serde(default)]
    pub medium: StorageMedium,
    /// The size of each volume, such as `8Gi`. It may grow if the StorageClass allows it; members are not restarted for that. In
    /// memory it counts as the container's, is its request if `resources` has none, and cannot be changed.
    #[serde(default = "default_storage_size")]
    #[schemars(length(max = 32), regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"))]
    pub size: String,
    /// The StorageClass. Left out: the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// How the volume may be mounted. A member is its only user, so `ReadWriteOncePod` is possible where the driver has it.
    #[serde(default = "default_access_modes")]
    #[schemars(length(min = 1, max = 4), inner(length(max = 32)))]
    pub access_modes: Vec<String>,
    /// What becomes of volumes that no member uses any more.
    #[serde(default)]
    pub retention: RetentionSpec,
}

/// What data are kept on.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageMedium {
    /// A volume claim, which outlives pods.
    #[default]
    Volume,
    /// Memory of the node, as long as the pod is there.
    Memory,
}

fn default_storage_size() -> String {
    "8Gi".into()
}

fn default_access_modes() -> Vec<String> {
    vec!["ReadWriteOnce".into()]
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            medium: StorageMedium::default(),
            size: default_storage_size(),
            storage_class_name: None,
            access_modes: default_access_modes(),
            retention: RetentionSpec::default(),
        }
    }
}

/// What becomes of the volume claims that no member uses any more.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// When a member leaves the cluster. `Retain` keeps its claim; the next member then gets another number, as a volume of a
    /// removed member is never used again.
    #[serde(default = "RetentionPolicy::delete")]
    pub when_scaled: RetentionPolicy,
    /// When the EtcdCluster is deleted. `Retain` keeps all claims; they must be removed before a cluster of the same name.
    #[serde(default = "RetentionPolicy::retain")]
    pub when_deleted: RetentionPolicy,
}

impl Default for RetentionSpec {
    fn default() -> Self {
        Self { when_scaled: RetentionPolicy::Delete, when_deleted: RetentionPolicy::Retain }
    }
}

/// Whether data is kept.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionPolicy {
    /// It is kept.
    #[default]
    Retain,
    /// It is deleted.
    Delete,
}

impl RetentionPolicy {
    // For defaults.

    pub(super) fn delete() -> Self {
        Self::Delete
    }

    pub(super) fn retain() -> Self {
        Self::Retain
    }
}

/// What the pods of members have beyond what the operator decides.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels added to each pod. Those of the operator win. A change restarts nothing; what is removed here stays on pods until
    /// their next start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations added to each pod. A change restarts the members one at a time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Nodes that may run a member, by their labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Rules for placing pods. Left out: members prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods are spread. Left out: over zones where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// The pod's security context. Left out: user and group 65532, no root, the runtime's seccomp profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The ServiceAccount. Members need no access to the API server, and its token is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Secrets for pulling the image. A change counts from the next start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// How long a member may take to stop, in seconds. A change counts from its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Environment variables of the container. An `ETCD_` variable of a flag that the operator sets keeps the member from starting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
}

/// The Service that clients use.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// How the client Service is reached.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// By a port of every node.
    NodePort,
    /// By a load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// The name that Kubernetes has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}
