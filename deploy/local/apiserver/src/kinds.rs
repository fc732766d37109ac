//! The table of kinds. Everything else is generic over it; custom resources add rows while the server runs.

use crate::schema::{self, Schema};
use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::{ListableResource, NamespaceResourceScope, Resource, schemars::JsonSchema};
use serde_json::Value;
use std::any::TypeId;
use std::sync::{Arc, LazyLock};

/// One row of the table: a kind in one version of its group.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// Version, e.g. `v1`.
    pub version: String,
    /// `Pod`.
    pub kind: String,
    /// `PodList`.
    pub list_kind: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The object's schema.
    pub schema: Schema,
    /// What a custom resource's CRD declares; builtin kinds have none.
    pub custom: Option<Custom>,
    /// Where the objects are kept: `GROUP/PLURAL`; versions and Events' two groups share it.
    pub storage: String,
}

/// The parts of a CRD version that requests need.
#[derive(Debug, Clone, Default)]
pub struct Custom {
    /// `subresources.status` is there.
    pub status: bool,
    /// `subresources.scale`: the three paths.
    pub scale: Option<Scale>,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Value>,
}

/// Paths of the scale subresource, e.g. `.spec.replicas`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// The wanted number of replicas.
    pub spec_path: String,
    /// The observed number of replicas.
    pub status_path: String,
    /// A serialized label selector, if declared.
    pub selector_path: Option<String>,
}

impl Kind {
    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether this is kind `kind` of group `group`.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Whether status is written through its own subresource.
    pub fn has_status(&self) -> bool {
        match &self.custom {
            Some(custom) => custom.status,
            None => self.schema.node().property("status").is_some(),
        }
    }

    /// The scale subresource, if the kind has it.
    pub fn scale(&self) -> Option<Scale> {
        match &self.custom {
            Some(custom) => custom.scale.clone(),
            None if self.group == "apps" && self.schema.node().property("spec")?.property("replicas").is_some() => {
                Some(Scale {
                    spec_path: ".spec.replicas".into(),
                    status_path: ".status.replicas".into(),
                    selector_path: None,
                })
            }
            None => None,
        }
    }

    /// The names of all subresources.
    pub fn subresources(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.has_status() {
            names.push("status");
        }
        if self.scale().is_some() {
            names.push("scale");
        }
        match (self.group.as_str(), self.kind.as_str()) {
            ("", "Pod") => names.extend(["log", "exec", "eviction", "binding"]),
            ("", "Namespace") => names.push("finalize"),
            _ => {}
        }
        names
    }

    /// Whether a change of anything but metadata and status counts as a new generation.
    pub fn has_generation(&self) -> bool {
        self.custom.is_some() || self.schema.node().property("spec").is_some()
    }

    /// The key prefix of the kind's objects, in one namespace or in all.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("{}{}/{namespace}/", crate::store::ROOT, self.storage)
            }
            _ => format!("{}{}/", crate::store::ROOT, self.storage),
        }
    }

    /// The key of one object.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }
}

fn row<T>(short_names: &str, categories: &str) -> Kind
where
    T: Resource + ListableResource + JsonSchema,
    T::Scope: 'static,
{
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let plural = T::URL_PATH_SEGMENT;
    // Both groups of Events show the same objects.
    let group = if plural == "events" { "" } else { T::GROUP };
    Kind {
        group: T::GROUP.into(),
        version: T::VERSION.into(),
        kind: T::KIND.into(),
        list_kind: T::LIST_KIND.into(),
        plural: plural.into(),
        singular: T::KIND.to_lowercase(),
        short_names: words(short_names),
        categories: words(categories),
        namespaced: TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>(),
        schema: Schema::builtin(&schema::register::<T>()),
        custom: None,
        storage: if group.is_empty() { plural.into() } else { format!("{group}/{plural}") },
    }
}

static BUILTIN: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    let rows = vec![
        row::<core::Namespace>("ns", ""),
        row::<core::Pod>("po", "all"),
        row::<core::Service>("svc", "all"),
        row::<core::Endpoints>("ep", ""),
        row::<core::ConfigMap>("cm", ""),
        row::<core::Secret>("", ""),
        row::<core::ServiceAccount>("sa", ""),
        row::<core::PersistentVolumeClaim>("pvc", ""),
        row::<core::PersistentVolume>("pv", ""),
        row::<core::Node>("no", ""),
        row::<core::Event>("ev", ""),
        row::<core::LimitRange>("limits", ""),
        row::<core::ResourceQuota>("quota", ""),
        row::<core::PodTemplate>("", ""),
        row::<core::ReplicationController>("rc", "all"),
        row::<events::Event>("ev", ""),
        row::<apps::StatefulSet>("sts", "all"),
        row::<apps::Deployment>("deploy", "all"),
        row::<apps::ReplicaSet>("rs", "all"),
        row::<apps::DaemonSet>("ds", "all"),
        row::<apps::ControllerRevision>("", ""),
        row::<batch::Job>("", "all"),
        row::<batch::CronJob>("cj", "all"),
        row::<autoscaling::HorizontalPodAutoscaler>("hpa", "all"),
        row::<policy::PodDisruptionBudget>("pdb", ""),
        row::<coordination::Lease>("", ""),
        row::<discovery::EndpointSlice>("", ""),
        row::<networking::Ingress>("ing", ""),
        row::<networking::IngressClass>("", ""),
        row::<networking::NetworkPolicy>("netpol", ""),
        row::<rbac::Role>("", ""),
        row::<rbac::RoleBinding>("", ""),
        row::<rbac::ClusterRole>("", ""),
        row::<rbac::ClusterRoleBinding>("", ""),
        row::<scheduling::PriorityClass>("pc", ""),
        row::<storage::StorageClass>("sc", ""),
        row::<admission::ValidatingWebhookConfiguration>("", ""),
        row::<admission::MutatingWebhookConfiguration>("", ""),
        row::<apiextensions::CustomResourceDefinition>("crd crds", "api-extensions"),
    ];
    // Bodies of subresources, for their schemas.
    schema::register::<policy::Eviction>();
    schema::register::<k8s_openapi::api::autoscaling::v1::Scale>();
    schema::register::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
    schema::register::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
    rows.into_iter().map(Arc::new).collect()
});

/// Makes the definitions of all builtin kinds known.
pub fn register_schemas() {
    LazyLock::force(&BUILTIN);
}

/// All kinds that are served now: the builtin table and the custom resources of established CRDs.
#[derive(Debug, Clone)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
}

impl Registry {
    /// The builtin table with `custom` rows after it.
    pub fn new(custom: Vec<Arc<Kind>>) -> Registry {
        Registry { kinds: BUILTIN.iter().cloned().chain(custom).collect() }
    }

    /// All rows.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind that a request's path names.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds.iter().find(|k| k.group == group && k.version == version && k.plural == plural).cloned()
    }

    /// The kind whose objects are kept below `storage` (the first version in the table).
    pub fn of_storage(&self, storage: &str) -> Option<Arc<Kind>> {
        self.kinds.iter().find(|k| k.storage == storage).cloned()
    }

    /// Groups and versions in the table's order, each once.
    pub fn group_versions(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for kind in &self.kinds {
            let pair = (kind.group.clone(), kind.version.clone());
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
        found
    }
}
