//! Where backups are kept: object stores and volume claims.

use k8s_openapi::api::core::v1::{LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A path of segments that none of the stores treats in a special way.
const PREFIX: &str = r"^([A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*)?$";

/// Where backups are kept: exactly one of these.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.volume)].filter(x, x).size() == 1").message("exactly one of s3, gcs, azure and volume must be given"),
)]
pub struct StoreSpec {
    /// A bucket of Amazon S3, or of anything that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStore>,
    /// A volume claim in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStore>,
}

/// A bucket of Amazon S3, or of anything that speaks its protocol.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// The bucket's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*$"))]
    pub bucket: String,
    /// What every key begins with, without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256), regex(pattern = PREFIX))]
    pub prefix: String,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// The URL of a service other than Amazon's. The bucket is then part of the path; `http://` is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^https?://\S+$"))]
    pub endpoint: Option<String>,
    /// A Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and whatever else the Job is to have as environment variables.
    /// Left out: the identity of `pod.serviceAccountName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// A Secret whose `ca.crt` has the authorities of the service's certificate. Left out: those of the public Internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret: Option<String>,
}

/// A bucket of Google Cloud Storage.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcsStore {
    /// The bucket's name.
    #[schemars(length(min = 1, max = 222), regex(pattern = r"^[a-z0-9][a-z0-9._-]*$"))]
    pub bucket: String,
    /// What every key begins with, without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256), regex(pattern = PREFIX))]
    pub prefix: String,
    /// A Secret with `GOOGLE_SERVICE_ACCOUNT_KEY`, a service account's key as JSON. Left out: the identity of
    /// `pod.serviceAccountName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AzureStore {
    /// The storage account's name.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,
    /// The container's name.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9-]*$"))]
    pub container: String,
    /// What every name begins with, without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256), regex(pattern = PREFIX))]
    pub prefix: String,
    /// A Secret with `AZURE_STORAGE_ACCOUNT_KEY`, or with `AZURE_STORAGE_CLIENT_ID`, `AZURE_STORAGE_CLIENT_SECRET` and
    /// `AZURE_STORAGE_TENANT_ID`. Left out: the identity of `pod.serviceAccountName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
}

/// A volume claim in the same namespace. It must be mountable where the Jobs run.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStore {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The folder in the volume, without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256), regex(pattern = PREFIX))]
    pub prefix: String,
}

impl StoreSpec {
    /// What every path in the store begins with.
    pub fn prefix(&self) -> &str {
        match self {
            Self { s3: Some(s3), .. } => &s3.prefix,
            Self { gcs: Some(gcs), .. } => &gcs.prefix,
            Self { azure: Some(azure), .. } => &azure.prefix,
            Self { volume: Some(volume), .. } => &volume.prefix,
            _ => "",
        }
    }

    /// The path in words: a URL of the object, or the claim and the file on it.
    pub fn location(&self, path: &str) -> String {
        match self {
            Self { s3: Some(s3), .. } => format!("s3://{}/{path}", s3.bucket),
            Self { gcs: Some(gcs), .. } => format!("gs://{}/{path}", gcs.bucket),
            Self { azure: Some(azure), .. } => format!("az://{}/{path}", azure.container),
            Self { volume: Some(volume), .. } => format!("claim {}: {path}", volume.claim_name),
            _ => path.into(),
        }
    }
}

/// A file in a store.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    /// The store.
    pub store: StoreSpec,
    /// The object's key in its bucket, or the file's path in its volume; the store's prefix is not put before it. The
    /// file is a backup of an EtcdBackup (`status.path`) or what `etcdctl snapshot save` wrote.
    #[schemars(length(min = 1, max = 1024), regex(pattern = PREFIX))]
    pub path: String,
}

/// The pods of Jobs on backups.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupPod {
    /// The image, one of keelson-server. Left out: that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,
    /// The ServiceAccount, for stores that know it (IRSA, Workload Identity). The Job needs no access to the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// CPU and memory. A backup takes about 100 MB; a verification 200 MB more than a 256th of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes that may run it, by their labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it accepts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The pod's security context. Left out: as members have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
}
