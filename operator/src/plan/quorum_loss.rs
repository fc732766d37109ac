//! The way back from a quorum that is lost for good, only when a person asks for it by naming the survivor: all others are
//! stopped, the survivor goes on alone with what it has and a revision beyond whatever the others may have reached, and then
//! members join it anew.

use std::collections::BTreeMap;

use super::{Action, Plan, Pod, Situation, Start, Step};
use crate::build;
use crate::crd::{OperationKind, Phase};
use crate::names::RECOVER_FROM;

/// The next step while no quorum answers; `None` if nobody asked for a recovery. A member in memory cannot go on alone: it would have to
/// be started again, without its data.
pub(super) fn plan(situation: &Situation) -> Option<Plan> {
    if situation.in_memory() {
        return None;
    }
    let under_way = situation.recorded.operation.as_ref().filter(|it| it.kind == OperationKind::RecoverQuorum);
    let asked = asked(situation);
    let reported = situation.recorded.phase == Phase::Unavailable;
    let name = match under_way {
        Some(operation) => &operation.member,
        None => asked.filter(|_| reported)?,
    };
    let Some((survivor, id)) = survivor(situation, name) else {
        let step = Step::wait(
            format!("annotation {RECOVER_FROM} to name a member that has its volume"),
            Phase::Unavailable,
            format!("{name} cannot go on alone"),
        );
        // What can be done for the others is done meanwhile.
        let others = under_way.is_none().then(|| situation.unavailable()).filter(|plan| plan.action.is_some());
        return Some(others.unwrap_or_else(|| situation.hands_off(step)));
    };
    let operation = situation.operation(OperationKind::RecoverQuorum, survivor, id);
    let (step, start) = match others(situation, survivor) {
        Some(step) => (step, Start::Settled),
        None => (go_on_alone(situation, survivor), Start::Alone),
    };
    Some(situation.with_members(step.during(operation), BTreeMap::from([(survivor, start)]), true))
}

/// What remains to be done when a quorum answers: nobody is to be recovered any more, and a member that went on alone must not be
/// told so at its next start.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    if asked(situation).is_some() {
        let step = Step::act(
            Action::ForgetRequest { annotation: RECOVER_FROM, refused: false },
            Phase::Recovering,
            "a quorum of members answers",
        );
        return Some(step.during(situation.recorded.operation.clone()));
    }
    let mut voters = situation.observed.store.voters();
    let (Some(ordinal), None) = (voters.next().and_then(|voter| voter.ordinal), voters.next()) else {
        return None;
    };
    let pod = situation.observed.pods.get(&ordinal).filter(|pod| is_alone(pod))?;
    let name = situation.names.member(ordinal);
    let operation = situation.operation(OperationKind::RestartMember, ordinal, None);
    let step = match pod.deleting {
        true => Step::wait(format!("{name} to stop"), Phase::Recovering, "it is restarted as a usual member"),
        false => {
            let action = Action::RestartPod { ordinal, uid: pod.uid.clone() };
            Step::act(action, Phase::Recovering, format!("{name} goes on alone, and is restarted as a usual member"))
        }
    };
    Some(step.during(operation))
}

fn asked<'a>(situation: &Situation<'a>) -> Option<&'a String> {
    situation.cluster.metadata.annotations.as_ref()?.get(RECOVER_FROM)
}

/// The number and id of a member that has the volume with its data.
fn survivor(situation: &Situation, name: &str) -> Option<(u32, Option<u64>)> {
    let recorded = situation.recorded.members.iter().find(|member| member.name == *name)?;
    let ordinal = situation.names.ordinal_of(name)?;
    let claim = situation.observed.claims.get(&ordinal)?;
    let id = u64::from_str_radix(&recorded.id, 16).ok();
    (recorded.claim_uid.as_ref() == Some(&claim.uid)).then_some((ordinal, id))
}

/// Everybody else is stopped first, and gone: two of them that came back would be a quorum of the cluster that was.
fn others(situation: &Situation, survivor: u32) -> Option<Step> {
    let observed = situation.observed;
    let reason = format!("{} is to go on alone", situation.names.member(survivor));
    let mut statefulsets = observed.statefulsets.iter().filter(|(ordinal, it)| **ordinal != survivor && !it.deleting);
    if let Some((ordinal, statefulset)) = statefulsets.next() {
        let action = Action::DeleteStatefulSet { ordinal: *ordinal, uid: statefulset.uid.clone() };
        return Some(Step::act(action, Phase::Recovering, reason));
    }
    let left = observed.statefulsets.keys().chain(observed.pods.keys()).filter(|ordinal| **ordinal != survivor);
    let mut left: Vec<String> = left.map(|ordinal| situation.names.pod(*ordinal)).collect();
    left.dedup();
    let what = format!("{} to be gone (delete one by force only if its node never comes back)", left.join(", "));
    (!left.is_empty()).then(|| Step::wait(what, Phase::Recovering, reason))
}

fn go_on_alone(situation: &Situation, survivor: u32) -> Step {
    let name = situation.names.member(survivor);
    let reason = format!("{name} goes on alone");
    match situation.observed.pods.get(&survivor) {
        Some(pod) if pod.deleting => Step::wait(format!("{name} to stop"), Phase::Recovering, reason),
        // One that does not start may do so with what the spec asks for by now.
        Some(pod) if !is_alone(pod) || (!pod.running && !is_current(situation, survivor, pod)) => {
            let action = Action::RestartPod { ordinal: survivor, uid: pod.uid.clone() };
            Step::act(action, Phase::Recovering, reason)
        }
        _ => Step::wait(situation.expect(&[survivor], "to answer"), Phase::Recovering, reason),
    }
}

/// Whether the pod is as a member that goes on alone would have it now.
fn is_current(situation: &Situation, survivor: u32, pod: &Pod) -> bool {
    let template = situation.course.template_of(&situation.names.member(survivor));
    let hash = build::pod_hash(&build::with_template(situation.cluster, template), &Start::Alone);
    pod.config_hash.as_ref() == Some(&hash) && pod.image.as_ref() == Some(&template.image)
}

/// Whether the pod tells its member to go on alone.
fn is_alone(pod: &Pod) -> bool {
    pod.config_hash.as_deref().is_some_and(build::is_alone)
}
