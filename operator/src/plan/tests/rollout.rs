//! What members run: restarts one at a time, targets that are fixed, deadlines, versions.

use super::life::{ALL, Life};
use super::*;
use crate::crd::{OnDeadline, PullPolicy};

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
    let why = "wait: size 3 or more: a restart of c-0 would interrupt the cluster (delete its pod, or set \
         spec.rollout.allowInterruption, to accept that)";
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

#[test]
fn one_or_two_members_are_restarted_where_the_spec_accepts_that() {
    let step = |size, line| {
        let accepts = |scene: &mut Scene| scene.cluster.spec.rollout.allow_interruption = true;
        Scene::new(size, line).with(accepts).step()
    };
    assert_eq!(step(1, "0Lo"), "restart member 0");
    assert_eq!(step(2, "0Lo 1o"), "restart member 1");
    assert_eq!(step(2, "0Lo 1"), "move leadership from 100 to 101");
    let three = step(3, "0L 1o 2x");
    assert!(three.starts_with("wait: "), "three would be interrupted: {three}");
}

fn some(values: [Option<&str>; 3]) -> Vec<Option<String>> {
    values.map(|value| value.map(str::to_string)).into()
}

#[test]
fn each_member_is_restarted_once_and_keeps_its_template_until_then() {
    let mut life = Life::settled("0L 1 2");
    life.option("2");
    life.version("v0.2.0");
    // Its first step is not done yet.
    assert_eq!(life.options(), some([None, Some("2"), None]));
    assert_eq!(life.steps(), ALL);
    let status = life.0.cluster.status.clone().unwrap();
    assert_eq!((status.template, status.rollout), (Some(MemberTemplate::of(&life.0.cluster.spec)), None));
}

#[test]
fn edits_made_meanwhile_wait_until_the_rollout_has_ended() {
    let mut life = Life::settled("0L 1 2");
    life.option("2");
    assert_eq!(life.pass(), "restart member 1");
    life.option("3");
    life.0.cluster.spec.size = 5;
    assert!(life.0.plan().reason.contains("the spec was edited since"), "{}", life.0.plan().reason);
    for expected in &ALL[1..4] {
        assert_eq!(life.pass(), *expected);
        assert_eq!(
            life.0.cluster.status.as_ref().unwrap().rollout.as_ref().unwrap().target.options["snapshot-count"],
            "2"
        );
    }
    // Then comes what was asked for meanwhile.
    assert_eq!(life.pass(), "restart member 0");
    assert_eq!(life.options(), some([Some("3"), Some("2"), Some("3")]));
    life.0.cluster.spec.size = 3;
    assert_eq!(life.steps().last().map(String::as_str), Some("Running"));
}

#[test]
fn putting_the_former_spec_back_rolls_back_at_once() {
    let mut life = Life::settled("0L 1 2");
    let before = life.0.cluster.spec.clone();
    life.option("2");
    assert_eq!([life.pass(), life.pass()], ALL[..2]);
    life.0.cluster.spec = before;
    assert_eq!(life.steps(), ["restart member 1", "restart member 2", "Running"]);
    assert_eq!(life.stage(), None);
}

#[test]
fn a_rollout_without_progress_is_stopped_and_the_others_keep_what_they_run() {
    let mut life = Life::failed();
    let waits = "wait: the spec to be changed or put back, or spec.rollout.progressDeadline to be raised";
    assert_eq!(life.pass(), waits);
    let status = life.0.cluster.status.clone().unwrap();
    let why = "the rollout was stopped: no progress within 10m, waiting for c-1 (CrashLoopBackOff) to be healthy";
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Blocked, why));
    let stalled = status.conditions.iter().find(|it| it.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "ProgressDeadlineExceeded"));
    assert_eq!(life.options(), some([None, Some("2"), None]));
    // Nor is the member replaced, or another one made to fail, however long it takes.
    life.0.observed.now += HOUR;
    assert_eq!(life.steps(), [waits]);
    life.crash(2);
    assert_eq!(life.pass(), waits);
    life.0.observed.store = Store::Silent;
    assert_eq!(life.0.plan().action, None);
}

#[test]
fn a_stopped_rollout_ends_with_another_spec_or_the_former_or_more_time() {
    let mut corrected = Life::failed();
    corrected.pass();
    corrected.option("3");
    assert_eq!(corrected.steps(), ALL);
    let mut put_back = Life::failed();
    put_back.pass();
    put_back.0.cluster.spec.options.clear();
    assert_eq!(put_back.steps(), ["restart member 1", "Running"]);
    let mut patient = Life::failed();
    patient.pass();
    patient.0.cluster.spec.rollout.progress_deadline = "1h".into();
    assert_eq!(patient.pass(), "wait: c-1 (CrashLoopBackOff) to be healthy");
    assert_eq!(patient.stage(), Some(RolloutStage::Progressing));
    // It came up after all.
    let mut late = Life::failed();
    late.pass();
    let Store::Listed { members, .. } = &mut late.0.observed.store else { panic!() };
    members[1].answer = members[0].answer.clone();
    late.0.observed.pods.get_mut(&1).unwrap().running = true;
    assert_eq!(late.stage(), Some(RolloutStage::Stopped), "a person decides");
}

#[test]
fn a_rollout_is_taken_back_after_the_deadline_if_that_is_asked_for() {
    let mut life = Life::failed();
    life.0.cluster.spec.rollout.on_deadline = OnDeadline::RollBack;
    assert_eq!(life.pass(), "restart member 1");
    assert_eq!(life.stage(), Some(RolloutStage::RollingBack));
    assert_eq!(life.pass(), "wait: the spec to be changed");
    let reason = life.0.plan().reason;
    assert!(reason.starts_with("the rollout was taken back: no progress within 10m"), "{reason}");
    assert_eq!(life.options(), some([None, None, None]));
    life.0.observed.now += HOUR;
    assert_eq!(life.steps(), ["wait: the spec to be changed"], "what was refused is not tried again");
    life.option("3");
    assert_eq!(life.steps(), ALL);
}

#[test]
fn the_deadline_does_not_run_while_something_else_goes_first() {
    let mut life = Life::settled("0L 1 2");
    life.option("2");
    assert_eq!(life.pass(), "restart member 1");
    life.0.cluster.spec.paused = true;
    assert_eq!(life.pass(), "wait: spec.paused to be false");
    life.0.observed.now += HOUR;
    let before = life.0.cluster.status.clone().unwrap().rollout;
    life.pass();
    assert_eq!(life.0.cluster.status.clone().unwrap().rollout, before, "nothing is written meanwhile");
    life.0.cluster.spec.paused = false;
    assert_eq!(life.steps(), ALL[1..]);
}

/// The new template must not reach a second member while the first fails with it, whatever else happens to that one.
#[test]
fn a_template_that_fails_does_not_spread_to_members_that_are_down() {
    let mut life = Life::failed();
    life.0.observed.now -= 600;
    life.crash(2);
    assert_eq!(life.0.plan().action, None);
    life.0.observed.store = Store::Silent;
    assert_eq!(life.0.plan().action, None);
    // But one that is down is the first to get it.
    let mut down = Life::settled("0L 1 2");
    down.crash(2);
    down.option("2");
    assert_eq!(down.steps(), ["restart member 2", "restart member 1", ALL[2], ALL[3], "Running"]);
}

#[test]
fn versions_that_skip_one_or_go_back_are_refused_and_nothing_else_waits() {
    let mut life = Life::settled("0L 1 2");
    life.version("v0.3.0");
    let plan = life.0.plan();
    assert_eq!(
        (plan.phase, plan.action, plan.waiting_for.as_deref()),
        (Phase::Blocked, None, Some("another spec.version"))
    );
    assert!(plan.reason.ends_with("one minor version at a time"), "{}", plan.reason);
    assert!(plan.templates.values().all(|template| template.image.ends_with(":v0.1.0")));
    life.0.cluster.spec.size = 5;
    assert_eq!(life.0.step(), "add member 3 as a learner");
    life.0.cluster.spec.size = 3;
    life.version("v0.2.0");
    assert_eq!(life.steps(), ALL);
    life.version("v0.1.0");
    assert_eq!(life.0.plan().phase, Phase::Blocked);
    life.0.cluster.spec.rollout.allow_downgrade = true;
    assert_eq!(life.pass(), "restart member 0");
}

#[test]
fn what_needs_no_restart_causes_none() {
    let mut life = Life::settled("0L 1 2");
    let spec = &mut life.0.cluster.spec;
    spec.pod_template.labels.insert("team".into(), "storage".into());
    spec.pod_template.termination_grace_period_seconds = Some(5);
    spec.image_pull_policy = Some(PullPolicy::Always);
    let template = MemberTemplate::of(spec);
    assert_eq!(life.pass(), "Running");
    assert!(life.0.plan().templates.values().all(|it| *it == template));
    assert_eq!(life.0.cluster.status.clone().unwrap().template, Some(template));
}
