//! TLS that is turned on and off.

use super::life::{ALL, Life};
use super::*;
use crate::crd::{TlsSpec, Transport};
use crate::plan::tls::{Held, Holder, Leaf};

/// A life of three members for which there are certificates, if asked for.
fn certified() -> Life {
    let mut life = Life::settled("0L 1 2");
    let held = || Held { leaves: vec![Leaf::default()], ..Default::default() };
    let members = (0..3).map(Holder::Member).chain([Holder::Operator, Holder::Client]);
    life.0.observed.tls.held = members.map(|holder| (holder, held())).collect();
    life
}

fn speak(life: &mut Life, transport: Transport) {
    let tls = TlsSpec { plaintext: transport == Transport::Both, ..Default::default() };
    life.0.cluster.spec.tls = (transport != Transport::Plain).then_some(tls);
}

/// Passes until everything rests, without the restarts.
fn steps(life: &mut Life) -> Vec<String> {
    let steps = life.steps();
    steps.into_iter().filter(|step| !step.starts_with("restart") && !step.starts_with("move")).collect()
}

fn reached(by: &str) -> Vec<String> {
    (0..3).map(|ordinal| format!("reach member {ordinal} by {by}")).chain(["Running".into()]).collect()
}

fn settled(life: &Life) -> Transport {
    life.0.cluster.status.clone().unwrap().template.unwrap().transport
}

#[test]
fn tls_comes_to_a_cluster_by_way_of_members_that_speak_both() {
    let mut life = certified();
    speak(&mut life, Transport::Tls);
    for step in &ALL[..4] {
        assert_eq!(life.pass(), *step);
        assert_eq!(life.0.cluster.status.as_ref().unwrap().rollout.as_ref().unwrap().target.transport, Transport::Both);
    }
    assert_eq!(steps(&mut life), reached("TLS"));
    assert_eq!(settled(&life), Transport::Tls);
    speak(&mut life, Transport::Plain);
    assert_eq!(steps(&mut life), reached("plaintext"));
    assert_eq!(settled(&life), Transport::Plain);
    // Clients are given time.
    speak(&mut life, Transport::Both);
    assert_eq!(steps(&mut life), reached("TLS"));
    assert_eq!(settled(&life), Transport::Both);
}

#[test]
fn tls_is_not_begun_without_certificates_for_all() {
    let mut life = certified();
    life.0.observed.tls.held.remove(&Holder::Member(2));
    speak(&mut life, Transport::Tls);
    let plan = life.0.plan();
    assert_eq!((plan.phase, plan.action.clone()), (Phase::RollingOut, None));
    assert_eq!(plan.waiting_for.as_deref(), Some("certificates of all members (status.tls)"));
    // Once begun it goes on: the Secret is made again.
    let mut begun = certified();
    speak(&mut begun, Transport::Tls);
    assert_eq!(begun.pass(), ALL[0]);
    begun.0.observed.tls.held.remove(&Holder::Member(2));
    assert_eq!(begun.pass(), ALL[1]);
}

#[test]
fn who_thinks_better_of_it_goes_back_the_same_way() {
    let mut life = certified();
    speak(&mut life, Transport::Tls);
    assert_eq!(life.pass(), ALL[0]);
    speak(&mut life, Transport::Plain);
    assert_eq!(life.pass(), ALL[0]);
    assert_eq!(life.steps(), ["Running"]);
    assert_eq!(settled(&life), Transport::Plain);
}

/// Plans that the planner would never make.
#[test]
fn the_check_refuses_what_would_cut_a_member_off() {
    let mut life = certified();
    speak(&mut life, Transport::Tls);
    let scene = &life.0;
    let verdict = |change: &dyn Fn(&mut Plan)| {
        let mut plan = scene.plan();
        change(&mut plan);
        check(&scene.cluster, &scene.observed, &plan)
    };
    let alone = |plan: &mut Plan| plan.templates.get_mut(&1).unwrap().transport = Transport::Tls;
    assert_eq!(verdict(&alone), Err(Violation::Transport(1)));
    let early = |plan: &mut Plan| plan.action = Some(Action::MovePeer { ordinal: 1, id: id(1), secure: true });
    assert_eq!(verdict(&early), Err(Violation::Transport(1)));
    // Nor does a member get a template before its turn, or a rollout another target.
    let turn = |plan: &mut Plan| drop(plan.templates.get_mut(&2).unwrap().options.insert("a".into(), "b".into()));
    assert_eq!(verdict(&turn), Err(Violation::Turn(2)));
    life.pass();
    let scene = &life.0;
    let mut plan = scene.plan();
    plan.rollout.as_mut().unwrap().target.image = "another".into();
    assert_eq!(check(&scene.cluster, &scene.observed, &plan), Err(Violation::Target));
    plan = scene.plan();
    plan.action = Some(Action::ExpandClaim { ordinal: 1, uid: "claim-1".into(), size: "1Ki".into() });
    let mut larger = scene.observed.clone();
    larger.volumes.insert(1, Volume { requested: "1Gi".into(), ..Default::default() });
    assert_eq!(check(&scene.cluster, &larger, &plan), Err(Violation::Shrink(1)));
}
