//! Members join and leave.

use super::*;
use crate::crd::RetentionPolicy;

#[test]
fn members_join_one_at_a_time_as_learners() {
    table(&[
        (3, "0L", "add member 1 as a learner"),
        (3, "0L 1n", "wait: c-1 to start"),
        (3, "0L 1ns", "wait: c-1 (CrashLoopBackOff) to start"),
        (3, "0L 1b", "wait: c-1 to catch up with the leader"),
        (3, "0L 1lx", "wait: c-1 to start"),
        (3, "0L 1lg", "wait: c-1 (terminating) to start"),
        (3, "0L 1l", "promote member 1"),
        (3, "0L 1", "add member 2 as a learner"),
        (3, "0L 1 2", "Running"),
        (5, "0L 1 2 3n", "wait: c-3 to start"),
        (4, "0L 2 5", "add member 1 as a learner"),
    ]);
}

#[test]
fn a_further_vote_needs_healthy_voters() {
    table(&[
        (5, "0L 1 2x", "add member 3 as a learner"),
        (5, "0L 1 2x 3l", "promote member 3"),
        (3, "0L 1x 2l", "wait: more voters to be healthy: a further vote would raise the quorum"),
        (5, "0L 1x", "wait: more voters to be healthy: a further vote would raise the quorum"),
    ]);
}

#[test]
fn members_leave_from_the_highest_number_and_never_while_leading() {
    table(&[
        (3, "0L 1 2 3 4", "remove member 4"),
        (3, "0 1 2 3 4L", "move leadership from 104 to 100"),
        (1, "0 1L", "move leadership from 101 to 100"),
        (1, "0L 1", "remove member 1"),
        (3, "0L 1 2 3x", "remove member 3"),
        (3, "0L 1 2 10", "remove member 10"),
        // One that does not answer goes before the others: it carries nothing.
        (3, "0L 1x 2 3", "remove member 1"),
        (3, "0x 1L 2x 3 4", "remove member 2"),
        (1, "0x 1L", "remove member 0"),
        (2, "0L 1x 2", "remove member 1"),
    ]);
}

#[test]
fn no_removal_without_a_quorum_of_the_others() {
    table(&[
        (3, "0L 1x 2x 3x", "wait: a quorum of the members other than c-3 to be healthy"),
        (4, "0L 1x 2x 3x 4", "wait: a quorum of the members other than c-3 to be healthy"),
        // Neither of a learner that is not asked for any more, nor of one that lost its volume.
        (3, "0L 1x 2x 3n", "wait: a quorum of the voters to be healthy"),
        (4, "0L 1x 2x 3bv", "wait: a quorum of the other members to be healthy"),
    ]);
}

#[test]
fn a_removed_member_is_cleared_away_in_order() {
    table(&[
        (3, "0L 1 2 +3spc", "delete the StatefulSet of member 3"),
        (3, "0L 1 2 +3pc", "wait: pod c-3-0 to be gone"),
        (3, "0L 1 2 +3c", "delete the claim of member 3"),
        // Before anybody joins.
        (5, "0L 1 2 +3c", "delete the claim of member 3"),
        (5, "0L 1 2 +7spc", "delete the StatefulSet of member 7"),
    ]);
    let deleting = Scene::new(3, "0L 1 2 +3c").with(|scene| {
        scene.observed.claims.get_mut(&3).unwrap().deleting = true;
    });
    assert_eq!(deleting.step(), "wait: claim data-c-3-0 to be gone");
}

#[test]
fn a_retained_claim_is_never_given_to_a_new_member() {
    let retained = |size| {
        Scene::new(size, "0L 1 2 +3c").with(|scene| {
            scene.cluster.spec.storage.retention.when_scaled = RetentionPolicy::Retain;
        })
    };
    assert_eq!(retained(3).step(), "Running");
    assert_eq!(retained(5).step(), "add member 4 as a learner");
}

#[test]
fn a_removal_that_was_begun_is_finished_whatever_the_size_is_by_now() {
    let scene = |size| Scene::new(size, "0L 1 2 3 4").under_way(OperationKind::RemoveMember, 4, 3);
    assert_eq!(scene(5).step(), "remove member 4");
    let kept = scene(7).plan().operation.map(|it| it.target_size);
    assert_eq!(kept, Some(3), "the size of the beginning is kept");
}

#[test]
fn a_joining_member_is_finished_before_the_size_is_looked_at_again() {
    table(&[
        (1, "0L 1 2 3b", "wait: c-3 to catch up with the leader"),
        (1, "0L 1 2 3l", "promote member 3"),
        // One that does not answer has nothing to finish.
        (3, "0L 1 2 3n", "remove member 3"),
        (3, "0L 1 2 3bx", "remove member 3"),
        (3, "0L 1 2 3ls", "remove member 3"),
        (4, "0L 1 2 3bx", "wait: c-3 to start"),
    ]);
}
