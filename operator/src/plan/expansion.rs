//! Volumes that grow: each claim asks for the size of the spec, the storage driver does the rest while the member runs. A member
//! is restarted for it only if the driver cannot grow a file system that is mounted.

use super::{Action, Situation, Step, Store, Volume};
use crate::crd::{OperationKind, Phase, bytes};

/// How long a file system may take to grow under a running member, in seconds: kubelet looks about every minute.
const PATIENCE_SECONDS: i64 = 300;

/// The next claim that asks for less than the spec. This needs no quorum: that the volumes are full may be why there is none.
pub(super) fn ask(situation: &Situation) -> Option<Step> {
    let size = &situation.cluster.spec.storage.size;
    let observed = situation.observed;
    volumes(situation).find_map(|(ordinal, volume)| {
        let claim = observed.claims.get(ordinal).filter(|claim| claim.ours && !claim.deleting)?;
        let is_smaller = bytes(&volume.requested)? < bytes(size)?;
        let action = Action::ExpandClaim { ordinal: *ordinal, uid: claim.uid.clone(), size: size.clone() };
        is_smaller.then(|| Step::act(action, Phase::Expanding, format!("volumes of {size} are asked for")))
    })
}

/// The next step of an expansion, or what it waits for.
pub(super) fn step(situation: &Situation) -> Option<Step> {
    ask(situation).or_else(|| restart(situation)).or_else(|| wait(situation))
}

/// Those of members; a claim that was retained stays as it is.
fn volumes<'a>(situation: &'a Situation) -> impl Iterator<Item = (&'a u32, &'a Volume)> {
    let observed = situation.observed;
    let is_listed = |ordinal: u32| match observed.store {
        Store::Listed { .. } => observed.store.by_ordinal(ordinal).is_some(),
        _ => situation.recorded.members.iter().any(|member| member.name == situation.names.member(ordinal)),
    };
    observed.volumes.iter().filter(move |(ordinal, _)| is_listed(**ordinal))
}

/// A member whose file system did not grow while it ran, and has not been restarted since its volume did.
fn restart(situation: &Situation) -> Option<Step> {
    let observed = situation.observed;
    let (ordinal, pod) = volumes(situation).find_map(|(ordinal, volume)| {
        let pod = observed.pods.get(ordinal).filter(|pod| !pod.deleting)?;
        let since = volume.file_system_pending.filter(|since| pod.created < *since)?;
        (observed.now >= since + PATIENCE_SECONDS).then_some((*ordinal, pod))
    })?;
    let store = &observed.store;
    let id = store.by_ordinal(ordinal)?.id;
    let name = situation.names.member(ordinal);
    let reason = format!("the file system of {name} grows only with a restart");
    if !situation.may_restart(id) {
        return Some(Step::wait("all other members to be healthy", Phase::Expanding, reason));
    }
    let operation = situation.operation(OperationKind::RestartMember, ordinal, Some(id));
    let successor = store.voters().find(|other| other.id != id && other.healthy());
    if let Some(successor) = successor.filter(|_| store.leader() == Some(id)) {
        let action = Action::MoveLeader { from: id, to: successor.id };
        return Some(Step::act(action, Phase::Expanding, reason).during(operation));
    }
    let action = Action::RestartPod { ordinal, uid: pod.uid.clone() };
    Some(Step::act(action, Phase::Expanding, reason).during(operation))
}

fn wait(situation: &Situation) -> Option<Step> {
    let grows = |volume: &Volume| {
        let (requested, capacity) = (bytes(&volume.requested)?, bytes(volume.capacity.as_deref()?)?);
        Some(capacity < requested)
    };
    let growing =
        volumes(situation).filter(|(_, volume)| grows(volume) == Some(true) || volume.file_system_pending.is_some());
    let names: Vec<String> = growing.map(|(ordinal, _)| situation.names.claim(*ordinal)).collect();
    let what = format!("{} to grow", names.join(", "));
    let silent = situation.silent_voters();
    let step = Step::wait(what, Phase::Expanding, "volumes are growing").during(situation.restarting(&silent));
    (!names.is_empty() && (silent.is_empty() || step.operation.is_some())).then_some(step)
}
