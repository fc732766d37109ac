//! All writes but the status: children by server-side apply, steps in the store, deletions. The controller stores the status
//! before a step is taken here.

mod auth;
mod certificates;
mod children;

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::build;
use crate::crd::{EtcdCluster, RetentionPolicy};
use crate::member::{self, Change, MemberClient};
use crate::memory::Memory;
use crate::names::{CERTIFICATES, DATA_GATE, DATA_POD, DEFRAGMENT, FINALIZER, INITIAL_CLUSTER, Names, ROLE_LABEL};
use crate::observe::auth::Root;
use crate::observe::certificates::Identities;
use crate::observe::{Caches, controller, list, owned, url};
use crate::pass::is_conflict;
use crate::plan::tls::Holder;
use crate::plan::{Action, Observed, Plan, plan};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("{0}: {1}")]
    Kube(String, Box<kube::Error>),
    /// A member refused, or did not answer.
    #[error(transparent)]
    Member(#[from] member::Error),
    /// No member can take the request.
    #[error("no member is there to take the request")]
    NoMember,
    /// An object of this name belongs to somebody else.
    #[error("{0} exists and belongs to another owner")]
    Foreign(String),
    /// It must be gone before the step may be taken.
    #[error("{0} is still there")]
    StillThere(String),
    /// The plan was made from an older view; the next one is not.
    #[error("{0} is not as it was seen")]
    Changed(String),
    /// No password can be made.
    #[error("the system has no randomness to make a password of")]
    NoRandomness,
    /// A certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] crate::pki::Error),
    /// The API server knows of more to do before the finalizer goes than the caches did.
    #[error("the cluster is not gone yet: {0}")]
    NotGone(String),
}

fn kube_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |error| Error::Kube(what, Box::new(error))
}

/// Writes for one cluster.
pub struct Actor<'a> {
    /// The API server.
    pub client: &'a Client,
    /// What exists already.
    pub caches: &'a Caches,
    /// What was applied before.
    pub memory: &'a Memory,
    /// The cluster.
    pub cluster: &'a EtcdCluster,
    /// Its names.
    pub names: Names,
    /// What was seen in this pass.
    pub observed: &'a Observed,
    /// How to talk to members, and what to hand out.
    pub identities: &'a Identities,
    /// How the operator is root, where authentication is on.
    pub root: &'a Root<'a>,
}

impl Actor<'_> {
    /// Marks pods that run: a learner that was promoted gets a voter's label, so that clients reach it, and each those that its
    /// template has by now. One whose certificates were written since it started is annotated with that: a kubelet looks at the
    /// Secrets of a pod when the pod changes, and else within a minute or two. And one whose member has its data in memory is told, before
    /// the member counts, not to begin anew should that memory be empty one day.
    async fn mark_pods(&self, plan: &Plan) -> Result<(), Error> {
        let observed = self.observed;
        for member in observed.store.members() {
            let Some(ordinal) = member.ordinal else {
                continue;
            };
            let Some(pod) = observed.pods.get(&ordinal).filter(|pod| !pod.deleting) else {
                continue;
            };
            let template = plan.templates.get(&ordinal);
            let mut wanted = template.map(|template| template.pod_template.labels.clone()).unwrap_or_default();
            wanted.extend(self.names.member_labels(ordinal));
            wanted.insert(ROLE_LABEL.into(), observed.role(ordinal).as_str().into());
            wanted.retain(|label, value| pod.labels.get(label) != Some(value));
            let held = observed.tls.held.get(&Holder::Member(ordinal));
            let renewed = held.filter(|held| pod.created <= held.written).map(|held| &held.version);
            let renewed = renewed.filter(|version| pod.certificates.as_ref() != Some(version));
            let begins_anew = self.cluster.spec.in_memory() && member.started && !pod.settled;
            if !wanted.is_empty() || renewed.is_some() || begins_anew {
                let name = self.names.pod(ordinal);
                let renewed = renewed.map(|version| (CERTIFICATES, version.as_str()));
                let settled = begins_anew.then_some((INITIAL_CLUSTER, build::SETTLED));
                let annotations: BTreeMap<&str, &str> = renewed.into_iter().chain(settled).collect();
                let patch = json!({"metadata": {"labels": wanted, "annotations": annotations}});
                self.api::<Pod>()
                    .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .map_err(kube_error(format!("marking pod {name}")))?;
            }
        }
        Ok(())
    }

    /// Takes the plan's step.
    pub async fn take(&self, action: &Action) -> Result<Change, Error> {
        match action {
            // Their StatefulSets are among the children.
            Action::Bootstrap | Action::Park => {}
            Action::AddFinalizer => self.set_finalizer(true).await?,
            Action::ForgetRequest { annotation, .. } => self.annotate(annotation, None).await?,
            Action::RemoveFinalizer => self.release().await?,
            Action::AddLearner { ordinal } => {
                self.nothing_has_number(*ordinal).await?;
                self.nobody_goes_on_alone().await?;
                let peer_url = self.names.peer_url_by(*ordinal, self.cluster.is_joined_by_tls());
                return Ok(self.leader(None)?.add_learner(peer_url).await?);
            }
            Action::LetStart { ordinal, uid } => self.let_start(*ordinal, uid).await?,
            Action::Promote { id, .. } => {
                return Ok(self.leader(None)?.promote(*id).await?);
            }
            Action::MovePeer { ordinal, id, secure } => {
                let peer_url = self.names.peer_url_by(*ordinal, *secure);
                self.leader(None)?.update(*id, peer_url).await?;
            }
            Action::MoveLeader { to, .. } => self.leader(None)?.move_leader(*to).await?,
            Action::RemoveMember { id, .. } => {
                return Ok(self.leader(Some(*id))?.remove(*id).await?);
            }
            Action::DeleteStatefulSet { ordinal, uid } => {
                let name = self.names.member(*ordinal);
                self.delete::<StatefulSet>(&name, uid, None).await?;
            }
            Action::FreeSpace { ordinal, revision, .. } => {
                self.leader(None)?.compact(*revision).await?;
                self.defragment(*ordinal).await?;
            }
            Action::Defragment { ordinal, left, .. } => {
                // However it ends, it is not tried again: one that takes long goes on in the member.
                let outcome = self.defragment(*ordinal).await;
                let left = (!left.is_empty()).then(|| left.join(","));
                self.annotate(DEFRAGMENT, left).await?;
                outcome?;
            }
            Action::Disarm { member, kind } => self.leader(None)?.disarm(*member, *kind).await?,
            Action::ExpandClaim { ordinal, uid, size } => self.expand_claim(*ordinal, uid, size).await?,
            Action::DeleteClaim { ordinal, uid } => self.delete_claim(*ordinal, uid).await?,
            Action::RestartPod { ordinal, uid } => {
                // One that was seen stopped may run by now, and the others may not do without it.
                let stopped = self.observed.pods.get(ordinal).filter(|pod| !pod.running);
                let version = stopped.map(|pod| pod.version.clone());
                self.delete::<Pod>(&self.names.pod(*ordinal), uid, version).await?;
            }
        }
        Ok(Change::Done)
    }

    /// A connection to the leader, or to another healthy voter if the leader is unknown or is `except`.
    fn leader(&self, except: Option<u64>) -> Result<MemberClient, Error> {
        let leader = self.observed.store.leader();
        let voters = self.observed.store.voters();
        let ordinal = voters
            .filter(|voter| voter.healthy() && Some(voter.id) != except)
            .min_by_key(|voter| Some(voter.id) != leader)
            .and_then(|voter| voter.ordinal)
            .ok_or(Error::NoMember)?;
        let client = MemberClient::new(&self.url(ordinal), self.identities.current.as_ref())?;
        Ok(client.with_token(self.root.token()))
    }

    async fn defragment(&self, ordinal: u32) -> Result<(), Error> {
        let patient = MemberClient::patient(&self.url(ordinal), self.identities.current.as_ref())?;
        Ok(patient.with_token(self.root.token()).defragment().await?)
    }

    fn url(&self, ordinal: u32) -> String {
        url(&self.names, &self.observed.pods, ordinal, self.identities.current.as_ref())
    }

    /// Lets a pod start that will have its member's data in memory. It is written on its StatefulSet first, which may have one such pod
    /// in its life: the data of another would be gone. The API server itself is asked for both.
    async fn let_start(&self, ordinal: u32, uid: &str) -> Result<(), Error> {
        let (member, pod) = (self.names.member(ordinal), self.names.pod(ordinal));
        let changed = |what: &str, name: &str| Error::Changed(format!("{what} {name}"));
        let statefulset = self
            .existing::<StatefulSet>(&member)
            .await?
            .filter(|it| owned(it, &self.names) && it.metadata.deletion_timestamp.is_none());
        let statefulset = statefulset.ok_or_else(|| changed("StatefulSet", &member))?;
        let there = self.existing::<Pod>(&pod).await?.filter(|it| controller(it) == statefulset.metadata.uid);
        if there.and_then(|it| it.uid()).as_deref() != Some(uid) {
            return Err(changed("pod", &pod));
        }
        match statefulset.annotations().get(DATA_POD) {
            Some(recorded) if recorded == uid => {}
            Some(_) => return Err(changed("StatefulSet", &member)),
            None => {
                let ObjectMeta { uid: of, resource_version, .. } = &statefulset.metadata;
                let metadata = json!({"uid": of, "resourceVersion": resource_version, "annotations": {DATA_POD: uid}});
                let (patch, sets) = (json!({"metadata": metadata}), self.api::<StatefulSet>());
                match sets.patch_metadata(&member, &PatchParams::default(), &Patch::Merge(&patch)).await {
                    Err(error) if is_conflict(&error) => return Err(changed("StatefulSet", &member)),
                    written => written.map_err(kube_error(format!("recording the pod of {member}")))?,
                };
            }
        }
        let gates = json!([{"name": DATA_GATE, "$patch": "delete"}]);
        let patch = json!({"metadata": {"uid": uid}, "spec": {"schedulingGates": gates}});
        match self.api::<Pod>().patch(&pod, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Err(error) if is_conflict(&error) => Err(changed("pod", &pod)),
            patched => patched.map(drop).map_err(kube_error(format!("letting pod {pod} start"))),
        }
    }

    /// The cache may lag: whether the pod is gone is asked of the API server itself.
    async fn delete_claim(&self, ordinal: u32, uid: &str) -> Result<(), Error> {
        let pod = self.names.pod(ordinal);
        let there = self.api::<Pod>().get_metadata_opt(&pod).await;
        if there.map_err(kube_error(format!("reading pod {pod}")))?.is_some() {
            return Err(Error::StillThere(format!("pod {pod}")));
        }
        let name = self.names.claim(ordinal);
        self.delete::<PersistentVolumeClaim>(&name, uid, None).await
    }

    /// The API server refuses it unless the claim's StorageClass allows expansion.
    async fn expand_claim(&self, ordinal: u32, uid: &str, size: &str) -> Result<(), Error> {
        let name = self.names.claim(ordinal);
        let patch = json!({
            "metadata": {"uid": uid},
            "spec": {"resources": {"requests": {"storage": size}}},
        });
        self.api::<PersistentVolumeClaim>()
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(kube_error(format!("expanding claim {name} to {size} (its StorageClass must allow that)")))?;
        Ok(())
    }

    /// Deletes this very object, if it is still at `version` when one is given. Anything else of its name is left.
    async fn delete<K>(&self, name: &str, uid: &str, version: Option<String>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let parameters = DeleteParams::background()
            .preconditions(Preconditions { uid: Some(uid.to_string()), resource_version: version });
        match self.api::<K>().delete(name, &parameters).await {
            Err(kube::Error::Api(response)) if matches!(response.code, 404 | 409) => Ok(()),
            Err(error) => Err(kube_error(format!("deleting {} {name}", K::kind(&())))(error)),
            Ok(_) => Ok(()),
        }
    }

    /// Takes the finalizer off after the API server itself has confirmed that nothing is left: once it is off, nobody would ever
    /// clear away what a cache did not show.
    async fn release(&self) -> Result<(), Error> {
        let left = list(self.client, self.cluster).await;
        let left = left.map_err(kube_error("looking for what is left"))?;
        let again = plan(self.cluster, &left);
        if again.action != Some(Action::RemoveFinalizer) {
            let action = again.action.map(|action| action.to_string());
            return Err(Error::NotGone(action.or(again.waiting_for).unwrap_or_default()));
        }
        if self.cluster.spec.tls.as_ref().is_some_and(|tls| tls.when_deleted == RetentionPolicy::Retain) {
            self.release_secrets().await?;
        }
        self.leave_root_secret().await?;
        self.set_finalizer(false).await
    }

    /// Changes an annotation by which a person asked for something, or takes it off.
    async fn annotate(&self, annotation: &str, value: Option<String>) -> Result<(), Error> {
        // With the version that was read: no request that was made since is lost.
        let version = &self.cluster.metadata.resource_version;
        let patch = json!({"metadata": {"annotations": {annotation: value}, "resourceVersion": version}});
        self.api::<EtcdCluster>()
            .patch_metadata(&self.names.cluster, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(kube_error("changing an annotation"))?;
        Ok(())
    }

    async fn set_finalizer(&self, present: bool) -> Result<(), Error> {
        let mut finalizers = self.cluster.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if present {
            finalizers.push(FINALIZER.into());
        }
        // With the version that was read: no finalizer of somebody else is lost.
        let patch = json!({"metadata": {
            "finalizers": finalizers,
            "resourceVersion": self.cluster.metadata.resource_version,
        }});
        let name = &self.names.cluster;
        self.api::<EtcdCluster>()
            .patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(kube_error("changing the finalizer"))?;
        Ok(())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.names.namespace)
    }
}

#[cfg(test)]
mod tests;
