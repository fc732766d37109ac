//! Members that are lost: removed from the member list, cleared away, added anew under a new id. What is on their volumes is
//! never used again.
//!
//! A lost volume is recognised by its claim: the status records the uid of the claim that held a member's data. If that is gone,
//! so is the data, and a claim with another uid is a new, empty one. Corrupt data is what the store's CORRUPT alarm tells. Of a member that is only down, the status
//! records since when, and Kubernetes must agree that it is. Data in memory are lost with their pod, which is no guess: no limit holds that
//! back.

use super::quorum::{healthy, quorum};
use super::{Action, AlarmKind, Member, Situation, Step, hex, memory};
use crate::crd::{OperationKind, Phase, RepairMode};
use crate::names::REPLACE_MEMBER;

/// A member to be replaced.
struct Victim<'a> {
    member: &'a Member,
    ordinal: u32,
    /// What is wrong with it, as the end of a sentence that begins with its name.
    why: String,
    /// Whether the limits allow it, or else why not.
    allowed: Result<(), String>,
}

/// The next step about corrupt data, which goes before all else that is repaired.
pub(super) fn of_corrupt_data(situation: &Situation) -> Option<Step> {
    let removed = situation.observed.alarms.iter().find(|alarm| {
        let mut members = situation.observed.store.members().iter();
        alarm.kind == AlarmKind::Corrupt && alarm.member != 0 && !members.any(|member| member.id == alarm.member)
    });
    if let Some(alarm) = removed {
        let reason = format!("member {:x}, whose data was corrupt, is no longer listed", alarm.member);
        return Some(Step::act(Action::Disarm { member: alarm.member, kind: alarm.kind }, Phase::Repairing, reason));
    }
    step(situation).filter(|_| victim(situation).is_some_and(|victim| situation.is_corrupt(victim.member.id)))
}

/// The next step of a replacement, if there is a member to replace and it may be.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let victim = victim(situation).filter(|victim| victim.allowed.is_ok())?;
    Some(replace(situation, &victim))
}

/// What a person should know of members that are not replaced, and of alarms.
pub(super) fn note(situation: &Situation) -> Option<String> {
    let unknown = situation.observed.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt && alarm.member == 0);
    if unknown {
        return Some("the members' data differs, and no majority tells which is right (docs/repair.md)".into());
    }
    let victim = victim(situation)?;
    let name = situation.names.member(victim.ordinal);
    victim.allowed.err().map(|limit| format!("{name} {}, and is not replaced: {limit}", victim.why))
}

fn replace(situation: &Situation, victim: &Victim) -> Step {
    let store = &situation.observed.store;
    let (ordinal, id) = (victim.ordinal, victim.member.id);
    let name = situation.names.member(ordinal);
    let reason = format!("{name} {} and is replaced", victim.why);
    let operation = situation.operation(OperationKind::ReplaceMember, ordinal, Some(id));
    let rest: Vec<&Member> = store.voters().filter(|voter| voter.id != id).collect();
    let sound = rest.iter().copied().filter(|member| !situation.is_corrupt(member.id));
    if rest.is_empty() || healthy(sound.clone()) < quorum(rest.len()) {
        let what = "a quorum of the other members to be healthy";
        return Step::wait(what, Phase::Degraded, format!("{name} {}", victim.why));
    }
    if store.leader() == Some(id) {
        let Some(successor) = sound.into_iter().find(|member| member.healthy()) else {
            return Step::wait("another healthy voter", Phase::Degraded, reason);
        };
        let action = Action::MoveLeader { from: id, to: successor.id };
        return Step::act(action, Phase::Repairing, reason).during(operation);
    }
    Step::act(Action::RemoveMember { ordinal, id }, Phase::Repairing, reason).during(operation)
}

/// Why a member is to be replaced, if it is.
type Cause<'a> = dyn Fn(&Member) -> Option<String> + 'a;

/// The first member to replace, in the order of urgency: of those that may be, or else of those that are held back. A person's word
/// about one member counts although a more urgent one is beyond the limits.
fn victim<'a>(situation: &Situation<'a>) -> Option<Victim<'a>> {
    let members = situation.observed.store.members();
    let asked = situation.cluster.metadata.annotations.as_ref().and_then(|it| it.get(REPLACE_MEMBER));
    let is_asked = |member: &Member| asked == Some(&hex(member.id));
    let allowed = |member: &Member| match is_asked(member) || lost_memory(situation, member) {
        true => Ok(()),
        false => within_limits(situation, member.id),
    };
    let causes: [&Cause; 5] = [
        &|member| situation.is_corrupt(member.id).then(|| "has corrupt data".into()),
        &|member| is_asked(member).then(|| "is unwanted".into()),
        &|member| lost_memory(situation, member).then(|| "lost its data with its pod".into()),
        &|member| lost_volume(situation, member).then(|| "lost its volume".into()),
        &|member| down_for_long(situation, member),
    ];
    let victims = causes.iter().flat_map(|cause| {
        members.iter().filter_map(move |member| {
            let (why, ordinal) = (cause(member)?, member.ordinal?);
            Some(Victim { member, ordinal, why, allowed: allowed(member) })
        })
    });
    let mut held_back = None;
    for victim in victims {
        if victim.allowed.is_ok() {
            return Some(victim);
        }
        held_back = held_back.or(Some(victim));
    }
    held_back
}

fn within_limits(situation: &Situation, id: u64) -> Result<(), String> {
    let spec = &situation.cluster.spec.repair;
    if spec.mode == RepairMode::Manual {
        return Err(format!(
            "spec.repair.mode is Manual (kubectl annotate etcdcluster {} {REPLACE_MEMBER}={id:x})",
            situation.names.cluster
        ));
    }
    let since = situation.observed.now - spec.window_seconds();
    let recent = situation.recorded.replacements.iter();
    let recent = recent.filter(|it| it.time.0.as_second() > since && it.member_id != hex(id)).count();
    match recent < usize::try_from(spec.limit).unwrap_or(0) {
        true => Ok(()),
        false => Err(format!("spec.repair allows {} within {}", spec.limit, spec.window)),
    }
}

/// Whether the member's data were in memory that is gone.
fn lost_memory(situation: &Situation, member: &Member) -> bool {
    let silent = member.ordinal.filter(|_| situation.in_memory() && !member.healthy());
    silent.is_some_and(|ordinal| memory::is_lost(situation, ordinal, member.started))
}

/// Whether the member has another claim than the one that held its data, or none, and does not answer. A learner whose claim was never
/// recorded, because its first start was its last, is replaced too: it has no vote.
fn lost_volume(situation: &Situation, member: &Member) -> bool {
    let Some(ordinal) = member.ordinal.filter(|_| !member.healthy() && !situation.in_memory()) else {
        return false;
    };
    let id = hex(member.id);
    let recorded = situation.recorded.members.iter();
    let held = recorded.filter(|recorded| recorded.id == id).find_map(|recorded| recorded.claim_uid.as_ref());
    let now = situation.observed.claims.get(&ordinal);
    let pod = situation.observed.pods.get(&ordinal);
    match (held, now) {
        (Some(held), Some(now)) => *held != now.uid,
        // Not every Kubernetes makes a new claim for a pod that is there already.
        (Some(_), None) => pod.is_none_or(|pod| !pod.running),
        (None, _) if member.learner && member.started => pod.is_some_and(|pod| pod.trouble.is_some()),
        _ => false,
    }
}

/// Why the member counts as lost: it has been down for long, and Kubernetes says so too. One that only the operator cannot reach
/// serves others.
fn down_for_long(situation: &Situation, member: &Member) -> Option<String> {
    let ordinal = member.ordinal.filter(|_| !member.healthy())?;
    let id = hex(member.id);
    let recorded = situation.recorded.members.iter().find(|recorded| recorded.id == id)?;
    let since = recorded.down_since.as_ref()?.0.as_second();
    let spec = &situation.cluster.spec.repair;
    if situation.observed.now < since + spec.after_seconds() {
        return None;
    }
    let why = match situation.observed.pods.get(&ordinal) {
        Some(pod) if pod.deleting => "cannot end its pod, perhaps on a lost node".to_string(),
        // One that never started holds nothing, and may be waiting for a node or a volume.
        _ if !member.started => return None,
        None => "has no pod".into(),
        // A template with which it cannot start is for the rollout to mend. In memory one that started has shown that it can.
        Some(_) if situation.is_restarting(ordinal) && !situation.in_memory() => return None,
        Some(pod) if !pod.running => {
            format!("does not run ({})", pod.trouble.as_deref().unwrap_or("its pod does not start"))
        }
        Some(pod) if !pod.ready => "is not ready".into(),
        Some(_) => return None,
    };
    Some(format!("{why} for longer than {}", spec.after))
}
