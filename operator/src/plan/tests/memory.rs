//! Members whose data are in memory: who may start, who is lost, and how templates come to them.

use super::life::Life;
use super::*;
use crate::crd::{RepairMode, Replacement, StorageMedium};
use crate::names::RECOVER_FROM;

/// The members' pods have their data, and are on record.
fn put_in_memory(scene: &mut Scene) {
    let before = build::config_hash(&scene.cluster);
    scene.cluster.spec.storage.medium = StorageMedium::Memory;
    let now = build::config_hash(&scene.cluster);
    scene.observed.claims.clear();
    for (ordinal, pod) in &mut scene.observed.pods {
        if let Some(statefulset) = scene.observed.statefulsets.get_mut(ordinal) {
            (pod.owner, statefulset.data_pod) = (Some(statefulset.uid.clone()), Some(pod.uid.clone()));
        }
        pod.settled = true;
        pod.config_hash = pod.config_hash.take().map(|hash| if hash == before { now.clone() } else { hash });
    }
}

fn scene(size: i32, line: &str) -> Scene {
    Scene::new(size, line).with(put_in_memory)
}

/// The pod of this member waits at its gate, and its StatefulSet has this one on record.
fn gated(size: i32, line: &str, ordinal: u32, recorded: Option<&str>) -> Scene {
    scene(size, line).with(|scene| {
        let pod = scene.observed.pods.get_mut(&ordinal).unwrap();
        (pod.gated, pod.running, pod.settled, pod.trouble) = (true, false, false, Some("SchedulingGated".into()));
        scene.observed.statefulsets.get_mut(&ordinal).unwrap().data_pod = recorded.map(str::to_string);
    })
}

/// Each line is a size, a cluster and the step that follows.
fn steps(rows: &[(i32, &str, &str)]) {
    for (size, line, expected) in rows {
        assert_eq!(scene(*size, line).step(), *expected, "size {size}: {line}");
    }
}

#[test]
fn the_first_pod_of_a_member_may_start_and_no_other() {
    // That the gate was not lifted any more shows by the pod on record.
    for recorded in [None, Some("pod-1")] {
        assert_eq!(gated(3, "0L 1n", 1, recorded).step(), "let member 1 start");
    }
    assert_eq!(gated(3, "0L 1n", 1, Some("before")).step(), "remove member 1");
    let strange = gated(3, "0L 1n", 1, None).with(|scene| {
        scene.observed.pods.get_mut(&1).unwrap().owner = Some("another".into());
    });
    assert_eq!(strange.step(), "wait: c-1 (SchedulingGated) to start", "it is of an earlier StatefulSet");
    // A StatefulSet that somebody deleted was made anew: nothing is on record, but the member has been running.
    assert_eq!(gated(3, "0L 1s 2", 1, None).step(), "remove member 1");
    assert_eq!(gated(3, "0L 1ls 2", 1, None).step(), "remove member 1");
    // Not every Kubernetes holds pods back.
    let unknown = scene(3, "0L 1l").with(|scene| scene.observed.statefulsets.get_mut(&1).unwrap().data_pod = None);
    assert_eq!(unknown.step(), "wait: the pod of c-1 to be held back by its scheduling gate");
}

#[test]
fn the_first_member_begins_once_more_when_it_is_lost_before_there_is_a_cluster() {
    let unborn = |recorded| gated(3, "0 -", 0, recorded).unborn().with(|scene| scene.observed.store = Store::Silent);
    assert_eq!(unborn(None).step(), "let member 0 start");
    assert_eq!(unborn(Some("pod-0")).step(), "let member 0 start");
    assert_eq!(unborn(Some("before")).step(), "delete the StatefulSet of member 0");
    let gone = unborn(Some("before")).with(|scene| scene.observed.pods.clear());
    assert_eq!(gone.step(), "delete the StatefulSet of member 0");
    let born = gated(1, "0 -", 0, Some("before")).with(|scene| scene.observed.store = Store::Silent);
    assert_eq!((born.plan().phase, born.plan().action), (Phase::Unavailable, None));
}

#[test]
fn a_member_whose_pod_is_gone_or_going_is_replaced_whatever_the_limits_are() {
    let lost = |line: &str| gated(3, line, 1, Some("before"));
    assert_eq!(lost("0L 1s 2").step(), "remove member 1");
    steps(&[
        (3, "0L 1g 2", "remove member 1"),
        (3, "0L 1 2", "Running"),
        // It starts again with what it has.
        (3, "0L 1s 2", "wait: c-1 (CrashLoopBackOff) to answer"),
        (3, "0L 1sd 2", "remove member 1"),
        (3, "0L 1g 2x", "wait: a quorum of the other members to be healthy"),
        (3, "0L 1g 2c", "wait: a quorum of the other members to be healthy"),
        (5, "0L 1g 2c 3 4", "remove member 2"),
        (3, "0L 2 +1p", "wait: pod c-1-0 to be gone"),
        (3, "0L 2", "add member 1 as a learner"),
    ]);
    let no_pod = scene(3, "0L 1x 2").with(|scene| drop(scene.observed.pods.remove(&1)));
    assert_eq!(no_pod.step(), "remove member 1");
    let limited = |mut scene: Scene| {
        scene.cluster.spec.repair.mode = RepairMode::Manual;
        let replaced = |id: &str| Replacement {
            time: time(NOW),
            member: "c-7".into(),
            member_id: id.into(),
            reason: String::new(),
        };
        scene.status().replacements = vec![replaced("1"), replaced("2")];
        scene
    };
    assert_eq!(limited(lost("0L 1s 2")).step(), "remove member 1");
    assert_eq!(limited(scene(3, "0L 1sd 2")).plan().action, None, "what is only down may come back");
    let plan = lost("0L 1s 2").plan();
    assert_eq!(plan.operation.map(|it| it.kind), Some(OperationKind::ReplaceMember));
    assert_eq!(plan.reason, "c-1 lost its data with its pod and is replaced");
}

#[test]
fn outdated_members_are_exchanged_for_others_that_join_first() {
    steps(&[
        (3, "0Lo 1o 2o", "add member 3 as a learner"),
        (3, "0Lo 1o 2o 3", "remove member 1"),
        (3, "0Lo 2o 3", "add member 1 as a learner"),
        (3, "0Lo 1 2 3", "move leadership from 100 to 101"),
        (3, "0o 1L 2 3", "remove member 0"),
        (3, "0Li 1i 2i", "add member 3 as a learner"),
        // Only while all others are healthy.
        (3, "0Lo 1o 2x", "wait: c-2 to be healthy"),
        // One that joined and does not answer any more is one too many.
        (3, "0Lo 1o 2 3x", "remove member 3"),
        (3, "0Lo 1xo 2o", "add member 3 as a learner"),
        (3, "0Lo 1xo 2o 3", "remove member 1"),
        // However few there are, none is interrupted.
        (1, "0Lo", "add member 1 as a learner"),
        (1, "0Lo 1", "move leadership from 100 to 101"),
        (1, "0o 1L", "remove member 0"),
        (2, "0Lo 1o", "add member 2 as a learner"),
        // A process that does not run may do so again with what it has.
        (3, "0L 1so 2", "add member 3 as a learner"),
    ]);
    let plan = scene(3, "0Lo 1o 2o").with(|scene| {
        let template =
            MemberTemplate { options: [("a".into(), "b".into())].into(), ..MemberTemplate::of(&scene.cluster.spec) };
        scene.status().template = Some(template);
    });
    let plan = plan.plan();
    assert_eq!((plan.phase, plan.rollout.unwrap().members), (Phase::RollingOut, vec!["c-3".to_string()]));
}

/// A member that was added joins with this template; its process runs or dies.
fn join(life: &mut Life, ordinal: u32, runs: bool) {
    let scene = &mut life.0;
    let Store::Listed { members, .. } = &mut scene.observed.store else { panic!() };
    members.push(Member { id: id(ordinal), ordinal: Some(ordinal), learner: true, ..Default::default() });
    let template = scene.plan().templates[&ordinal].clone();
    let uid = format!("pod-{ordinal}");
    let statefulset = Child { data_pod: Some(uid.clone()), ..child(format!("sts-{ordinal}")) };
    let pod = Pod {
        uid,
        ours: true,
        running: runs,
        config_hash: Some(build::config_hash(&build::with_template(&scene.cluster, &template))),
        image: Some(template.image),
        trouble: (!runs).then(|| "CrashLoopBackOff".into()),
        owner: Some(statefulset.uid.clone()),
        ..Default::default()
    };
    scene.observed.statefulsets.insert(ordinal, statefulset);
    scene.observed.pods.insert(ordinal, pod);
}

fn leave(life: &mut Life, ordinal: u32) {
    let observed = &mut life.0.observed;
    let Store::Listed { members, .. } = &mut observed.store else { panic!() };
    members.retain(|member| member.ordinal != Some(ordinal));
    observed.statefulsets.remove(&ordinal);
    observed.pods.remove(&ordinal);
}

#[test]
fn a_member_that_does_not_start_with_what_is_rolled_out_leaves_after_the_deadline() {
    let mut life = Life::settled("0L 1 2");
    put_in_memory(&mut life.0);
    life.option("2");
    assert_eq!(life.pass(), "add member 3 as a learner");
    join(&mut life, 3, false);
    assert_eq!(life.0.plan().templates[&3].options["snapshot-count"], "2");
    assert_eq!(life.0.plan().templates[&0].options.get("snapshot-count"), None);
    assert_eq!(life.pass(), "wait: c-3 (CrashLoopBackOff) to start");
    assert_eq!(life.0.plan().phase, Phase::RollingOut);
    life.0.observed.now += 600;
    assert_eq!(life.pass(), "remove member 3");
    leave(&mut life, 3);
    life.pass();
    let plan = life.0.plan();
    assert_eq!((plan.phase, plan.action.clone()), (Phase::Blocked, None), "{plan:#?}");
    assert!(plan.reason.contains("no progress within 10m, waiting for c-3"), "{}", plan.reason);
    // What was corrected is tried.
    life.option("3");
    life.pass();
    assert_eq!(life.pass(), "add member 3 as a learner");
}

#[test]
fn a_learner_that_cannot_start_is_exchanged_when_the_former_spec_is_put_back() {
    let mut life = Life::settled("0L 1 2");
    put_in_memory(&mut life.0);
    let before = life.0.cluster.spec.clone();
    life.option("2");
    assert_eq!(life.pass(), "add member 3 as a learner");
    join(&mut life, 3, false);
    life.pass();
    life.0.cluster.spec = before;
    assert_eq!(life.pass(), "remove member 3");
    leave(&mut life, 3);
    assert_eq!(life.pass(), "Running");
    assert_eq!(life.stage(), None);
}

#[test]
fn a_quorum_whose_data_are_gone_is_reported_and_nothing_begins_anew() {
    let lost = |lost: &[u32]| {
        scene(3, "0x 1x 2x").with(|scene| {
            scene.observed.store = Store::Silent;
            for ordinal in lost {
                scene.observed.pods.get_mut(ordinal).unwrap().uid = "another".into();
            }
        })
    };
    assert_eq!(lost(&[1]).step(), "wait: a quorum of c-0, c-1, c-2 to answer");
    let gone = lost(&[1, 2]).with(|scene| {
        scene.status().phase = Phase::Unavailable;
        // It would have to start again, without its data.
        let annotations = scene.cluster.metadata.annotations.get_or_insert_default();
        annotations.insert(RECOVER_FROM.into(), "c-0".into());
    });
    let plan = gone.plan();
    assert_eq!((plan.phase, plan.action.clone()), (Phase::Unavailable, None));
    assert_eq!(plan.reason, "the data of c-1, c-2 are gone with their pods, and the other members are no quorum");
    assert!(plan.waiting_for.unwrap().starts_with("a person: another cluster"), "{}", plan.reason);
}

#[test]
fn the_check_refuses_what_would_start_a_member_without_its_data() {
    let verdict = |scene: &Scene, action: Action| {
        let mut plan = plan(&scene.cluster, &scene.observed);
        plan.action = Some(action);
        check(&scene.cluster, &scene.observed, &plan)
    };
    let start = |uid: &str| Action::LetStart { ordinal: 1, uid: uid.into() };
    assert_eq!(verdict(&gated(3, "0L 1n", 1, None), start("pod-1")), Ok(()));
    for (scene, action) in [
        (gated(3, "0L 1n", 1, Some("before")), start("pod-1")),
        (gated(3, "0L 1n", 1, None), start("another")),
        (gated(3, "0L 1s 2", 1, None), start("pod-1")),
        (scene(3, "0L 1 2"), start("pod-1")),
        (scene(3, "0L 1 2"), Action::RestartPod { ordinal: 1, uid: "pod-1".into() }),
        (scene(3, "0L 1so 2"), Action::RestartPod { ordinal: 1, uid: "pod-1".into() }),
    ] {
        assert_eq!(verdict(&scene, action.clone()), Err(Violation::StartsEmpty(1)), "{action}");
    }
    let unknown = scene(3, "0L 1l").with(|scene| scene.observed.statefulsets.get_mut(&1).unwrap().data_pod = None);
    let promote = Action::Promote { ordinal: 1, id: id(1) };
    assert_eq!(verdict(&unknown, promote), Err(Violation::Promotion));
    let parked = scene(0, "0L 1 2");
    let plan = plan(&parked.cluster, &parked.observed);
    assert_eq!(check(&parked.cluster, &parked.observed, &plan), Err(Violation::Parked));
}
