//! The end of a cluster: members stop, claims are deleted or retained, the finalizer goes last. Services and the
//! PodDisruptionBudget follow by their owner reference.

use std::collections::BTreeSet;

use super::{Action, Child, Situation, Step, leftovers};
use crate::crd::Phase;

/// The next step of a deletion. Objects of other owners are left alone.
pub(super) fn step(situation: &Situation) -> Step {
    let observed = situation.observed;
    let retention = situation.cluster.spec.storage.retention.when_deleted;
    let ours = |(ordinal, child): (&u32, &Child)| child.ours.then_some(*ordinal);
    let statefulsets = observed.statefulsets.iter().filter_map(ours);
    let pods = observed.pods.iter();
    let pods = pods.filter_map(|(ordinal, pod)| pod.ours.then_some(*ordinal));
    let claims = observed.claims.iter().filter_map(ours);
    let ordinals: BTreeSet<u32> = statefulsets.chain(pods).chain(claims).collect();
    let mut waiting = None;
    for ordinal in ordinals.into_iter().rev() {
        match leftovers::clear(situation, ordinal, retention, Phase::Deleting) {
            Some(step) if step.action.is_some() => return step,
            Some(step) => waiting = Some(step),
            None => {}
        }
    }
    waiting.unwrap_or_else(|| {
        Step::act(
            Action::RemoveFinalizer,
            Phase::Deleting,
            "nothing of the cluster is left",
        )
    })
}
