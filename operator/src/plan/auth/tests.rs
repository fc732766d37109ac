//! From no Secret to authentication that is on, and back, pass by pass.

use serde_json::json;

use super::super::{Observed, check, plan as plan_pass};
use super::*;
use crate::crd::EtcdCluster;

fn cluster(auth: serde_json::Value) -> EtcdCluster {
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdCluster",
        "metadata": {"name": "c", "namespace": "ns", "uid": "u", "finalizers": [crate::names::FINALIZER]},
        "spec": {"size": 0, "auth": auth},
        "status": {"clusterID": "7"},
    }))
    .unwrap()
}

/// What a store with root's Secret looks like; `enabled` is the store's.
fn seen(enabled: Option<bool>) -> Auth {
    Auth { enabled, secret: Some("1".into()), current: true, ..Auth::default() }
}

/// The plan over a store that answers.
fn planned(spec: serde_json::Value, auth: Auth) -> AuthPlan {
    let mut cluster = cluster(spec);
    cluster.spec.size = 1;
    let store = Store::Listed { cluster_id: 7, members: Vec::new() };
    let observed = Observed { store, auth, ..Observed::default() };
    let plan = plan_pass(&cluster, &observed);
    check(&cluster, &observed, &plan).unwrap();
    plan.auth.unwrap()
}

#[test]
fn it_is_turned_on_only_when_the_password_is_kept() {
    let write = |auth| planned(json!({}), auth).write;
    assert_eq!(write(Auth::default()), Some(AuthWrite::Keep));
    assert_eq!(write(seen(None)), None, "nobody told whether it is on");
    assert_eq!(write(Auth { current: false, ..seen(Some(false)) }), Some(AuthWrite::Enable));
    assert_eq!(write(seen(Some(true))), None);
    assert_eq!(planned(json!({}), seen(Some(true))).waiting_for, None);
}

#[test]
fn a_password_that_changed_is_given_to_the_store() {
    let changed = Auth { current: false, ..seen(Some(true)) };
    assert_eq!(planned(json!({}), changed.clone()).write, Some(AuthWrite::Rotate));
    let lacks = Some("Secret s to be there".to_string());
    let lacking = planned(json!({"rootSecret": "s"}), Auth { lacks, ..changed });
    assert_eq!(lacking, AuthPlan { write: None, waiting_for: Some("Secret s to be there".into()) });
}

#[test]
fn it_is_turned_off_and_stays_off() {
    assert_eq!(planned(json!({"enabled": false}), seen(Some(true))).write, Some(AuthWrite::Disable));
    assert_eq!(planned(json!({"enabled": false}), seen(Some(false))), AuthPlan::default());
}

/// A cluster made from a backup whose root has another password: members do not even list each other.
#[test]
fn a_password_that_the_store_refuses_is_told_with_its_secret() {
    let cluster = cluster(json!({"rootSecret": "old-root"}));
    let auth = Auth { refused: Some("authentication failed".into()), ..seen(Some(true)) };
    let observed = Observed { auth, ..Observed::default() };
    let situation = Situation::new(&cluster, &observed);
    let plan = plan(&situation).unwrap();
    assert_eq!(plan.write, None);
    let told = plan.waiting_for.unwrap();
    assert_eq!(told, "Secret old-root to hold the password that root has in the store (authentication failed)");
}

#[test]
fn an_unsafe_plan_is_refused() {
    let cluster = cluster(json!({}));
    let store = Store::Listed { cluster_id: 7, members: Vec::new() };
    let observed = Observed { store, auth: Auth { secret: None, ..seen(Some(false)) }, ..Observed::default() };
    let mut plan = plan_pass(&cluster, &observed);
    plan.auth = Some(AuthPlan { write: Some(AuthWrite::Enable), waiting_for: None });
    assert!(check(&cluster, &observed, &plan).is_err());
}
