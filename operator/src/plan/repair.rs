//! A member whose volume was lost is replaced: removed from the member list, cleared away, added anew under a new id.
//!
//! It is recognised by its claim: the status records the uid of the claim that held a member's data, and a claim with another
//! uid is a new, empty one.

use super::quorum::survives_removal;
use super::{Action, Member, Situation, Step};
use crate::crd::{OperationKind, Phase};

/// The removal of a member that lost its data, if there is one.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let store = &situation.observed.store;
    let lost = store.members().iter().find(|member| lost_volume(situation, member))?;
    let ordinal = lost.ordinal?;
    let name = situation.names.member(ordinal);
    let reason = format!("{name} lost its volume and is replaced");
    let operation = situation.operation(OperationKind::ReplaceMember, ordinal, Some(lost.id));
    if !survives_removal(store.voters(), lost.id) {
        let what = "a quorum of the other members to be healthy".to_string();
        return Some(Step::wait(what, Phase::Degraded, format!("{name} lost its volume")));
    }
    let remove = Action::RemoveMember { ordinal, id: lost.id };
    Some(Step::act(remove, Phase::Repairing, reason).during(operation))
}

/// Whether the member has another claim than the one that held its data, and does not answer. A learner whose claim was never
/// recorded, because its first start was its last, is replaced too: it has no vote.
fn lost_volume(situation: &Situation, member: &Member) -> bool {
    let Some(ordinal) = member.ordinal.filter(|_| !member.healthy()) else {
        return false;
    };
    let id = super::hex(member.id);
    let recorded = situation.recorded.members.iter();
    let held = recorded.filter(|recorded| recorded.id == id).find_map(|recorded| recorded.claim_uid.as_ref());
    let now = situation.observed.claims.get(&ordinal);
    let pod = situation.observed.pods.get(&ordinal);
    match (held, now) {
        (Some(held), Some(now)) => *held != now.uid,
        (None, _) if member.learner && member.started => pod.is_some_and(|pod| pod.trouble.is_some()),
        _ => false,
    }
}
