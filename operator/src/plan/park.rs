//! Size 0: every member stops, and its volume, the Secrets and the Services stay. With another size the members start again as
//! they were; only then is the size looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Plan, Situation, Start, Step};
use crate::crd::Phase;

/// How long members may take to come back before their silence is reported as an outage.
const PATIENCE_SECONDS: i64 = 120;

/// All members are stopped at once: there is no order in which some of them could go on serving.
pub(super) fn plan(situation: &Situation) -> Plan {
    let ordinals = ordinals(situation);
    let members: BTreeMap<u32, Start> = ordinals.iter().map(|ordinal| (*ordinal, Start::Parked)).collect();
    let begun = matches!(situation.recorded.phase, Phase::Parking | Phase::Parked);
    let step = if !begun && !ordinals.is_empty() {
        // The status with the members as they are now is stored first: it tells which of them to start again.
        Step::act(Action::Park, Phase::Parking, "no member is asked for")
    } else {
        rest(situation)
    };
    situation.with_members(step.during(situation.recorded.operation.clone()), members, true)
}

/// Whether the members are starting again. After a while without a quorum they are not any more: the cluster is not available.
pub(super) fn is_resuming(situation: &Situation) -> bool {
    let recorded = &situation.recorded;
    match recorded.phase {
        Phase::Parking | Phase::Parked => true,
        Phase::Resuming => {
            let mut conditions = recorded.conditions.iter();
            let since = conditions.find(|it| it.type_ == "Progressing").map(|it| it.last_transition_time.0.as_second());
            since.is_none_or(|since| situation.observed.now < since + PATIENCE_SECONDS)
        }
        _ => false,
    }
}

fn rest(situation: &Situation) -> Step {
    let pods = situation.observed.pods.keys().map(|ordinal| situation.names.pod(*ordinal));
    let pods: Vec<String> = pods.collect();
    if !pods.is_empty() {
        let what = format!("{} to be gone", pods.join(", "));
        return Step::wait(what, Phase::Parking, "the members are stopping");
    }
    Step {
        action: None,
        waiting_for: None,
        operation: None,
        phase: Phase::Parked,
        reason: "no member runs, as spec.size is 0; volumes, Secrets and Services are kept".into(),
    }
}

/// All members that are listed or were recorded, and whatever else would run: a member that is being cleared away.
fn ordinals(situation: &Situation) -> BTreeSet<u32> {
    let observed = situation.observed;
    let listed = observed.store.members().iter().filter_map(|member| member.ordinal);
    let recorded = situation.recorded.members.iter().filter_map(|member| situation.names.ordinal_of(&member.name));
    let running = observed.statefulsets.iter().filter(|(_, it)| it.ours && !it.deleting).map(|(ordinal, _)| *ordinal);
    listed.chain(recorded).chain(running).collect()
}
