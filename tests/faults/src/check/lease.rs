//! A lease that was granted is there until it is revoked. That it is gone then is a part of the `order`.

use super::order::Order;
use super::violation::{Property, Violation};
use crate::history::{Failure, History, Operation, OperationId, Outcome, Request};

pub fn check(history: &History, order: &Order) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, operation) in history.operations.iter().enumerate() {
        match &operation.outcome {
            Outcome::Failed(Failure::LeaseNotFound) => violations.extend(wrongly_missed(history, id, operation)),
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
        Request::LeaseRevoke { lease } => vec![lease],
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
