//! What begins after something else has ended comes after it, also where it is told that a revision is yet to come. With the
//! `order`, which gives every answer its place, this is linearizability.

use super::evidence::FIRST_REVISION;
use super::violation::{Property, Violation};
use crate::history::{History, OperationId, Response, Time};

/// Violations that are told; one bad read is seldom alone.
const FEW: usize = 3;

/// When answers came, and the newest revision that had been answered by then, with who saw it.
#[derive(Default)]
pub struct Answered(Vec<(Time, i64, OperationId)>);

impl Answered {
    pub fn of(history: &History, operations: impl Iterator<Item = OperationId>) -> Self {
        let answer = |id: OperationId| {
            let operation = &history.operations[id];
            Some((operation.returned, operation.revision()?, id))
        };
        let mut answers: Vec<_> = operations.filter_map(answer).collect();
        answers.sort_unstable();
        for index in 1..answers.len() {
            let (_, revision, id) = answers[index - 1];
            if answers[index].1 <= revision {
                (answers[index].1, answers[index].2) = (revision, id);
            }
        }
        Self(answers)
    }

    /// The newest revision that was answered before `time`, and by which operation.
    pub fn before(&self, time: Time) -> Option<(i64, OperationId)> {
        let count = self.0.partition_point(|(returned, ..)| *returned < time);
        count.checked_sub(1).map(|index| (self.0[index].1, self.0[index].2))
    }
}

pub fn check(history: &History) -> Vec<Violation> {
    // A serializable read may be behind, but what it saw was there.
    let answered = Answered::of(history, 0..history.operations.len());
    let mut violations = Vec::new();
    for (id, operation) in history.operations.iter().enumerate() {
        let Some(revision) = operation.at_most().filter(|_| !operation.request.is_serializable()) else { continue };
        let Some((newest, before)) = answered.before(operation.call) else { continue };
        let wrote = operation.response().is_some_and(Response::wrote) && revision > FIRST_REVISION;
        if newest > revision || (wrote && newest == revision) {
            let message =
                format!("revision {newest} had been answered when this began, which is at revision {revision} at most");
            violations.push(Violation::new(Property::RealTime, message).operations([before, id]));
        }
    }
    violations.truncate(FEW);
    violations
}
