//! What stands in the way and only a person can remove: objects and members of somebody else. Nothing is changed meanwhile.

use std::collections::BTreeMap;

use super::{Child, Situation, Step};
use crate::crd::Phase;

/// Objects with names of ours which belong to somebody else; all of the first kind that has any, so that one look suffices.
pub(super) fn foreign_children(situation: &Situation) -> Option<Step> {
    let observed = situation.observed;
    let names = &situation.names;
    let foreign = |children: &BTreeMap<u32, Child>, name: &dyn Fn(u32) -> String| {
        let foreign = children.iter().filter(|(_, child)| !child.ours);
        foreign.map(|(ordinal, _)| name(*ordinal)).collect()
    };
    let pods = observed.pods.iter().filter(|(_, pod)| !pod.ours);
    let pods = pods.map(|(ordinal, _)| names.pod(*ordinal)).collect();
    let kinds: [(&str, &str, Vec<String>); 3] = [
        ("StatefulSet", "statefulset", foreign(&observed.statefulsets, &|n| names.member(n))),
        ("pod", "pod", pods),
        ("claim", "pvc", foreign(&observed.claims, &|n| names.claim(n))),
    ];
    let (kind, resource, found) = kinds.into_iter().find(|(.., found)| !found.is_empty())?;
    let kind = if found.len() == 1 { kind.to_string() } else { format!("{kind}s") };
    let text = format!(
        "{kind} {} to be removed: not of this EtcdCluster, perhaps of an earlier one of its name (kubectl -n {} delete {resource} {})",
        found.join(", "),
        names.namespace,
        found.join(" "),
    );
    Some(Step::wait(text.clone(), Phase::Blocked, text))
}

/// The members that answer are another cluster's.
pub(super) fn wrong_cluster(situation: &Situation, answered: u64) -> Step {
    let recorded = situation.recorded.cluster_id.clone().unwrap_or_default();
    Step::wait(
        format!("the members of cluster {recorded}"),
        Phase::Blocked,
        format!("the members that answer belong to cluster {answered:x}, not to {recorded}"),
    )
}

/// A member that somebody added by hand: the operator counts it, and changes nothing until it is gone.
pub(super) fn unknown_member(situation: &Situation) -> Option<Step> {
    let mut members = situation.observed.store.members().iter();
    let unknown = members.find(|member| member.ordinal.is_none())?;
    let text = format!("member {:x} to be removed: the operator did not add it", unknown.id);
    Some(Step::wait(text.clone(), Phase::Blocked, text))
}
