//! What was compacted is gone, and nothing else is.

use super::violation::{Property, Violation};
use crate::history::{Failure, History, Operation, OperationId, Outcome, Request, Time};

pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, operation) in history.operations.iter().enumerate() {
        let (asked, at_least) = match operation.request {
            Request::Range { revision, .. } if revision != 0 => (revision, revision + 1),
            Request::Compact { revision } => (revision, revision),
            _ => continue,
        };
        if operation.outcome == Outcome::Failed(Failure::Compacted) {
            let mut causes = requested(history, operation.returned).filter(|(other, _)| *other != id);
            if !causes.any(|(_, revision)| revision >= at_least) {
                let message = format!("nobody had asked to compact revision {asked}");
                violations.push(Violation::new(Property::Compaction, message).operations([id]));
            }
        } else if operation.revision().is_some() && !operation.request.is_serializable() {
            let mut done = answered(history, operation.call).filter(|(other, _)| *other != id);
            if let Some((other, revision)) = done.find(|(_, revision)| *revision >= at_least) {
                let message = format!("revision {asked} was compacted, to {revision}");
                violations.push(Violation::new(Property::Compaction, message).operations([other, id]));
            }
        }
    }
    violations.extend(watches(history));
    violations
}

/// Watches that were cancelled since what they wanted was gone.
fn watches(history: &History) -> impl Iterator<Item = Violation> {
    history.watches.iter().enumerate().filter_map(|(id, watch)| {
        let response = watch.responses.iter().find(|response| response.compact_revision != 0)?;
        let known = requested(history, response.time).any(|(_, revision)| revision == response.compact_revision);
        let reached = super::watch::Coverage::of(watch).map_or(watch.start - 1, |coverage| coverage.reached);
        let message = match (known, reached + 1 < response.compact_revision) {
            (true, true) => return None,
            (false, _) => format!("nobody had asked to compact revision {}", response.compact_revision),
            (true, false) => format!("compacted to {}, but nothing that was missing", response.compact_revision),
        };
        Some(Violation::new(Property::Compaction, message).watch(id))
    })
}

fn compactions(history: &History) -> impl Iterator<Item = (OperationId, &Operation, i64)> {
    history.operations.iter().enumerate().filter_map(|(id, operation)| match operation.request {
        Request::Compact { revision } => Some((id, operation, revision)),
        _ => None,
    })
}

/// Compactions that may have taken effect by then.
pub fn requested(history: &History, by: Time) -> impl Iterator<Item = (OperationId, i64)> {
    let may = move |operation: &Operation| operation.call < by && !matches!(operation.outcome, Outcome::Failed(_));
    compactions(history).filter(move |(_, operation, _)| may(operation)).map(|(id, _, revision)| (id, revision))
}

fn answered(history: &History, by: Time) -> impl Iterator<Item = (OperationId, i64)> {
    let done = move |operation: &Operation| operation.returned < by && operation.revision().is_some();
    compactions(history).filter(move |(_, operation, _)| done(operation)).map(|(id, _, revision)| (id, revision))
}
