//! Finalizer, pause, deletion, parking.

use super::*;
use crate::crd::RetentionPolicy;

#[test]
fn paused_and_deleted_clusters() {
    let paused = |line| Scene::new(5, line).with(|scene| scene.cluster.spec.paused = true);
    for line in ["0L 1v 2", "0L", "-"] {
        assert_eq!(paused(line).step(), "wait: spec.paused to be false");
        assert!(!paused(line).plan().apply_children);
    }
    assert_eq!(paused("0L").deleting().step(), "wait: spec.paused to be false");

    let gone = |line| Scene::new(3, line).deleting();
    assert_eq!(gone("0L 1 2").step(), "delete the StatefulSet of member 2");
    assert_eq!(gone("- +0pc +1c").step(), "wait: pod c-0-0 to be gone");
    assert_eq!(gone("- +0c +1c").step(), "remove the finalizer", "retained by default");
    let and_data = gone("- +0c +1c").with(|scene| {
        scene.cluster.spec.storage.retention.when_deleted = RetentionPolicy::Delete;
    });
    assert_eq!(and_data.step(), "delete the claim of member 1");
    // What belongs to somebody else stays.
    assert_eq!(gone("- +0SPC").step(), "remove the finalizer");
}

/// `kubectl delete --cascade=orphan`: Kubernetes takes the owner references off, and the members are to run on.
#[test]
fn a_cluster_that_is_deleted_without_its_members_leaves_them_running() {
    let orphaning = Scene::new(3, "0L 1 2").deleting().with(|scene| {
        let finalizers = scene.cluster.metadata.finalizers.as_mut().unwrap();
        finalizers.push("orphan".into());
    });
    assert_eq!(orphaning.step(), "wait: Kubernetes to release the members");
    let mut released = Scene::new(3, "0L 1 2").deleting();
    released.cluster.spec.storage.retention.when_deleted = RetentionPolicy::Delete;
    for statefulset in released.observed.statefulsets.values_mut() {
        statefulset.ours = false;
    }
    assert_eq!(released.step(), "remove the finalizer");
}

#[test]
fn size_0_stops_all_members_and_another_size_starts_them_again() {
    let phased = |size, line, phase| Scene::new(size, line).with(|scene| scene.status().phase = phase);
    table(&[
        (0, "0L 1 2", "stop all members"),
        // Whatever else is under way.
        (0, "0L 1v 2o 3n +7spc", "stop all members"),
        (0, "- 0x 1x 2s", "stop all members"),
    ]);
    let stopping = phased(0, "- 0x 1g 2g", Phase::Parking);
    assert_eq!(stopping.step(), "wait: c-0-0, c-1-0, c-2-0 to be gone");
    let parked = |size, phase| phased(size, "- 0x 1x 2x", phase).with(|scene| scene.observed.pods.clear());
    for phase in [Phase::Parking, Phase::Parked] {
        let plan = parked(0, phase).plan();
        assert_eq!((plan.phase, plan.waits()), (Phase::Parked, None));
        assert_eq!(plan.members, [0, 1, 2].map(|ordinal| (ordinal, Start::Parked)).into());
    }

    // Those that there were, whatever size is asked for now.
    for phase in [Phase::Parking, Phase::Parked, Phase::Resuming] {
        let plan = parked(5, phase).plan();
        assert_eq!((plan.phase, plan.action), (Phase::Resuming, None));
        assert_eq!(plan.members, [0, 1, 2].map(|ordinal| (ordinal, Start::Settled)).into());
    }
}

#[test]
fn a_cluster_that_was_never_founded_can_be_parked() {
    let unborn = |line| Scene::new(0, line).unborn();
    assert_eq!(unborn("-").step(), "Parked");
    assert_eq!(unborn("- +0spc").step(), "stop all members");
    assert_eq!(unborn("- +0spc").plan().members, [(0, Start::Parked)].into());
    // Its id is recorded first: from then on it is never founded anew.
    assert_eq!(unborn("0L").plan().cluster_id, Some(CLUSTER_ID));
}

/// Its vote may have been given just before all of them stopped, and then it takes two to have a quorum.
#[test]
fn a_learner_that_was_healthy_starts_again_with_the_voters() {
    let learner = |line| {
        let scene = Scene::new(3, line).with(|scene| {
            scene.status().phase = Phase::Parked;
            scene.observed.pods.clear();
        });
        scene.plan().members.get(&1).cloned()
    };
    assert_eq!(learner("- 0x 1lx"), Some(Start::Settled));
    assert_eq!(learner("- 0x 1n"), None);
}

#[test]
fn the_finalizer_comes_first() {
    let scene = Scene::new(3, "-").unborn().with(|scene| {
        scene.cluster.metadata.finalizers = None;
    });
    assert_eq!(scene.step(), "add the finalizer");
    assert!(!scene.plan().apply_children);
}
