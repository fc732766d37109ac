//! All writes: children by server-side apply, steps in the store, deletions, events. The status is written by the controller,
//! before anything here happens.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::build;
use crate::crd::EtcdCluster;
use crate::member::{self, Change, MemberClient};
use crate::names::{FIELD_MANAGER, FINALIZER, Names, ROLE_LABEL};
use crate::observe::{Applied, Caches, applied};
use crate::plan::{Action, Observed, Plan};

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
    /// The pod is still there, so its claim is not deleted.
    #[error("pod {0} is still there")]
    PodThere(String),
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
    /// The cluster.
    pub cluster: &'a EtcdCluster,
    /// Its names.
    pub names: Names,
}

impl Actor<'_> {
    /// Brings the children to what the plan says: the headless Service first, as members need its names to start.
    pub async fn apply_children(&self, plan: &Plan, observed: &Observed) -> Result<(), Error> {
        let caches = self.caches;
        let headless = build::members_service(self.cluster);
        let known = applied(&caches.services, &self.names, &headless.name_any());
        self.apply(headless, known).await?;
        let clients = build::client_service(self.cluster);
        let known = applied(&caches.services, &self.names, &clients.name_any());
        self.apply(clients, known).await?;
        let voters = observed.store.voters().count();
        let budget = build::pod_disruption_budget(self.cluster, voters);
        let known = applied(&caches.budgets, &self.names, &budget.name_any());
        self.apply(budget, known).await?;
        for (ordinal, start) in &plan.members {
            let role = observed.role(*ordinal);
            let member = build::stateful_set(self.cluster, *ordinal, start, role);
            let known = applied(&caches.statefulsets, &self.names, &member.name_any());
            self.apply(member, known).await?;
        }
        self.label_pods(observed).await
    }

    /// Applies one child, unless it was applied just like this before.
    async fn apply<K>(&self, child: K, known: Option<Applied>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let (child, hash) = build::stamp(child);
        let name = child.name_any();
        let what = format!("{} {name}", K::kind(&()));
        match known {
            Some(known) if !known.ours => return Err(Error::Foreign(what)),
            Some(known) if known.hash.as_deref() == Some(hash.as_str()) => return Ok(()),
            _ => {}
        }
        tracing::info!(child = what, hash, "apply");
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api::<K>()
            .patch(&name, &parameters, &Patch::Apply(&child))
            .await
            .map_err(kube_error(format!("applying {what}")))?;
        Ok(())
    }

    /// A learner that was promoted gets a voter's label on its running pod, so that clients reach it.
    async fn label_pods(&self, observed: &Observed) -> Result<(), Error> {
        for member in observed.store.members() {
            let Some(ordinal) = member.ordinal else {
                continue;
            };
            let role = observed.role(ordinal).as_str();
            let pod = observed.pods.get(&ordinal);
            let stale = pod.is_some_and(|pod| !pod.deleting && pod.role.as_deref() != Some(role));
            if stale {
                let name = self.names.pod(ordinal);
                let patch = json!({"metadata": {"labels": {ROLE_LABEL: role}}});
                self.api::<Pod>()
                    .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .map_err(kube_error(format!("labelling pod {name}")))?;
            }
        }
        Ok(())
    }

    /// Takes the plan's step.
    pub async fn take(&self, action: &Action, observed: &Observed) -> Result<Change, Error> {
        match action {
            // Its StatefulSet is among the children.
            Action::Bootstrap => {}
            Action::AddFinalizer => self.set_finalizer(true).await?,
            Action::RemoveFinalizer => self.set_finalizer(false).await?,
            Action::AddLearner { ordinal } => {
                let peer_url = self.names.peer_url(*ordinal);
                return Ok(self.leader(observed, None)?.add_learner(peer_url).await?);
            }
            Action::Promote { id, .. } => {
                return Ok(self.leader(observed, None)?.promote(*id).await?);
            }
            Action::MoveLeader { to, .. } => self.leader(observed, None)?.move_leader(*to).await?,
            Action::RemoveMember { id, .. } => {
                return Ok(self.leader(observed, Some(*id))?.remove(*id).await?);
            }
            Action::DeleteStatefulSet { ordinal, uid } => {
                let name = self.names.member(*ordinal);
                self.delete::<StatefulSet>(&name, uid).await?;
            }
            Action::DeleteClaim { ordinal, uid } => self.delete_claim(*ordinal, uid).await?,
            Action::RestartPod { ordinal, uid } => {
                self.delete::<Pod>(&self.names.pod(*ordinal), uid).await?;
            }
        }
        Ok(Change::Done)
    }

    /// A connection to the leader, or to another healthy voter if the leader is unknown or is `except`.
    fn leader(&self, observed: &Observed, except: Option<u64>) -> Result<MemberClient, Error> {
        let leader = observed.store.leader();
        let voters = observed.store.voters();
        let ordinal = voters
            .filter(|voter| voter.healthy() && Some(voter.id) != except)
            .min_by_key(|voter| Some(voter.id) != leader)
            .and_then(|voter| voter.ordinal)
            .ok_or(Error::NoMember)?;
        Ok(MemberClient::new(&self.names.client_url(ordinal))?)
    }

    /// The cache may lag: whether the pod is gone is asked of the API server itself.
    async fn delete_claim(&self, ordinal: u32, uid: &str) -> Result<(), Error> {
        let pod = self.names.pod(ordinal);
        let there = self.api::<Pod>().get_metadata_opt(&pod).await;
        if there
            .map_err(kube_error(format!("reading pod {pod}")))?
            .is_some()
        {
            return Err(Error::PodThere(pod));
        }
        let name = self.names.claim(ordinal);
        self.delete::<PersistentVolumeClaim>(&name, uid).await
    }

    /// Deletes this very object; one that is gone, or another one of its name, is left.
    async fn delete<K>(&self, name: &str, uid: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_string()),
            resource_version: None,
        });
        match self.api::<K>().delete(name, &parameters).await {
            Err(kube::Error::Api(response)) if matches!(response.code, 404 | 409) => Ok(()),
            Err(error) => Err(kube_error(format!("deleting {} {name}", K::kind(&())))(
                error,
            )),
            Ok(_) => Ok(()),
        }
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
