//! The number of voting members: one more as a learner, or one less, never more than one at a time.

use std::collections::BTreeSet;

use super::quorum::{survives_promotion, survives_removal};
use super::{Action, Member, Situation, Step, hex};
use crate::crd::{OperationKind, Phase};

/// The next step towards the size asked for.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let store = &situation.observed.store;
    if let Some(victim) = leaving(situation) {
        return Some(remove(situation, victim));
    }
    let voters = store.voters().count();
    let target = usize::try_from(situation.cluster.spec.size).unwrap_or(0);
    if voters < target {
        return Some(add(situation, target));
    }
    if voters > target {
        // Of healthy members the highest number; before them one that does not answer, as it carries nothing.
        let voters = store.voters();
        let victim = voters.max_by_key(|voter| (!voter.healthy(), voter.ordinal))?;
        return Some(remove(situation, victim));
    }
    None
}

/// The member whose removal was begun: it is finished, whatever the size asked for is by now.
fn leaving<'a>(situation: &Situation<'a>) -> Option<&'a Member> {
    let operation = situation.recorded.operation.as_ref()?;
    if operation.kind != OperationKind::RemoveMember {
        return None;
    }
    let id = operation.member_id.as_ref()?;
    let mut voters = situation.observed.store.voters();
    voters.find(|voter| hex(voter.id) == *id)
}

fn add(situation: &Situation, target: usize) -> Step {
    let store = &situation.observed.store;
    if !survives_promotion(store.voters()) {
        let what = "more voters to be healthy: a further vote would raise the quorum";
        return Step::wait(what, Phase::Degraded, format!("{target} members are asked for"));
    }
    let ordinal = free_ordinal(situation);
    let name = situation.names.member(ordinal);
    let operation = situation.operation(OperationKind::AddMember, ordinal, None);
    let reason = format!("{name} joins: {target} members are asked for");
    Step::act(Action::AddLearner { ordinal }, Phase::ScalingOut, reason).during(operation)
}

/// The lowest number that nothing has: no member, and no claim that was retained. A volume of a removed member holds its old
/// identity and is never given to another.
pub(super) fn free_ordinal(situation: &Situation) -> u32 {
    let observed = situation.observed;
    let members = observed.store.members().iter();
    let taken: BTreeSet<u32> = members
        .filter_map(|member| member.ordinal)
        .chain(observed.statefulsets.keys().copied())
        .chain(observed.pods.keys().copied())
        .chain(observed.claims.keys().copied())
        .collect();
    (0..u32::MAX).find(|ordinal| !taken.contains(ordinal)).unwrap_or(u32::MAX)
}

fn remove(situation: &Situation, victim: &Member) -> Step {
    let store = &situation.observed.store;
    let ordinal = victim.ordinal.unwrap_or_default();
    let name = situation.names.member(ordinal);
    let operation = situation.operation(OperationKind::RemoveMember, ordinal, Some(victim.id));
    let reason = format!("{name} leaves the cluster");
    if !survives_removal(store.voters(), victim.id) {
        let what = format!("a quorum of the members other than {name} to be healthy");
        let step = Step::wait(what, Phase::Degraded, reason);
        return step.during(situation.recorded.operation.clone());
    }
    if store.leader() == Some(victim.id) {
        let others = store.voters().filter(|other| other.id != victim.id);
        let Some(successor) = others.into_iter().find(|other| other.healthy()) else {
            return Step::wait("another healthy voter", Phase::Degraded, reason);
        };
        let action = Action::MoveLeader { from: victim.id, to: successor.id };
        return Step::act(action, Phase::ScalingIn, reason).during(operation);
    }
    let action = Action::RemoveMember { ordinal, id: victim.id };
    Step::act(action, Phase::ScalingIn, reason).during(operation)
}
