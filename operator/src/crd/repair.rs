//! `EtcdCluster.spec.repair`, and what the status tells about repairs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::seconds;

/// Whether and when members are replaced and space is freed without a person.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// `Automatic`, or `Manual`: then only members that the annotation `keelson.dev/replace-member` names by their id are replaced,
    /// and a NOSPACE alarm is only reported.
    #[serde(default)]
    pub mode: RepairMode,
    /// How long a member may be down (its process does not start, its pod is stuck, its node is lost) before it is replaced. One whose
    /// volume is lost or whose data is corrupt is replaced at once.
    #[serde(default = "default_after")]
    #[schemars(length(max = 8), regex(pattern = r"^(0|[1-9][0-9]*)(s|m|h)$"))]
    pub after: String,
    /// How many members may be replaced within `window`; what breaks more often than that needs a person.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 16))]
    pub limit: i32,
    /// The time that `limit` is for.
    #[serde(default = "default_window")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]*(s|m|h)$"))]
    pub window: String,
}

/// Who decides about a repair.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairMode {
    /// The operator, within the limits.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

fn default_after() -> String {
    "10m".into()
}

fn default_limit() -> i32 {
    2
}

fn default_window() -> String {
    "1h".into()
}

impl Default for RepairSpec {
    fn default() -> Self {
        Self { mode: RepairMode::default(), after: default_after(), limit: default_limit(), window: default_window() }
    }
}

impl RepairSpec {
    /// How long a member may be down, in seconds.
    pub fn after_seconds(&self) -> i64 {
        seconds(&self.after).unwrap_or(600)
    }

    /// The time that the limit is for, in seconds.
    pub fn window_seconds(&self) -> i64 {
        seconds(&self.window).unwrap_or(3600)
    }
}

/// A member that was replaced.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// When its removal was begun.
    pub time: Time,
    /// Its name.
    pub member: String,
    /// Its id in hexadecimal; the member in its place has another one.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// What was wrong with it.
    pub reason: String,
}

/// A round of freeing space after a NOSPACE alarm.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpaceStatus {
    /// When it began.
    pub since: Time,
    /// The revision up to which history is compacted.
    pub revision: i64,
    /// The ids of the members that were defragmented.
    pub defragmented: Vec<String>,
}
