//! How a cluster begins, and that it never begins a second time.

use super::*;
use crate::crd::StoredFile;

#[test]
fn a_new_cluster_starts_with_one_member_as_new() {
    let fresh = Scene::new(3, "-").unborn();
    let plan = fresh.plan();
    assert_eq!(plan.action, Some(Action::Bootstrap));
    assert_eq!(plan.members, BTreeMap::from([(0, Start::Seed)]));
    assert_eq!(plan.operation.map(|it| it.kind), Some(OperationKind::Bootstrap));

    let starting = Scene::new(3, "- +0spc").unborn();
    assert_eq!(starting.step(), "wait: c-0 to answer");

    let answers = Scene::new(3, "0L").unborn();
    let plan = answers.plan();
    assert_eq!((plan.cluster_id, plan.action), (Some(CLUSTER_ID), None));
}

/// With the data of another cluster: once it is there, and never a second time.
#[test]
fn a_recovered_cluster_waits_for_its_data_and_then_starts_one_member_with_it() {
    let store = serde_json::from_value(serde_json::json!({"s3": {"bucket": "b"}})).unwrap();
    let file = StoredFile { store, path: "one.db.zst".into() };
    let recovery = Box::new(Recovery { origin: Origin::File(file.into()), revision_bump: 7, skip_hash_check: false });
    let found = |line| {
        Scene::new(3, line).unborn().with(|scene| {
            scene.observed.recovery = Some(RecoverySource::Found(recovery.clone()));
        })
    };
    let missing = RecoverySource::Awaited("EtcdBackup one to succeed".into());
    let waits = found("-").with(|scene| scene.observed.recovery = Some(missing));
    assert_eq!((waits.step().as_str(), waits.plan().members.len()), ("wait: EtcdBackup one to succeed", 0));

    let plan = found("-").plan();
    assert_eq!((plan.action, plan.members), (Some(Action::Bootstrap), [(0, Start::Recover(recovery.clone()))].into()));
    assert_eq!(plan.reason, "starting c-0, the first member, with the data of s3://b/one.db.zst");
    assert_eq!(found("- +0spc").plan().members, [(0, Start::Recover(recovery.clone()))].into());
    let answers = found("0L").plan();
    assert_eq!((answers.cluster_id, answers.members), (Some(CLUSTER_ID), [(0, Start::Settled)].into()));

    let mut born = Scene::new(3, "0L 1 2");
    born.observed.recovery = Some(RecoverySource::Found(recovery.clone()));
    assert!(!born.plan().members.values().any(|start| matches!(start, Start::Recover(_))));
    let mut again = born.plan();
    again.members.insert(0, Start::Recover(recovery));
    assert_eq!(check(&born.cluster, &born.observed, &again), Err(Violation::BootstrapTwice));
}

#[test]
fn a_wrong_option_of_the_first_member_can_be_corrected() {
    let mut stuck = Scene::new(3, "0so -").unborn();
    stuck.observed.store = Store::Silent;
    assert_eq!(stuck.step(), "restart member 0");
    let mut starting = Scene::new(3, "0s -").unborn();
    starting.observed.store = Store::Silent;
    assert_eq!(starting.step(), "wait: c-0 (CrashLoopBackOff) to answer");
}

#[test]
fn what_is_waited_for_names_its_cause() {
    let unborn = |line| {
        Scene::new(3, line).unborn().with(|scene| {
            scene.observed.store = Store::Silent;
        })
    };
    let no_pod = unborn("0").with(|scene| scene.observed.pods.clear());
    let created = "wait: pod c-0-0 to be created (see the events of StatefulSet c-0)";
    assert_eq!(no_pod.step(), created);
    let refused = |scene: &mut Scene| {
        let cause = "connection refused".to_string();
        scene.observed.silence.insert(0, cause);
    };
    let deaf = unborn("0").with(refused);
    assert_eq!(deaf.step(), "wait: c-0 (connection refused) to answer");
    assert_eq!(unborn("0g").step(), "wait: c-0 (terminating) to answer");

    let degraded = Scene::new(3, "0L 1x 2s").with(|scene| {
        scene.observed.pods.remove(&1);
    });
    let both = "wait: c-2 (CrashLoopBackOff) to answer; pod c-1-0 to be created (see the events of StatefulSet c-1)";
    assert_eq!(degraded.step(), both);
    let lost = Scene::new(3, "0x 1s 2g").with(refused).with(|scene| {
        scene.observed.store = Store::Silent;
    });
    let all = "wait: a quorum of c-0 (connection refused), c-1 (CrashLoopBackOff), c-2 (terminating) to answer";
    assert_eq!(lost.step(), all);
}

#[test]
fn a_cluster_that_had_an_id_is_never_bootstrapped_anew() {
    for line in ["-", "- 0x 1x 2x", "- 0x 1s 2s"] {
        let plan = Scene::new(3, line).plan();
        assert_eq!(plan.phase, Phase::Unavailable, "{line}");
        assert_eq!(plan.action, None, "{line}");
        assert!(!plan.members.values().any(|start| *start == Start::Seed), "{line}");
    }
    // Members known from before are kept running, but cannot start without their data.
    let members = Scene::new(3, "- 0x 1x 2x").plan().members;
    assert_eq!(members.len(), 3);
    assert!(members.values().all(|start| *start == Start::Settled));
}

#[test]
fn a_member_that_started_never_starts_empty() {
    let plan = Scene::new(3, "0L 1 2n").plan();
    assert_eq!(plan.members[&0], Start::Settled);
    assert_eq!(plan.members[&1], Start::Settled);
    let Start::Join(among) = &plan.members[&2] else {
        panic!("member 2 must join: {plan:?}");
    };
    let names: Vec<&str> = among.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["c-0", "c-1", "c-2"]);
}
