//! `EtcdCluster.spec.bootstrap`: how a cluster begins.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::StoredFile;

/// How a cluster begins.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// With the data of another cluster.
    pub recovery: RecoverySpec,
}

/// The data that a cluster begins with. Keys, leases, users and roles are those of the backup; members and the cluster id are
/// new.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.backup) != has(self.file)").message("exactly one of backup and file must be given"),
)]
pub struct RecoverySpec {
    /// An EtcdBackup in the same namespace. It is waited for if it is not complete yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup: Option<String>,
    /// A backup without its EtcdBackup, or a snapshot that `etcdctl snapshot save` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<StoredFile>,
    /// Take a file without a checksum, such as a copy of etcd's `member/snap/db`.
    #[serde(default)]
    pub skip_hash_check: bool,
    /// Revisions that are skipped. Clients may have seen revisions that came after the backup; none may be given to something
    /// else. What is before is marked as compacted, so that old watches are cancelled.
    #[serde(default = "a_billion")]
    #[schemars(range(min = 1, max = 1000000000000000i64))]
    pub revision_bump: i64,
}

fn a_billion() -> i64 {
    1_000_000_000
}
