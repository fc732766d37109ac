//! What members are to run, and which of them already: the target of a rollout is fixed when its first member is restarted, and
//! later edits of the spec wait until it has ended. Each member keeps what it runs until it is its turn, also when its pod is made
//! anew meanwhile.

use std::cell::RefCell;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{Member, Observed, Store, skew, transport};
use crate::build;
use crate::crd::{
    EtcdCluster, EtcdClusterStatus, MemberTemplate, OnDeadline, Phase, Role, RolloutStage, RolloutStatus,
};

/// Below this, no member can be restarted without an interruption; then a person decides when, and nothing is held back. In memory none is
/// restarted.
const TRACKED_VOTERS: usize = 3;

/// What members are to run in this pass.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// What outdated pods become.
    pub target: MemberTemplate,
    /// The hash of pods that are made from it.
    pub config_hash: String,
    /// What all members ran at last; to be recorded.
    pub settled: Option<MemberTemplate>,
    /// The rollout under way, or what is left of one; to be recorded.
    pub rollout: Option<RolloutStatus>,
    /// Why what the spec asks for is not begun.
    pub refusal: Option<String>,
    /// What members keep that are not yet restarted; nothing when all may have the target.
    kept: Option<MemberTemplate>,
    /// The spec asks for something else than what is rolled out.
    is_edited: bool,
    now: i64,
}

impl Course {
    pub fn of(cluster: &EtcdCluster, recorded: &EtcdClusterStatus, observed: &Observed) -> Self {
        let asked = MemberTemplate::of(&cluster.spec);
        let look = Look { cluster, recorded, observed, asked, hashes: RefCell::default() };
        look.course()
    }

    /// What the pod of this member is made from.
    pub fn template_of(&self, name: &str) -> &MemberTemplate {
        let restarted = self.rollout.as_ref().is_some_and(|rollout| rollout.members.iter().any(|it| it == name));
        match &self.kept {
            Some(kept) if !restarted => kept,
            _ => &self.target,
        }
    }

    /// The course once this member is restarted: from then on it has the target, which is fixed.
    pub fn with_restarted(&self, name: &str) -> Self {
        let mut next = self.clone();
        if next.kept.is_none() {
            return next;
        }
        let rollout = next.rollout.get_or_insert_with(|| RolloutStatus {
            stage: RolloutStage::Progressing,
            target: self.target.clone(),
            refused: None,
            members: Vec::new(),
            done: 0,
            since: time(self.now),
            reason: None,
        });
        if !rollout.members.iter().any(|it| it == name) {
            rollout.members.push(name.to_string());
            rollout.since = time(self.now);
        }
        next
    }

    /// While something else goes first, the time since the last progress stays as it was recorded; it begins anew after that.
    pub fn rest(&mut self, recorded: &EtcdClusterStatus, phase: Phase) {
        if let (Some(rollout), Some(before), false) = (&mut self.rollout, &recorded.rollout, counts(phase)) {
            rollout.since = before.since.clone();
        }
    }

    /// Whether members are being restarted, or were until that was stopped.
    pub fn is_in_flight(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.stage != RolloutStage::RolledBack)
    }

    /// Whether members are being given another template.
    pub fn is_rolling(&self) -> bool {
        let stage = self.rollout.as_ref().map(|rollout| rollout.stage);
        matches!(stage, Some(RolloutStage::Progressing | RolloutStage::RollingBack))
    }

    /// Whether there is another template that members are given, or may be from now on.
    pub fn reaches_newcomers(&self) -> bool {
        match &self.rollout {
            Some(_) => self.is_rolling(),
            None => self.kept.as_ref().is_some_and(|kept| *kept != self.target),
        }
    }

    /// The end of a sentence for whoever changed the spec meanwhile.
    pub fn edits_wait(&self) -> &'static str {
        match self.is_edited {
            true => {
                "; the spec was edited since, which waits until that is done (putting the former spec back does not)"
            }
            false => "",
        }
    }
}

/// Whether a rollout can be expected to make progress in this phase.
fn counts(phase: Phase) -> bool {
    matches!(phase, Phase::RollingOut | Phase::Degraded | Phase::Unavailable | Phase::Blocked)
}

fn time(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}

struct Look<'a> {
    cluster: &'a EtcdCluster,
    recorded: &'a EtcdClusterStatus,
    observed: &'a Observed,
    asked: MemberTemplate,
    /// To render a pod takes a while.
    hashes: RefCell<Vec<(MemberTemplate, String)>>,
}

impl Look<'_> {
    fn course(mut self) -> Course {
        if self.recorded.cluster_id.is_none() {
            return self.found();
        }
        let mut settled = self.recorded.template.clone();
        let mut rollout = self.recorded.rollout.clone();
        if let Some(ended) = rollout.as_ref().filter(|ended| self.all_run(&ended.target)) {
            settled = Some(ended.target.clone());
            let taken_back = RolloutStatus { stage: RolloutStage::RolledBack, members: Vec::new(), ..ended.clone() };
            rollout = ended.refused.is_some().then_some(taken_back);
        }
        self.asked.transport = transport::next(self.cluster, self.observed, settled.as_ref(), rollout.as_ref());
        if rollout.is_none() && self.all_run(&self.asked) {
            settled = Some(self.asked.clone());
        }
        match rollout {
            Some(past) if past.stage == RolloutStage::RolledBack => {
                let insists = past.refused.as_ref().is_some_and(|refused| self.same(&self.asked, refused));
                match insists {
                    true => self.make(past.target.clone(), settled, Some(past)),
                    false => self.begin(settled),
                }
            }
            Some(rollout) => self.go_on(rollout, settled),
            None => self.begin(settled),
        }
    }

    /// Before there is a cluster, its first member runs whatever the spec asks for. What it speaks stays: it may have noted by now
    /// where others are to reach it.
    fn found(mut self) -> Course {
        if let Some(begun) = &self.recorded.template {
            self.asked.transport = begun.transport;
        }
        let first = self.asked.clone();
        self.make(first.clone(), Some(first), None)
    }

    /// Nothing is under way: whatever the spec asks for may begin.
    fn begin(self, settled: Option<MemberTemplate>) -> Course {
        let from = settled.as_ref().filter(|settled| !self.same(settled, &self.asked));
        let allowed = self.cluster.spec.rollout.allow_downgrade;
        let refusal = from.and_then(|from| skew::refuse(&from.image, &self.asked.image, allowed));
        let target = match &refusal {
            Some(_) => settled.clone().unwrap_or_else(|| self.asked.clone()),
            None => self.asked.clone(),
        };
        Course { refusal, ..self.make(target, settled, None) }
    }

    /// A rollout that has begun and not ended.
    fn go_on(self, rollout: RolloutStatus, settled: Option<MemberTemplate>) -> Course {
        let was_stopped = rollout.stage == RolloutStage::Stopped;
        let rollout = self.on_the_clock(rollout, settled.as_ref());
        let goes_back = settled.as_ref().is_some_and(|settled| self.same(&rollout.target, settled));
        let is_edited = !self.same(&self.asked, &rollout.target)
            && !rollout.refused.as_ref().is_some_and(|refused| self.same(&self.asked, refused));
        let puts_back = settled.clone().filter(|settled| is_edited && self.same(&self.asked, settled) && !goes_back);
        let stopped = rollout.stage == RolloutStage::Stopped;
        if let Some(before) = puts_back {
            return self.take_back(before, RolloutStatus { reason: None, ..rollout }, None);
        }
        // It is recorded first that there is none in flight any more.
        if stopped && was_stopped && is_edited {
            return self.begin(settled);
        }
        match settled.clone().filter(|_| stopped && !goes_back) {
            Some(before) if self.cluster.spec.rollout.on_deadline == OnDeadline::RollBack => {
                let refused = Some(rollout.target.clone());
                self.take_back(before, rollout, refused)
            }
            _ => Course { is_edited, ..self.make(rollout.target.clone(), settled, Some(rollout)) },
        }
    }

    fn take_back(self, before: MemberTemplate, of: RolloutStatus, refused: Option<MemberTemplate>) -> Course {
        let rollout = RolloutStatus {
            stage: RolloutStage::RollingBack,
            target: before.clone(),
            refused,
            members: Vec::new(),
            done: self.done(&before),
            since: time(self.observed.now),
            ..of
        };
        self.make(before.clone(), Some(before), Some(rollout))
    }

    fn make(self, target: MemberTemplate, settled: Option<MemberTemplate>, rollout: Option<RolloutStatus>) -> Course {
        let voters = match &self.observed.store {
            Store::Listed { .. } => self.observed.store.voters().count(),
            _ => self.recorded.members.iter().filter(|member| member.role != Role::Learner).count(),
        };
        let in_flight = rollout.as_ref().is_some_and(|rollout| rollout.stage != RolloutStage::RolledBack);
        let exists = self.recorded.cluster_id.is_some();
        let is_tracked = voters >= TRACKED_VOTERS || (exists && self.cluster.spec.in_memory());
        let before = settled.clone().filter(|_| in_flight || is_tracked);
        // What is rendered alike may still differ in what is changed without a restart.
        let kept = before.map(|before| if self.same(&before, &target) { target.clone() } else { before });
        Course {
            config_hash: self.hash(&target),
            target,
            settled,
            rollout,
            refusal: None,
            kept,
            is_edited: false,
            now: self.observed.now,
        }
    }

    /// The rollout, stopped if there was no progress for too long. A stopped one stays so, unless it is given more time.
    fn on_the_clock(&self, mut rollout: RolloutStatus, settled: Option<&MemberTemplate>) -> RolloutStatus {
        let done = self.done(&rollout.target);
        if rollout.stage != RolloutStage::Stopped && (!counts(self.recorded.phase) || done != rollout.done) {
            rollout.since = time(self.observed.now);
        }
        rollout.done = done;
        let spec = &self.cluster.spec.rollout;
        let is_late = self.observed.now >= rollout.since.0.as_second() + spec.progress_deadline_seconds();
        let goes_back = settled.is_some_and(|settled| self.same(&rollout.target, settled))
            && rollout.stage != RolloutStage::Progressing;
        rollout.stage = match (is_late, goes_back) {
            (true, _) => {
                if rollout.stage != RolloutStage::Stopped {
                    rollout.reason = Some(self.why_late());
                }
                RolloutStage::Stopped
            }
            (false, true) => RolloutStage::RollingBack,
            (false, false) => {
                rollout.reason = None;
                RolloutStage::Progressing
            }
        };
        rollout
    }

    fn why_late(&self) -> String {
        let next = self.recorded.next_action.as_ref();
        let waited_for = next.and_then(|next| next.waiting_for.clone()).unwrap_or_else(|| "the next step".into());
        format!("no progress within {}, waiting for {waited_for}", self.cluster.spec.rollout.progress_deadline)
    }

    /// How many voters run this and are healthy.
    fn done(&self, template: &MemberTemplate) -> i32 {
        let hash = self.hash(template);
        let done = self.observed.store.voters().filter(|voter| self.runs(voter, &hash, &template.image)).count();
        i32::try_from(done).unwrap_or(i32::MAX)
    }

    fn all_run(&self, template: &MemberTemplate) -> bool {
        let hash = self.hash(template);
        let mut members = self.observed.store.members().iter().peekable();
        members.peek().is_some() && members.all(|member| self.runs(member, &hash, &template.image))
    }

    fn runs(&self, member: &Member, hash: &str, image: &str) -> bool {
        let pod = member.ordinal.and_then(|ordinal| self.observed.pods.get(&ordinal));
        let has = |pod: &super::Pod| {
            pod.serves() && pod.config_hash.as_deref() == Some(hash) && pod.image.as_deref() == Some(image)
        };
        member.healthy() && pod.is_some_and(has)
    }

    /// Whether pods of both are the same.
    fn same(&self, one: &MemberTemplate, other: &MemberTemplate) -> bool {
        one == other || (one.image == other.image && self.hash(one) == self.hash(other))
    }

    fn hash(&self, template: &MemberTemplate) -> String {
        let mut hashes = self.hashes.borrow_mut();
        if let Some((_, hash)) = hashes.iter().find(|(known, _)| known == template) {
            return hash.clone();
        }
        let hash = build::config_hash(&build::with_template(self.cluster, template));
        hashes.push((template.clone(), hash.clone()));
        hash
    }
}
