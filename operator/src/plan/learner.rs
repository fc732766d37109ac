//! A member on its way in: added as a learner, started, caught up, promoted. One at a time.

use super::quorum::{survives_promotion, survives_removal};
use super::{Action, Member, Situation, Step, memory, rollout};
use crate::crd::{OperationKind, Phase};

/// How many log entries a learner may lack when it is proposed for promotion. The leader decides by its own, stricter knowledge
/// and answers "in sync with leader" when it is too early.
pub(super) const MAX_LAG: u64 = 1000;

/// The next step of the learner there is, if any.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let store = &situation.observed.store;
    let learner = store.learners().next()?;
    let ordinal = learner.ordinal?;
    let name = situation.names.member(ordinal);
    let operation = situation.operation(OperationKind::AddMember, ordinal, Some(learner.id));

    if withdrawn(situation, learner) {
        if !survives_removal(store.voters(), learner.id) {
            let what = "a quorum of the voters to be healthy";
            let reason = format!("{name} does not answer and is no longer asked for");
            return Some(Step::wait(what, Phase::Degraded, reason).during(operation));
        }
        let remove = Action::RemoveMember { ordinal, id: learner.id };
        let reason = format!("{name} does not answer and is no longer asked for");
        let leaving = situation.operation(OperationKind::RemoveMember, ordinal, Some(learner.id));
        return Some(Step::act(remove, Phase::ScalingIn, reason).during(leaving));
    }
    let joining = format!("{name} is joining");
    let phase = phase(situation, &name);
    let wait = |what: String| {
        let step = Step::wait(what, phase, joining.clone());
        Some(step.during(operation.clone()))
    };
    if let Some(action) = memory::let_start(situation, ordinal).filter(|_| !learner.started) {
        return Some(Step::act(action, phase, joining).during(operation));
    }
    let Some(answer) = learner.answer.as_ref().filter(|_| learner.started) else {
        if let Some(restart) = rollout::of_stopped_pods(situation, &[ordinal]) {
            return Some(restart.during(operation));
        }
        return wait(situation.expect(&[ordinal], "to start"));
    };
    let index = |id: u64| {
        let leader = store.voters().find(|voter| voter.id == id)?;
        Some(leader.answer.as_ref()?.raft_index)
    };
    let Some(leader_index) = store.leader().and_then(index) else {
        return wait("the leader to answer".into());
    };
    if leader_index.saturating_sub(answer.raft_index) > MAX_LAG || answer.leader == 0 {
        return wait(format!("{name} to catch up with the leader"));
    }
    // By its claim it is seen later that its volume is lost. A voter of which that is not known could not be replaced.
    if !situation.in_memory() && !situation.observed.claims.contains_key(&ordinal) {
        return wait(format!("the volume claim of {name} to be seen"));
    }
    if situation.in_memory() && !memory::is_on_record(situation, ordinal) {
        return wait(format!("the pod of {name} to be held back by its scheduling gate"));
    }
    if !survives_promotion(store.voters()) {
        return wait("more voters to be healthy: a further vote would raise the quorum".into());
    }
    let promote = Action::Promote { ordinal, id: learner.id };
    Some(Step::act(promote, phase, format!("{name} has caught up")).during(operation))
}

/// A member in memory that comes with another template is a part of the rollout, by whose deadline it is to be there.
fn phase(situation: &Situation, name: &str) -> Phase {
    let course = &situation.course;
    let rolls = situation.in_memory() && course.is_rolling();
    let named = course.rollout.as_ref().is_some_and(|rollout| rollout.members.iter().any(|it| it == name));
    if rolls && named { Phase::RollingOut } else { Phase::ScalingOut }
}

/// A learner has no vote. One that does not answer and whose place is no longer asked for is taken back, so that a scale-out
/// that cannot be finished (no node, no volume, a process that dies) can be undone.
fn withdrawn(situation: &Situation, learner: &Member) -> bool {
    let voters = situation.observed.store.voters().count();
    let asked_for = usize::try_from(situation.cluster.spec.size).unwrap_or(0);
    let is_asked_for = voters < asked_for + memory::surplus(situation);
    let is_obsolete = learner.ordinal.is_some_and(|ordinal| memory::is_obsolete(situation, ordinal));
    learner.answer.is_none() && (!is_asked_for || is_obsolete)
}
