//! What belongs to somebody else, and plans that must be refused.

use super::*;

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    for (line, what) in [("- +0C", "claim data-c-0-0"), ("- +0S", "StatefulSet c-0"), ("- +0P", "pod c-0-0")] {
        let plan = Scene::new(3, line).unborn().plan();
        assert_eq!(plan.phase, Phase::Blocked);
        assert!(plan.reason.contains(what), "{}", plan.reason);
        assert!(!plan.apply_children);
    }
    let retained = Scene::new(3, "- +0C +1C +7C").unborn().plan();
    let command = "(kubectl -n ns delete pvc data-c-0-0 data-c-1-0 data-c-7-0)";
    assert!(retained.reason.contains(command), "{}", retained.reason);
}

#[test]
fn members_of_another_cluster_are_reported_and_left_alone() {
    let mut scene = Scene::new(3, "0L 1 2");
    scene.status().cluster_id = Some("beef".into());
    let plan = scene.plan();
    assert_eq!((plan.phase, plan.action), (Phase::Blocked, None));
    assert!(plan.reason.contains("c1") && plan.reason.contains("beef"), "{}", plan.reason);
}

#[test]
fn a_member_that_somebody_else_added_stops_changes() {
    let mut scene = Scene::new(5, "0L 1 2");
    if let Store::Listed { members, .. } = &mut scene.observed.store {
        members.push(Member { id: 0xabc, ..Default::default() });
    }
    assert_eq!(scene.step(), "wait: member abc to be removed: the operator did not add it");
}

/// Plans that the planner would never make: each breaks one rule, and the check must name it.
#[test]
fn the_check_refuses_unsafe_plans() {
    let verdict = |scene: &Scene, action: Action| {
        let mut plan = plan(&scene.cluster, &scene.observed);
        plan.action = Some(action);
        check(&scene.cluster, &scene.observed, &plan)
    };
    let remove = |ordinal| Action::RemoveMember { ordinal, id: id(ordinal) };
    let restart = |ordinal: u32| Action::RestartPod { ordinal, uid: format!("pod-{ordinal}") };
    let uid = String::new;
    let refused = |scene: &Scene, action: Action, part: &str| {
        let error = verdict(scene, action.clone()).expect_err(&format!("{action} must be refused"));
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(&Scene::new(3, "0L 1 2x"), remove(1), "healthy voters");
    refused(&Scene::new(1, "0L"), remove(0), "healthy voters");
    refused(&Scene::new(3, "0L 1 2x"), restart(1), "healthy voters");
    // Member 2 still answers, but its pod is being deleted.
    let going = |line| Scene::new(3, line).with(|scene| scene.observed.pods.get_mut(&2).unwrap().deleting = true);
    refused(&going("0L 1 2"), restart(1), "healthy voters");
    refused(&going("0L 1x 2 3"), remove(3), "healthy voters");
    let lead = Action::MoveLeader { from: id(0), to: id(2) };
    refused(&going("0L 1 2"), lead, "cannot lead");
    let promote = Action::Promote { ordinal: 2, id: id(2) };
    refused(&going("0L 1 2l"), promote, "no healthy learner");
    refused(&Scene::new(1, "0L"), restart(0), "healthy voters");
    refused(&Scene::new(5, "0L 1 2 3n"), Action::AddLearner { ordinal: 4 }, "second learner");
    refused(&Scene::new(3, "0L 1 2"), Action::AddLearner { ordinal: 1 }, "in use");
    refused(&Scene::new(3, "0L 1n"), Action::Promote { ordinal: 1, id: id(1) }, "no healthy learner");
    refused(&Scene::new(3, "0L 1"), Action::Promote { ordinal: 1, id: id(1) }, "no healthy learner");
    refused(&Scene::new(3, "0L 1x 2l"), Action::Promote { ordinal: 2, id: id(2) }, "healthy voters");
    refused(&Scene::new(3, "0L 1x 2"), Action::MoveLeader { from: id(0), to: id(1) }, "cannot lead");
    refused(&Scene::new(3, "0L 1 2"), Action::DeleteClaim { ordinal: 1, uid: uid() }, "in use");
    refused(&Scene::new(3, "0L 1 2 +3pc"), Action::DeleteClaim { ordinal: 3, uid: uid() }, "in use");
    refused(&Scene::new(3, "0L 1 2"), Action::DeleteStatefulSet { ordinal: 1, uid: uid() }, "in use");
    refused(&Scene::new(3, "-"), remove(1), "confirmed member list");
    let disarm = |kind| Action::Disarm { member: id(1), kind };
    refused(&Scene::new(3, "0L 1c 2"), disarm(AlarmKind::Corrupt), "cause is still there");
    refused(&Scene::new(3, "0L 1f 2"), disarm(AlarmKind::NoSpace), "cause is still there");
    let unknown = Action::Disarm { member: 0, kind: AlarmKind::Corrupt };
    refused(&Scene::new(3, "0L 1 2"), unknown, "cause is still there");
    let free = Action::FreeSpace { ordinal: 1, id: id(1), revision: 1 };
    refused(&Scene::new(3, "0L 1x 2f"), free, "in use");
    let defragment = Action::Defragment { ordinal: 1, id: id(1), left: Vec::new() };
    refused(&Scene::new(3, "0L 1x 2"), defragment, "in use");
    let mut solitary = Scene::new(3, "- 0x").plan();
    solitary.members = [(0, Start::Alone)].into();
    let lost = Scene::new(3, "- 0x");
    assert_eq!(check(&lost.cluster, &lost.observed, &solitary), Err(Violation::Alone(0)));
    let paused = Scene::new(3, "0L 1 2").with(|scene| scene.cluster.spec.paused = true);
    refused(&paused, remove(2), "paused");
    let mut parked = Scene::new(3, "0L 1 2").plan();
    parked.members.insert(2, Start::Parked);
    assert_eq!(check(&Scene::new(3, "0L 1 2").cluster, &Default::default(), &parked), Err(Violation::Parked));
    let foreign = Scene::new(3, "- +0C").deleting();
    refused(&foreign, Action::DeleteClaim { ordinal: 0, uid: uid() }, "another owner");

    let mut scene = Scene::new(3, "0L 1 2");
    let mut plan = scene.plan();
    plan.members.insert(0, Start::Seed);
    assert_eq!(check(&scene.cluster, &scene.observed, &plan), Err(Violation::BootstrapTwice));
    plan.members = BTreeMap::from([(1, Start::Join(Vec::new()))]);
    assert_eq!(check(&scene.cluster, &scene.observed, &plan), Err(Violation::StartsEmpty(1)));
    scene.status().cluster_id = Some("beef".into());
    let plan = Plan { action: Some(remove(2)), ..scene.plan() };
    assert!(check(&scene.cluster, &scene.observed, &plan).is_err());
}
