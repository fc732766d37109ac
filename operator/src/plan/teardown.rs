//! The end of a cluster: members stop, claims are deleted or retained, the finalizer goes last. Services and the
//! PodDisruptionBudget follow by their owner reference.

use std::collections::BTreeSet;

use super::{Action, Child, Situation, Step, leftovers};
use crate::crd::Phase;

/// Kubernetes' finalizer while it takes the owner references off the children, for `kubectl delete --cascade=orphan`.
const ORPHANING: &str = "orphan";

/// The next step of a deletion. Objects of other owners are left alone, and so are members that were released from their
/// owner: their StatefulSets are nobody's, and their pods and claims are in use.
pub(super) fn step(situation: &Situation) -> Step {
    let observed = situation.observed;
    let finalizers = situation.cluster.metadata.finalizers.iter().flatten();
    if finalizers.into_iter().any(|it| it == ORPHANING) {
        let reason = "the members are left running, as was asked for";
        return Step::wait("Kubernetes to release the members", Phase::Deleting, reason);
    }
    let retention = situation.cluster.spec.storage.retention.when_deleted;
    let ours = |(ordinal, child): (&u32, &Child)| child.ours.then_some(*ordinal);
    let statefulsets = observed.statefulsets.iter().filter_map(ours);
    let pods = observed.pods.iter();
    let pods = pods.filter_map(|(ordinal, pod)| pod.ours.then_some(*ordinal));
    let claims = observed.claims.iter().filter_map(ours);
    let released = |ordinal: &u32| {
        let statefulset = observed.statefulsets.get(ordinal);
        statefulset.is_some_and(|statefulset| !statefulset.ours)
    };
    let ordinals: BTreeSet<u32> = statefulsets.chain(pods).chain(claims).collect();
    let mut waiting = None;
    for ordinal in ordinals.into_iter().rev().filter(|n| !released(n)) {
        match leftovers::clear(situation, ordinal, retention, Phase::Deleting) {
            Some(step) if step.action.is_some() => return step,
            Some(step) => waiting = Some(step),
            None => {}
        }
    }
    waiting.unwrap_or_else(|| Step::act(Action::RemoveFinalizer, Phase::Deleting, "nothing of the cluster is left"))
}
