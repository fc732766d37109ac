//! `EtcdCluster.status`: what the operator saw, does, and waits for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AuthStatus, MemberTemplate, Replacement, RolloutStatus, SpaceStatus, TlsStatus};

/// What the operator reports of a cluster.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdClusterStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the operator is doing, in one word.
    pub phase: Phase,
    /// The phase in one sentence.
    pub reason: String,
    /// The store's cluster id in hexadecimal. Once it is here, the cluster is never bootstrapped anew.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Whether as many members as asked for have joined once. From then on, a quorum is all that Available takes.
    pub formed: bool,
    /// How many members the store has, a learner included.
    pub size: i32,
    /// How many voting members answer and see a leader.
    pub ready_members: i32,
    /// The label selector of the members' pods, for `kubectl scale` and autoscalers.
    pub selector: String,
    /// The name of the leading member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The lowest version of etcd's API that a member reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The tag of the image that members run; several while they are being restarted with another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The members, as the store lists them.
    pub members: Vec<MemberStatus>,
    /// What the operator does next, and what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_action: Option<NextAction>,
    /// The change of membership that is under way. Edits of `spec.size` wait until it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// What all members ran when they were last all the same and healthy; at first, what the first member was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<MemberTemplate>,
    /// The rollout of another template that is under way, or was stopped or taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The size that the members' volumes were asked to have; of several the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volume_size: Option<String>,
    /// Alarms of the store, such as "NOSPACE of demo-1".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// The last members that were replaced, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replacements: Vec<Replacement>,
    /// What is done about a full store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceStatus>,
    /// The certificates, with `spec.tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Authentication, with `spec.auth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthStatus>,
    /// Available, Progressing, Degraded; Ready, Reconciling, Stalled; with `spec.tls` TLSReady; with `spec.auth` AuthReady.
    pub conditions: Vec<Condition>,
}

/// What the operator is doing with a cluster.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing has been done yet.
    #[default]
    Pending,
    /// The first member is being started.
    Bootstrapping,
    /// A member is joining.
    ScalingOut,
    /// A member is leaving.
    ScalingIn,
    /// A member that is lost is being replaced, or a full store cleared.
    Repairing,
    /// A member is made to go on alone, as a person asked for after the quorum was lost.
    Recovering,
    /// Members are being restarted, one at a time.
    RollingOut,
    /// Volumes are growing.
    Expanding,
    /// All is as asked for.
    Running,
    /// Some members do not answer; the others have quorum.
    Degraded,
    /// No quorum: writes are not possible.
    Unavailable,
    /// All members are being stopped, as `spec.size` is 0.
    Parking,
    /// No member runs, as asked for; volumes are kept.
    Parked,
    /// The members of a parked cluster are starting again.
    Resuming,
    /// `spec.paused` is true.
    Paused,
    /// Something stands in the way which a person must remove.
    Blocked,
    /// The members are being removed.
    Deleting,
}

/// A member, as the store lists it. `raftIndex` and `dbSize` are of the moment when the status was last written; they alone
/// never cause a write (the size does when it doubled or halved).
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberStatus {
    /// The member's name, which is also that of its StatefulSet.
    pub name: String,
    /// The member id in hexadecimal.
    pub id: String,
    /// Leader, Follower or Learner.
    pub role: Role,
    /// Whether it answers and sees a leader.
    pub healthy: bool,
    /// Since when it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_since: Option<Time>,
    /// Its client URL.
    pub endpoint: String,
    /// The version of etcd's API that it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The image that it runs, as this resource named it when its pod was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The size of its database in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_size: Option<i64>,
    /// Its last log index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft_index: Option<i64>,
    /// The uid of the claim that holds its data, from when the member was first seen healthy. A claim with another uid is empty:
    /// the member lost its data.
    #[serde(rename = "claimUID", skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<String>,
}

/// The part that a member plays.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Votes and leads.
    Leader,
    /// Votes.
    #[default]
    Follower,
    /// Receives the log, has no vote yet.
    Learner,
}

/// What the operator does next.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NextAction {
    /// The action, such as "promote member demo-2".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// What must happen first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// A change of membership under way. It is stored before its first step, so that an operator that was killed goes on with it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// What is being done.
    pub kind: OperationKind,
    /// The name of the member.
    pub member: String,
    /// The member id in hexadecimal, once known.
    #[serde(rename = "memberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// The size that was asked for when this began.
    pub target_size: i32,
}

/// Kinds of changes that take several steps.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationKind {
    /// The first member is started.
    Bootstrap,
    /// A member joins: add as learner, start, promote.
    AddMember,
    /// A member leaves: move leadership, remove, stop, clean up.
    RemoveMember,
    /// A member that is lost leaves, to be replaced.
    ReplaceMember,
    /// A member goes on alone after the others are lost: stop all others, start it without them.
    RecoverQuorum,
    /// A member's pod is replaced by one of the current template.
    RestartMember,
}
