//! Scenarios as data: a cluster in one line, and the step that must follow.
//!
//! A line names each member by its number and letters: `L` leader, `x` does not answer, `l` learner that caught up, `b` learner
//! that is behind, `n` learner that never started, `o` pod of an older configuration, `i` pod of another image, `s` pod whose
//! process does not run, `g` pod going away, `v` claim that is not the one which held its data, `d` down for an hour, `c` corrupt,
//! `f` full. `+7spc` is what member 7 left behind (StatefulSet, pod, claim); in capitals it belongs to somebody else. `-` is a store
//! that does not answer.

mod expansion;
mod life;
mod lifecycle;
mod membership;
mod memory;
mod repair;
mod requests;
mod rollout;
mod safety;
mod start;
mod transport;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::build;
use crate::crd::{EtcdClusterSpec, MemberStatus, Role, RolloutStage};

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
    Child { uid, ours: true, ..Default::default() }
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
                trouble: is('s').then(|| "CrashLoopBackOff".into()),
                ..Default::default()
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
            secure: false,
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
