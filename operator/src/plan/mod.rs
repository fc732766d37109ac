//! Plans the next step of a cluster: a function of what was seen and what is asked for, without input or output.
//!
//! At most one step that changes something in the store or takes something away is planned in a pass; the next pass plans anew
//! from what it sees then. [`check`] judges every plan by its own reading of the safety rules, before anything is done.

pub mod auth;
mod bootstrap;
mod check;
mod course;
mod expansion;
mod learner;
mod leftovers;
mod memory;
mod observed;
mod obstacles;
mod park;
mod quorum;
mod quorum_loss;
mod repair;
mod requests;
mod rollout;
mod scale;
mod skew;
mod space;
mod teardown;
pub mod tls;
mod transport;

use std::collections::BTreeMap;
use std::fmt;

pub use check::{Violation, check};
pub use observed::{
    Alarm, AlarmKind, Answer, Child, Member, Observed, Origin, Pod, PodRole, Recovery, RecoverySource, Store, Volume,
};
pub use quorum::{healthy, quorum};
pub use skew::tag;

use self::course::Course;
use crate::crd::{
    EtcdCluster, EtcdClusterStatus, MemberTemplate, Operation, OperationKind, Phase, Role, RolloutStatus, SpaceStatus,
};
use crate::names::{FINALIZER, Names};

/// The outcome of a pass: what must exist, the one step to take, and what it all waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whether the Services, the PodDisruptionBudget and the StatefulSets below are applied at all.
    pub apply_children: bool,
    /// The StatefulSets that must exist, by number, and how each member starts.
    pub members: BTreeMap<u32, Start>,
    /// What the pod of each of these is made from.
    pub templates: BTreeMap<u32, MemberTemplate>,
    /// What all members ran at last; stored as [`Plan::operation`] is.
    pub template: Option<MemberTemplate>,
    /// The rollout that is under way; stored as [`Plan::operation`] is.
    pub rollout: Option<RolloutStatus>,
    /// The one step to take.
    pub action: Option<Action>,
    /// What must happen before the next step.
    pub waiting_for: Option<String>,
    /// The change that is under way; stored in the status before `action` is taken.
    pub operation: Option<Operation>,
    /// How far the clearing of a full store is; stored as [`Plan::operation`] is.
    pub space: Option<SpaceStatus>,
    /// Certificates, which are written before the StatefulSets.
    pub tls: Option<tls::TlsPlan>,
    /// Authentication, which is dealt with after them.
    pub auth: Option<auth::AuthPlan>,
    /// The cluster id to store in the status, once the children are applied.
    pub cluster_id: Option<u64>,
    /// The phase to report.
    pub phase: Phase,
    /// The phase in a sentence.
    pub reason: String,
}

impl Plan {
    /// What must happen before the next step, of members, of certificates and of authentication.
    pub fn waits(&self) -> Option<String> {
        let certificates = self.tls.as_ref().and_then(|tls| tls.waiting_for.clone());
        let auth = self.auth.as_ref().and_then(|auth| auth.waiting_for.clone());
        self.waiting_for.clone().or(certificates).or(auth)
    }
}

/// How a member starts when its data directory is empty. With data, a member ignores all of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// As the first member of a new cluster.
    Seed,
    /// As the first member of a new cluster that begins with this data.
    Recover(Box<Recovery>),
    /// As a learner that was added, among these members (name, peer URL).
    Join(Vec<(String, String)>),
    /// Not at all: it has started before, so an empty directory means that its data was lost. Told to join an existing cluster
    /// of which it knows nobody else, it stops with an error.
    Settled,
    /// Not at all: it is stopped, and its volume is kept.
    Parked,
    /// Without the others, which are lost for good, from what is on its volume.
    Alone,
}

/// A step that changes the store or takes something away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the finalizer on the EtcdCluster.
    AddFinalizer,
    /// Start the first member: its StatefulSet is in [`Plan::members`].
    Bootstrap,
    /// Stop all members and keep their volumes: their StatefulSets are in [`Plan::members`].
    Park,
    /// Add a member as a learner.
    AddLearner { ordinal: u32 },
    /// Let a pod start that will have its member's data in memory.
    LetStart { ordinal: u32, uid: String },
    /// Give a learner its vote.
    Promote { ordinal: u32, id: u64 },
    /// Have the others reach a member by TLS (`secure`) or by plaintext.
    MovePeer { ordinal: u32, id: u64, secure: bool },
    /// Have another voter lead.
    MoveLeader { from: u64, to: u64 },
    /// Take a member out of the member list.
    RemoveMember { ordinal: u32, id: u64 },
    /// Delete the StatefulSet of a member that is no longer listed.
    DeleteStatefulSet { ordinal: u32, uid: String },
    /// Delete the claim of a member that is no longer listed and whose pod is gone.
    DeleteClaim { ordinal: u32, uid: String },
    /// Delete a pod, so that it comes back from the current template.
    RestartPod { ordinal: u32, uid: String },
    /// Ask for a larger volume.
    ExpandClaim { ordinal: u32, uid: String, size: String },
    /// Compact the history up to this revision, and defragment a member.
    FreeSpace { ordinal: u32, id: u64, revision: i64 },
    /// Defragment a member, and leave these to be defragmented.
    Defragment { ordinal: u32, id: u64, left: Vec<String> },
    /// End an alarm.
    Disarm { member: u64, kind: AlarmKind },
    /// Take off the annotation by which a person asked for something, which was done or is `refused`.
    ForgetRequest { annotation: &'static str, refused: bool },
    /// Let Kubernetes forget the EtcdCluster.
    RemoveFinalizer,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::Bootstrap => write!(f, "start the first member"),
            Self::Park => write!(f, "stop all members"),
            Self::AddLearner { ordinal } => write!(f, "add member {ordinal} as a learner"),
            Self::LetStart { ordinal, .. } => write!(f, "let member {ordinal} start"),
            Self::Promote { ordinal, .. } => write!(f, "promote member {ordinal}"),
            Self::MovePeer { ordinal, secure, .. } => {
                write!(f, "reach member {ordinal} by {}", if *secure { "TLS" } else { "plaintext" })
            }
            Self::MoveLeader { from, to } => write!(f, "move leadership from {from:x} to {to:x}"),
            Self::RemoveMember { ordinal, .. } => write!(f, "remove member {ordinal}"),
            Self::DeleteStatefulSet { ordinal, .. } => {
                write!(f, "delete the StatefulSet of member {ordinal}")
            }
            Self::DeleteClaim { ordinal, .. } => write!(f, "delete the claim of member {ordinal}"),
            Self::RestartPod { ordinal, .. } => write!(f, "restart member {ordinal}"),
            Self::ExpandClaim { ordinal, size, .. } => write!(f, "expand the volume of member {ordinal} to {size}"),
            Self::FreeSpace { ordinal, .. } => write!(f, "compact, and defragment member {ordinal}"),
            Self::Defragment { ordinal, .. } => write!(f, "defragment member {ordinal}"),
            Self::Disarm { member, kind } => write!(f, "disarm {} of member {member:x}", kind.as_str()),
            Self::ForgetRequest { annotation, .. } => write!(f, "remove the annotation {annotation}"),
            Self::RemoveFinalizer => write!(f, "remove the finalizer"),
        }
    }
}

/// What a step of the planner sees.
struct Situation<'a> {
    cluster: &'a EtcdCluster,
    observed: &'a Observed,
    names: Names,
    /// The status as stored.
    recorded: EtcdClusterStatus,
    /// What members are to run.
    course: Course,
}

/// The planner's decision, before the parts that every plan shares.
struct Step {
    action: Option<Action>,
    waiting_for: Option<String>,
    operation: Option<Operation>,
    phase: Phase,
    reason: String,
}

impl Step {
    fn act(action: Action, phase: Phase, reason: impl Into<String>) -> Self {
        Self { action: Some(action), waiting_for: None, operation: None, phase, reason: reason.into() }
    }

    fn wait(waiting_for: impl Into<String>, phase: Phase, reason: impl Into<String>) -> Self {
        Self { action: None, waiting_for: Some(waiting_for.into()), operation: None, phase, reason: reason.into() }
    }

    fn during(mut self, operation: Option<Operation>) -> Self {
        self.operation = operation;
        self
    }
}

/// Plans one pass.
pub fn plan(cluster: &EtcdCluster, observed: &Observed) -> Plan {
    let situation = Situation::new(cluster, observed);
    if cluster.spec.paused {
        let step = Step::wait("spec.paused to be false", Phase::Paused, "paused: nothing is changed")
            .during(situation.recorded.operation.clone());
        return situation.hands_off(step);
    }
    if cluster.metadata.deletion_timestamp.is_some() {
        return situation.hands_off(teardown::step(&situation));
    }
    let finalizers = cluster.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        let step = Step::act(Action::AddFinalizer, situation.recorded.phase, "accepted");
        return situation.hands_off(step);
    }
    if let Some(step) = obstacles::foreign_children(&situation) {
        return situation.hands_off(step);
    }
    match &observed.store {
        Store::Silent if cluster.spec.size == 0 => park::plan(&situation),
        Store::Silent if situation.recorded.cluster_id.is_some() => {
            quorum_loss::plan(&situation).unwrap_or_else(|| situation.unavailable())
        }
        Store::Silent => bootstrap::plan(&situation),
        Store::Foreign(id) => situation.hands_off(obstacles::wrong_cluster(&situation, *id)),
        Store::Listed { cluster_id, .. } => match &situation.recorded.cluster_id {
            Some(recorded) if *recorded != hex(*cluster_id) => {
                situation.hands_off(obstacles::wrong_cluster(&situation, *cluster_id))
            }
            Some(_) if cluster.spec.size == 0 => park::plan(&situation),
            Some(_) => situation.steady(),
            None => bootstrap::record(&situation, *cluster_id),
        },
    }
}

/// The plan for a resource whose spec is refused, or whose plan was: nothing is changed until `waiting_for` is there.
pub fn refuse(cluster: &EtcdCluster, observed: &Observed, waiting_for: &str, why: &str) -> Plan {
    let situation = Situation::new(cluster, observed);
    let step = Step::wait(waiting_for, Phase::Blocked, why);
    situation.hands_off(step.during(situation.recorded.operation.clone()))
}

/// Ids as etcdctl prints them.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

impl<'a> Situation<'a> {
    fn new(cluster: &'a EtcdCluster, observed: &'a Observed) -> Self {
        let recorded = cluster.status.clone().unwrap_or_default();
        let course = Course::of(cluster, &recorded, observed);
        Self { cluster, observed, names: Names::of(cluster), recorded, course }
    }

    /// A plan that applies nothing beside its step.
    fn hands_off(&self, step: Step) -> Plan {
        let (template, rollout) = (self.recorded.template.clone(), self.recorded.rollout.clone());
        Plan { template, rollout, ..self.with_members(step, BTreeMap::new(), false) }
    }

    fn with_members(&self, step: Step, members: BTreeMap<u32, Start>, apply: bool) -> Plan {
        let rolls = step.phase == Phase::RollingOut;
        let mut course = match &step.action {
            Some(Action::RestartPod { ordinal, .. }) if rolls => {
                self.course.with_restarted(&self.names.member(*ordinal))
            }
            // Whoever joins meanwhile would have to be exchanged, too.
            Some(Action::AddLearner { ordinal }) if self.in_memory() && (rolls || self.course.reaches_newcomers()) => {
                self.course.with_restarted(&self.names.member(*ordinal))
            }
            _ => self.course.clone(),
        };
        course.rest(&self.recorded, step.phase);
        let template = |ordinal: &u32| (*ordinal, course.template_of(&self.names.member(*ordinal)).clone());
        Plan {
            apply_children: apply,
            templates: members.keys().map(template).collect(),
            template: course.settled.clone(),
            rollout: course.rollout.clone(),
            tls: apply.then(|| tls::plan(self, &members)).flatten(),
            auth: apply.then(|| auth::plan(self)).flatten(),
            members,
            action: step.action,
            waiting_for: step.waiting_for,
            operation: step.operation,
            space: self.space_under_way(),
            cluster_id: None,
            phase: step.phase,
            reason: step.reason,
        }
    }

    /// Whether the data of a member end with its pod.
    fn in_memory(&self) -> bool {
        self.cluster.spec.in_memory()
    }

    /// A working cluster: the first step that applies, in the order of urgency.
    fn steady(&self) -> Plan {
        if let Some(step) = quorum_loss::step(self).or_else(|| repair::of_corrupt_data(self)) {
            return self.with_members(step, self.listed_members(), true);
        }
        if let Some((step, round)) = space::step(self) {
            let plan = self.with_members(step, self.listed_members(), true);
            return Plan { space: Some(round), ..plan };
        }
        let step = repair::step(self)
            .or_else(|| leftovers::step(self))
            .or_else(|| obstacles::unknown_member(self))
            .or_else(|| learner::step(self))
            .or_else(|| requests::step(self))
            .or_else(|| transport::step(self))
            .or_else(|| rollout::now(self))
            .or_else(|| scale::step(self))
            .or_else(|| rollout::step(self))
            .or_else(|| expansion::step(self))
            .or_else(|| transport::wait(self))
            .unwrap_or_else(|| self.at_rest());
        self.with_members(step, self.listed_members(), true)
    }

    /// No quorum answers. Nothing in the store can be changed; voters known from before are kept running, and so is a learner
    /// that was healthy: it may have got its vote since.
    fn unavailable(&self) -> Plan {
        let ordinals: Vec<u32> = self
            .recorded
            .members
            .iter()
            .filter(|member| member.role != Role::Learner || member.claim_uid.is_some())
            .filter_map(|member| self.names.ordinal_of(&member.name))
            .collect();
        let members = ordinals.iter().map(|n| (*n, Start::Settled)).collect();
        let (phase, reason) = match park::is_resuming(self) {
            true => (Phase::Resuming, "the members start again with what is on their volumes"),
            false => {
                let reason = "no quorum of members answers; the cluster is never bootstrapped anew by itself";
                (Phase::Unavailable, reason)
            }
        };
        let step = rollout::of_stopped_pods(self, &ordinals).or_else(|| expansion::ask(self)).unwrap_or_else(|| {
            let members = ordinals.iter().map(|n| self.member_and_trouble(*n));
            let members: Vec<String> = members.collect();
            let waiting_for = match members.is_empty() {
                true => "a quorum of members to answer".to_string(),
                false => format!("a quorum of {} to answer", members.join(", ")),
            };
            match memory::is_gone(self) {
                Some(gone) => Step::wait("a person: another cluster, with a backup (docs/memory.md)", phase, gone),
                None => Step::wait(waiting_for, phase, reason),
            }
        });
        let step = step.during(self.recorded.operation.clone());
        self.with_members(step, members, true)
    }

    /// The StatefulSets of all listed members.
    fn listed_members(&self) -> BTreeMap<u32, Start> {
        let members = self.observed.store.members();
        let everybody: Vec<(String, String)> = members
            .iter()
            .filter_map(|member| Some((member.ordinal?, member.secure)))
            .map(|(ordinal, secure)| (self.names.member(ordinal), self.names.peer_url_by(ordinal, secure)))
            .collect();
        members
            .iter()
            .filter_map(|member| {
                let start = match member.started {
                    true => Start::Settled,
                    false => Start::Join(everybody.clone()),
                };
                Some((member.ordinal?, start))
            })
            .collect()
    }

    /// Nothing to do: Running, or Degraded while a voter does not answer or a person is needed.
    fn at_rest(&self) -> Step {
        let store = &self.observed.store;
        let silent = self.silent_voters();
        let count = store.voters().count();
        if let Some(note) = repair::note(self).or_else(|| space::note(self)) {
            return Step::wait("a person", Phase::Degraded, note);
        }
        if let Some((waiting_for, note)) = rollout::note(self) {
            return Step::wait(waiting_for, Phase::Blocked, note).during(self.recorded.operation.clone());
        }
        if silent.is_empty() {
            return Step {
                action: None,
                waiting_for: leftovers::stuck(self),
                operation: None,
                phase: Phase::Running,
                reason: format!("all {count} members are healthy"),
            };
        }
        let waiting_for = self.expect(&silent, "to answer");
        if let Some(operation) = self.restarting(&silent) {
            let reason = format!("{} is coming back", operation.member);
            let step = Step::wait(waiting_for, Phase::RollingOut, reason);
            return step.during(Some(operation));
        }
        let reason = format!("{} of {count} members are healthy", count - silent.len());
        Step::wait(waiting_for, Phase::Degraded, reason)
    }

    /// The restart under way, if it explains that these members are silent.
    fn restarting(&self, silent: &[u32]) -> Option<Operation> {
        let operation = self.recorded.operation.as_ref()?;
        let ours = operation.kind == OperationKind::RestartMember
            && silent.iter().all(|n| self.names.member(*n) == operation.member);
        ours.then(|| operation.clone())
    }

    /// What is awaited of these members: "c-1 (CrashLoopBackOff), c-2 to answer".
    fn expect(&self, ordinals: &[u32], what: &str) -> String {
        let (there, missing): (Vec<u32>, Vec<u32>) =
            ordinals.iter().partition(|ordinal| self.observed.pods.contains_key(ordinal));
        let mut texts = Vec::new();
        if !there.is_empty() {
            let there: Vec<String> = there.iter().map(|n| self.member_and_trouble(*n)).collect();
            texts.push(format!("{} {what}", there.join(", ")));
        }
        texts.extend(missing.iter().map(|ordinal| {
            let (pod, member) = (self.names.pod(*ordinal), self.names.member(*ordinal));
            format!("pod {pod} to be created (see the events of StatefulSet {member})")
        }));
        texts.join("; ")
    }

    fn member_and_trouble(&self, ordinal: u32) -> String {
        let member = self.names.member(ordinal);
        match self.trouble(ordinal) {
            Some(trouble) => format!("{member} ({trouble})"),
            None => member,
        }
    }

    /// Why a member does not count as healthy, as far as it is known.
    fn trouble(&self, ordinal: u32) -> Option<String> {
        let Some(pod) = self.observed.pods.get(&ordinal) else {
            return Some("no pod".into());
        };
        if pod.deleting {
            return Some("terminating".into());
        }
        let silence = self.observed.silence.get(&ordinal);
        pod.trouble.as_ref().or(silence).cloned()
    }

    /// Whether the store says that this member's data is wrong.
    fn is_corrupt(&self, id: u64) -> bool {
        let alarm = Alarm { member: id, kind: AlarmKind::Corrupt };
        self.observed.alarms.contains(&alarm)
    }

    /// Whether the member's pod was replaced by the operator, and has not come back yet.
    fn is_restarting(&self, ordinal: u32) -> bool {
        let name = self.names.member(ordinal);
        let mut rollouts = self.course.rollout.iter().chain(&self.recorded.rollout);
        if rollouts.any(|rollout| rollout.members.contains(&name)) {
            return true;
        }
        let operation = self.recorded.operation.as_ref();
        let restart = operation.filter(|operation| operation.kind == OperationKind::RestartMember);
        restart.is_some_and(|operation| operation.member == name)
    }

    /// The round of clearing that was begun, while the store is full.
    fn space_under_way(&self) -> Option<SpaceStatus> {
        let unknown = !matches!(self.observed.store, Store::Listed { .. });
        let is_full = self.observed.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        self.recorded.space.clone().filter(|_| unknown || is_full)
    }

    /// Whether a voter may be restarted now: the others go on meanwhile, or the spec accepts that nobody does.
    fn may_restart(&self, id: u64) -> bool {
        quorum::survives_restart(self.observed.store.voters(), id, self.cluster.spec.rollout.allow_interruption)
    }

    /// The numbers of the voters that are not healthy.
    fn silent_voters(&self) -> Vec<u32> {
        let voters = self.observed.store.voters();
        let silent = voters.filter(|voter| !voter.healthy());
        silent.filter_map(|voter| voter.ordinal).collect()
    }

    fn operation(&self, kind: OperationKind, ordinal: u32, id: Option<u64>) -> Option<Operation> {
        Some(Operation {
            kind,
            member: self.names.member(ordinal),
            member_id: id.map(hex),
            target_size: match &self.recorded.operation {
                Some(recorded) if recorded.member == self.names.member(ordinal) => recorded.target_size,
                _ => self.cluster.spec.size,
            },
        })
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
