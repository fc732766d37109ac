//! Restarts of members whose pod was made from an older template: one at a time, followers first, the leader last after its
//! leadership moved, each only when all the others are healthy.

use super::quorum::survives_restart;
use super::{Action, Member, Pod, Situation, Step};
use crate::crd::{OperationKind, Phase};

/// A restart for changed configuration, which goes before a change of size.
pub(super) fn configuration(situation: &Situation) -> Option<Step> {
    step(situation, |pod| {
        pod.config_hash.as_deref() != Some(situation.config_hash.as_str())
    })
}

/// A restart for another image, which comes last.
pub(super) fn upgrade(situation: &Situation) -> Option<Step> {
    step(situation, |pod| pod.image != situation.image)
}

fn outdated(situation: &Situation, pod: &Pod) -> bool {
    pod.config_hash.as_deref() != Some(situation.config_hash.as_str())
        || pod.image != situation.image
}

/// Restarts the first of these members whose process does not run and whose pod is outdated: a wrong option or image that was
/// corrected. It serves nobody, so this is safe without a quorum.
pub(super) fn of_stopped_pods(situation: &Situation, ordinals: &[u32]) -> Option<Step> {
    ordinals.iter().find_map(|ordinal| {
        let pod = situation.observed.pods.get(ordinal)?;
        let stuck = !pod.running && !pod.deleting && outdated(situation, pod);
        stuck.then(|| restart(situation, *ordinal, pod, None))
    })
}

fn restart(situation: &Situation, ordinal: u32, pod: &Pod, id: Option<u64>) -> Step {
    let name = situation.names.member(ordinal);
    let action = Action::RestartPod {
        ordinal,
        uid: pod.uid.clone(),
    };
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
    candidates
        .sort_by_key(|(voter, ordinal, _)| (voter.healthy(), Some(voter.id) == leader, *ordinal));
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
        return Some(refused(situation, &name));
    }
    if Some(voter.id) == leader {
        let successor = store
            .voters()
            .find(|other| other.id != voter.id && other.healthy())?;
        let action = Action::MoveLeader {
            from: voter.id,
            to: successor.id,
        };
        let reason = format!("{name} leads and is restarted last");
        return Some(Step::act(action, Phase::RollingOut, reason).during(operation));
    }
    Some(restart(situation, ordinal, pod, Some(voter.id)))
}

fn refused(situation: &Situation, name: &str) -> Step {
    let reason = "members are restarted one at a time";
    let waiting_for = match situation.observed.store.voters().count() {
        1 | 2 => format!(
            "size 3 or more: a restart of {name} would interrupt the cluster (delete its pod to accept that)"
        ),
        _ => "all other members to be healthy".to_string(),
    };
    Step::wait(waiting_for, Phase::RollingOut, reason)
}
