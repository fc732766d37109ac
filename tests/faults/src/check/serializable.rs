//! A serializable read is a state that was: that of the revision which its answer tells, and which had been written, or was
//! being written, when it was read.

use std::collections::BTreeMap;

use super::order::Order;
use super::violation::{Property, Violation};
use crate::history::{History, OperationId, Request};

const FEW: usize = 3;

pub fn check(history: &History, order: &Order) -> Vec<Violation> {
    let mut reads: BTreeMap<i64, Vec<(OperationId, &Request)>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (id, operation) in history.operations.iter().enumerate().filter(|(_, of)| of.request.is_serializable()) {
        let (Request::Range { revision: asked, .. }, Some(told)) = (&operation.request, operation.revision()) else {
            continue;
        };
        reads.entry(if *asked == 0 { told } else { *asked }).or_default().push((id, &operation.request));
        if let Some(step) = order.step(told)
            && history.operations[step.operation].call > operation.returned
        {
            let message = format!("revision {told} was read before anyone asked for it");
            violations.push(Violation::new(Property::Serializable, message).operations([step.operation, id]));
        }
    }
    order.replay(|revision, store| {
        for (id, request) in reads.get(&revision).into_iter().flatten() {
            let Request::Range { span, limit, .. } = request else { continue };
            let response = store.range(span, *limit);
            if history.operations[*id].response() != Some(&response) {
                let message = format!("the state at revision {revision} gives: {response}");
                violations.push(Violation::new(Property::Serializable, message).operations([*id]));
            }
        }
    });
    violations.truncate(FEW);
    violations
}
