//! `EtcdUser` and `EtcdRole`: who may do what in a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RetentionPolicy;

/// A user of an EtcdCluster, kept as it is declared here.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keelson.dev",
    version = "v1alpha1",
    kind = "EtcdUser",
    plural = "etcdusers",
    category = "keelson",
    namespaced,
    status = "AccessStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A user of an EtcdCluster, kept as it is declared here.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "User", type_ = "string", json_path = ".status.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Roles", type_ = "string", json_path = ".spec.roles", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.cluster == oldSelf.spec.cluster && has(self.spec.name) == has(oldSelf.spec.name) && (!has(self.spec.name) || self.spec.name == oldSelf.spec.name)").message("spec.cluster and spec.name cannot be changed: make another EtcdUser"),
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) != 'root'").message("root is the operator's: its password is in the Secret that spec.auth of the EtcdCluster names"),
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdUserSpec {
    /// The EtcdCluster, in the same namespace.
    #[schemars(length(min = 1, max = 48))]
    pub cluster: String,
    /// The user's name in the store. Left out: `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The password. When the Secret changes, so does the password: at once if it has the label `keelson.dev/cluster`, else within a
    /// minute. Left out: the user has none, and is known by the Common Name of its certificate (`spec.tls` of the cluster).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSecret>,
    /// The roles that the user has, and no others.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub roles: Vec<String>,
    /// Whether the user is deleted from the store together with this resource.
    #[serde(default = "RetentionPolicy::delete")]
    pub deletion_policy: RetentionPolicy,
}

/// A value of a Secret.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecret {
    /// The Secret's name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the password in it.
    #[serde(default = "password_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn password_key() -> String {
    "password".into()
}

/// A role of an EtcdCluster, kept as it is declared here.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keelson.dev",
    version = "v1alpha1",
    kind = "EtcdRole",
    plural = "etcdroles",
    category = "keelson",
    namespaced,
    status = "AccessStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A role of an EtcdCluster, kept as it is declared here.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.cluster == oldSelf.spec.cluster && has(self.spec.name) == has(oldSelf.spec.name) && (!has(self.spec.name) || self.spec.name == oldSelf.spec.name)").message("spec.cluster and spec.name cannot be changed: make another EtcdRole"),
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) != 'root'").message("root is the store's own role: it may do everything"),
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdRoleSpec {
    /// The EtcdCluster, in the same namespace.
    #[schemars(length(min = 1, max = 48))]
    pub cluster: String,
    /// The role's name in the store. Left out: `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// What the role may do, and nothing else.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub permissions: Vec<KeyPermission>,
    /// Whether the role is deleted from the store together with this resource.
    #[serde(default = "RetentionPolicy::delete")]
    pub deletion_policy: RetentionPolicy,
}

/// What may be done with some keys.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.prefix) && self.prefix && has(self.rangeEnd))").message("prefix and rangeEnd exclude each other"),
    validation = Rule::new("self.key != '' || (has(self.prefix) && self.prefix)").message("an empty key is none: with prefix: true it stands for all keys"),
)]
pub struct KeyPermission {
    /// The key, or the first of them.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// Whether all keys count that begin with `key`; with an empty `key`, all keys of the store.
    #[serde(default)]
    pub prefix: bool,
    /// Where the keys end; this one is not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub range_end: Option<String>,
    /// What may be done with them.
    #[serde(default)]
    pub access: Access,
}

/// What may be done with keys.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// They may be read and watched.
    #[default]
    Read,
    /// They may be put and deleted.
    Write,
    /// Both.
    ReadWrite,
}

/// What became of a user or a role.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is, in one word.
    pub phase: AccessPhase,
    /// The phase in one sentence.
    pub reason: String,
    /// Its name in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The uid and version of the Secret whose password the user has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_version: Option<String>,
    /// Ready, Reconciling, Stalled.
    pub conditions: Vec<Condition>,
}

/// Where a user or a role is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessPhase {
    /// Something is waited for.
    #[default]
    Pending,
    /// It is in the store as it is declared.
    Ready,
    /// Something stands in the way which a person must remove.
    Blocked,
    /// It is being deleted.
    Deleting,
}
