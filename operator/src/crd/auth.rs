//! `EtcdCluster.spec.auth` and `status.auth`: whether clients must say who they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RetentionPolicy;

/// Authentication. The operator itself is the user `root`, whose password is in the Secret `NAME-root`; other users and roles are
/// EtcdUsers and EtcdRoles. `auth: {}` is enough: the password is then made.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// Whether clients must say who they are. `false` turns authentication off again; users and roles stay.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// A Secret with root's password in `password`, in place of one that is made: that of the cluster a backup was taken of, for
    /// example. A change of it is a change of the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub root_secret: Option<String>,
    /// What becomes of the Secret `NAME-root` when the EtcdCluster is deleted. Volumes and backups that are kept are of no use
    /// without it. A later cluster of the same name takes it up again.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,
}

fn yes() -> bool {
    true
}

impl Default for AuthSpec {
    fn default() -> Self {
        Self { enabled: yes(), root_secret: None, when_deleted: RetentionPolicy::Retain }
    }
}

/// What is known of authentication.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthStatus {
    /// Whether the store asks clients who they are.
    pub enabled: bool,
    /// The Secret with root's password.
    pub root_secret: String,
    /// What must happen before it is as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}
