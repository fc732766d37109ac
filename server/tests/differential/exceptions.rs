//! Where the reference's answer is not what etcd 3.7.1 gives, or ours is not on purpose: each exception says why, and is no
//! wider than that.

use serde_json::{Value as Json, json};

use super::json;
use super::step::{Names, Step};

/// A step, and what an exception may depend on.
pub struct Exchange<'a> {
    pub step: &'a Step,
    /// The reference's major and minor version.
    pub version: (u32, u32),
    /// All revisions that were compacted to.
    pub compactions: &'a [i64],
    /// Leases that got their ids from the servers.
    pub leases: i64,
}

/// One exception.
struct Exception {
    /// The first version that needs it no more; none if it is ours that differs.
    until: Option<(u32, u32)>,
    reason: &'static str,
    /// Turns the reference's answer into 3.7.1's, or into ours if that may differ. Gets request, our answer and the
    /// reference's.
    apply: fn(&Exchange<'_>, &Json, &Json, &mut Json),
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        until: Some((3, 7)),
        reason: "keys_only answers have leases before 3.7",
        apply: |exchange, request, _, etcd| match &*exchange.step.name() {
            _ if etcd["answer"].is_null() => {}
            "KV/Range" | "KV/RangeStream" => without_leases(request, &mut etcd["answer"]),
            "KV/Txn" => without_leases_in_txn(request, &mut etcd["answer"]),
            _ => {}
        },
    },
    Exception {
        until: Some((3, 7)),
        reason: "RangeStream is new in 3.7, and has no sorts and revision filters; Range answers in its place",
        apply: |exchange, request, _, etcd| {
            if exchange.step.name() == "KV/RangeStream" && request["sort_order"] == "DESCEND" {
                let message = "RangeStream does not support custom sort orders";
                *etcd = json!({ "code": "Unimplemented", "message": message });
            }
        },
    },
    Exception {
        until: Some((3, 6)),
        reason: "hash_revision is new in 3.6: the revision asked for, or the newest",
        apply: |exchange, request, _, etcd| {
            if exchange.step.name() == "Maintenance/HashKV" && !etcd["answer"].is_null() {
                let asked = request["revision"].as_i64();
                let revision = asked.map_or(etcd["answer"]["header"]["revision"].clone(), Json::from);
                etcd["answer"]["hash_revision"] = revision;
            }
        },
    },
    Exception {
        until: Some((3, 7)),
        reason: "before 3.7, alarms among the errors of Status end in a space",
        apply: |exchange, _, _, etcd| {
            if exchange.step.name() == "Maintenance/Status" {
                for error in etcd["answer"].get_mut("errors").and_then(Json::as_array_mut).into_iter().flatten() {
                    *error = json!(error.as_str().unwrap_or_default().trim_end());
                }
            }
        },
    },
    Exception {
        until: None,
        reason: "etcd remembers the sums that its compactions made on the way, and answers with them ever after; ours makes \
                 them anew, and none below the compacted revision",
        apply: |exchange, request, ours, etcd| {
            // Also if that was 0, which otherwise means the newest.
            let was_compacted = exchange.compactions.contains(&request["revision"].as_i64().unwrap_or(0));
            if was_compacted && exchange.step.name() == "Maintenance/HashKV" {
                *etcd = ours.clone();
            }
        },
    },
    Exception {
        until: None,
        reason: "the ids of leases are part of the sum, so those that the servers chose make it differ",
        apply: |exchange, _, ours, etcd| {
            if exchange.leases > 0 && exchange.step.name() == "Maintenance/HashKV" && !etcd["answer"].is_null() {
                etcd["answer"]["hash"] = ours["answer"]["hash"].clone();
            }
        },
    },
    Exception {
        until: Some((3, 6)),
        reason: "the role root is shown with what it permits from 3.6 on, before with what it was granted",
        apply: |exchange, request, _, etcd| {
            let shows_root = exchange.step.name() == "Auth/RoleGet" && request["role"] == "root";
            if shows_root && !etcd["answer"].is_null() {
                etcd["answer"]["perm"] = json!([{ "permType": "READWRITE", "range_end": "\\x00" }]);
            }
        },
    },
    Exception {
        until: Some((3, 7)),
        reason: "before 3.7, only root may ask for the status of authentication",
        apply: |exchange, _, ours, etcd| {
            let is_on = ours["answer"]["enabled"] == true;
            if exchange.step.name() == "Auth/AuthStatus" && is_on && is_for_root_alone(etcd) {
                *etcd = ours.clone();
            }
        },
    },
    Exception {
        until: Some((3, 7)),
        reason: "only root may ask for a member's status in some versions before 3.7, among them 3.5.30",
        apply: |exchange, _, ours, etcd| {
            let is_told = !ours["answer"].is_null();
            if exchange.step.name() == "Maintenance/Status" && is_told && is_for_root_alone(etcd) {
                *etcd = ours.clone();
            }
        },
    },
    Exception {
        until: Some((3, 6)),
        reason: "before 3.6, the refusal of some calls that only root may make is told in the words of etcd's inner parts",
        apply: |exchange, _, _, etcd| {
            let calls = ["Maintenance/Defragment", "Maintenance/Hash", "Maintenance/HashKV"];
            if calls.contains(&&*exchange.step.name()) {
                let known = INNER_WORDS.iter().find(|(inner, ..)| etcd["message"] == *inner);
                if let Some((_, code, message)) = known {
                    *etcd = json!({ "code": code, "message": message });
                }
            }
        },
    },
    Exception {
        until: Some((3, 7)),
        reason: "of several reasons to refuse a put or a txn, 3.7 names the first operation's, a lease before a key",
        apply: |exchange, _, ours, etcd| {
            if matches!(&*exchange.step.name(), "KV/Put" | "KV/Txn") && is_checked(ours) && is_checked(etcd) {
                *etcd = ours.clone();
            }
        },
    },
];

/// What etcd says of callers inside, and to clients.
const INNER_WORDS: &[(&str, &str, &str)] = &[
    ("auth: invalid auth token", "Unauthenticated", "etcdserver: invalid auth token"),
    ("auth: user name is empty", "InvalidArgument", "etcdserver: user name is empty"),
    ("auth: user not found", "FailedPrecondition", "etcdserver: user name not found"),
    ("auth: permission denied", "PermissionDenied", "etcdserver: permission denied"),
];

/// Applies every exception that the reference needs.
pub fn apply(exchange: &Exchange<'_>, ours: &Json, etcd: &mut Json) {
    let request = json::of(&exchange.step.request, &Names::default());
    for exception in EXCEPTIONS {
        if exception.until.is_none_or(|until| exchange.version < until) {
            assert!(!exception.reason.is_empty(), "an exception has a reason");
            (exception.apply)(exchange, &request, ours, etcd);
        }
    }
}

/// What the reference is asked: what it does not know, it is asked in another way.
pub fn for_reference(step: &Step, version: (u32, u32)) -> Step {
    match &*step.name() {
        "KV/RangeStream" if version < (3, 7) => {
            Step { method: super::wire::method("etcdserverpb.KV/Range"), ..step.clone() }
        }
        _ => step.clone(),
    }
}

fn without_leases(request: &Json, answer: &mut Json) {
    if request["keys_only"] == true {
        let kvs = answer.get_mut("kvs").and_then(Json::as_array_mut);
        for kv in kvs.into_iter().flatten() {
            if let Some(kv) = kv.as_object_mut() {
                kv.remove("lease");
            }
        }
    }
}

fn without_leases_in_txn(request: &Json, answer: &mut Json) {
    let branch = if answer["succeeded"] == true { &request["success"] } else { &request["failure"] };
    let operations = branch.as_array().into_iter().flatten();
    let responses = answer.get_mut("responses").and_then(Json::as_array_mut);
    for (operation, answer) in operations.zip(responses.into_iter().flatten()) {
        if let Some(range) = answer.get_mut("response_range") {
            without_leases(&operation["request_range"], range);
        }
        if let Some(txn) = answer.get_mut("response_txn") {
            without_leases_in_txn(&operation["request_txn"], txn);
        }
    }
}

/// Refused because the caller is not root.
fn is_for_root_alone(answer: &Json) -> bool {
    ends_in(answer, &["user name is empty", "user name not found", "permission denied"])
}

/// Refused for what is in the store.
fn is_checked(answer: &Json) -> bool {
    ends_in(answer, &["lease not found", "key not found", "has been compacted", "a future revision"])
}

fn ends_in(answer: &Json, reasons: &[&str]) -> bool {
    answer["message"].as_str().is_some_and(|message| reasons.iter().any(|reason| message.ends_with(reason)))
}
