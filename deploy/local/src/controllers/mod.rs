//! The controllers: what should exist because of what exists. Each is a pure function from a snapshot of all objects to actions.
//!
//! One loop runs them all: wait for a change, take a snapshot, decide, write, and wait until the local copies show what was
//! written, so that no decision is made twice. Nothing is polled; a controller that needs a later look says when.

mod claims;
mod cronjob;
mod deployment;
mod endpoints;
mod job;
mod pdb;
mod pods;
mod schedule;
mod statefulset;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::objects::{Action, Changes, Kind, Target, all, json_of, reached, watch_all};

/// How long to wait for the local copy of an object that was just written.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a write that failed, and the gathering of changes that come together.
const RETRY: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(10);

macro_rules! world {
    ($($field:ident: $kind:ty,)*) => {
        /// A snapshot of all objects that controllers look at.
        #[derive(Debug, Default)]
        pub struct World {
            $(pub $field: Vec<Arc<$kind>>,)*
        }

        /// The local copies behind the snapshots.
        struct Stores {
            $($field: Store<$kind>,)*
        }

        impl Stores {
            fn watch(client: &Client, changes: &Changes) -> Self {
                Self { $($field: watch_all(all(client), changes),)* }
            }

            async fn ready(&self) -> anyhow::Result<()> {
                $(self.$field.wait_until_ready().await?;)*
                Ok(())
            }

            fn snapshot(&self) -> World {
                World { $($field: in_order(&self.$field),)* }
            }

            /// Whether the copy of an object is at this version, or gone.
            fn shows(&self, target: &Target, version: &str) -> bool {
                $(if target.resource.kind == <$kind>::kind(&()) {
                    return shows(&self.$field, target, version);
                })*
                true
            }
        }
    };
}

world! {
    nodes: Node,
    pods: Pod,
    stateful_sets: StatefulSet,
    revisions: ControllerRevision,
    deployments: Deployment,
    replica_sets: ReplicaSet,
    jobs: Job,
    cron_jobs: CronJob,
    claims: PersistentVolumeClaim,
    volumes: PersistentVolume,
    services: Service,
    slices: EndpointSlice,
    budgets: PodDisruptionBudget,
    classes: StorageClass,
}

/// All objects of a kind by namespace and name: decisions must not depend on the order of a hash map.
fn in_order<K: Kind>(store: &Store<K>) -> Vec<Arc<K>> {
    let mut objects = store.state();
    objects.sort_by_key(|object| (object.namespace(), object.name_any()));
    objects
}

fn shows<K: Kind<DynamicType = ()>>(store: &Store<K>, target: &Target, version: &str) -> bool {
    let mut reference = ObjectRef::new(&target.name);
    reference.namespace = target.namespace.clone();
    match store.get(&reference) {
        Some(object) => reached(object.resource_version().as_deref(), version),
        // Either not yet here, or gone again.
        None => target.uid.is_some(),
    }
}

/// What controllers decided.
#[derive(Debug, Default)]
pub struct Plan {
    actions: Vec<Action>,
    /// When to look again although nothing changes.
    wake: Option<Timestamp>,
}

impl Plan {
    fn add(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }
}

/// Runs all controllers until the task is dropped.
pub async fn run(client: Client, volumes: PathBuf) {
    let changes = Changes::default();
    let stores = Stores::watch(&client, &changes);
    let mut changed = changes.subscribe();
    if let Err(error) = stores.ready().await {
        tracing::error!(%error, "controllers do not run");
        return;
    }
    loop {
        changed.borrow_and_update();
        let now = Timestamp::now();
        let plan = decide(&stores.snapshot(), &volumes, now);
        let mut wake = plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        for action in plan.actions {
            match action.execute(&client).await {
                Ok(Some((target, version))) => wait_for(&stores, &target, &version, &changes).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, ?action, "not done, trying again");
                    wake = Some(wake.map_or(RETRY, |wake| wake.min(RETRY)));
                }
            }
        }
        let pause = async {
            match wake {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changed.changed() => tokio::time::sleep(GATHER).await,
            () = pause => {}
        }
    }
}

async fn wait_for(stores: &Stores, target: &Target, version: &str, changes: &Changes) {
    let mut changed = changes.subscribe();
    let seen = async { while !stores.shows(target, version) && changed.changed().await.is_ok() {} };
    if tokio::time::timeout(OBSERVE_TIMEOUT, seen).await.is_err() {
        tracing::debug!(name = target.name, kind = target.resource.kind, "a write was not seen in time");
    }
}

fn decide(world: &World, volumes: &std::path::Path, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    schedule::plan(world, &mut plan);
    claims::plan(world, volumes, &mut plan);
    statefulset::plan(world, now, &mut plan);
    deployment::plan(world, now, &mut plan);
    job::plan(world, now, &mut plan);
    cronjob::plan(world, now, &mut plan);
    endpoints::plan(world, &mut plan);
    pdb::plan(world, now, &mut plan);
    plan
}

/// A short stable name for a value: ten characters that are allowed in names and labels.
fn hash(value: &impl Serialize) -> String {
    let digest = Sha256::digest(serde_json::to_vec(value).unwrap_or_default());
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    digest.iter().take(10).map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect()
}

/// A reference that makes `owner` the controller.
fn controlled_by<K: Kind<DynamicType = ()>>(owner: &K) -> Option<Vec<OwnerReference>> {
    owner.controller_owner_ref(&()).map(|reference| vec![reference])
}

/// Whether `object` is controlled by the object with this uid.
fn is_controlled_by(object: &impl ResourceExt, uid: Option<&str>) -> bool {
    let mut owners = object.owner_references().iter();
    uid.is_some() && owners.any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
}

/// Makes `owner` the controller of the objects that its selector chooses and that have none: an earlier owner may have
/// been deleted without them. True if there were any; then the next decision is better made with them.
fn adopt<'a, O: Kind<DynamicType = ()>, K: Kind>(
    owner: &O,
    selector: &LabelSelector,
    objects: impl IntoIterator<Item = &'a Arc<K>>,
    plan: &mut Plan,
) -> bool {
    let before = plan.actions.len();
    for object in objects.into_iter().map(AsRef::as_ref) {
        let mut owners = object.owner_references().to_vec();
        let free =
            object.meta().deletion_timestamp.is_none() && owners.iter().all(|owner| owner.controller != Some(true));
        if free && object.namespace() == owner.namespace() && selects(Some(selector), object.labels()) {
            owners.extend(owner.controller_owner_ref(&()));
            plan.add(Action::patch(object, json!({ "metadata": { "ownerReferences": json_of(&owners) } })));
        }
    }
    plan.actions.len() > before
}

/// Whether a selector matches; one that cannot be read matches nothing, and so does an absent one.
fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.and_then(|selector| Selector::try_from(selector.clone()).ok());
    selector.is_some_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::objects::Action;

    /// An object from JSON.
    pub fn object<K: Kind>(value: serde_json::Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).expect("an object of this kind"))
    }

    /// Actions in short: what happens to which object.
    pub fn summary(plan: &Plan) -> Vec<String> {
        let line = |action: &Action| match action {
            Action::Create(target, value) => {
                let name = value.pointer("/metadata/generateName").and_then(|n| n.as_str());
                format!("create {} {}", target.resource.kind, name.unwrap_or(&target.name))
            }
            Action::Patch(target, _) => format!("patch {} {}", target.resource.kind, target.name),
            Action::Status(target, _) => format!("status {} {}", target.resource.kind, target.name),
            Action::Bind(target, node) => format!("bind {} {node}", target.name),
            Action::Delete(target) => format!("delete {} {}", target.resource.kind, target.name),
            Action::RemoveDirectory(path) => format!("remove {}", path.display()),
        };
        plan.actions.iter().map(line).collect()
    }
}
