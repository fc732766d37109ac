//! Members whose data are in memory (`spec.storage.medium: Memory`), and end with their pod.
//!
//! A StatefulSet makes another pod when one is gone, and its member must not start in it: it would have forgotten what it voted for and
//! acknowledged. So each pod is made with a scheduling gate. The operator writes the uid of the first one on the StatefulSet, and then
//! lifts the gate; it never does so for another pod of that StatefulSet, whose member is replaced. A restart of a pod is the loss of a
//! member, so nothing is restarted: what is rolled out comes with members that join before those leave that are outdated.

use super::quorum::{quorum, survives_promotion, survives_removal};
use super::{Action, Member, Situation, Step, rollout, scale};
use crate::build;
use crate::crd::{OperationKind, Phase, Role};

/// Lets the first pod of a member start that never had data.
pub(super) fn let_start(situation: &Situation, ordinal: u32) -> Option<Action> {
    let observed = situation.observed;
    let pod = observed.pods.get(&ordinal).filter(|pod| pod.ours && pod.gated && !pod.deleting)?;
    let statefulset = observed.statefulsets.get(&ordinal).filter(|it| it.ours && !it.deleting)?;
    let is_its_pod = pod.owner.as_ref() == Some(&statefulset.uid);
    // It was killed between its two steps, if the pod is on record.
    let is_first = statefulset.data_pod.as_ref().is_none_or(|recorded| *recorded == pod.uid);
    (is_its_pod && is_first).then(|| Action::LetStart { ordinal, uid: pod.uid.clone() })
}

/// Whether the member's pod is the one that is on record.
pub(super) fn is_on_record(situation: &Situation, ordinal: u32) -> bool {
    let observed = situation.observed;
    let recorded = observed.statefulsets.get(&ordinal).and_then(|it| it.data_pod.as_ref());
    recorded.is_some() && recorded == observed.pods.get(&ordinal).map(|pod| &pod.uid)
}

/// Whether the data of a member are gone, or about to be: a deletion that has begun cannot be taken back.
pub(super) fn is_lost(situation: &Situation, ordinal: u32, started: bool) -> bool {
    let observed = situation.observed;
    let pod = observed.pods.get(&ordinal);
    match observed.statefulsets.get(&ordinal).and_then(|it| it.data_pod.as_ref()) {
        Some(recorded) => pod.is_none_or(|pod| pod.uid != *recorded || pod.deleting),
        // Somebody deleted the StatefulSet, and it was made anew.
        None => started && pod.is_some_and(|pod| pod.gated),
    }
}

/// The first member was lost before the cluster existed: it begins once more, with another StatefulSet.
pub(super) fn begin_anew(situation: &Situation, ordinal: u32) -> Option<Action> {
    let statefulset = situation.observed.statefulsets.get(&ordinal).filter(|it| !it.deleting)?;
    let uid = statefulset.uid.clone();
    (situation.in_memory() && is_lost(situation, ordinal, false)).then_some(Action::DeleteStatefulSet { ordinal, uid })
}

/// Why no quorum will ever answer again, if so many members have lost their data.
pub(super) fn is_gone(situation: &Situation) -> Option<String> {
    let voters = situation.recorded.members.iter().filter(|member| member.role != Role::Learner);
    let voters: Vec<&String> = voters.map(|member| &member.name).collect();
    let lost = voters.iter().copied().filter(|name| {
        let ordinal = situation.names.ordinal_of(name);
        ordinal.is_some_and(|ordinal| is_lost(situation, ordinal, true))
    });
    let lost: Vec<&str> = lost.map(String::as_str).collect();
    let is_gone = situation.in_memory() && !voters.is_empty() && voters.len() - lost.len() < quorum(voters.len());
    is_gone.then(|| {
        format!("the data of {} are gone with their pods, and the other members are no quorum", lost.join(", "))
    })
}

/// How many members more than asked for there are while outdated ones are exchanged.
pub(super) fn surplus(situation: &Situation) -> usize {
    let observed = situation.observed;
    let mut pods = observed.store.voters().filter_map(|voter| observed.pods.get(&voter.ordinal?));
    let is_exchanged = situation.in_memory() && !rollout::is_stopped(situation);
    usize::from(is_exchanged && pods.any(|pod| rollout::is_outdated(situation, pod)))
}

/// Whether the process of a learner does not run, with what is not asked for any more: a wrong option or image that was corrected.
pub(super) fn is_obsolete(situation: &Situation, ordinal: u32) -> bool {
    let pod = situation.observed.pods.get(&ordinal).filter(|pod| !pod.running && !pod.deleting && !pod.gated);
    let Some(pod) = pod.filter(|_| situation.in_memory()) else {
        return false;
    };
    if !rollout::is_stopped(situation) {
        return rollout::is_outdated(situation, pod);
    }
    let template = situation.course.template_of(&situation.names.member(ordinal));
    let hash = build::config_hash(&build::with_template(situation.cluster, template));
    pod.config_hash.as_ref() != Some(&hash) || pod.image.as_ref() != Some(&template.image)
}

/// The next step to be rid of an outdated voter: another member joins first, so that at no time fewer members have the data than are
/// asked for.
pub(super) fn exchange(situation: &Situation, outdated: &Member, ordinal: u32) -> Step {
    let store = &situation.observed.store;
    let (name, edits) = (situation.names.member(ordinal), situation.course.edits_wait());
    let wait = |what: String| {
        let reason = format!("members are exchanged one at a time, and only while all others are healthy{edits}");
        Step::wait(what, Phase::RollingOut, reason)
    };
    let mut silent = situation.silent_voters();
    silent.retain(|other| *other != ordinal);
    if !silent.is_empty() {
        return wait(situation.expect(&silent, "to be healthy"));
    }
    let asked_for = usize::try_from(situation.cluster.spec.size).unwrap_or(0);
    if store.voters().count() <= asked_for {
        if !survives_promotion(store.voters()) {
            return wait("more voters to be healthy: a further vote would raise the quorum".into());
        }
        let newcomer = scale::free_ordinal(situation);
        let operation = situation.operation(OperationKind::AddMember, newcomer, None);
        let reason = format!(
            "{} joins with the current template, and then {name} leaves{edits}",
            situation.names.member(newcomer)
        );
        return Step::act(Action::AddLearner { ordinal: newcomer }, Phase::RollingOut, reason).during(operation);
    }
    if !survives_removal(store.voters(), outdated.id) {
        return wait(format!("a quorum of the members other than {name} to be healthy"));
    }
    let operation = situation.operation(OperationKind::RemoveMember, ordinal, Some(outdated.id));
    let reason = format!("{name} leaves, as another member has come with the current template{edits}");
    let successor = store.voters().find(|other| other.id != outdated.id && other.healthy());
    let action = match successor.filter(|_| store.leader() == Some(outdated.id)) {
        Some(successor) => Action::MoveLeader { from: outdated.id, to: successor.id },
        None => Action::RemoveMember { ordinal, id: outdated.id },
    };
    Step::act(action, Phase::RollingOut, reason).during(operation)
}
