//! Restarts for another template.

use super::*;

#[test]
fn configuration_rolls_followers_first_and_the_leader_last() {
    table(&[
        (3, "0Lo 1o 2o", "restart member 1"),
        (3, "0Lo 1 2o", "restart member 2"),
        (3, "0Lo 1 2", "move leadership from 100 to 101"),
        (3, "0o 1L 2", "restart member 0"),
        (3, "0Lo 1xo 2o", "restart member 1"),
        // What keeps it from going on is named.
        (3, "0Lo 1s 2o", "wait: c-1 (CrashLoopBackOff) to be healthy"),
        (3, "0L 1og 2", "wait: c-1 to stop"),
        // A pod on its way out is as good as gone.
        (3, "0L 1g 2o", "wait: c-1 (terminating) to be healthy"),
        (3, "0Lg 1o 2o", "wait: c-0 (terminating) to be healthy"),
        // A change of size waits for a restart that is possible or under way, not for one that only waits.
        (5, "0L 1og 2", "wait: c-1 to stop"),
        (5, "0Lo 1s 2o", "add member 3 as a learner"),
        (3, "0Lo 1 2 3s", "remove member 3"),
        // Before a change of size, and an upgrade after it.
        (5, "0Lo 1o 2o", "restart member 1"),
        (5, "0Li 1i 2i", "add member 3 as a learner"),
        (3, "0Li 1i 2i", "restart member 1"),
    ]);
}

#[test]
fn a_member_that_comes_back_after_a_restart_is_part_of_the_rollout() {
    let back = |line| Scene::new(3, line).under_way(OperationKind::RestartMember, 1, 3).plan();
    assert_eq!(back("0L 1x 2").phase, Phase::RollingOut);
    assert_eq!(back("0L 1 2").phase, Phase::Running);
    assert_eq!(back("0L 1x 2").operation.map(|it| it.member).as_deref(), Some("c-1"));
    assert_eq!(back("0L 1 2x").phase, Phase::Degraded);
}

#[test]
fn no_restart_that_would_interrupt_the_cluster() {
    let why = "wait: size 3 or more: a restart of c-0 would interrupt the cluster (delete its pod to accept that)";
    table(&[
        (1, "0Lo", why),
        (1, "0Li", why),
        // It does not keep the cluster from growing.
        (3, "0Lo", "add member 1 as a learner"),
        // A process that does not run serves nobody.
        (2, "0L 1so", "restart member 1"),
        (3, "0L 1so 2xo", "restart member 1"),
    ]);
}
