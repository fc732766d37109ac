//! The first member of a new cluster. Only here, and only before a cluster id was recorded, does a member start as `new`.

use std::collections::BTreeMap;

use super::{Action, Plan, RecoverySource, Situation, Start, Step, hex, memory, rollout};
use crate::crd::{OperationKind, Phase};

/// The first member's number.
const SEED: u32 = 0;

/// No member answered, and no cluster id was ever recorded.
pub(super) fn plan(situation: &Situation) -> Plan {
    let name = situation.names.member(SEED);
    let operation = situation.operation(OperationKind::Bootstrap, SEED, None);
    let (start, how) = match &situation.observed.recovery {
        None => (Start::Seed, String::new()),
        Some(RecoverySource::Awaited(what)) => {
            let reason = "what the cluster is to begin with is not there";
            return situation
                .hands_off(Step::wait(what, Phase::Pending, reason).during(situation.recorded.operation.clone()));
        }
        Some(RecoverySource::Found(recovery)) => {
            let location = recovery.origin.location();
            (Start::Recover(recovery.clone()), format!(", with the data of {location}"))
        }
    };
    let members = BTreeMap::from([(SEED, start)]);
    let begun = situation.observed.statefulsets.contains_key(&SEED);
    if !begun {
        let step =
            Step::act(Action::Bootstrap, Phase::Bootstrapping, format!("starting {name}, the first member{how}"));
        return situation.with_members(step.during(operation), members, true);
    }
    if let Some(action) = memory::let_start(situation, SEED).or_else(|| memory::begin_anew(situation, SEED)) {
        let step = Step::act(action, Phase::Bootstrapping, format!("{name} is the first member{how}"));
        return situation.with_members(step.during(operation), members, true);
    }
    let step = rollout::of_stopped_pods(situation, &[SEED]).unwrap_or_else(|| {
        Step::wait(
            situation.expect(&[SEED], "to answer"),
            Phase::Bootstrapping,
            format!("{name}, the first member, is starting{how}"),
        )
    });
    situation.with_members(step.during(operation), members, true)
}

/// The first member answers: its cluster id is recorded, and nothing else is done in this pass. Its StatefulSet is changed before
/// the id is stored: from the moment that the cluster exists by its status, nothing can start as new any more.
pub(super) fn record(situation: &Situation, cluster_id: u64) -> Plan {
    let reason = format!("the store's cluster id is {}", hex(cluster_id));
    let step = Step { action: None, waiting_for: None, operation: None, phase: Phase::Bootstrapping, reason };
    let mut plan = situation.with_members(step, situation.listed_members(), true);
    plan.cluster_id = Some(cluster_id);
    plan
}
