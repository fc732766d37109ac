//! What a person asks for once.

use super::*;
use crate::crd::RepairMode;
use crate::names::{DEFRAGMENT, DISARM, MOVE_LEADER};

fn asked(line: &str, annotation: &str, value: &str) -> Scene {
    Scene::new(3, line).with(|scene| {
        scene.status().phase = Phase::Running;
        scene.cluster.metadata.annotations.get_or_insert_default().insert(annotation.into(), value.into());
    })
}

fn refused(scene: &Scene, annotation: &'static str, why: &str) {
    let plan = scene.plan();
    assert_eq!(plan.action, Some(Action::ForgetRequest { annotation, refused: true }));
    assert!(plan.reason.contains(why), "{}", plan.reason);
}

#[test]
fn the_member_that_a_person_names_leads_if_it_can() {
    let lead = |line: &str, name: &str| asked(line, MOVE_LEADER, name);
    assert_eq!(lead("0L 1 2", "c-2").step(), "move leadership from 100 to 102");
    let led = lead("0 1 2L", "c-2").plan().action;
    assert_eq!(led, Some(Action::ForgetRequest { annotation: MOVE_LEADER, refused: false }));
    // A request that cannot be answered does not wait for its hour.
    for (line, name) in [("0L 1 2x", "c-2"), ("0L 1 2", "c-7"), ("0L 1 2", "other-1")] {
        refused(&lead(line, name), MOVE_LEADER, "it is no voter that is healthy");
    }
    // What is more urgent goes first, and what is under way goes on.
    assert_eq!(lead("0L 1v 2", "c-2").step(), "remove member 1");
    assert_eq!(lead("0L 1 2 3l", "c-3").step(), "promote member 3");
    let restart = lead("0L 1 2", "c-2").under_way(OperationKind::RestartMember, 1, 3);
    assert_eq!(restart.plan().operation, restart.cluster.status.clone().unwrap().operation);
    let paused = lead("0L 1 2", "c-2").with(|scene| scene.cluster.spec.paused = true);
    assert_eq!(paused.plan().action, None);
}

#[test]
fn members_are_defragmented_one_at_a_time_and_the_leader_last() {
    let mut scene = asked("0L 1 2", DEFRAGMENT, "c-0,c-1, c-2,c-2");
    let mut steps = Vec::new();
    while let Some(Action::Defragment { ordinal, left, .. }) = scene.plan().action {
        steps.push(ordinal);
        scene.cluster.metadata.annotations.as_mut().unwrap().insert(DEFRAGMENT.into(), left.join(","));
    }
    assert_eq!(steps, [1, 2, 0]);
    // With the last one the annotation goes; if it does not, this makes no harm.
    refused(&scene, DEFRAGMENT, "no member that is healthy");
    assert_eq!(asked("0L 1x 2", DEFRAGMENT, "c-1,c-2").step(), "defragment member 2");
    refused(&asked("0L 1x 2", DEFRAGMENT, "c-1"), DEFRAGMENT, "no member that is healthy is called \"c-1\"");
}

#[test]
fn an_alarm_ends_when_a_person_asks_and_nothing_is_left_of_its_cause() {
    let manual = |line: &str, kind: &str| {
        asked(line, DISARM, kind).with(|scene| scene.cluster.spec.repair.mode = RepairMode::Manual)
    };
    refused(&manual("0L 1f 2", "NOSPACE"), DISARM, "near its quota");
    let cleared = manual("0L 1f 2", "NOSPACE").with(|scene| {
        if let Store::Listed { members, .. } = &mut scene.observed.store {
            members[1].answer.as_mut().unwrap().db_size = 10;
        }
    });
    assert_eq!(cleared.step(), "disarm NOSPACE of member 101");
    refused(&manual("0L 1c 2", "CORRUPT"), DISARM, "replace the member");
    // The store does not know whose data is wrong: a person does.
    let unknown = manual("0L 1 2", "CORRUPT").with(|scene| {
        scene.observed.alarms.push(Alarm { member: 0, kind: AlarmKind::Corrupt });
    });
    assert_eq!(unknown.step(), "disarm CORRUPT of member 0");
    for kind in ["NOSPACE", "CORRUPT", "FIRE"] {
        let over = manual("0L 1 2", kind).plan().action;
        assert_eq!(over, Some(Action::ForgetRequest { annotation: DISARM, refused: false }), "{kind}");
    }
}
