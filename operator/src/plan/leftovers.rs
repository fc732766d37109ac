//! What a removed member leaves behind, in this order: StatefulSet, pod, claim. The claim goes only after the pod is gone.

use std::collections::BTreeSet;

use super::{Action, Situation, Step};
use crate::crd::{OperationKind, Phase, RetentionPolicy};

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
    ordinals.into_iter().rev().find_map(|ordinal| {
        let step = clear(situation, ordinal, retention, Phase::ScalingIn)?;
        Some(step.during(situation.operation(OperationKind::RemoveMember, ordinal, None)))
    })
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
