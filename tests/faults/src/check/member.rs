//! A member never goes back: whoever asks it after an answer gets the same or a newer revision, even with a serializable read, and
//! is not told that such a revision is yet to come. Only a member that was ended and started again may show an older state
//! while it catches up.

use std::collections::BTreeMap;

use super::real_time::Answered;
use super::violation::{Property, Violation};
use crate::history::{History, Operation, OperationId};

const FEW: usize = 3;

pub fn check(history: &History) -> Vec<Violation> {
    let mut lives: BTreeMap<(u32, usize), Vec<OperationId>> = BTreeMap::new();
    for (id, operation) in history.operations.iter().enumerate() {
        if let Some(life) = life(history, operation) {
            lives.entry((operation.member, life)).or_default().push(id);
        }
    }
    let mut violations = Vec::new();
    for ((member, _), ids) in lives {
        let answered = Answered::of(history, ids.iter().copied());
        for id in ids {
            let operation = &history.operations[id];
            if let (Some(revision), Some((newest, before))) = (operation.at_most(), answered.before(operation.call))
                && newest > revision
            {
                let message = format!("member {member} went back from revision {newest} to {revision}");
                violations.push(Violation::new(Property::Member, message).operations([before, id]));
            }
        }
    }
    violations.truncate(FEW);
    violations
}

/// How often the member had been restarted; none if that was while it was asked.
fn life(history: &History, operation: &Operation) -> Option<usize> {
    let restarts = || history.restarts.iter().filter(|restart| restart.member == operation.member);
    let before = restarts().filter(|restart| restart.time < operation.call).count();
    let after = restarts().filter(|restart| restart.time <= operation.returned).count();
    (before == after).then_some(before)
}
