//! A full store (NOSPACE): history is compacted, members are defragmented one at a time with the leader last, and the alarm is
//! disarmed when every member is below its quota again. A store that its keys alone fill needs a person.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::quorum::{healthy, quorum};
use super::{Action, AlarmKind, Answer, Member, Situation, Step, hex};
use crate::crd::{Phase, RepairMode, SpaceStatus};

/// After this time what was done counts no more: keys may have been deleted since, or a member been replaced.
const ROUND_SECONDS: i64 = 300;
/// How full a member may be, in percent of its quota, for the alarm to be disarmed.
const FULL_PERCENT: i64 = 90;

/// The next step to free space. The round that it belongs to is stored before it is taken.
pub(super) fn step(situation: &Situation) -> Option<(Step, SpaceStatus)> {
    let alarm = alarm(situation).filter(|_| situation.cluster.spec.repair.mode == RepairMode::Automatic)?;
    let mut round = round(situation)?;
    let store = &situation.observed.store;
    if healthy(store.voters()) < quorum(store.voters().count()) {
        return None;
    }
    let leader = store.leader();
    let members = store.members().iter().filter(|member| member.healthy());
    let mut waiting: Vec<&Member> = members.filter(|member| !round.defragmented.contains(&hex(member.id))).collect();
    waiting.sort_by_key(|member| (Some(member.id) == leader, member.ordinal));
    if let Some(member) = waiting.first() {
        let ordinal = member.ordinal?;
        round.defragmented.push(hex(member.id));
        let action = Action::FreeSpace { ordinal, id: member.id, revision: round.revision };
        return Some((Step::act(action, Phase::Repairing, "the store is full (NOSPACE)"), round));
    }
    let has_room = fullest(situation).is_some_and(|answer| !is_full(answer));
    let action = Action::Disarm { member: alarm, kind: AlarmKind::NoSpace };
    has_room.then(|| (Step::act(action, Phase::Repairing, "every member is below its quota again"), round))
}

/// The store stays full, whatever is freed; or it is not for the operator to free anything.
pub(super) fn note(situation: &Situation) -> Option<String> {
    alarm(situation)?;
    if situation.cluster.spec.repair.mode == RepairMode::Manual {
        return Some("the store is full (NOSPACE), and spec.repair.mode is Manual".into());
    }
    let answer = fullest(situation)?;
    let (size, quota) = (answer.db_size, answer.db_quota);
    Some(format!(
        "the store is full (NOSPACE) without any history, {size} of {quota} bytes: delete keys or raise quota-backend-bytes"
    ))
}

/// Whether a member's answer says that it is full.
pub(super) fn is_full(answer: &Answer) -> bool {
    answer.db_quota > 0 && answer.db_size > answer.db_quota / 100 * FULL_PERCENT
}

fn alarm(situation: &Situation) -> Option<u64> {
    let mut alarms = situation.observed.alarms.iter();
    alarms.find(|alarm| alarm.kind == AlarmKind::NoSpace).map(|alarm| alarm.member)
}

/// The round under way, or a new one.
fn round(situation: &Situation) -> Option<SpaceStatus> {
    let now = situation.observed.now;
    let recorded = situation.recorded.space.clone();
    let recorded = recorded.filter(|round| now < round.since.0.as_second() + ROUND_SECONDS);
    recorded.or_else(|| {
        let answers = situation.observed.store.members().iter().filter_map(|member| member.answer.as_ref());
        let revision = answers.map(|answer| answer.revision).max()?;
        let since = Time(Timestamp::from_second(now).unwrap_or_default());
        Some(SpaceStatus { since, revision, defragmented: Vec::new() })
    })
}

fn fullest<'a>(situation: &Situation<'a>) -> Option<&'a Answer> {
    let answers = situation.observed.store.members().iter().filter_map(|member| member.answer.as_ref());
    answers.max_by_key(|answer| answer.db_size)
}
