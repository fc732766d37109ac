//! A second opinion on every plan. It shares no code with the planner: each safety rule is read off the plan and the observation
//! anew, and a plan that breaks one is never acted on.

use thiserror::Error;

use super::auth::AuthWrite;
use super::tls::{Held, Holder, Write};
use super::{Action, Alarm, AlarmKind, Member, Observed, Plan, Start, Store};
use crate::build;
use crate::crd::{EtcdCluster, MemberTemplate, OperationKind, RolloutStage, RolloutStatus, Transport, bytes};
use crate::names::{DISARM, RECOVER_FROM};

/// A plan that must not be carried out.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Violation {
    /// The voters left would not be a working quorum.
    #[error("{0} would leave {1} healthy voters where {2} are needed")]
    Quorum(String, usize, usize),
    /// There already is a learner.
    #[error("a second learner would be added")]
    SecondLearner,
    /// The member to be promoted is not a learner that answers.
    #[error("a member that is no healthy learner would be promoted")]
    Promotion,
    /// A member would start as the first of a new cluster although the cluster exists.
    #[error("a member would start as new although the cluster exists")]
    BootstrapTwice,
    /// A member that has started before would be allowed to start with an empty directory.
    #[error("member {0} could start again without its data")]
    StartsEmpty(u32),
    /// The others may still be there, or nobody asked for it.
    #[error("member {0} would go on without the others")]
    Alone(u32),
    /// Something would be deleted that a member still uses.
    #[error("{0}, but it is still in use")]
    InUse(String),
    /// The object is not of this EtcdCluster.
    #[error("{0}, but it belongs to another owner")]
    Foreign(String),
    /// The step needs a member list confirmed by a quorum of the right cluster.
    #[error("{0} without a confirmed member list of the right cluster")]
    Unconfirmed(String),
    /// Leadership would go to a member that cannot lead.
    #[error("leadership would move to a member that cannot lead")]
    Successor,
    /// Certificates would be written that somebody does not accept yet.
    #[error("{0}, but {1}")]
    Distrust(String, String),
    /// Nobody would know root's password afterwards.
    #[error("{0} before root's password is kept")]
    LockedOut(String),
    /// The cause of an alarm is still there.
    #[error("{0} although its cause is still there")]
    Armed(String),
    /// Members would be stopped although some are asked for.
    #[error("members would be parked although some are asked for")]
    Parked,
    /// What is rolled out would change while it is.
    #[error("the target of a rollout would change before it has ended")]
    Target,
    /// A member would get a template before it is its turn.
    #[error("member {0} would get another template although it is not its turn")]
    Turn(u32),
    /// Others could not reach the member, or it could not reach them.
    #[error("member {0} would speak what others do not")]
    Transport(u32),
    /// A claim would ask for less than it has.
    #[error("the volume of member {0} would shrink")]
    Shrink(u32),
    /// Something would be changed while paused.
    #[error("{0} while paused")]
    Paused(String),
}

/// Judges a plan. An error means that the planner is wrong; nothing is done then.
pub fn check(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    if cluster.spec.paused && (plan.action.is_some() || plan.apply_children) {
        return Err(Violation::Paused("something would change".into()));
    }
    let may_park = cluster.spec.size == 0 && !cluster.spec.in_memory();
    if !may_park && plan.members.values().any(|start| *start == Start::Parked) {
        return Err(Violation::Parked);
    }
    starts(cluster, observed, plan)?;
    certificates(observed, plan)?;
    authentication(observed, plan)?;
    templates(cluster, observed, plan)?;
    let Some(action) = &plan.action else {
        return Ok(());
    };
    match action {
        Action::AddFinalizer
        | Action::Bootstrap
        | Action::Park
        | Action::ForgetRequest { .. }
        | Action::RemoveFinalizer => Ok(()),
        Action::AddLearner { ordinal } => {
            let members = confirmed(cluster, observed, action)?;
            if members.iter().any(|member| member.learner) {
                return Err(Violation::SecondLearner);
            }
            let used = observed.claims.contains_key(ordinal)
                || observed.pods.contains_key(ordinal)
                || observed.statefulsets.contains_key(ordinal)
                || members.iter().any(|member| member.ordinal == Some(*ordinal));
            if used {
                return Err(Violation::InUse(action.to_string()));
            }
            majority(observed, action, members, |_| true)
        }
        Action::LetStart { ordinal, uid } => first_start(observed, plan, *ordinal, uid),
        Action::Promote { id, .. } => promotion(cluster, observed, action, *id),
        Action::MovePeer { ordinal, .. } => {
            let members = confirmed(cluster, observed, action)?;
            let both = |member: &Member| {
                let pod = member.ordinal.and_then(|ordinal| observed.pods.get(&ordinal));
                pod.is_some_and(|pod| pod.transport == Some(Transport::Both))
            };
            match members.iter().all(both) {
                true => majority(observed, action, members, |_| true),
                false => Err(Violation::Transport(*ordinal)),
            }
        }
        Action::MoveLeader { to, .. } => {
            let members = confirmed(cluster, observed, action)?;
            let able = |member: &Member| member.id == *to && !member.learner && up(observed, member);
            match members.iter().any(able) {
                true => Ok(()),
                false => Err(Violation::Successor),
            }
        }
        Action::RemoveMember { id, .. } => {
            let members = confirmed(cluster, observed, action)?;
            majority(observed, action, members, |member| member.id != *id)
        }
        Action::DeleteStatefulSet { ordinal, .. } => {
            let needs_nobody = recovers_without(cluster, observed, plan, *ordinal);
            if !needs_nobody && !founded_in_vain(cluster, observed, *ordinal) {
                unused(cluster, observed, action, *ordinal)?;
            }
            ours(observed.statefulsets.get(ordinal).is_some_and(|it| it.ours), action)
        }
        Action::DeleteClaim { ordinal, .. } => {
            unused(cluster, observed, action, *ordinal)?;
            let used = observed.pods.contains_key(ordinal) || observed.statefulsets.contains_key(ordinal);
            if used {
                return Err(Violation::InUse(action.to_string()));
            }
            ours(observed.claims.get(ordinal).is_some_and(|it| it.ours), action)
        }
        Action::RestartPod { ordinal, .. } if cluster.spec.in_memory() && exists(cluster) => {
            Err(Violation::StartsEmpty(*ordinal))
        }
        Action::RestartPod { ordinal, .. } if ends_solitude(observed, *ordinal) => Ok(()),
        Action::RestartPod { ordinal, .. } if asked_for(cluster, observed, plan, *ordinal) => Ok(()),
        Action::RestartPod { ordinal, .. } => restart(cluster, observed, action, *ordinal),
        Action::ExpandClaim { ordinal, size, .. } => {
            ours(observed.claims.get(ordinal).is_some_and(|it| it.ours), action)?;
            let has = observed.volumes.get(ordinal).and_then(|volume| bytes(&volume.requested));
            match has < bytes(size) {
                true => Ok(()),
                false => Err(Violation::Shrink(*ordinal)),
            }
        }
        Action::FreeSpace { id, .. } | Action::Defragment { id, .. } => {
            let members = confirmed(cluster, observed, action)?;
            let victim = members.iter().find(|member| member.id == *id && up(observed, member));
            victim.ok_or_else(|| Violation::InUse(action.to_string()))?;
            majority(observed, action, members, |_| true)
        }
        Action::Disarm { member, kind } => disarm(cluster, observed, action, Alarm { member: *member, kind: *kind }),
    }
}

/// A person asked that this member goes on alone, and no quorum answers.
fn asked_for(cluster: &EtcdCluster, observed: &Observed, plan: &Plan, survivor: u32) -> bool {
    let name = format!("{}-{survivor}", cluster.metadata.name.as_deref().unwrap_or_default());
    let annotations = cluster.metadata.annotations.as_ref();
    let asked = annotations.and_then(|it| it.get(RECOVER_FROM)) == Some(&name);
    let recorded = cluster.status.as_ref().and_then(|status| status.operation.as_ref());
    let begun = recorded.is_some_and(|it| it.kind == OperationKind::RecoverQuorum && it.member == name);
    let planned = plan.operation.as_ref().is_some_and(|it| it.kind == OperationKind::RecoverQuorum);
    planned && (asked || begun) && observed.store == Store::Silent
}

/// The others, whose StatefulSet is one of them, are to be left behind.
fn recovers_without(cluster: &EtcdCluster, observed: &Observed, plan: &Plan, ordinal: u32) -> bool {
    let mut survivors = plan.members.keys();
    let survivor = survivors.next().copied().filter(|survivor| *survivor != ordinal && survivors.next().is_none());
    survivor.is_some_and(|survivor| asked_for(cluster, observed, plan, survivor))
}

/// The status knows of a cluster.
fn exists(cluster: &EtcdCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some())
}

/// The first member had its data in memory, and lost them before there was a cluster.
fn founded_in_vain(cluster: &EtcdCluster, observed: &Observed, ordinal: u32) -> bool {
    let held = observed.statefulsets.get(&ordinal).and_then(|it| it.data_pod.as_ref());
    let there = observed.pods.get(&ordinal).filter(|pod| !pod.deleting).map(|pod| &pod.uid);
    let lost = held.is_some() && held != there;
    cluster.spec.in_memory() && !exists(cluster) && observed.store == Store::Silent && lost
}

/// The memory of a pod is empty: only a member that never had data starts in it, and in the first pod of its StatefulSet.
fn first_start(observed: &Observed, plan: &Plan, ordinal: u32, uid: &str) -> Result<(), Violation> {
    let pod = observed.pods.get(&ordinal).filter(|pod| pod.ours && pod.gated && pod.uid == uid);
    let its = observed.statefulsets.get(&ordinal).filter(|it| it.ours);
    let owned = pod.and_then(|pod| pod.owner.as_ref()) == its.map(|it| &it.uid) && pod.is_some();
    let is_first = its.is_some_and(|it| it.data_pod.as_ref().is_none_or(|recorded| recorded == uid));
    let start = plan.members.get(&ordinal);
    let begins = matches!(start, Some(Start::Seed | Start::Recover(_) | Start::Join(_)));
    match owned && is_first && begins {
        true => Ok(()),
        false => Err(Violation::StartsEmpty(ordinal)),
    }
}

/// The only member of the cluster would leave all others behind again, if it was started once more as it is.
fn ends_solitude(observed: &Observed, ordinal: u32) -> bool {
    let pod = observed.pods.get(&ordinal).filter(|pod| pod.ours);
    let alone = pod.and_then(|pod| pod.config_hash.as_deref()).is_some_and(|hash| hash.ends_with("-alone"));
    let only = matches!(observed.store.members(), [member] if member.ordinal == Some(ordinal));
    alone && only
}

/// A member answers and sees a leader, and its pod is not on its way out.
fn up(observed: &Observed, member: &Member) -> bool {
    let pod = member.ordinal.and_then(|n| observed.pods.get(&n));
    let leaving = pod.is_some_and(|pod| pod.deleting);
    !leaving && matches!(&member.answer, Some(answer) if answer.leader != 0)
}

fn ours(is_ours: bool, action: &Action) -> Result<(), Violation> {
    match is_ours {
        true => Ok(()),
        false => Err(Violation::Foreign(action.to_string())),
    }
}

/// The member list, if it is that of the cluster which the status records.
fn confirmed<'a>(cluster: &EtcdCluster, observed: &'a Observed, action: &Action) -> Result<&'a [Member], Violation> {
    let recorded = cluster.status.as_ref().and_then(|status| status.cluster_id.as_ref());
    match (&observed.store, recorded) {
        (Store::Listed { cluster_id, members }, Some(recorded)) if format!("{cluster_id:x}") == *recorded => {
            Ok(members)
        }
        _ => Err(Violation::Unconfirmed(action.to_string())),
    }
}

/// Of the voters that are left, more than half must be up.
fn majority(
    observed: &Observed,
    action: &Action,
    members: &[Member],
    left: impl Fn(&Member) -> bool,
) -> Result<(), Violation> {
    let rest: Vec<&Member> = members.iter().filter(|member| !member.learner && left(member)).collect();
    let alive = rest.iter().filter(|member| up(observed, member)).count();
    match alive * 2 > rest.len() {
        true => Ok(()),
        false => {
            let needed = rest.len() / 2 + 1;
            Err(Violation::Quorum(action.to_string(), alive, needed))
        }
    }
}

fn promotion(cluster: &EtcdCluster, observed: &Observed, action: &Action, id: u64) -> Result<(), Violation> {
    let members = confirmed(cluster, observed, action)?;
    let is_ready = |member: &Member| member.id == id && member.learner && member.started && up(observed, member);
    // One of which it is not known which pod has its data could not be told from one that lost them.
    let on_record = |ordinal: u32| {
        let held = observed.statefulsets.get(&ordinal).and_then(|it| it.data_pod.as_ref());
        held.is_some() && held == observed.pods.get(&ordinal).map(|pod| &pod.uid)
    };
    let is_known = |member: &&Member| !cluster.spec.in_memory() || member.ordinal.is_some_and(on_record);
    if !members.iter().filter(is_known).any(is_ready) {
        return Err(Violation::Promotion);
    }
    majority(observed, action, members, |_| true)?;
    let voters = members.iter().filter(|member| !member.learner).count() + 1;
    let alive = members.iter().filter(|member| !member.learner && up(observed, member)).count() + 1;
    match alive * 2 > voters {
        true => Ok(()),
        false => Err(Violation::Quorum(action.to_string(), alive, voters / 2 + 1)),
    }
}

/// A corrupt member must have left, or a person must know better than a store that does not know whose data is wrong; of a full
/// store, no member may be near its quota.
fn disarm(cluster: &EtcdCluster, observed: &Observed, action: &Action, alarm: Alarm) -> Result<(), Violation> {
    let members = confirmed(cluster, observed, action)?;
    let full = |member: &Member| {
        let answer = member.answer.as_ref();
        answer.is_some_and(|answer| answer.db_quota > 0 && answer.db_size >= answer.db_quota)
    };
    let annotations = cluster.metadata.annotations.as_ref();
    let asked = annotations.and_then(|it| it.get(DISARM)).is_some_and(|kind| kind == alarm.kind.as_str());
    let remains = match alarm.kind {
        AlarmKind::Corrupt if alarm.member == 0 => !asked,
        AlarmKind::Corrupt => members.iter().any(|member| member.id == alarm.member),
        AlarmKind::NoSpace => members.iter().any(full),
    };
    match remains {
        true => Err(Violation::Armed(action.to_string())),
        false => Ok(()),
    }
}

/// A listed member still needs its objects, except when the whole cluster is being deleted.
fn unused(cluster: &EtcdCluster, observed: &Observed, action: &Action, ordinal: u32) -> Result<(), Violation> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let members = confirmed(cluster, observed, action)?;
    match members.iter().any(|member| member.ordinal == Some(ordinal)) {
        true => Err(Violation::InUse(action.to_string())),
        false => Ok(()),
    }
}

/// A pod whose process runs is stopped only when the others carry the cluster; one that serves nobody may go at any time.
fn restart(cluster: &EtcdCluster, observed: &Observed, action: &Action, ordinal: u32) -> Result<(), Violation> {
    let Some(pod) = observed.pods.get(&ordinal) else {
        return Err(Violation::InUse(action.to_string()));
    };
    ours(pod.ours, action)?;
    if !pod.running {
        return Ok(());
    }
    let members = confirmed(cluster, observed, action)?;
    let voters: Vec<&Member> = members.iter().filter(|member| !member.learner).collect();
    let victim = |member: &&&Member| member.ordinal == Some(ordinal);
    if !voters.iter().any(|voter| victim(&voter)) {
        return Ok(());
    }
    let alive = voters.iter().filter(|voter| !victim(voter) && up(observed, voter)).count();
    let all_others_up = alive + 1 == voters.len();
    match all_others_up && (alive * 2 > voters.len() || cluster.spec.rollout.allow_interruption) {
        true => Ok(()),
        false => {
            let needed = voters.len() / 2 + 1;
            Err(Violation::Quorum(action.to_string(), alive, needed))
        }
    }
}

/// A new authority counts only after all trust it, an old one is dropped only after nobody needs it, and members change their
/// certificates one at a time unless they are about to expire.
fn certificates(observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let Some(tls) = &plan.tls else {
        return Ok(());
    };
    let seen = &observed.tls;
    let listed: Vec<u32> = observed.store.members().iter().filter_map(|member| member.ordinal).collect();
    let authority = seen.authority.clone().unwrap_or_default();
    for write in &tls.writes {
        let refuse = |why: String| Err(Violation::Distrust(write.to_string(), why));
        let listed_or_refuse = || match observed.store {
            Store::Listed { .. } if tls.writes.len() == 1 => Ok(()),
            Store::Listed { .. } => Err(Violation::Distrust(write.to_string(), "other writes go with it".into())),
            _ => Err(Violation::Unconfirmed(write.to_string())),
        };
        match write {
            Write::Promote => {
                listed_or_refuse()?;
                let knows = |held: &Held| authority.next.iter().all(|root| held.bundle.contains(&root.fingerprint));
                if let Some((holder, _)) = seen.held.iter().find(|(_, held)| !knows(held)) {
                    return refuse(format!("{holder} was not told of it"));
                }
                if let Some(ordinal) = listed.iter().find(|ordinal| !seen.trusts_next(**ordinal)) {
                    return refuse(format!("member {ordinal} does not trust it"));
                }
            }
            Write::Drop => {
                listed_or_refuse()?;
                let renewed = |held: &Held| held.leaves.iter().all(|leaf| authority.signed(leaf));
                if let Some((holder, _)) = seen.held.iter().find(|(_, held)| !renewed(held)) {
                    return refuse(format!("{holder} has a certificate of it"));
                }
                let shows = |ordinal: &u32| {
                    let held = seen.held.get(&Holder::Member(*ordinal)).and_then(Held::shown);
                    held.is_some() && held == seen.served.get(ordinal).map(String::as_str)
                };
                if let Some(ordinal) = listed.iter().find(|ordinal| !shows(ordinal)) {
                    return refuse(format!("member {ordinal} may show a certificate of it"));
                }
            }
            Write::Remove(Holder::Member(ordinal)) if listed.contains(ordinal) => {
                return Err(Violation::InUse(write.to_string()));
            }
            _ => {}
        }
    }
    let replaced = tls.writes.iter().filter(|write| match write {
        Write::Issue(holder @ Holder::Member(_)) => seen.held.get(holder).is_some_and(|held| {
            !held.leaves.is_empty()
                && held.leaves.iter().all(|leaf| seen.now < leaf.not_after - (leaf.not_after - leaf.not_before) / 10)
        }),
        _ => false,
    });
    match replaced.count() {
        0 | 1 => Ok(()),
        _ => Err(Violation::Distrust("members' certificates".into(), "more than one at a time".into())),
    }
}

/// The store is given a password only when it is in a Secret.
fn authentication(observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let seen = &observed.auth;
    match plan.auth.as_ref().and_then(|auth| auth.write) {
        Some(write @ (AuthWrite::Enable | AuthWrite::Rotate)) if seen.secret.is_none() || seen.lacks.is_some() => {
            Err(Violation::LockedOut(write.to_string()))
        }
        _ => Ok(()),
    }
}

/// A rollout that has begun keeps its target, unless it was stopped, or what there was before comes back. And no member gets it
/// unless it is written down that it was restarted for it.
fn templates(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let Some(recorded) = &cluster.status else {
        return Ok(());
    };
    let in_flight = |it: &&RolloutStatus| matches!(it.stage, RolloutStage::Progressing | RolloutStage::RollingBack);
    if let Some(before) = recorded.rollout.as_ref().filter(in_flight) {
        let target = plan.rollout.as_ref().map(|rollout| &rollout.target);
        let goes_on = target == Some(&before.target);
        let goes_back = target.is_some() && target == recorded.template.as_ref();
        let complete = plan.template.as_ref() == Some(&before.target);
        if !goes_on && !goes_back && !complete {
            return Err(Violation::Target);
        }
    }
    let cluster_name = cluster.metadata.name.as_deref().unwrap_or_default();
    let name = |ordinal: &u32| format!("{cluster_name}-{ordinal}");
    let is_member = |ordinal: &u32| match observed.store {
        Store::Listed { .. } => observed.store.by_ordinal(*ordinal).is_some(),
        _ => recorded.members.iter().any(|member| member.name == name(ordinal)),
    };
    for (ordinal, template) in &plan.templates {
        // With the one that is to be replaced, all others must be able to talk.
        let others = observed.pods.iter().filter(|(other, _)| *other != ordinal && is_member(other));
        let mut others = others.map(|(_, pod)| pod.transport);
        let mut members = observed.store.members().iter().filter(|member| member.ordinal.is_some());
        let cut_off = match template.transport {
            Transport::Plain => members.any(|it| it.secure) || others.any(|it| it == Some(Transport::Tls)),
            Transport::Both => false,
            Transport::Tls => members.any(|it| !it.secure) || others.any(|it| it == Some(Transport::Plain)),
        };
        if cut_off {
            return Err(Violation::Transport(*ordinal));
        }
    }
    let Some(settled) = &plan.template else {
        return Ok(());
    };
    let voters = observed.store.voters().count();
    for (ordinal, template) in plan.templates.iter().filter(|_| voters >= 3) {
        let named = |it: &RolloutStatus| it.members.contains(&name(ordinal)) && it.target == *template;
        let turn = plan.rollout.as_ref().is_some_and(named);
        let alike = |one: &MemberTemplate, other: &MemberTemplate| {
            let hash = |template| build::config_hash(&build::with_template(cluster, template));
            one == other || (one.image == other.image && hash(one) == hash(other))
        };
        if !turn && !alike(template, settled) {
            return Err(Violation::Turn(*ordinal));
        }
    }
    Ok(())
}

/// How members would start: as new only before a cluster id is known, and never empty once they have started.
fn starts(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let exists = exists(cluster) || !matches!(observed.store, Store::Silent);
    for (ordinal, start) in &plan.members {
        match start {
            Start::Seed | Start::Recover(_) if exists || plan.members.len() > 1 => {
                return Err(Violation::BootstrapTwice);
            }
            Start::Seed | Start::Recover(_) | Start::Settled | Start::Parked => {}
            Start::Alone => {
                let there = observed.pods.keys().chain(observed.statefulsets.keys());
                let others = plan.members.keys().chain(there).any(|other| other != ordinal);
                if others || !asked_for(cluster, observed, plan, *ordinal) {
                    return Err(Violation::Alone(*ordinal));
                }
            }
            Start::Join(_) => {
                let mut members = observed.store.members().iter();
                let fresh = |member: &Member| member.ordinal == Some(*ordinal) && !member.started && member.learner;
                if !members.any(fresh) {
                    return Err(Violation::StartsEmpty(*ordinal));
                }
            }
        }
    }
    Ok(())
}
