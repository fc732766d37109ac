//! `EtcdBackup`: one backup of a cluster. What it says of where the data is never changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackupPod, RetentionPolicy, StoreSpec};

/// The longest name: Jobs are named after it, in labels of 63 characters.
pub const MAX_BACKUP_NAME_LENGTH: usize = 52;

/// One backup of an EtcdCluster, taken once. It is immutable but for what becomes of its data.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keelson.dev",
    version = "v1alpha1",
    kind = "EtcdBackup",
    plural = "etcdbackups",
    category = "keelson",
    namespaced,
    status = "EtcdBackupStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One backup of an EtcdCluster, taken once.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.storedBytes"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completionTime"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: Jobs are named after it"),
    validation = Rule::new("self.spec.cluster == oldSelf.spec.cluster && self.spec.store == oldSelf.spec.store && self.spec.verify == oldSelf.spec.verify").message("spec: an EtcdBackup is one backup and cannot be changed, but for deletionPolicy and pod; make another one"),
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupSpec {
    /// The EtcdCluster, in the same namespace.
    #[schemars(length(min = 1, max = 48))]
    pub cluster: String,
    /// Where the backup goes.
    pub store: StoreSpec,
    /// Whether the backup is tried out: fetched again, restored into a scratch directory, and compared with what the member told
    /// when the backup was taken.
    #[serde(default)]
    pub verify: bool,
    /// Whether the data is deleted from the store together with this resource.
    #[serde(default)]
    pub deletion_policy: RetentionPolicy,
    /// How long each Job may take, in seconds.
    #[serde(default = "an_hour")]
    #[schemars(range(min = 10, max = 604800))]
    pub timeout_seconds: i64,
    /// The pods of the Jobs.
    #[serde(default)]
    pub pod: BackupPod,
}

fn an_hour() -> i64 {
    3600
}

/// What became of a backup.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is, in one word.
    pub phase: BackupPhase,
    /// The phase in one sentence.
    pub reason: String,
    /// The image of the Jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where the data is, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The object's key in its bucket, or the file's path in its volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the data was in the store, or when it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How long that took, without the start of the Job, such as `1.3s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Everything up to this revision is in the backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The member's HashKV at that revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<i64>,
    /// Up to here the history was compacted when the hash was taken; -1 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact_revision: Option<i64>,
    /// Bytes of the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes: Option<i64>,
    /// Bytes in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,
    /// SHA-256 of what is in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What the verification found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
    /// Ready, Reconciling, Stalled; with `spec.verify` Verified.
    pub conditions: Vec<Condition>,
}

/// Where a backup is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupPhase {
    /// Something is waited for before it can begin.
    #[default]
    Pending,
    /// The data is on its way to the store.
    Running,
    /// The data is there, and is being tried out.
    Verifying,
    /// The data is there, and has been tried out if that was asked for.
    Succeeded,
    /// There is no backup, or one that does not hold what it should.
    Failed,
    /// The data is being deleted.
    Deleting,
}

/// What a verification found.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationStatus {
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The newest revision of the restored store.
    pub revision: i64,
    /// Keys in it.
    pub keys: i64,
    /// Its hash at `status.revision`.
    pub hash: i64,
    /// Whether that was compared with `status.hash`. It is not if a compaction came between the hash and the snapshot.
    pub hash_compared: bool,
}

impl EtcdBackup {
    /// Whether it can be restored from.
    pub fn succeeded(&self) -> bool {
        self.phase() == BackupPhase::Succeeded
    }

    /// The recorded phase.
    pub fn phase(&self) -> BackupPhase {
        self.status.as_ref().map_or(BackupPhase::Pending, |status| status.phase)
    }
}
