//! `EtcdCluster.spec.rollout`, and what the status tells about changes of what members run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{EtcdClusterSpec, PodTemplate, PullPolicy, seconds};

/// How another version, other options, resources or another pod template come to the members.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// How long a rollout may take for the next step. Then it is stopped: no further member is restarted. It goes on when this is
    /// raised, and another one begins when the spec is changed.
    #[serde(default = "default_progress_deadline")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]*(s|m|h)$"))]
    pub progress_deadline: String,
    /// What happens then: `Stop`, or `RollBack`, which brings back what members ran before.
    #[serde(default)]
    pub on_deadline: OnDeadline,
    /// Whether an image whose tag names a lower minor version is rolled out. Such a version may not understand the data.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// Whether members of a cluster of one or two are restarted, too, which interrupts it for as long as a member takes to start.
    /// Otherwise a person deletes their pods.
    #[serde(default)]
    pub allow_interruption: bool,
}

/// What happens with a rollout that makes no progress.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDeadline {
    /// It is stopped, and waits for a person.
    #[default]
    Stop,
    /// Members get back what they ran before.
    RollBack,
}

fn default_progress_deadline() -> String {
    "10m".into()
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            progress_deadline: default_progress_deadline(),
            on_deadline: OnDeadline::default(),
            allow_downgrade: false,
            allow_interruption: false,
        }
    }
}

impl RolloutSpec {
    /// How long a rollout may take for the next step, in seconds.
    pub fn progress_deadline_seconds(&self) -> i64 {
        seconds(&self.progress_deadline).unwrap_or(600)
    }
}

/// What of the spec a member's pod is made from.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberTemplate {
    /// The image, whether `spec.image` or `spec.version` named it.
    pub image: String,
    /// As `spec.imagePullPolicy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// As `spec.resources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "as_it_was")]
    pub resources: Option<ResourceRequirements>,
    /// As `spec.podTemplate`.
    #[schemars(schema_with = "as_it_was")]
    pub pod_template: PodTemplate,
    /// As `spec.options`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// What members speak: as `spec.tls` says, or a step on the way to it.
    pub transport: Transport,
}

/// What members speak, with clients and among each other.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Plaintext.
    #[default]
    Plain,
    /// Plaintext and TLS, as whoever connects does.
    Both,
    /// TLS.
    Tls,
}

impl Transport {
    /// The word for it in annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::Both => "Both",
            Self::Tls => "Tls",
        }
    }

    /// What the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Plain, Self::Both, Self::Tls].into_iter().find(|it| it.as_str() == word)
    }
}

/// Any object: it was checked as a part of the spec.
fn as_it_was(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

impl MemberTemplate {
    /// What `spec` asks for.
    pub fn of(spec: &EtcdClusterSpec) -> Self {
        Self {
            image: spec.server_image(),
            image_pull_policy: spec.image_pull_policy,
            resources: spec.resources.clone(),
            pod_template: spec.pod_template.clone(),
            options: spec.options.clone(),
            transport: spec.transport(),
        }
    }

    /// Makes `spec` ask for this.
    pub fn put_into(&self, spec: &mut EtcdClusterSpec) {
        spec.version = None;
        spec.image = Some(self.image.clone());
        spec.image_pull_policy = self.image_pull_policy;
        spec.resources = self.resources.clone();
        spec.pod_template = self.pod_template.clone();
        spec.options = self.options.clone();
        match self.transport {
            Transport::Plain => spec.tls = None,
            Transport::Both => spec.tls.get_or_insert_default().plaintext = true,
            Transport::Tls => spec.tls.get_or_insert_default().plaintext = false,
        }
    }
}

/// A rollout that has begun. What it brings to the members is fixed here: later edits of the spec wait until it has ended.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// How far it is.
    pub stage: RolloutStage,
    /// What members get.
    pub target: MemberTemplate,
    /// What members had got from the rollout that is taken back, if the deadline took it back. It is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<MemberTemplate>,
    /// The members that were restarted for it, in that order. All others keep `status.template`, also when their pods are
    /// made anew.
    #[serde(default)]
    pub members: Vec<String>,
    /// How many members run the target and are healthy.
    #[serde(default)]
    pub done: i32,
    /// Since when there has been no progress.
    pub since: Time,
    /// Why it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a rollout is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutStage {
    /// Members are restarted with the target, one at a time.
    Progressing,
    /// No progress within `spec.rollout.progressDeadline`: no further member is restarted.
    Stopped,
    /// Members that had got the target are restarted with what they ran before.
    RollingBack,
    /// All members run what they ran before, and the spec still asks for what was refused.
    RolledBack,
}
