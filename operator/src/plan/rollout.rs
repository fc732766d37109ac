//! Restarts of members whose pod was made from an older template: one at a time, followers first, the leader last after its
//! leadership moved, each only when all the others are healthy.

use super::quorum::survives_restart;
use super::{Action, Member, Pod, Situation, Step};
use crate::crd::{OperationKind, Phase};

/// A restart for changed configuration that is under way or possible at once, which goes before a change of size. One that
/// only waits does not: the change of size may be what it waits for, or what a person needs meanwhile.
pub(super) fn configuration_now(situation: &Situation) -> Option<Step> {
    // A wait without an operation has not begun.
    configuration(situation).filter(|step| step.action.is_some() || step.operation.is_some())
}

/// A restart for changed configuration.
pub(super) fn configuration(situation: &Situation) -> Option<Step> {
    step(situation, |pod| another_configuration(situation, pod))
}

/// A restart for another image, which comes last.
pub(super) fn upgrade(situation: &Situation) -> Option<Step> {
    step(situation, |pod| another_image(situation, pod))
}

// Both compare what was rendered then with what is rendered now, never with what admission made of it.

fn another_configuration(situation: &Situation, pod: &Pod) -> bool {
    pod.config_hash.as_deref() != Some(situation.config_hash.as_str())
}

fn another_image(situation: &Situation, pod: &Pod) -> bool {
    pod.image.as_deref() != Some(situation.image.as_str())
}

/// Restarts the first of these members whose process does not run and whose pod is outdated: a wrong option or image that was
/// corrected. It serves nobody, so this is safe without a quorum.
pub(super) fn of_stopped_pods(situation: &Situation, ordinals: &[u32]) -> Option<Step> {
    ordinals.iter().find_map(|ordinal| {
        let pod = situation.observed.pods.get(ordinal)?;
        let outdated = another_configuration(situation, pod) || another_image(situation, pod);
        let stuck = !pod.running && !pod.deleting && outdated;
        stuck.then(|| restart(situation, *ordinal, pod, None))
    })
}

fn restart(situation: &Situation, ordinal: u32, pod: &Pod, id: Option<u64>) -> Step {
    let name = situation.names.member(ordinal);
    let action = Action::RestartPod { ordinal, uid: pod.uid.clone() };
    let reason = format!("{name} is restarted with the current template");
    let operation = situation.operation(OperationKind::RestartMember, ordinal, id);
    Step::act(action, Phase::RollingOut, reason).during(operation)
}

fn step(situation: &Situation, outdated: impl Fn(&Pod) -> bool) -> Option<Step> {
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
    let name = situation.names.member(ordinal);
    let reason = "members are restarted one at a time";
    let operation = situation.operation(OperationKind::RestartMember, ordinal, Some(voter.id));
    if pod.deleting {
        let step = Step::wait(format!("{name} to stop"), Phase::RollingOut, reason);
        return Some(step.during(operation));
    }
    if !pod.running {
        return Some(restart(situation, ordinal, pod, Some(voter.id)));
    }
    if !survives_restart(store.voters(), voter.id) {
        return Some(refused(situation, ordinal));
    }
    if Some(voter.id) == leader {
        let successor = store.voters().find(|other| other.id != voter.id && other.healthy())?;
        let action = Action::MoveLeader { from: voter.id, to: successor.id };
        let reason = format!("{name} leads and is restarted last");
        return Some(Step::act(action, Phase::RollingOut, reason).during(operation));
    }
    Some(restart(situation, ordinal, pod, Some(voter.id)))
}

fn refused(situation: &Situation, ordinal: u32) -> Step {
    let reason = "members are restarted one at a time, and only while all others are healthy";
    let name = situation.names.member(ordinal);
    let mut silent = situation.silent_voters();
    silent.retain(|other| *other != ordinal);
    let waiting_for = match situation.observed.store.voters().count() {
        1 | 2 => {
            format!("size 3 or more: a restart of {name} would interrupt the cluster (delete its pod to accept that)")
        }
        _ => situation.expect(&silent, "to be healthy"),
    };
    Step::wait(waiting_for, Phase::RollingOut, reason)
}
