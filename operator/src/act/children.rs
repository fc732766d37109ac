//! Children by server-side apply: only what is this cluster's, and only when something differs.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store as Cache;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Actor, Error, kube_error};
use crate::build;
use crate::names::FIELD_MANAGER;
use crate::observe::{Applied, applied, edition, labelled, list};
use crate::plan::{Plan, Start};

impl Actor<'_> {
    /// Brings the children to what the plan says: the headless Service first, as members need its names to start.
    pub async fn apply_children(&self, plan: &Plan) -> Result<(), Error> {
        let (cluster, caches) = (self.cluster, self.caches);
        self.ask_for_certificates().await?;
        if let Some(certificates) = &plan.tls {
            self.write_certificates(certificates).await?;
        }
        let headless = build::members_service(cluster);
        let known = self.known(&caches.services, &headless.name_any()).await?;
        self.apply(headless, known).await?;
        let clients = build::client_service(cluster);
        let known = self.known(&caches.services, &clients.name_any()).await?;
        self.apply(clients, known).await?;
        let budget = build::pod_disruption_budget(cluster, self.observed.store.voters().count());
        let known = self.known(&caches.budgets, &budget.name_any()).await?;
        self.apply(budget, known).await?;
        for (ordinal, start) in &plan.members {
            if *start == Start::Alone {
                self.nobody_else(*ordinal).await?;
            }
            let role = self.observed.role(*ordinal);
            let known = self.known(&caches.statefulsets, &self.names.member(*ordinal)).await?;
            let template = plan.templates.get(ordinal);
            let mut wanted = template.map_or_else(|| cluster.clone(), |it| build::with_template(cluster, it));
            // A StatefulSet's claim template cannot be changed, and is not looked at while there is a claim.
            if let Some(size) = known.as_ref().and_then(|known| known.volume_size.clone()) {
                wanted.spec.storage.size = size;
            }
            let member = build::stateful_set(&wanted, *ordinal, start, role);
            if known.is_none() && !cluster.spec.in_memory() {
                self.claim_is_ours(*ordinal).await?;
            }
            self.apply(member, known).await?;
        }
        self.mark_pods(plan).await?;
        match plan.auth.as_ref().and_then(|auth| auth.write) {
            Some(write) => self.authenticate(write).await,
            None => Ok(()),
        }
    }

    /// Before a member goes on alone: the caches may not show yet, or not any more, that others are there.
    async fn nobody_else(&self, survivor: u32) -> Result<(), Error> {
        let there = list(self.client, self.cluster).await.map_err(kube_error("looking for other members"))?;
        let mut others = there.pods.keys().chain(there.statefulsets.keys()).filter(|ordinal| **ordinal != survivor);
        match others.next() {
            Some(other) => Err(Error::StillThere(self.names.member(*other))),
            None => Ok(()),
        }
    }

    /// Before anybody joins the only member: a start of a pod that was told to go on alone would leave the others behind again, and the
    /// caches may not show it yet.
    pub(super) async fn nobody_goes_on_alone(&self) -> Result<(), Error> {
        if self.observed.store.voters().count() > 1 {
            return Ok(());
        }
        let there =
            list(self.client, self.cluster).await.map_err(kube_error("looking for a member that goes on alone"))?;
        match there.pods.iter().find(|(_, pod)| pod.config_hash.as_deref().is_some_and(build::is_alone)) {
            Some((ordinal, _)) => Err(Error::Changed(format!("pod {}", self.names.pod(*ordinal)))),
            None => Ok(()),
        }
    }

    /// Before a number is given to a new member: what has it must not depend on labels that the caches look for.
    pub(super) async fn nothing_has_number(&self, ordinal: u32) -> Result<(), Error> {
        let (member, claim) = (self.names.member(ordinal), self.names.claim(ordinal));
        if self.existing::<StatefulSet>(&member).await?.is_some() {
            return Err(Error::StillThere(format!("StatefulSet {member}")));
        }
        if self.existing::<PersistentVolumeClaim>(&claim).await?.is_some() {
            return Err(Error::StillThere(format!("claim {claim}")));
        }
        let pod = self.names.pod(ordinal);
        if self.cluster.spec.in_memory() && self.existing::<Pod>(&pod).await?.is_some() {
            return Err(Error::StillThere(format!("pod {pod}")));
        }
        Ok(())
    }

    /// The child as it exists. The caches hold only what carries the operator's labels; what they do not show is asked for by
    /// name, or somebody else's object would be taken over.
    async fn known<K>(&self, cache: &Cache<PartialObjectMeta<K>>, name: &str) -> Result<Option<Applied>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + 'static,
    {
        if let Some(known) = applied(cache, &self.names, name) {
            return Ok(Some(known));
        }
        let existing = self.existing::<K>(name).await?;
        Ok(existing.map(|object| Applied::of(&object, &self.names)))
    }

    pub(super) async fn existing<K>(&self, name: &str) -> Result<Option<PartialObjectMeta<K>>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let found = self.api::<K>().get_metadata_opt(name).await;
        found.map_err(kube_error(format!("reading {} {name}", K::kind(&()))))
    }

    /// A StatefulSet uses the claim of its member's name, whoever made it: one of somebody else holds other data.
    async fn claim_is_ours(&self, ordinal: u32) -> Result<(), Error> {
        let name = self.names.claim(ordinal);
        match self.existing::<PersistentVolumeClaim>(&name).await? {
            Some(claim) if !labelled(&claim, &self.names) => Err(Error::Foreign(format!("claim {name}"))),
            _ => Ok(()),
        }
    }

    /// Applies one child, unless it is as it was applied before: rendered the same, and not edited since.
    async fn apply<K>(&self, child: K, known: Option<Applied>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let (child, hash) = build::stamp(child);
        let name = child.name_any();
        let what = format!("{} {name}", K::kind(&()));
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        if let Some(known) = known {
            let uid = &self.names.uid;
            if !known.ours {
                return Err(Error::Foreign(what));
            }
            if known.hash.as_deref() == Some(hash.as_str()) && self.memory.is_as_applied(uid, &what, &known.edition) {
                return Ok(());
            }
            // What others changed of it is taken back. An object that appears just now is not ours, and a conflict.
            parameters = parameters.force();
        }
        tracing::info!(child = what, hash, "apply");
        let applied = self
            .api::<K>()
            .patch(&name, &parameters, &Patch::Apply(&child))
            .await
            .map_err(kube_error(format!("applying {what}")))?;
        self.memory.applied(&self.names.uid, &what, edition(&applied));
        Ok(())
    }
}
