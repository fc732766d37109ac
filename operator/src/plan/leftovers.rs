//! What a removed member leaves behind, in this order: StatefulSet, pod, claim. The claim goes only after the pod is gone.

use std::collections::BTreeSet;

use super::{Action, Situation, Step};
use crate::crd::{OperationKind, Phase, RetentionPolicy};

/// How much later than it should a pod may end before its node counts as lost.
const GRACE_SECONDS: i64 = 60;

/// The next thing to clear away of members that are no longer listed.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let observed = situation.observed;
    let ordinals: BTreeSet<u32> = observed
        .statefulsets
        .keys()
        .chain(observed.pods.keys())
        .chain(observed.claims.keys())
        .copied()
        .filter(|ordinal| observed.store.by_ordinal(*ordinal).is_none())
        .collect();
    let retention = situation.cluster.spec.storage.retention.when_scaled;
    ordinals.into_iter().rev().filter(|ordinal| !is_stuck(situation, *ordinal)).find_map(|ordinal| {
        let step = clear(situation, ordinal, retention, Phase::ScalingIn)?;
        Some(step.during(situation.operation(OperationKind::RemoveMember, ordinal, None)))
    })
}

/// A pod that does not end although it should have, as its node is lost. Nothing else waits for it: its number is not given to
/// another member, and its claim is cleared away when it is gone.
fn is_stuck(situation: &Situation, ordinal: u32) -> bool {
    let observed = situation.observed;
    let pod = observed.pods.get(&ordinal).filter(|_| !observed.statefulsets.contains_key(&ordinal));
    pod.and_then(|pod| pod.gone_by).is_some_and(|gone_by| observed.now > gone_by + GRACE_SECONDS)
}

/// What is awaited of such a pod.
pub(super) fn stuck(situation: &Situation) -> Option<String> {
    let mut ordinals = situation.observed.pods.keys().copied();
    let ordinal = ordinals.find(|ordinal| is_stuck(situation, *ordinal))?;
    Some(format!("pod {} to be gone (its node may be lost)", situation.names.pod(ordinal)))
}

/// The next step to be rid of what member `ordinal` has in Kubernetes; `None` when nothing is left, or only a retained claim.
pub(super) fn clear(situation: &Situation, ordinal: u32, retention: RetentionPolicy, phase: Phase) -> Option<Step> {
    let observed = situation.observed;
    let member = situation.names.member(ordinal);
    if let Some(statefulset) = observed.statefulsets.get(&ordinal) {
        if statefulset.deleting {
            let what = format!("StatefulSet {member} to be gone");
            return Some(Step::wait(what, phase, format!("{member} is stopping")));
        }
        let uid = statefulset.uid.clone();
        let action = Action::DeleteStatefulSet { ordinal, uid };
        return Some(Step::act(action, phase, format!("{member} is no longer a member")));
    }
    if observed.pods.contains_key(&ordinal) {
        let what = format!("pod {} to be gone", situation.names.pod(ordinal));
        return Some(Step::wait(what, phase, format!("{member} is stopping")));
    }
    let claim = observed.claims.get(&ordinal)?;
    if retention == RetentionPolicy::Retain {
        return None;
    }
    if claim.deleting {
        let what = format!("claim {} to be gone", situation.names.claim(ordinal));
        return Some(Step::wait(what, phase, format!("the volume of {member} is being deleted")));
    }
    let uid = claim.uid.clone();
    let reason = format!("the volume of {member} is no longer used");
    Some(Step::act(Action::DeleteClaim { ordinal, uid }, phase, reason))
}
