//! TLS that is turned on or off while a cluster serves. Members come to speak both first; then the store learns, member by member,
//! how they reach each other from now on; then they give up what is not asked for any more. Between any two of these steps each
//! member can reach each other one.

use super::{Action, Observed, Situation, Step};
use crate::crd::{EtcdCluster, MemberTemplate, Phase, RolloutStatus, Transport};

/// What members are to speak next on the way to what the spec asks for, if all of them speak what is in `settled`.
pub(super) fn next(
    cluster: &EtcdCluster,
    observed: &Observed,
    settled: Option<&MemberTemplate>,
    rollout: Option<&RolloutStatus>,
) -> Transport {
    let asked = cluster.spec.transport();
    let members: Vec<_> = observed.store.members().iter().filter(|member| member.ordinal.is_some()).collect();
    let now = match (settled, members.first()) {
        (Some(settled), _) => settled.transport,
        // Made by an earlier operator.
        (None, Some(member)) if member.secure => Transport::Tls,
        (None, Some(_)) => Transport::Plain,
        // Nobody answers: what pods were told.
        (None, None) => observed.pods.values().find_map(|pod| pod.transport).unwrap_or(asked),
    };
    let begun = rollout.map(|rollout| rollout.refused.as_ref().unwrap_or(&rollout.target).transport);
    match (now, asked) {
        // Nobody tells whether another step may be taken.
        _ if members.is_empty() => begun.unwrap_or(now),
        // What leads there goes on, whatever becomes of certificates meanwhile.
        _ if begun == Some(asked) => asked,
        (now, asked) if begun == Some(Transport::Both) && now != asked => Transport::Both,
        (now, asked) if now == asked => asked,
        (Transport::Plain, _) if !has_certificates(observed) => Transport::Plain,
        (Transport::Plain | Transport::Tls, _) => Transport::Both,
        (Transport::Both, asked) => {
            let moved = members.iter().all(|member| member.secure == (asked == Transport::Tls));
            if moved { asked } else { Transport::Both }
        }
    }
}

/// The next member that others are to reach in another way. All speak both.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    let course = &situation.course;
    let is_between = course.settled.as_ref().is_some_and(|settled| settled.transport == Transport::Both);
    let speaks_both = |ordinal| {
        let pod = situation.observed.pods.get(&ordinal);
        pod.is_some_and(|pod| pod.transport == Some(Transport::Both))
    };
    let mut members = situation.observed.store.members().iter();
    let all_do = members.clone().filter_map(|member| member.ordinal).all(speaks_both);
    if !is_between || !all_do || course.is_in_flight() || !situation.silent_voters().is_empty() {
        return None;
    }
    let secure = situation.cluster.spec.tls.is_some();
    let member = members.find(|member| member.ordinal.is_some() && member.secure != secure)?;
    let (ordinal, id) = (member.ordinal?, member.id);
    let how = if secure { "TLS" } else { "plaintext" };
    let reason = format!("members are to reach each other by {how}");
    Some(Step::act(Action::MovePeer { ordinal, id, secure }, Phase::RollingOut, reason))
}

/// What TLS cannot be turned on without.
pub(super) fn wait(situation: &Situation) -> Option<Step> {
    let settled = situation.course.settled.as_ref()?;
    let lacks = settled.transport == Transport::Plain
        && situation.cluster.spec.tls.is_some()
        && !has_certificates(situation.observed);
    let what = "certificates of all members (status.tls)";
    lacks.then(|| Step::wait(what, Phase::RollingOut, "TLS is to be turned on"))
}

/// Whether the operator and every member can show a certificate.
fn has_certificates(observed: &Observed) -> bool {
    use super::tls::Holder;
    let holders = observed.store.members().iter().filter_map(|member| member.ordinal).map(Holder::Member);
    let mut holders = holders.chain([Holder::Operator, Holder::Client]);
    holders.all(|holder| observed.tls.held.get(&holder).is_some_and(|held| !held.leaves.is_empty()))
}
