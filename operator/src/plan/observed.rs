//! What was seen of a cluster, as plain values: the input of the planner.

use std::collections::BTreeMap;

use crate::crd::{EtcdSource, StoredFile, Transport};

/// Everything that one pass saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// When this was seen, in Unix time.
    pub now: i64,
    /// StatefulSets by the number of their member.
    pub statefulsets: BTreeMap<u32, Child>,
    /// Pods by the number of their member.
    pub pods: BTreeMap<u32, Pod>,
    /// Volume claims by the number of their member.
    pub claims: BTreeMap<u32, Child>,
    /// Volumes by the number of their member.
    pub volumes: BTreeMap<u32, Volume>,
    /// Certificates.
    pub tls: super::tls::Tls,
    /// Authentication, with `spec.auth`.
    pub auth: super::auth::Auth,
    /// Alarms that the store raised.
    pub alarms: Vec<Alarm>,
    /// What a cluster that has not begun is to begin with, if not empty.
    pub recovery: Option<RecoverySource>,
    /// Why a member whose process runs does not count as healthy, by its number. Words that stay while the cause does.
    pub silence: BTreeMap<u32, String>,
    /// What the members said.
    pub store: Store,
}

/// The data that a cluster is to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoverySource {
    /// It is not there yet: what must happen first.
    Awaited(String),
    /// It is there.
    Found(Box<Recovery>),
}

/// Data, and how it becomes the first member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Where it is.
    pub origin: Origin,
    /// Revisions that are skipped.
    pub revision_bump: i64,
    /// Whether the file may lack a checksum.
    pub skip_hash_check: bool,
}

/// Where data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a store of backups.
    File(Box<StoredFile>),
    /// With a cluster that runs.
    Etcd(EtcdSource),
}

impl Origin {
    /// In words.
    pub fn location(&self) -> String {
        match self {
            Self::File(file) => file.store.location(&file.path),
            Self::Etcd(source) => source.endpoint.clone(),
        }
    }
}

/// A StatefulSet or a claim, as far as the planner looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Child {
    /// The object's uid.
    pub uid: String,
    /// Whether it belongs to this very EtcdCluster, not to an earlier one of the same name or to somebody else.
    pub ours: bool,
    /// Whether its deletion has begun.
    pub deleting: bool,
    /// Of a StatefulSet whose member's data are in memory: the uid of the pod that has or had them, once there was one.
    pub data_pod: Option<String>,
}

/// What a claim asks for, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// The size asked for, as Kubernetes writes it.
    pub requested: String,
    /// The size of the volume, once there is one.
    pub capacity: Option<String>,
    /// Since when the volume has been large enough and waits for its file system to grow, in Unix time.
    pub file_system_pending: Option<i64>,
}

/// A pod, as far as the planner looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// The object's uid.
    pub uid: String,
    /// The object's resourceVersion: which state of it was seen.
    pub version: String,
    /// As in [`Child::ours`].
    pub ours: bool,
    /// Whether its deletion has begun.
    pub deleting: bool,
    /// When it should have ended at the latest, once its deletion has begun, in Unix time.
    pub gone_by: Option<i64>,
    /// Whether the member's process runs. A pod whose process does not run serves nobody.
    pub running: bool,
    /// Whether Kubernetes finds it ready.
    pub ready: bool,
    /// Hash of the template that the pod was made from, without the image.
    pub config_hash: Option<String>,
    /// The image that its template asked for.
    pub image: Option<String>,
    /// What its member speaks; unknown for one that an earlier operator made.
    pub transport: Option<Transport>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The version of the Secret with certificates that its node was last pointed to.
    pub certificates: Option<String>,
    /// Why its process does not run, such as `CrashLoopBackOff`.
    pub trouble: Option<String>,
    /// How often its process was started again.
    pub restarts: i32,
    /// When it was made, in Unix time.
    pub created: i64,
    /// The uid of the StatefulSet that made it.
    pub owner: Option<String>,
    /// Whether the operator has not let it start: its data would be in memory.
    pub gated: bool,
    /// Whether its member does not start with an empty directory any more: its data are in memory.
    pub settled: bool,
}

/// What the members of the store said.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Store {
    /// No member gave a member list confirmed by a quorum.
    #[default]
    Silent,
    /// Members answer, but they belong to the cluster with this id.
    Foreign(u64),
    /// The member list, confirmed by a quorum.
    Listed {
        /// The store's cluster id.
        cluster_id: u64,
        /// In the order of their numbers.
        members: Vec<Member>,
    },
}

/// An entry of the member list, with the member's own answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The member id.
    pub id: u64,
    /// Its number, by its peer URL; `None` for a member that the operator did not add.
    pub ordinal: Option<u32>,
    /// Whether it ever started (it then published its name).
    pub started: bool,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether others reach it by TLS.
    pub secure: bool,
    /// What it said of itself, if it answered.
    pub answer: Option<Answer>,
}

/// A member's answer to Status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The id of the leader that it sees; 0 for none.
    pub leader: u64,
    /// Its last log index.
    pub raft_index: u64,
    /// Its newest revision.
    pub revision: i64,
    /// Size of its database in bytes.
    pub db_size: i64,
    /// How large that may become, in bytes; 0 without a limit.
    pub db_quota: i64,
    /// Its version.
    pub version: String,
}

/// An alarm of the store. It stops writes in the whole cluster until it is disarmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// The id of the member that it is about; 0 if the store does not know.
    pub member: u64,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    /// The member's database has reached its quota.
    NoSpace,
    /// The member's data differs from the others'.
    Corrupt,
}

impl AlarmKind {
    /// As etcd names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

impl Pod {
    /// Whether the answers of its member count. A pod that is going away answers until its process has ended, and by then it
    /// has cost the cluster a member.
    pub fn serves(&self) -> bool {
        self.ours && self.running && !self.deleting
    }
}

impl Member {
    /// Answers and sees a leader.
    pub fn healthy(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.leader != 0)
    }
}

impl Store {
    /// The member list; empty when there is none.
    pub fn members(&self) -> &[Member] {
        match self {
            Self::Listed { members, .. } => members,
            _ => &[],
        }
    }

    /// The members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().iter().filter(|member| !member.learner)
    }

    /// The members without a vote.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members().iter().filter(|member| member.learner)
    }

    /// The member with this number.
    pub fn by_ordinal(&self, ordinal: u32) -> Option<&Member> {
        self.members().iter().find(|member| member.ordinal == Some(ordinal))
    }

    /// The leader's id, when a member that answers is the leader by its own account.
    pub fn leader(&self) -> Option<u64> {
        self.voters()
            .find(|member| {
                let answer = member.answer.as_ref();
                answer.is_some_and(|answer| answer.leader == member.id)
            })
            .map(|member| member.id)
    }
}

/// The part that a member's pod is labelled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRole {
    /// It votes and serves clients.
    Voter,
    /// It catches up.
    Learner,
}

impl PodRole {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

impl Observed {
    /// The part of member `ordinal`: a voter, unless the member list says that it is none.
    pub fn role(&self, ordinal: u32) -> PodRole {
        match self.store.by_ordinal(ordinal) {
            Some(member) if member.learner => PodRole::Learner,
            _ => PodRole::Voter,
        }
    }
}
