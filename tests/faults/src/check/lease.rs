//! A lease that was granted is there until it is revoked or its time is over, and does not come back then. That its keys are
//! gone is a part of the `order`.

use super::order::Order;
use super::violation::{Property, Violation};
use crate::history::{Failure, History, Operation, OperationId, Outcome, Request, Response};

pub fn check(history: &History, order: &Order) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, operation) in history.operations.iter().enumerate() {
        match &operation.outcome {
            Outcome::Failed(Failure::LeaseNotFound) => violations.extend(wrongly_missed(history, id, operation)),
            Outcome::Ok { response: Response::LeaseKeepAlive, .. } => {
                violations.extend(revived(history, id, operation))
            }
            Outcome::Ok { response, .. } if response.wrote() => {
                let never = |lease: &i64| !granted(history, *lease).any(|(_, grant)| grant.call < operation.returned);
                let missing = written(order, operation).into_iter().find(never);
                violations.extend(missing.map(|lease| {
                    let message = format!("lease {lease} was never granted");
                    Violation::new(Property::Lease, message).operations([id])
                }));
            }
            _ => {}
        }
    }
    violations
}

/// Leases that were attached to keys by what the operation wrote.
fn written(order: &Order, operation: &Operation) -> Vec<i64> {
    let step = operation.revision().and_then(|revision| order.step(revision));
    let changes = step.into_iter().flat_map(|step| &step.changes);
    changes.filter_map(|change| change.now.as_ref()).map(|kv| kv.lease).filter(|lease| *lease != 0).collect()
}

/// "Not found" needs a lease that was not granted yet, or one that may have been revoked.
fn wrongly_missed(history: &History, id: OperationId, operation: &Operation) -> Option<Violation> {
    let leases = match operation.request {
        Request::LeaseRevoke { lease } | Request::LeaseKeepAlive { lease } => vec![lease],
        _ => operation.request.leases(),
    };
    let mut grants = Vec::new();
    for lease in leases {
        let there =
            |grant: &&(OperationId, &Operation)| grant.1.revision().is_some() && grant.1.returned < operation.call;
        let found: Vec<_> = granted(history, lease).collect();
        // One that may have been gone explains the answer.
        grants.push(found.iter().find(there)?.0);
        if revoked(history, lease).any(|(other, revoke)| other != id && revoke.call < operation.returned) {
            return None;
        }
    }
    let message = "the lease had been granted, and nobody had revoked it".to_owned();
    Some(Violation::new(Property::Lease, message).operations(grants).operations([id]))
}

/// What is kept alive had not ended before, as far as anyone was told.
fn revived(history: &History, id: OperationId, operation: &Operation) -> Option<Violation> {
    let Request::LeaseKeepAlive { lease } = operation.request else { return None };
    let ended = |other: &Operation| match &other.request {
        Request::LeaseRevoke { lease: gone } if *gone == lease => {
            matches!(other.outcome, Outcome::Ok { .. } | Outcome::Failed(Failure::LeaseNotFound))
        }
        Request::LeaseKeepAlive { lease: gone } if *gone == lease => {
            matches!(other.outcome, Outcome::Failed(Failure::LeaseNotFound))
        }
        _ => false,
    };
    let mut before = history.operations.iter().enumerate().filter(|(_, other)| other.returned < operation.call);
    let granted = granted(history, lease).any(|(_, grant)| grant.call < operation.returned);
    let (message, end) = match (granted, before.find(|(_, other)| ended(other))) {
        (false, _) => (format!("lease {lease} was never granted"), None),
        (true, Some((end, _))) if !granted_again(history, lease, end) => {
            (format!("lease {lease} had ended"), Some(end))
        }
        _ => return None,
    };
    Some(Violation::new(Property::Lease, message).operations(end).operations([id]))
}

/// Whether the lease may have been granted when somebody was told that it was not there.
fn granted_again(history: &History, lease: i64, end: OperationId) -> bool {
    granted(history, lease).any(|(_, grant)| grant.returned > history.operations[end].call)
}

fn granted(history: &History, wanted: i64) -> impl Iterator<Item = (OperationId, &Operation)> {
    effective(history, move |request| matches!(request, Request::LeaseGrant { lease, .. } if *lease == wanted))
}

fn revoked(history: &History, wanted: i64) -> impl Iterator<Item = (OperationId, &Operation)> {
    effective(history, move |request| matches!(request, Request::LeaseRevoke { lease } if *lease == wanted))
}

/// Operations that had an effect, or may have had one.
fn effective(history: &History, wanted: impl Fn(&Request) -> bool) -> impl Iterator<Item = (OperationId, &Operation)> {
    let operations = history.operations.iter().enumerate();
    operations.filter(move |(_, of)| wanted(&of.request) && !matches!(of.outcome, Outcome::Failed(_)))
}
