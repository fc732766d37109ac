//! What a person asks for once, by an annotation that is taken off when it was dealt with: another leader, a defragmentation, the end
//! of an alarm. What cannot be done now is refused at once, and an Event says why: nobody thinks any more of a request that lingers.

use super::quorum::{healthy, quorum};
use super::{Action, Alarm, AlarmKind, Member, Situation, Step, space};
use crate::names::{DEFRAGMENT, DISARM, MOVE_LEADER};

/// The next step of the first request there is. Whatever else is under way goes on afterwards.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let (action, reason) = move_leader(situation).or_else(|| disarm(situation)).or_else(|| defragment(situation))?;
    let step = Step::act(action, situation.recorded.phase, reason);
    Some(step.during(situation.recorded.operation.clone()))
}

fn asked<'a>(situation: &Situation<'a>, annotation: &str) -> Option<&'a String> {
    situation.cluster.metadata.annotations.as_ref()?.get(annotation)
}

fn refuse(annotation: &'static str) -> Action {
    Action::ForgetRequest { annotation, refused: true }
}

fn is_named(situation: &Situation, member: &Member, name: &str) -> bool {
    member.ordinal.is_some_and(|ordinal| situation.names.member(ordinal) == name)
}

fn move_leader(situation: &Situation) -> Option<(Action, String)> {
    let name = asked(situation, MOVE_LEADER)?;
    let store = &situation.observed.store;
    let named = store.voters().find(|voter| is_named(situation, voter, name));
    let Some(to) = named.filter(|voter| voter.healthy() && !situation.is_corrupt(voter.id)) else {
        return Some((refuse(MOVE_LEADER), format!("{name} cannot lead: it is no voter that is healthy")));
    };
    // Without a leader, its election is waited for.
    let from = store.leader()?;
    match from == to.id {
        true => Some((Action::ForgetRequest { annotation: MOVE_LEADER, refused: false }, format!("{name} leads"))),
        false => Some((Action::MoveLeader { from, to: to.id }, format!("{name} is asked to lead"))),
    }
}

fn disarm(situation: &Situation) -> Option<(Action, String)> {
    let kind = asked(situation, DISARM)?;
    let alarms: Vec<&Alarm> = situation.observed.alarms.iter().filter(|alarm| alarm.kind.as_str() == kind).collect();
    if let Some(alarm) = alarms.iter().find(|alarm| is_over(situation, alarm)) {
        let action = Action::Disarm { member: alarm.member, kind: alarm.kind };
        return Some((action, "a person asked for it".into()));
    }
    Some(match alarms.first().map(|alarm| alarm.kind) {
        None => (Action::ForgetRequest { annotation: DISARM, refused: false }, format!("no {kind} is raised")),
        Some(AlarmKind::NoSpace) => (refuse(DISARM), "NOSPACE stays: a member is near its quota".into()),
        Some(AlarmKind::Corrupt) => (refuse(DISARM), "CORRUPT stays: replace the member that it names".into()),
    })
}

/// Whether nothing is left of what an alarm is about, as far as that is known.
fn is_over(situation: &Situation, alarm: &Alarm) -> bool {
    let members = situation.observed.store.members();
    match alarm.kind {
        AlarmKind::NoSpace => !members.iter().any(|member| member.answer.as_ref().is_some_and(space::is_full)),
        AlarmKind::Corrupt => !members.iter().any(|member| member.id == alarm.member),
    }
}

fn defragment(situation: &Situation) -> Option<(Action, String)> {
    let names = asked(situation, DEFRAGMENT)?;
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let store = &situation.observed.store;
    if healthy(store.voters()) < quorum(store.voters().count()) {
        return None;
    }
    let is_asked = |member: &Member| names.iter().any(|name| is_named(situation, member, name));
    let members = store.members().iter().filter(|member| member.healthy() && is_asked(member));
    let leader = store.leader();
    let next = members.min_by_key(|member| (Some(member.id) == leader, member.ordinal));
    let Some((ordinal, id)) = next.and_then(|member| Some((member.ordinal?, member.id))) else {
        return Some((refuse(DEFRAGMENT), format!("no member that is healthy is called {:?}", names.join(", "))));
    };
    let done = situation.names.member(ordinal);
    let left = names.iter().filter(|name| **name != done).map(|name| (*name).to_string()).collect();
    Some((Action::Defragment { ordinal, id, left }, "a person asked for it".into()))
}
