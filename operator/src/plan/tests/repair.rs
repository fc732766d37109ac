//! Members that are lost, stores that are full, quorums that are gone.

use super::*;
use crate::crd::{RepairMode, Replacement};
use crate::names::RECOVER_FROM;

#[test]
fn a_member_that_lost_its_volume_is_replaced_under_a_new_id() {
    table(&[
        (3, "0L 1v 2", "remove member 1"),
        (3, "0L 2 +1spc", "delete the StatefulSet of member 1"),
        (3, "0L 2", "add member 1 as a learner"),
        (3, "0L 1v 2x", "wait: a quorum of the other members to be healthy"),
        // This goes before everything but a pause, a recovery, corrupt data and a full store.
        (5, "0L 1v 2 3n", "remove member 1"),
        (3, "0L 1v 2 +7spc", "remove member 1"),
        (3, "0L 1 2 3bv", "remove member 3"),
    ]);
    let no_claim = |line| Scene::new(3, line).with(|scene| drop(scene.observed.claims.remove(&1)));
    assert_eq!(no_claim("0L 1s 2").step(), "remove member 1");
    assert_eq!(no_claim("0L 1x 2").step(), "wait: c-1 to answer", "its process still has the volume");
    let kind = Scene::new(3, "0L 1v 2").plan().operation.map(|it| it.kind);
    assert_eq!(kind, Some(OperationKind::ReplaceMember));
}

#[test]
fn a_corrupt_member_is_replaced_and_then_its_alarm_ends() {
    table(&[
        (3, "0L 1c 2", "remove member 1"),
        (3, "0Lc 1 2", "move leadership from 100 to 101"),
        (3, "0Lc 1c 2", "wait: a quorum of the other members to be healthy"),
        (1, "0Lc", "wait: a quorum of the other members to be healthy"),
        // Before whatever else is wrong.
        (5, "0L 1v 2c 3 4", "remove member 2"),
    ]);
    let alarm = |member| {
        Scene::new(3, "0L 1 2").with(|scene| {
            scene.observed.alarms.push(Alarm { member, kind: AlarmKind::Corrupt });
        })
    };
    assert_eq!(alarm(0xabc).step(), "disarm CORRUPT of member abc");
    // Nobody knows whose data is wrong.
    assert_eq!(alarm(0).plan().phase, Phase::Degraded);
}

#[test]
fn a_member_that_is_down_for_long_is_replaced_if_kubernetes_says_so_too() {
    table(&[
        (3, "0L 1sd 2", "remove member 1"),
        (3, "0L 1gd 2", "remove member 1"),
        (3, "0L 1d 2", "remove member 1"),
        (3, "0L 1sd 2x", "wait: a quorum of the other members to be healthy"),
        // Not yet; or it only never started.
        (3, "0L 1s 2", "wait: c-1 (CrashLoopBackOff) to answer"),
        (3, "0L 1 2ndl", "wait: c-2 to start"),
    ]);
    let ready = Scene::new(3, "0L 1d 2").with(|scene| scene.observed.pods.get_mut(&1).unwrap().ready = true);
    assert_eq!(ready.step(), "wait: c-1 to answer", "only the operator does not reach it");
    let lost = Scene::new(3, "0L 1d 2").with(|scene| drop(scene.observed.pods.remove(&1)));
    assert_eq!(lost.step(), "remove member 1");
    let restarted = Scene::new(3, "0L 1sd 2").under_way(OperationKind::RestartMember, 1, 3);
    assert_eq!(restarted.step(), "wait: c-1 (CrashLoopBackOff) to answer", "its template may be wrong");
}

#[test]
fn a_pod_on_a_lost_node_holds_nothing_up_but_its_own_number_and_claim() {
    let stuck = |line| {
        Scene::new(3, line).with(|scene| {
            let pod = scene.observed.pods.get_mut(&1).unwrap();
            (pod.deleting, pod.gone_by) = (true, Some(NOW - HOUR));
        })
    };
    assert_eq!(stuck("0L 2 +1spc").step(), "delete the StatefulSet of member 1");
    assert_eq!(stuck("0L 2 +1pc").step(), "add member 3 as a learner");
    let plan = stuck("0L 2 3 +1pc").plan();
    assert_eq!((plan.phase, plan.action), (Phase::Running, None));
    assert_eq!(plan.waiting_for.as_deref(), Some("pod c-1-0 to be gone (its node may be lost)"));
}

#[test]
fn replacements_keep_within_the_limits_that_a_person_sets() {
    let replaced = |seconds: &[i64]| {
        let list = seconds.iter().map(|ago| Replacement {
            time: time(NOW - ago),
            member: "c-1".into(),
            member_id: format!("{ago:x}"),
            reason: String::new(),
        });
        let list: Vec<Replacement> = list.collect();
        Scene::new(3, "0L 1v 2").with(|scene| scene.status().replacements = list)
    };
    assert_eq!(replaced(&[HOUR + 1, HOUR + 2, 5]).step(), "remove member 1");
    let plan = replaced(&[5, 6]).plan();
    assert_eq!((plan.phase, plan.action), (Phase::Degraded, None));
    assert!(plan.reason.ends_with("not replaced: spec.repair allows 2 within 1h"), "{}", plan.reason);
    let manual_of = |line: &str, asked: &str| {
        Scene::new(3, line).with(|scene| {
            scene.cluster.spec.repair.mode = RepairMode::Manual;
            let annotations = scene.cluster.metadata.annotations.get_or_insert_default();
            annotations.insert(crate::names::REPLACE_MEMBER.into(), asked.into());
        })
    };
    let manual = |asked: &str| manual_of("0L 1v 2f", asked);
    assert_eq!(manual("").plan().action, None);
    assert_eq!(manual("101").step(), "remove member 1");
    assert_eq!(manual("102").step(), "wait: a quorum of the other members to be healthy");
    // It has an id of its own, so that an annotation that stays is no reason to replace the next one, too.
    assert_eq!(manual("999").plan().action, None);
    assert_eq!(manual_of("0L 1c 2", "").plan().action, None);
    assert_eq!(manual_of("0L 1c 2", "101").step(), "remove member 1");
    // What is held back does not hold up what a person asked for, be it more urgent or not.
    assert_eq!(manual_of("0L 1c 2 3 4", "103").step(), "remove member 3");
    assert_eq!(manual_of("0L 1c 2c 3 4", "102").step(), "remove member 2");
    assert_eq!(manual_of("0L 1v 2c 3 4", "101").step(), "remove member 1");
    assert_eq!(manual_of("0L 1c 2", "102").step(), "wait: a quorum of the other members to be healthy");
    let held_back = manual_of("0L 1c 2", "999").plan();
    assert!(held_back.reason.starts_with("c-1 has corrupt data, and is not replaced"), "{}", held_back.reason);
}

#[test]
fn a_full_store_is_compacted_defragmented_with_the_leader_last_and_disarmed() {
    let mut scene = Scene::new(3, "0L 1f 2");
    let mut steps = Vec::new();
    for _ in 0..3 {
        let plan = scene.plan();
        steps.push(plan.action.clone().unwrap().to_string());
        scene.status().space = plan.space;
    }
    let expected = [1, 2, 0].map(|ordinal| format!("compact, and defragment member {ordinal}"));
    assert_eq!(steps, expected);
    // All is done, and it did not help.
    let plan = scene.plan();
    assert_eq!((plan.phase, plan.action.clone()), (Phase::Degraded, None));
    assert!(plan.reason.contains("100 of 100 bytes: delete keys"), "{}", plan.reason);
    let later = scene.clone().with(|scene| scene.observed.now += HOUR);
    assert_eq!(later.step(), "compact, and defragment member 1", "keys may have been deleted");
    // The size that is asked for does not wait for it.
    assert_eq!(scene.clone().with(|scene| scene.cluster.spec.size = 5).step(), "add member 3 as a learner");
    if let Store::Listed { members, .. } = &mut scene.observed.store {
        members[1].answer.as_mut().unwrap().db_size = 10;
    }
    assert_eq!(scene.step(), "disarm NOSPACE of member 101");
    scene.observed.alarms.clear();
    assert_eq!((scene.plan().phase, scene.plan().space), (Phase::Running, None));
}

/// A member that joins a full store would be no help to anybody.
#[test]
fn a_full_store_is_cleared_before_members_are_replaced_but_for_a_corrupt_one() {
    table(&[
        (3, "0Lf 1v 2f", "compact, and defragment member 2"),
        (3, "0Lf 1sd 2f", "compact, and defragment member 2"),
        (3, "0Lf 1c 2f", "remove member 1"),
        (3, "0Lf 1v 2f +7spc", "compact, and defragment member 2"),
        (5, "0Lf 1 2 3n", "compact, and defragment member 1"),
    ]);
    let removed = Scene::new(3, "0Lf 1 2f").with(|scene| {
        scene.observed.alarms.push(Alarm { member: 0xabc, kind: AlarmKind::Corrupt });
    });
    assert_eq!(removed.step(), "disarm CORRUPT of member abc");
    let asked = Scene::new(3, "0Lf 1 2").with(|scene| {
        let annotations = scene.cluster.metadata.annotations.get_or_insert_default();
        annotations.insert(crate::names::REPLACE_MEMBER.into(), "101".into());
    });
    assert_eq!(asked.step(), "compact, and defragment member 1");

    // When nothing more can be freed, members that are lost do not wait for a person.
    let mut scene = Scene::new(3, "0Lf 1v 2f");
    for _ in 0..2 {
        let plan = scene.plan();
        assert!(matches!(plan.action, Some(Action::FreeSpace { .. })), "{plan:#?}");
        scene.status().space = plan.space;
    }
    assert_eq!(scene.step(), "remove member 1");
}

#[test]
fn a_lost_quorum_is_recovered_only_when_a_person_names_the_survivor() {
    let lost = |line: &str| {
        let mut scene = Scene::new(3, line);
        scene.observed.store = Store::Silent;
        scene.status().phase = Phase::Unavailable;
        scene
    };
    let asked = |line: &str, name: &str| {
        lost(line).with(|scene| {
            let annotations = scene.cluster.metadata.annotations.get_or_insert_default();
            annotations.insert(RECOVER_FROM.into(), name.into());
        })
    };
    assert_eq!(lost("0x 1v 2v").plan().phase, Phase::Unavailable);
    // Nor does it begin before the loss was reported, nor with a member that has no data.
    let early = asked("0x 1v 2v", "c-0").with(|scene| scene.status().phase = Phase::Running);
    assert_eq!(early.plan().phase, Phase::Unavailable);
    for nobody in ["c-1", "c-7", "0"] {
        let step = asked("0x 1v 2v", nobody).step();
        assert_eq!(step, format!("wait: annotation {RECOVER_FROM} to name a member that has its volume"));
    }

    // First all others go, whatever it takes.
    let plan = asked("0x 1v 2x", "c-0").plan();
    assert_eq!(plan.action.map(|it| it.to_string()).as_deref(), Some("delete the StatefulSet of member 1"));
    assert_eq!((plan.members, plan.phase), ([(0, Start::Settled)].into(), Phase::Recovering));
    let alone = |left: &[u32]| {
        let gone = |ordinal: &u32| *ordinal != 0 && !left.contains(ordinal);
        asked("0x 1v 2x", "c-0").under_way(OperationKind::RecoverQuorum, 0, 3).with(|scene| {
            scene.observed.statefulsets.retain(|ordinal, _| *ordinal == 0);
            scene.observed.pods.retain(|ordinal, _| !gone(ordinal));
        })
    };
    let step = alone(&[2]).step();
    assert!(step.starts_with("wait: c-2-0 to be gone (delete one by force only"), "{step}");
    let plan = alone(&[]).plan();
    assert_eq!(plan.action.map(|it| it.to_string()).as_deref(), Some("restart member 0"));
    assert_eq!(plan.members, [(0, Start::Alone)].into());
    let started = |scene: &mut Scene| {
        let pod = scene.observed.pods.get_mut(&0).unwrap();
        pod.config_hash = Some(build::pod_hash(&scene.cluster, &Start::Alone));
    };
    assert_eq!(alone(&[]).with(started).step(), "wait: c-0 to answer");
    // It was begun, so it goes on without the annotation.
    let begun = alone(&[]).with(|scene| scene.cluster.metadata.annotations = None);
    assert_eq!(begun.step(), "restart member 0");

    // Then the request is taken back, and the member restarted without what would leave others behind once more.
    let answers = |size| Scene::new(size, "0L").with(started);
    let listed = answers(3).with(|scene| scene.cluster.metadata.annotations = alone(&[]).cluster.metadata.annotations);
    assert_eq!(listed.step(), format!("remove the annotation {RECOVER_FROM}"));
    assert_eq!(answers(3).step(), "restart member 0");
    assert_eq!(answers(3).plan().members, [(0, Start::Settled)].into());
    let again = Scene::new(3, "0x").under_way(OperationKind::RestartMember, 0, 3).with(|scene| {
        scene.observed.store = Store::Silent;
    });
    assert_eq!(again.plan().members, [(0, Start::Settled)].into());
}
