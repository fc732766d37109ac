//! What is told as Kubernetes Events. They are a courtesy: that one cannot be published stops nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret};
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::build;
use crate::crd::{EtcdCluster, Phase};
use crate::names::{Names, RECOVER_FROM};
use crate::plan::auth::AuthWrite;
use crate::plan::tls::Write;
use crate::plan::{Action, Observed};

/// Tells that the cluster is in another phase.
pub async fn phase(recorder: &Recorder, cluster: &EtcdCluster, phase: Phase, reason: String) {
    let troubled = matches!(phase, Phase::Degraded | Phase::Unavailable | Phase::Blocked);
    let event = Event {
        type_: if troubled { EventType::Warning } else { EventType::Normal },
        reason: format!("{phase:?}"),
        note: Some(reason),
        action: "Observe".into(),
        secondary: None,
    };
    publish(recorder, &cluster.object_ref(&()), event).await;
}

/// Tells that a step was taken.
pub async fn step(recorder: &Recorder, cluster: &EtcdCluster, observed: &Observed, action: &Action, note: String) {
    let event = Event {
        type_: EventType::Normal,
        reason: word(action).into(),
        note: Some(note),
        action: "Act".into(),
        secondary: object(&Names::of(cluster), observed, action),
    };
    publish(recorder, &cluster.object_ref(&()), event).await;
}

/// Tells that certificates were written.
pub async fn certificate(recorder: &Recorder, cluster: &EtcdCluster, write: &Write) {
    let names = Names::of(cluster);
    let name = match write {
        Write::Issue(holder) | Write::Bundle(holder) | Write::Remove(holder) => build::secret_name(&names, *holder),
        _ => names.authority_secret(),
    };
    let event = Event {
        type_: EventType::Normal,
        reason: certificate_word(write).into(),
        note: Some(write.to_string()),
        action: "Act".into(),
        secondary: Some(reference::<Secret>(&names, name, None)),
    };
    publish(recorder, &cluster.object_ref(&()), event).await;
}

/// Tells what was done about authentication.
pub async fn auth(recorder: &Recorder, cluster: &EtcdCluster, write: AuthWrite) {
    let names = Names::of(cluster);
    let event = Event {
        type_: EventType::Normal,
        reason: auth_word(write).into(),
        note: Some(write.to_string()),
        action: "Act".into(),
        secondary: Some(reference::<Secret>(&names, names.root_secret(), None)),
    };
    publish(recorder, &cluster.object_ref(&()), event).await;
}

/// That in a word, for Events and metrics.
pub fn auth_word(write: AuthWrite) -> &'static str {
    match write {
        AuthWrite::Keep => "RootSecretMade",
        AuthWrite::Enable => "AuthEnabled",
        AuthWrite::Rotate => "RootPasswordChanged",
        AuthWrite::Disable => "AuthDisabled",
    }
}

/// A write of certificates in a word, for Events and metrics.
pub fn certificate_word(write: &Write) -> &'static str {
    match write {
        Write::Found => "AuthorityMade",
        Write::Introduce => "AuthorityIntroduced",
        Write::Promote => "AuthorityPromoted",
        Write::Drop => "AuthorityDropped",
        Write::Issue(_) => "CertificateIssued",
        Write::Bundle(_) => "AuthoritiesUpdated",
        Write::Remove(_) => "CertificateDeleted",
    }
}

/// Publishes an Event about an object. That it cannot be is a warning the first time: whatever the reason is, others will meet it.
pub async fn publish(recorder: &Recorder, about: &ObjectReference, event: Event) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if let Err(error) = recorder.publish(&event, about).await {
        match WARNED.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(%error, "cannot publish an event; others that cannot be are told at level debug"),
            true => tracing::debug!(%error, "cannot publish an event"),
        }
    }
}

/// The step in a word, for Events and metrics.
pub fn word(action: &Action) -> &'static str {
    match action {
        Action::AddFinalizer => "Accepted",
        Action::Bootstrap => "Bootstrapped",
        Action::Park => "Parked",
        Action::AddLearner { .. } => "LearnerAdded",
        Action::LetStart { .. } => "MemberStarted",
        Action::Promote { .. } => "MemberPromoted",
        Action::MoveLeader { .. } => "LeaderMoved",
        Action::MovePeer { .. } => "PeerMoved",
        Action::RemoveMember { .. } => "MemberRemoved",
        Action::DeleteStatefulSet { .. } => "MemberStopped",
        Action::DeleteClaim { .. } => "ClaimDeleted",
        Action::RestartPod { .. } => "MemberRestarted",
        Action::ExpandClaim { .. } => "VolumeExpanded",
        Action::FreeSpace { .. } => "SpaceFreed",
        Action::Disarm { .. } => "AlarmDisarmed",
        Action::Defragment { .. } => "MemberDefragmented",
        Action::ForgetRequest { annotation: RECOVER_FROM, .. } => "QuorumRecovered",
        Action::ForgetRequest { refused: true, .. } => "RequestRefused",
        Action::ForgetRequest { refused: false, .. } => "RequestAnswered",
        Action::RemoveFinalizer => "Deleted",
    }
}

/// The object that a step concerns. Events that differ in nothing else than their note are counted as one, under the first note:
/// without this, the restart of the second member would be told as that of the first.
fn object(names: &Names, observed: &Observed, action: &Action) -> Option<ObjectReference> {
    let member = |ordinal: u32| {
        let uid = observed.statefulsets.get(&ordinal).map(|it| it.uid.clone());
        Some(reference::<StatefulSet>(names, names.member(ordinal), uid))
    };
    match action {
        Action::AddFinalizer
        | Action::Bootstrap
        | Action::Park
        | Action::ForgetRequest { .. }
        | Action::RemoveFinalizer => None,
        Action::AddLearner { ordinal }
        | Action::LetStart { ordinal, .. }
        | Action::Promote { ordinal, .. }
        | Action::RemoveMember { ordinal, .. }
        | Action::DeleteStatefulSet { ordinal, .. }
        | Action::DeleteClaim { ordinal, .. }
        | Action::ExpandClaim { ordinal, .. }
        | Action::MovePeer { ordinal, .. }
        | Action::FreeSpace { ordinal, .. }
        | Action::Defragment { ordinal, .. } => member(*ordinal),
        Action::Disarm { .. } => None,
        Action::MoveLeader { to, .. } => {
            let mut voters = observed.store.voters();
            member(voters.find(|voter| voter.id == *to)?.ordinal?)
        }
        Action::RestartPod { ordinal, uid } => {
            let name = names.pod(*ordinal);
            Some(reference::<Pod>(names, name, Some(uid.clone())))
        }
    }
}

fn reference<K>(names: &Names, name: String, uid: Option<String>) -> ObjectReference
where
    K: Resource<DynamicType = ()>,
{
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name),
        namespace: Some(names.namespace.clone()),
        uid,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Member, Store};

    /// Two steps of one kind for two members must not be counted as one Event.
    #[test]
    fn each_member_has_events_of_its_own() {
        let names = Names { cluster: "c".into(), namespace: "ns".into(), uid: "u".into(), tls: false };
        let voter = |ordinal: u32| Member { id: u64::from(ordinal), ordinal: Some(ordinal), ..Default::default() };
        let observed = Observed {
            store: Store::Listed { cluster_id: 1, members: vec![voter(1), voter(2)] },
            ..Default::default()
        };
        let steps: [fn(u32) -> Action; 8] = [
            |ordinal| Action::AddLearner { ordinal },
            |ordinal| Action::Promote { ordinal, id: u64::from(ordinal) },
            |ordinal| Action::MoveLeader { from: 9, to: u64::from(ordinal) },
            |ordinal| Action::RemoveMember { ordinal, id: u64::from(ordinal) },
            |ordinal| Action::DeleteStatefulSet { ordinal, uid: String::new() },
            |ordinal| Action::DeleteClaim { ordinal, uid: String::new() },
            |ordinal| Action::Defragment { ordinal, id: u64::from(ordinal), left: Vec::new() },
            |ordinal| Action::RestartPod { ordinal, uid: format!("pod-{ordinal}") },
        ];
        for step in steps {
            let [first, second] = [1, 2].map(|n| object(&names, &observed, &step(n)).unwrap());
            assert_ne!(first, second, "{}", step(1));
            assert!(first.name.unwrap().starts_with("c-1"), "{}", step(1));
        }
        assert_eq!(object(&names, &observed, &Action::Bootstrap), None);
    }
}
