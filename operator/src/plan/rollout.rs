//! Restarts of members whose pod was made from an older template: one at a time, followers first, the leader last after its
//! leadership moved, each only when all the others are healthy. What they are restarted with is in [`course`](super::course).

use super::{Action, Member, Pod, Situation, Step, memory};
use crate::crd::{OperationKind, Phase, RolloutStage};

/// A rollout that has begun, or one for changed configuration, if it is possible at once or under way: it goes before a change of
/// size. One that only waits does not: the change of size may be what it waits for, or what a person needs meanwhile.
pub(super) fn now(situation: &Situation) -> Option<Step> {
    let step = match &situation.course.rollout {
        Some(_) => step(situation),
        None => restart_one(situation, |pod| another_configuration(situation, pod)),
    };
    // A wait without an operation has not begun.
    step.filter(|step| step.action.is_some() || step.operation.is_some())
}

/// A restart for changed configuration, and then one for another image alone, which comes last.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    restart_one(situation, |pod| another_configuration(situation, pod))
        .or_else(|| restart_one(situation, |pod| is_outdated(situation, pod)))
}

/// Restarts the first of these members whose process does not run and whose pod is outdated: a wrong option or image that was
/// corrected. It serves nobody, so this is safe without a quorum; but for data in memory, which would be gone.
pub(super) fn of_stopped_pods(situation: &Situation, ordinals: &[u32]) -> Option<Step> {
    let has_data = situation.in_memory() && situation.recorded.cluster_id.is_some();
    if is_stopped(situation) || has_data {
        return None;
    }
    ordinals.iter().find_map(|ordinal| {
        let pod = situation.observed.pods.get(ordinal)?;
        let stuck = !pod.running && !pod.deleting && is_outdated(situation, pod) && may_follow(situation, *ordinal);
        stuck.then(|| restart(situation, *ordinal, pod, None))
    })
}

/// Why members do not run what the spec asks for, when that needs a person.
pub(super) fn note(situation: &Situation) -> Option<(&'static str, String)> {
    let course = &situation.course;
    if let Some(refusal) = &course.refusal {
        return Some(("another spec.version", refusal.clone()));
    }
    let rollout = course.rollout.as_ref()?;
    let reason = rollout.reason.as_deref().unwrap_or("no progress");
    match rollout.stage {
        RolloutStage::Stopped => Some((
            "the spec to be changed or put back, or spec.rollout.progressDeadline to be raised",
            format!("the rollout was stopped: {reason}"),
        )),
        RolloutStage::RolledBack => Some(("the spec to be changed", format!("the rollout was taken back: {reason}"))),
        RolloutStage::Progressing | RolloutStage::RollingBack => None,
    }
}

// Both compare what was rendered then with what is rendered now, never with what admission made of it.

fn another_configuration(situation: &Situation, pod: &Pod) -> bool {
    pod.config_hash.as_deref() != Some(situation.course.config_hash.as_str())
}

pub(super) fn is_outdated(situation: &Situation, pod: &Pod) -> bool {
    another_configuration(situation, pod) || pod.image.as_deref() != Some(situation.course.target.image.as_str())
}

pub(super) fn is_stopped(situation: &Situation) -> bool {
    let rollout = situation.course.rollout.as_ref();
    rollout.is_some_and(|rollout| rollout.stage == RolloutStage::Stopped)
}

/// Whether the members that were restarted before this one do not speak against going on: none of them fails with its new
/// template. One that only waits for the others does not.
fn may_follow(situation: &Situation, ordinal: u32) -> bool {
    let name = situation.names.member(ordinal);
    let before = situation.course.rollout.iter().flat_map(|rollout| &rollout.members);
    let mut before = before.filter(|other| **other != name).filter_map(|other| situation.names.ordinal_of(other));
    !before.any(|other| {
        let healthy = situation.observed.store.by_ordinal(other).is_some_and(Member::healthy);
        let pod = situation.observed.pods.get(&other);
        !healthy && pod.is_some_and(|pod| !pod.running || pod.restarts > 0)
    })
}

fn restart(situation: &Situation, ordinal: u32, pod: &Pod, id: Option<u64>) -> Step {
    let name = situation.names.member(ordinal);
    let action = Action::RestartPod { ordinal, uid: pod.uid.clone() };
    let reason = format!("{name} is restarted with the current template{}", situation.course.edits_wait());
    let operation = situation.operation(OperationKind::RestartMember, ordinal, id);
    Step::act(action, Phase::RollingOut, reason).during(operation)
}

fn restart_one(situation: &Situation, outdated: impl Fn(&Pod) -> bool) -> Option<Step> {
    if is_stopped(situation) {
        return None;
    }
    let store = &situation.observed.store;
    let mut candidates: Vec<(&Member, u32, &Pod)> = store
        .voters()
        .filter_map(|voter| {
            let ordinal = voter.ordinal?;
            Some((voter, ordinal, situation.observed.pods.get(&ordinal)?))
        })
        .filter(|(_, _, pod)| outdated(pod))
        .collect();
    let leader = store.leader();
    candidates.sort_by_key(|(voter, ordinal, _)| (voter.healthy(), Some(voter.id) == leader, *ordinal));
    let (voter, ordinal, pod) = *candidates.first()?;
    if situation.in_memory() {
        return Some(memory::exchange(situation, voter, ordinal));
    }
    let name = situation.names.member(ordinal);
    let reason = format!("members are restarted one at a time{}", situation.course.edits_wait());
    let operation = situation.operation(OperationKind::RestartMember, ordinal, Some(voter.id));
    if pod.deleting {
        let step = Step::wait(format!("{name} to stop"), Phase::RollingOut, reason);
        return Some(step.during(operation));
    }
    if !pod.running && may_follow(situation, ordinal) {
        return Some(restart(situation, ordinal, pod, Some(voter.id)));
    }
    if !situation.may_restart(voter.id) {
        return Some(refused(situation, ordinal));
    }
    if Some(voter.id) == leader {
        // A lone member has none.
        if let Some(successor) = store.voters().find(|other| other.id != voter.id && other.healthy()) {
            let action = Action::MoveLeader { from: voter.id, to: successor.id };
            let reason = format!("{name} leads and is restarted last");
            return Some(Step::act(action, Phase::RollingOut, reason).during(operation));
        }
    }
    Some(restart(situation, ordinal, pod, Some(voter.id)))
}

fn refused(situation: &Situation, ordinal: u32) -> Step {
    let edits = situation.course.edits_wait();
    let reason = format!("members are restarted one at a time, and only while all others are healthy{edits}");
    let name = situation.names.member(ordinal);
    let mut silent = situation.silent_voters();
    silent.retain(|other| *other != ordinal);
    let waiting_for = match situation.observed.store.voters().count() {
        1 | 2 => {
            format!(
                "size 3 or more: a restart of {name} would interrupt the cluster (delete its pod, or set \
                 spec.rollout.allowInterruption, to accept that)"
            )
        }
        _ => situation.expect(&silent, "to be healthy"),
    };
    Step::wait(waiting_for, Phase::RollingOut, reason)
}
