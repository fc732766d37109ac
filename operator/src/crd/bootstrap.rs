//! `EtcdCluster.spec.bootstrap`: how a cluster begins.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StoredFile;

/// How a cluster begins.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// With the data of another cluster.
    pub recovery: RecoverySpec,
}

/// The data that a cluster begins with. Keys, leases, users and roles are those of the backup, or of the other cluster; members and
/// the cluster id are new.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.backup), has(self.file), has(self.etcd)].filter(x, x).size() == 1").message("exactly one of backup, file and etcd must be given"),
)]
pub struct RecoverySpec {
    /// An EtcdBackup in the same namespace. It is waited for if it is not complete yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup: Option<String>,
    /// A backup without its EtcdBackup, or a snapshot that `etcdctl snapshot save` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<StoredFile>,
    /// A cluster that is running. What it is given after its snapshot was taken is not in it: clients must have stopped writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSource>,
    /// Take a file without a checksum, such as a copy of etcd's `member/snap/db`.
    #[serde(default)]
    pub skip_hash_check: bool,
    /// Revisions that are skipped. Clients may have seen revisions that came after the snapshot; none may be given to something
    /// else. What is before is marked as compacted, so that old watches are cancelled.
    #[serde(default = "a_billion")]
    #[schemars(range(min = 1, max = 1000000000000000i64))]
    pub revision_bump: i64,
}

/// A running cluster of etcd 3.4 or later, or of keelson-server.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdSource {
    /// The client URL of a member, or of a Service in front of all. It must be reachable from the first member's pod.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^\s/]+$"))]
    pub endpoint: String,
    /// A Secret whose `ca.crt` has the authorities of its certificate. Left out: those of the public Internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret: Option<String>,
    /// A Secret with a client certificate in `tls.crt` and `tls.key`, if it asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub certificate_secret: Option<String>,
    /// A Secret with root's password in `password`, if it asks who somebody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub root_secret: Option<String>,
}

fn a_billion() -> i64 {
    1_000_000_000
}
