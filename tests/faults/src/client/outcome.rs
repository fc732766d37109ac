//! What an error says about the operation: that it had no effect, or nothing.

use tonic::Status;

use crate::history::{Failure, Outcome, Request};

/// etcd's messages of refusals: the operation went through the log and changed nothing, or never got into it.
const REFUSALS: [(&str, Failure); 3] = [
    ("etcdserver: requested lease not found", Failure::LeaseNotFound),
    ("etcdserver: mvcc: required revision has been compacted", Failure::Compacted),
    ("etcdserver: mvcc: required revision is a future revision", Failure::FutureRevision),
];

pub fn of_error(request: &Request, status: &Status) -> Outcome {
    if let Some((_, failure)) = REFUSALS.iter().find(|(message, _)| *message == status.message()) {
        return Outcome::Failed(failure.clone());
    }
    let error = format!("{:?}: {}", status.code(), status.message());
    if changes_nothing(request) { Outcome::Failed(Failure::Other(error)) } else { Outcome::Unknown { error } }
}

fn changes_nothing(request: &Request) -> bool {
    let reads = matches!(request, Request::Range { .. } | Request::Txn { .. });
    reads && !request.may_write()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    #[test]
    fn only_a_refusal_or_a_read_is_certain_to_have_had_no_effect() {
        let put = Request::Put { key: "a".into(), value: "1".into(), lease: 7, prev_kv: false };
        let read = Request::Range { span: Span::all(), revision: 0, serializable: false, limit: 0 };
        let grant = Request::LeaseGrant { lease: 7, ttl_seconds: 9 };
        let refused = Status::not_found("etcdserver: requested lease not found");
        let lost = Status::unavailable("etcdserver: request timed out");
        assert_eq!(of_error(&put, &refused), Outcome::Failed(Failure::LeaseNotFound));
        assert!(matches!(of_error(&put, &lost), Outcome::Unknown { .. }));
        assert!(matches!(of_error(&grant, &lost), Outcome::Unknown { .. }));
        assert!(matches!(of_error(&Request::Compact { revision: 3 }, &lost), Outcome::Unknown { .. }));
        assert!(matches!(of_error(&read, &lost), Outcome::Failed(Failure::Other(_))));
        let txn = |then| Request::Txn { compares: Vec::new(), then: vec![then], otherwise: Vec::new() };
        assert!(matches!(of_error(&txn(put), &lost), Outcome::Unknown { .. }));
        assert!(matches!(of_error(&txn(read), &lost), Outcome::Failed(Failure::Other(_))));
    }
}
