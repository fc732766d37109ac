//! Scenarios as data: a cluster in one line, and the step that must follow.
//!
//! A line names each member by its number and letters: `L` leader, `x` does not answer, `l` learner that caught up, `b` learner
//! that is behind, `n` learner that never started, `o` pod of an older configuration, `i` pod of another image, `s` pod whose
//! process does not run, `g` pod going away, `v` claim that is not the one which held its data, `d` down for an hour, `c` corrupt, `f` full. `+7spc` is what member 7 left
//! behind (StatefulSet, pod, claim); in capitals it belongs to somebody else. `-` is a store that does not answer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::crd::{EtcdClusterSpec, MemberStatus, RepairMode, Replacement, RetentionPolicy, Role, StoredFile};

const CLUSTER_ID: u64 = 0xc1;
/// When the scenes are seen.
const NOW: i64 = 1_000_000;
const HOUR: i64 = 3600;

fn time(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap())
}

/// A cluster and what is seen of it.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub cluster: EtcdCluster,
    pub observed: Observed,
}

/// The member id that the scenes give to a number.
fn id(ordinal: u32) -> u64 {
    0x100 + u64::from(ordinal)
}

fn child(uid: String) -> Child {
    Child { uid, ours: true, deleting: false }
}

impl Scene {
    /// `size` members are asked for; `line` is there.
    fn new(size: i32, line: &str) -> Self {
        let mut cluster = EtcdCluster::new("c", EtcdClusterSpec { size, ..Default::default() });
        cluster.metadata.namespace = Some("ns".into());
        cluster.metadata.uid = Some("uid".into());
        cluster.metadata.finalizers = Some(vec![FINALIZER.into()]);
        let mut scene = Self { cluster, observed: Observed { now: NOW, ..Default::default() } };
        let status = EtcdClusterStatus { cluster_id: Some(hex(CLUSTER_ID)), ..Default::default() };
        scene.cluster.status = Some(status);
        let mut members = Vec::new();
        let tokens: Vec<&str> = line.split_whitespace().collect();
        let leader = tokens.iter().find(|token| token.contains('L'));
        let leader = leader.map_or(0, |token| id(number(token)));
        for token in &tokens {
            match token.strip_prefix('+') {
                Some(left) => scene.left_behind(left),
                None if *token == "-" => {}
                None => members.push(scene.member(token, leader)),
            }
        }
        if !tokens.contains(&"-") {
            scene.observed.store = Store::Listed { cluster_id: CLUSTER_ID, members };
        }
        scene
    }

    fn member(&mut self, token: &str, leader: u64) -> Member {
        let ordinal = number(token);
        let is = |letter: char| token.contains(letter);
        let uid = format!("claim-{ordinal}");
        self.observed.statefulsets.insert(ordinal, child(format!("sts-{ordinal}")));
        let held = if is('v') { "claim-before".to_string() } else { uid.clone() };
        self.observed.claims.insert(ordinal, child(uid));
        let config_hash = if is('o') { "older".into() } else { build::config_hash(&self.cluster) };
        let image = if is('i') { Some("older".into()) } else { Some(self.cluster.spec.server_image()) };
        self.observed.pods.insert(
            ordinal,
            Pod {
                uid: format!("pod-{ordinal}"),
                ours: true,
                deleting: is('g'),
                gone_by: is('g').then_some(NOW),
                running: !is('s'),
                ready: !is('x') && !is('d'),
                config_hash: Some(config_hash),
                image,
                role: None,
                trouble: is('s').then(|| "CrashLoopBackOff".into()),
            },
        );
        let learner = is('l') || is('b') || is('n');
        let status = self.cluster.status.get_or_insert_default();
        status.members.push(MemberStatus {
            name: format!("c-{ordinal}"),
            id: hex(id(ordinal)),
            role: if learner { Role::Learner } else { Role::Follower },
            claim_uid: (!is('n')).then_some(held),
            down_since: is('d').then(|| time(NOW - HOUR)),
            ..Default::default()
        });
        for (letter, kind) in [('c', AlarmKind::Corrupt), ('f', AlarmKind::NoSpace)] {
            if is(letter) {
                self.observed.alarms.push(Alarm { member: id(ordinal), kind });
            }
        }
        let silent = is('x') || is('d') || is('s') || is('n') || is('v') || is('g');
        let answer = Answer {
            leader,
            raft_index: if is('b') { 1 } else { 5000 },
            revision: 70,
            db_size: if is('f') { 100 } else { 10 },
            db_quota: 100,
            ..Default::default()
        };
        Member {
            id: id(ordinal),
            ordinal: Some(ordinal),
            started: !is('n'),
            learner,
            answer: (!silent).then_some(answer),
        }
    }

    fn left_behind(&mut self, token: &str) {
        let ordinal = number(token);
        let of = |letter: char| Child { ours: token.contains(letter), ..child(format!("{letter}-{ordinal}")) };
        let has = |letter: char| token.to_lowercase().contains(letter);
        if has('s') {
            self.observed.statefulsets.insert(ordinal, of('s'));
        }
        if has('p') {
            let pod = Pod { ours: token.contains('p'), running: true, ..Default::default() };
            self.observed.pods.insert(ordinal, pod);
        }
        if has('c') {
            self.observed.claims.insert(ordinal, of('c'));
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn status(&mut self) -> &mut EtcdClusterStatus {
        self.cluster.status.get_or_insert_default()
    }

    fn deleting(self) -> Self {
        self.with(|scene| {
            scene.cluster.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        })
    }

    /// No cluster id was ever recorded.
    fn unborn(self) -> Self {
        self.with(|scene| scene.status().cluster_id = None)
    }

    fn under_way(self, kind: OperationKind, ordinal: u32, target_size: i32) -> Self {
        self.with(|scene| {
            scene.status().operation = Some(Operation {
                kind,
                member: format!("c-{ordinal}"),
                member_id: Some(hex(id(ordinal))),
                target_size,
            });
        })
    }

    /// The plan, which must pass the check.
    fn plan(&self) -> Plan {
        let plan = plan(&self.cluster, &self.observed);
        let verdict = check(&self.cluster, &self.observed, &plan);
        assert_eq!(verdict, Ok(()), "{plan:#?}");
        plan
    }

    /// The step, or what it waits for, in one line.
    fn step(&self) -> String {
        let plan = self.plan();
        match (&plan.action, &plan.waiting_for) {
            (Some(action), _) => action.to_string(),
            (None, Some(waiting_for)) => format!("wait: {waiting_for}"),
            (None, None) => format!("{:?}", plan.phase),
        }
    }
}

fn number(token: &str) -> u32 {
    let digits: String = token.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Each line is a size, a cluster and the step that follows.
fn table(rows: &[(i32, &str, &str)]) {
    for (size, line, expected) in rows {
        let step = Scene::new(*size, line).step();
        assert_eq!(step, *expected, "size {size}: {line}");
    }
}

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
    let recovery = Box::new(Recovery { file, revision_bump: 7, skip_hash_check: false });
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

#[test]
fn a_member_that_lost_its_volume_is_replaced_under_a_new_id() {
    table(&[
        (3, "0L 1v 2", "remove member 1"),
        (3, "0L 2 +1spc", "delete the StatefulSet of member 1"),
        (3, "0L 2", "add member 1 as a learner"),
        (3, "0L 1v 2x", "wait: a quorum of the other members to be healthy"),
        // Repair goes before everything but a pause.
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
    let manual = |asked: &str| {
        Scene::new(3, "0L 1v 2f").with(|scene| {
            scene.cluster.spec.repair.mode = RepairMode::Manual;
            let annotations = scene.cluster.metadata.annotations.get_or_insert_default();
            annotations.insert(crate::names::REPLACE_MEMBER.into(), asked.into());
        })
    };
    assert_eq!(manual("").plan().action, None);
    assert_eq!(manual("101").step(), "remove member 1");
    assert_eq!(manual("102").step(), "wait: a quorum of the other members to be healthy");
    // It has an id of its own, so that an annotation that stays is no reason to replace the next one, too.
    assert_eq!(manual("999").plan().action, None);
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
    let free = Action::FreeSpace { ordinal: 1, id: id(1), revision: 1 };
    refused(&Scene::new(3, "0L 1x 2f"), free, "in use");
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
