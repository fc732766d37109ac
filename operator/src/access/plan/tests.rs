//! The life of a user and of a role, pass by pass, on a store of our own.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::crd::{EtcdRole, EtcdUser};
use crate::member::{AccessKind, KeyRange};

fn user(spec: Value) -> EtcdUser {
    let mut full = json!({"cluster": "demo"});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdUser",
        "metadata": {"name": "app", "namespace": "ns", "uid": "1", "generation": 3}, "spec": full,
    }))
    .unwrap()
}

fn role(permissions: Value) -> EtcdRole {
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdRole",
        "metadata": {"name": "reader", "namespace": "ns", "uid": "1"},
        "spec": {"cluster": "demo", "permissions": permissions},
    }))
    .unwrap()
}

fn has(entry: Option<Entry>) -> Seen {
    Seen { store: Store::Has(entry), twin: None, password: Password::None }
}

fn roles(names: &[&str]) -> Option<Entry> {
    Some(Entry::User(names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>()))
}

fn password(version: &str, right: bool) -> Password {
    Password::Known { version: version.into(), right }
}

/// One pass in which everything that is planned succeeds.
fn pass<D: Declared>(declared: &mut D, seen: &Seen) -> Plan {
    let plan = plan(declared, seen, Timestamp::UNIX_EPOCH);
    *declared.status_mut() = Some(plan.status.clone());
    if let Some(present) = plan.finalizer {
        declared.meta_mut().finalizers = Some(present.then(|| ACCESS_FINALIZER.to_string()).into_iter().collect());
    }
    plan
}

fn holds(plan: &Plan, condition: &str) -> bool {
    plan.status.conditions.iter().any(|it| it.type_ == condition && it.status == "True")
}

#[test]
fn a_user_is_added_kept_as_declared_and_deleted() {
    let mut user = user(json!({"roles": ["a", "b"]}));
    let added = pass(&mut user, &has(None));
    let grants = |names: &[&str]| names.iter().map(|name| Request::GrantRole(name.to_string())).collect::<Vec<_>>();
    assert_eq!(added.requests, [vec![Request::AddUser], grants(&["a", "b"])].concat());
    assert_eq!(added.finalizer, Some(true));
    let quiet = pass(&mut user, &has(roles(&["a", "b"])));
    assert_eq!((quiet.requests.len(), quiet.finalizer), (0, None));
    assert!(holds(&quiet, "Ready") && !holds(&quiet, "Reconciling"));
    assert_eq!(quiet.status.observed_generation, Some(3));

    let mended = pass(&mut user, &has(roles(&["b", "root"])));
    assert_eq!(mended.requests, [Request::RevokeRole("root".into()), Request::GrantRole("a".into())]);

    user.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let silent = Seen { store: Store::Silent("members to answer".into()), ..has(None) };
    let waits = pass(&mut user, &silent);
    assert_eq!((waits.finalizer, waits.status.reason.as_str()), (None, "waiting for members to answer"));
    let gone = pass(&mut user, &has(roles(&["a", "b"])));
    assert_eq!((gone.requests, gone.finalizer), (vec![Request::DeleteUser], Some(false)));
}

#[test]
fn a_password_is_changed_when_its_secret_has_another_one() {
    let mut user = user(json!({"passwordSecret": {"name": "s"}}));
    let seen = |version, right| Seen { password: password(version, right), ..has(roles(&[])) };
    pass(&mut user, &Seen { password: password("1", false), ..has(None) });
    assert_eq!(pass(&mut user, &seen("1", false)).requests, []);
    // The Secret was labelled: a change of the password would end the user's sessions for nothing.
    assert_eq!(pass(&mut user, &seen("2", true)).requests, []);
    assert_eq!(pass(&mut user, &seen("3", false)).requests, [Request::ChangePassword]);
    assert_eq!(pass(&mut user, &seen("3", false)).requests, []);
    let lacking = Seen { password: Password::Lacking("Secret s to be there".into()), ..has(roles(&[])) };
    let waits = pass(&mut user, &lacking);
    assert_eq!((waits.requests.len(), waits.status.phase), (0, AccessPhase::Pending));
    assert_eq!(user.status.unwrap().password_version.as_deref(), Some("3"), "what the store has is not forgotten");
}

#[test]
fn what_another_one_declares_is_left_alone() {
    let twin = Seen { twin: Some("EtcdUser first".into()), ..has(roles(&["a"])) };
    let mut second = user(json!({}));
    let plan = pass(&mut second, &twin);
    assert!(plan.requests.is_empty() && holds(&plan, "Stalled"));
    let mut first = user(json!({}));
    pass(&mut first, &has(None));
    first.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let leaves = pass(&mut first, &twin);
    assert_eq!((leaves.requests.len(), leaves.finalizer), (0, Some(false)), "the other one has it now");
}

#[test]
fn a_user_that_is_retained_or_whose_cluster_is_gone_is_not_deleted() {
    let mut retained = user(json!({"deletionPolicy": "Retain"}));
    assert_eq!(pass(&mut retained, &has(None)).finalizer, None);
    let mut orphan = user(json!({}));
    pass(&mut orphan, &has(None));
    orphan.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let gone = Seen { store: Store::Gone, ..has(None) };
    let plan = pass(&mut orphan, &gone);
    assert_eq!((plan.requests.len(), plan.finalizer), (0, Some(false)));
}

#[test]
fn root_is_nobodys() {
    let mut root = user(json!({"name": "root"}));
    let plan = pass(&mut root, &has(roles(&["root"])));
    assert!(plan.requests.is_empty() && holds(&plan, "Stalled"));
}

#[test]
fn a_failure_is_told_and_nothing_of_what_is_known_is_lost() {
    let mut user = user(json!({"passwordSecret": {"name": "s"}}));
    pass(&mut user, &Seen { password: password("1", false), ..has(None) });
    let status = failed(&user, "cannot grant role a: role name not found".into(), Timestamp::UNIX_EPOCH);
    assert_eq!((status.phase, status.password_version.as_deref()), (AccessPhase::Pending, Some("1")));
    assert!(status.reason.contains("role name not found"));
}

fn range(key: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { key: key.into(), end: end.into() }
}

#[test]
fn permissions_are_etcds_ranges() {
    let mut role = role(json!([
        {"key": "one"},
        {"key": "/app/", "prefix": true, "access": "ReadWrite"},
        {"key": "a", "rangeEnd": "c", "access": "Write"},
        {"key": "", "prefix": true},
    ]));
    let requests = pass(&mut role, &has(None)).requests;
    let expected = [
        Request::AddRole,
        Request::Grant(range(&[0], &[0]), AccessKind::Read),
        Request::Grant(range(b"/app/", b"/app0"), AccessKind::ReadWrite),
        Request::Grant(range(b"a", b"c"), AccessKind::Write),
        Request::Grant(range(b"one", b""), AccessKind::Read),
    ];
    assert_eq!(requests, expected);
}

#[test]
fn permissions_are_kept_as_declared() {
    let mut role = role(json!([{"key": "a"}, {"key": "b", "access": "Write"}]));
    let stored = vec![
        (range(b"a", b""), AccessKind::Read),
        (range(b"b", b""), AccessKind::ReadWrite),
        (range(b"c", b""), AccessKind::Read),
    ];
    let requests = pass(&mut role, &has(Some(Entry::Role(stored)))).requests;
    assert_eq!(requests, [Request::Revoke(range(b"c", b"")), Request::Grant(range(b"b", b""), AccessKind::Write)]);
}
