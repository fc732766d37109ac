//! What is reported of a cluster: a function of what was seen, what is planned, and what was reported before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::build;
use crate::crd::{
    AuthStatus, CertificateStatus, EtcdCluster, EtcdClusterStatus, MemberStatus, NextAction, OperationKind, Phase,
    Replacement, Role, RolloutStage, TlsStatus, bytes,
};
use crate::names::Names;
use crate::plan::tls::Write;
use crate::plan::{Action, Member, Observed, Plan, Store, healthy, hex, quorum, tag};

/// How many replacements are remembered: as many as `spec.repair.limit` may say.
const REPLACEMENTS_KEPT: usize = 16;

/// The status of a pass: of one with a step stored before the step is taken, with the `error` of the last pass; of one without
/// stored after the children were applied, with the `error` of that.
pub fn render(
    cluster: &EtcdCluster,
    observed: &Observed,
    plan: &Plan,
    error: Option<&str>,
    now: Timestamp,
) -> EtcdClusterStatus {
    let names = Names::of(cluster);
    let recorded = cluster.status.clone().unwrap_or_default();
    let members = members(&names, observed, &recorded, now);
    let lowest = members.iter().filter_map(|member| member.version.as_ref());
    let lowest = lowest.min_by_key(|version| numbers(version)).cloned();
    let leads = |member: &&MemberStatus| member.role == Role::Leader && member.healthy;
    let leader = members.iter().find(leads);
    let voters = i32::try_from(observed.store.voters().count()).unwrap_or(i32::MAX);
    let formed = recorded.formed || (voters > 0 && cluster.spec.size > 0 && voters >= cluster.spec.size);
    let selector: Vec<String> = names.selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut status = EtcdClusterStatus {
        observed_generation: cluster.metadata.generation,
        phase: plan.phase,
        reason: plan.reason.clone(),
        cluster_id: plan.cluster_id.map(hex).or(recorded.cluster_id.clone()),
        formed,
        size: i32::try_from(members.len()).unwrap_or(i32::MAX),
        ready_members: i32::try_from(healthy(observed.store.voters())).unwrap_or(i32::MAX),
        selector: selector.join(","),
        leader: leader.map(|member| member.name.clone()),
        version: lowest.or(recorded.version.clone()),
        server_version: server_version(&members),
        members,
        next_action: next_action(&names, plan, error),
        operation: plan.operation.clone(),
        template: plan.template.clone(),
        rollout: plan.rollout.clone(),
        volume_size: volume_size(observed).or(recorded.volume_size.clone()),
        alarms: alarms(&names, observed),
        replacements: replacements(&recorded, plan, now),
        space: plan.space.clone(),
        tls: tls(cluster, observed, plan),
        auth: auth(cluster, observed, plan),
        conditions: Vec::new(),
    };
    status.conditions = conditions(cluster, observed, plan, error, formed, now);
    status
}

/// The tags of the images that members run, each once, in the order of the members.
fn server_version(members: &[MemberStatus]) -> Option<String> {
    let mut tags: Vec<&str> = Vec::new();
    for image in members.iter().filter_map(|member| member.image.as_deref()) {
        let tag = tag(image);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    (!tags.is_empty()).then(|| tags.join(", "))
}

/// Whether `new` says anything that a person or a program would miss. Values that move all the time do not count: the log index
/// never, the database's size when it doubled or halved.
pub fn worth_writing(old: Option<&EtcdClusterStatus>, new: &EtcdClusterStatus) -> bool {
    let Some(old) = old else {
        return true;
    };
    let mut calm = new.clone();
    for member in &mut calm.members {
        let Some(before) = old.members.iter().find(|before| before.id == member.id) else {
            return true;
        };
        member.raft_index = before.raft_index;
        if let (Some(was), Some(is)) = (before.db_size, member.db_size)
            && is <= was.saturating_mul(2)
            && was <= is.saturating_mul(2)
        {
            member.db_size = before.db_size;
        }
        if member.db_size.is_none() {
            member.db_size = before.db_size;
        }
    }
    calm != *old
}

/// The largest size that a member's volume was asked to have.
fn volume_size(observed: &Observed) -> Option<String> {
    let members = observed.store.members().iter().filter_map(|member| member.ordinal);
    let volumes = members.filter_map(|ordinal| observed.volumes.get(&ordinal));
    let sizes = volumes.filter_map(|volume| Some((bytes(&volume.requested)?, &volume.requested)));
    sizes.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, size)| size.clone())
}

/// Alarms in a person's words.
fn alarms(names: &Names, observed: &Observed) -> Vec<String> {
    let alarms = observed.alarms.iter().map(|alarm| {
        let mut members = observed.store.members().iter();
        let ordinal = members.find(|member| member.id == alarm.member).and_then(|member| member.ordinal);
        let whose = ordinal.map_or_else(|| format!("member {:x}", alarm.member), |ordinal| names.member(ordinal));
        format!("{} of {whose}", alarm.kind.as_str())
    });
    alarms.collect()
}

/// What was replaced, and what is about to be: each member once.
fn replacements(recorded: &EtcdClusterStatus, plan: &Plan, now: Timestamp) -> Vec<Replacement> {
    let mut list = recorded.replacements.clone();
    let replacing = plan.operation.as_ref().filter(|operation| operation.kind == OperationKind::ReplaceMember);
    if let (Some(operation), Some(Action::RemoveMember { id, .. })) = (replacing, &plan.action)
        && !list.iter().any(|it| it.member_id == hex(*id))
    {
        let (member, member_id) = (operation.member.clone(), hex(*id));
        list.push(Replacement { time: Time(now), member, member_id, reason: plan.reason.clone() });
    }
    list.split_off(list.len().saturating_sub(REPLACEMENTS_KEPT))
}

fn members(names: &Names, observed: &Observed, recorded: &EtcdClusterStatus, now: Timestamp) -> Vec<MemberStatus> {
    // Without a quorum nobody is late: the time of each begins when the others are back.
    let Store::Listed { members, .. } = &observed.store else {
        let silent = recorded.members.iter();
        return silent.map(|it| MemberStatus { healthy: false, down_since: None, ..it.clone() }).collect();
    };
    let leader = observed.store.leader();
    members
        .iter()
        .map(|member| {
            let id = hex(member.id);
            let before = recorded.members.iter().find(|before| before.id == id);
            let down_since = before.and_then(|before| before.down_since.clone());
            let down_since = (!member.healthy()).then(|| down_since.unwrap_or(Time(now)));
            MemberStatus { down_since, ..member_status(names, observed, member, before, leader) }
        })
        .collect()
}

fn member_status(
    names: &Names,
    observed: &Observed,
    member: &Member,
    before: Option<&MemberStatus>,
    leader: Option<u64>,
) -> MemberStatus {
    let pod = member.ordinal.and_then(|n| observed.pods.get(&n));
    let image = pod.and_then(|pod| pod.image.clone());
    let claim = member.ordinal.and_then(|n| observed.claims.get(&n));
    let claim_uid = claim.map(|claim| claim.uid.clone());
    let held_before = before.and_then(|before| before.claim_uid.clone());
    let answer = member.answer.as_ref();
    let version = answer.map(|answer| answer.version.clone());
    MemberStatus {
        name: member.ordinal.map(|n| names.member(n)).unwrap_or_default(),
        id: hex(member.id),
        role: match () {
            () if member.learner => Role::Learner,
            () if leader == Some(member.id) => Role::Leader,
            () => Role::Follower,
        },
        healthy: member.healthy(),
        down_since: None,
        endpoint: member.ordinal.map(|n| names.client_url(n)).unwrap_or_default(),
        version: version.or_else(|| before.and_then(|before| before.version.clone())),
        image: image.or_else(|| before.and_then(|before| before.image.clone())),
        db_size: answer.map(|answer| answer.db_size),
        raft_index: answer.and_then(|answer| i64::try_from(answer.raft_index).ok()),
        claim_uid: match member.healthy() {
            true => claim_uid.or(held_before),
            false => held_before,
        },
    }
}

fn next_action(names: &Names, plan: &Plan, error: Option<&str>) -> Option<NextAction> {
    let next = NextAction {
        action: plan.action.as_ref().map(|action| describe(names, action)),
        waiting_for: error.map(str::to_string).or(plan.waits()),
    };
    (next != NextAction::default()).then_some(next)
}

/// The action, with the member's name.
pub fn describe(names: &Names, action: &Action) -> String {
    match action {
        Action::AddLearner { ordinal } => format!("add {} as a learner", names.member(*ordinal)),
        Action::LetStart { ordinal, .. } => format!("let {} start", names.member(*ordinal)),
        Action::Promote { ordinal, .. } => format!("promote {}", names.member(*ordinal)),
        Action::RemoveMember { ordinal, .. } => {
            format!("remove {} from the members", names.member(*ordinal))
        }
        Action::DeleteStatefulSet { ordinal, .. } => {
            format!("delete StatefulSet {}", names.member(*ordinal))
        }
        Action::DeleteClaim { ordinal, .. } => format!("delete claim {}", names.claim(*ordinal)),
        Action::RestartPod { ordinal, .. } => format!("restart {}", names.member(*ordinal)),
        Action::ExpandClaim { ordinal, size, .. } => format!("expand claim {} to {size}", names.claim(*ordinal)),
        Action::MovePeer { ordinal, secure, .. } => {
            format!("have others reach {} at {}", names.member(*ordinal), names.peer_url_by(*ordinal, *secure))
        }
        Action::Defragment { ordinal, .. } => format!("defragment {}", names.member(*ordinal)),
        Action::FreeSpace { ordinal, .. } => format!("compact, and defragment {}", names.member(*ordinal)),
        other => other.to_string(),
    }
}

fn conditions(
    cluster: &EtcdCluster,
    observed: &Observed,
    plan: &Plan,
    error: Option<&str>,
    formed: bool,
    now: Timestamp,
) -> Vec<Condition> {
    let recorded = cluster.status.as_ref();
    let voters = observed.store.voters().count();
    let up = healthy(observed.store.voters());
    let serving = voters > 0 && up >= quorum(voters);
    let deleting = plan.phase == Phase::Deleting;
    let progressing = matches!(
        plan.phase,
        Phase::Pending
            | Phase::Bootstrapping
            | Phase::ScalingOut
            | Phase::ScalingIn
            | Phase::Repairing
            | Phase::RollingOut
            | Phase::Expanding
            | Phase::Recovering
            | Phase::Parking
            | Phase::Resuming
            | Phase::Deleting
    );
    let stalled = plan.phase == Phase::Blocked;
    let forming = matches!(plan.phase, Phase::Pending | Phase::Bootstrapping | Phase::Parking);
    let troubled = matches!(
        plan.phase,
        Phase::Degraded | Phase::Unavailable | Phase::Blocked | Phase::Repairing | Phase::Recovering
    );
    let degraded = error.is_some() || troubled || (up < voters && !forming && !deleting);
    let parked = matches!(plan.phase, Phase::Parking | Phase::Parked);
    let at_rest = matches!(plan.phase, Phase::Running | Phase::Parked);
    let reason = match (plan.phase, plan.rollout.as_ref().map(|rollout| rollout.stage)) {
        (Phase::Blocked, Some(RolloutStage::Stopped)) => "ProgressDeadlineExceeded".to_string(),
        (Phase::Blocked, Some(RolloutStage::RolledBack)) => "RolledBack".to_string(),
        (phase, _) => format!("{phase:?}"),
    };
    let availability = match (serving, formed) {
        _ if deleting => "the cluster is being deleted".to_string(),
        _ if parked => "no member is asked for".to_string(),
        (true, true) => format!("{up} of {voters} voting members answer"),
        (true, false) => format!("{voters} of {} members have joined", cluster.spec.size),
        (false, _) => "no quorum of members answers".to_string(),
    };
    let trouble = error.unwrap_or(&plan.reason);
    let certificates = certificates(cluster, observed, plan);
    let auth = auth_ready(cluster, observed, plan);
    let auth_due = auth.as_ref().is_some_and(|(ready, _)| !ready) && at_rest;
    let mut list = vec![
        ("Available", serving && formed && !deleting && !parked, availability.as_str()),
        ("Progressing", progressing, &plan.reason),
        ("Degraded", degraded, trouble),
        ("Ready", at_rest && error.is_none() && !auth_due, trouble),
        ("Reconciling", progressing || auth_due || (error.is_some() && !stalled), trouble),
        ("Stalled", stalled, &plan.reason),
    ];
    if let Some((ready, message)) = &certificates {
        list.push(("TLSReady", *ready, message));
    }
    if let Some((ready, message)) = &auth {
        list.push(("AuthReady", *ready, message));
    }
    let recorded = recorded.map_or(&[][..], |status| &status.conditions);
    dated(recorded, &list, &reason, cluster.metadata.generation, now)
}

/// Conditions (type, whether it holds, message) with the time since when each is as it is.
pub fn dated(
    recorded: &[Condition],
    list: &[(&str, bool, &str)],
    reason: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    list.iter()
        .map(|(type_, holds, message)| {
            let status = if *holds { "True" } else { "False" };
            let before = recorded.iter().find(|before| before.type_ == *type_);
            let since = before.filter(|before| before.status == status);
            Condition {
                type_: (*type_).into(),
                status: status.into(),
                reason: reason.into(),
                message: (*message).into(),
                observed_generation: generation,
                last_transition_time: since.map_or(Time(now), |before| before.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The certificates, as far as they were looked at in this pass; otherwise what was known before.
fn tls(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Option<TlsStatus> {
    cluster.spec.tls.as_ref()?;
    let recorded = cluster.status.as_ref().and_then(|status| status.tls.clone());
    let Some(tls) = &plan.tls else {
        return recorded;
    };
    let time = |seconds: i64| Time(Timestamp::from_second(seconds).unwrap_or_default());
    let expiring = build::expiring(&Names::of(cluster), &observed.tls).into_iter();
    let mut current = observed.tls.authority.iter().flat_map(|authority| &authority.current);
    Some(TlsStatus {
        stage: tls.stage,
        since: time(tls.since),
        waiting_for: tls.waiting_for.clone(),
        authority: current.next().map(|root| root.fingerprint.clone()),
        certificates: expiring
            .map(|(secret, not_after)| CertificateStatus { secret, not_after: time(not_after) })
            .collect(),
    })
}

/// Authentication, as far as it was looked at in this pass; otherwise what was known before.
fn auth(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Option<AuthStatus> {
    cluster.spec.auth.as_ref()?;
    let recorded = cluster.status.as_ref().and_then(|status| status.auth.clone());
    let Some(plan) = &plan.auth else {
        return recorded;
    };
    Some(AuthStatus {
        enabled: observed.auth.enabled.or(recorded.map(|recorded| recorded.enabled)).unwrap_or(false),
        root_secret: Names::of(cluster).root_secret(),
        waiting_for: plan.waiting_for.clone(),
    })
}

/// Whether authentication is as asked for, and if not why.
fn auth_ready(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Option<(bool, String)> {
    let wanted = cluster.spec.auth.as_ref()?;
    let auth = plan.auth.clone().unwrap_or_default();
    Some(match (auth.waiting_for, auth.write) {
        (Some(waiting_for), _) => (false, format!("waiting for {waiting_for}")),
        (None, Some(write)) => (false, format!("not yet done: {write}")),
        (None, None) if observed.auth.enabled != Some(wanted.enabled) => (false, "it was not looked at".into()),
        (None, None) if wanted.enabled => (true, "clients must say who they are".into()),
        (None, None) => (true, "everybody may do everything".into()),
    })
}

/// Whether members and clients have certificates that count, and why not. A change of authority is no lack.
fn certificates(cluster: &EtcdCluster, observed: &Observed, plan: &Plan) -> Option<(bool, String)> {
    cluster.spec.tls.as_ref()?;
    let expiring = build::expiring(&Names::of(cluster), &observed.tls);
    let lacking = plan.tls.iter().flat_map(|tls| &tls.writes).find(|write| match write {
        Write::Found => true,
        Write::Issue(holder) => !observed.tls.held.contains_key(holder),
        _ => false,
    });
    if let Some(write) = lacking {
        return Some((false, format!("not yet done: {write}")));
    }
    let waiting_for = plan.tls.as_ref().and_then(|tls| tls.waiting_for.as_ref());
    if expiring.is_empty() {
        let awaited = waiting_for.map(|what| format!("; waiting for {what}")).unwrap_or_default();
        return Some((false, format!("no certificates were made yet{awaited}")));
    }
    if let Some((secret, _)) = expiring.iter().find(|(_, not_after)| *not_after <= observed.tls.now) {
        return Some((false, format!("a certificate of Secret {secret} has expired")));
    }
    Some((
        true,
        match waiting_for {
            Some(waiting_for) => format!("certificates are being replaced; waiting for {waiting_for}"),
            None => "all certificates are valid".into(),
        },
    ))
}

/// The numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    let core = version.trim_start_matches('v');
    let core = core.split(['-', '+']).next().unwrap_or_default();
    core.split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
