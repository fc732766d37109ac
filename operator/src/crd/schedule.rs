//! `EtcdBackupSchedule`: makes EtcdBackups by the clock, and deletes old ones.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EtcdBackupSpec;

/// The longest name: backups are named after it, with the time behind.
pub const MAX_SCHEDULE_NAME_LENGTH: usize = 39;

/// Backups of an EtcdCluster by the clock.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keelson.dev",
    version = "v1alpha1",
    kind = "EtcdBackupSchedule",
    plural = "etcdbackupschedules",
    category = "keelson",
    namespaced,
    status = "EtcdBackupScheduleStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Backups of an EtcdCluster by the clock.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.backup.cluster"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Time zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextTime"),
    printcolumn(name = "Last success", type_ = "date", json_path = ".status.lastSuccessfulTime"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 39").message("metadata.name must have at most 39 characters: backups are named after it"),
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupScheduleSpec {
    /// Cron with five fields (minute, hour, day of the month, month, day of the week), or `@hourly`, `@daily`, `@weekly`, `@monthly`,
    /// `@yearly`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(cron_rule()).message("spec.schedule must be cron with five fields (minute 0-59, hour 0-23, day 1-31, month 1-12 or JAN, day of the week 0-7 or MON), or @hourly, @daily, @weekly, @monthly, @yearly"))]
    pub schedule: String,
    /// The time zone that these are in, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"))]
    pub time_zone: String,
    /// While true no backup is begun; old ones are still deleted.
    #[serde(default)]
    pub suspend: bool,
    /// A backup that is later than this is left out. Left out: the last one that was missed is made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31536000))]
    pub starting_deadline_seconds: Option<i64>,
    /// What happens while the backup before is not over.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Which backups are kept. Their data goes with them if `backup.deletionPolicy` is `Delete`.
    #[serde(default)]
    pub retention: BackupRetention,
    /// The backups, as they are made.
    pub backup: EtcdBackupSpec,
}

/// The CEL rule for `spec.schedule`. It refuses what is no cron at a glance, and nothing that is; whether a range runs backwards or a
/// name is one, the controller tells.
fn cron_rule() -> String {
    let name = "[A-Za-z][A-Za-z][A-Za-z]";
    let [minute, hour, day, month, weekday] = [
        "[0-5]?[0-9]".to_string(),
        "[01]?[0-9]|2[0-3]".to_string(),
        "(0?[1-9]|[12][0-9]|3[01])[Ww]?|[Ll][Ww]?|[?]".to_string(),
        format!("0?[1-9]|1[0-2]|{name}"),
        format!("(0?[0-7]|{name})(#[1-5]|[Ll])?|[Ll]|[?]"),
    ]
    .map(|value| {
        let item = format!("([*]|({value})(-({value}))?)(/[0-9]+)?");
        format!("{item}(,{item})*")
    });
    let words = "@(hourly|daily|weekly|monthly|yearly)";
    format!("self.matches('^({words}|{minute} +{hour} +{day} +{month} +[+]?{weekday})$')")
}

fn utc() -> String {
    "Etc/UTC".into()
}

/// What happens while the backup before is not over.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConcurrencyPolicy {
    /// The next one waits for it.
    #[default]
    Forbid,
    /// They run at the same time.
    Allow,
    /// It is deleted, and the next one begins.
    Replace,
}

/// Which backups are kept. The newest one that succeeded always is.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupRetention {
    /// So many that succeeded. Left out: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub count: Option<i32>,
    /// Those that are younger, in hours, such as `720h`. Left out: of any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]*(s|m|h)$"))]
    pub age: Option<String>,
    /// So many that failed.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1000))]
    pub failed: i32,
}

fn three() -> i32 {
    3
}

impl Default for BackupRetention {
    fn default() -> Self {
        Self { count: None, age: None, failed: three() }
    }
}

/// What the schedule did.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupScheduleStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How it stands, in one sentence.
    pub reason: String,
    /// The time of the last backup that was begun, by the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_time: Option<Time>,
    /// When the newest backup that succeeded was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
    /// The newest backup that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_backup: Option<String>,
    /// The time of the next backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// The backups that are not over.
    pub active: Vec<String>,
    /// Ready (the last backup that ended has succeeded), UpToDate (the newest one that succeeded is not older than the schedule wants
    /// it to be, by more than an hour), Reconciling, Stalled.
    pub conditions: Vec<Condition>,
}

impl EtcdBackupScheduleStatus {
    /// How it stands, in a word: the reason of its conditions.
    pub fn word(&self) -> &str {
        self.conditions.first().map_or("", |condition| &condition.reason)
    }
}
