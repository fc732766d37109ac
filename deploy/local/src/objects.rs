//! Objects as the node and the controllers see them: local copies kept by watches, and writes that name what they meant.
//!
//! Nothing here polls: every copy is fed by one watch, and every change bumps one counter that waiting loops observe.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::PathBuf;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What every watched kind can do: a typed Kubernetes resource known at compile time.
pub trait Kind:
    Resource<DynamicType: Default + Eq + Hash + Clone>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}
impl<K> Kind for K where
    K: Resource<DynamicType: Default + Eq + Hash + Clone>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Counts changes of all watched kinds; receivers wait for the next one.
#[derive(Clone, Debug)]
pub struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

impl Changes {
    /// Tells all receivers that something is different now.
    pub fn bump(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// A receiver that has seen everything up to now.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Keeps a copy of all objects that `api` lists, for as long as the process runs.
pub fn watch_all<K: Kind>(api: Api<K>, changes: &Changes) -> Store<K>
where
    K::DynamicType: Unpin,
{
    let (reader, writer) = reflector::store();
    let changes = changes.clone();
    let events = reflector::reflector(writer, watcher(api, watcher::Config::default()));
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changes.bump(),
                Err(error) => tracing::debug!(%error, "watch interrupted, starting again"),
            }
        }
    });
    reader
}

/// One object by kind, namespace, name and, where it matters, the uid of the incarnation that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Kind and path.
    pub resource: ApiResource,
    /// None for cluster-wide kinds.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// Writes fail with a conflict when the object has another uid by then.
    pub uid: Option<String>,
}

impl Target {
    /// The incarnation of `object` that the caller holds.
    pub fn of<K: Kind>(object: &K) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&K::DynamicType::default()),
            namespace: object.namespace(),
            name: object.name_any(),
            uid: object.uid(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// A write that a controller decided on. Decisions are data, so that they can be tested without an API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates an object.
    Create(Target, Value),
    /// Merge patch of the main resource.
    Patch(Target, Value),
    /// Merge patch of the status subresource; the value is the new status.
    Status(Target, Value),
    /// Binds a pod to the node of this name.
    Bind(Target, String),
    /// Deletes, with the object's own grace period.
    Delete(Target),
    /// Removes the directory of a volume that nothing refers to any more.
    RemoveDirectory(PathBuf),
}

impl Action {
    /// Creates `object` as it is.
    pub fn create<K: Kind>(object: &K) -> Self {
        Self::Create(Target::of(object), json_of(object))
    }

    /// Deletes exactly this incarnation.
    pub fn delete<K: Kind>(object: &K) -> Self {
        Self::Delete(Target::of(object))
    }

    /// Merges `patch` into exactly this incarnation.
    pub fn patch<K: Kind>(object: &K, patch: Value) -> Self {
        Self::Patch(Target::of(object), patch)
    }

    /// Sets the status, unless it is `current` already.
    pub fn status<K: Kind, S: Serialize + PartialEq>(object: &K, current: Option<&S>, desired: &S) -> Option<Self> {
        if current == Some(desired) {
            return None;
        }
        let mut status = json_of(desired);
        let old = current.map(json_of);
        forget_dropped_fields(&mut status, old.as_ref());
        Some(Self::Status(Target::of(object), status))
    }

    /// The object that the action is about, if it is one.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Create(target, _)
            | Self::Patch(target, _)
            | Self::Status(target, _)
            | Self::Bind(target, _)
            | Self::Delete(target) => Some(target),
            Self::RemoveDirectory(_) => None,
        }
    }

    /// Carries the action out. The answer is the object and the resource version that the local copy must reach before
    /// the next decision (none when there is nothing to wait for).
    pub async fn execute(&self, client: &Client) -> anyhow::Result<Option<(Target, String)>> {
        let written = match self {
            Self::Create(target, value) => {
                let object: DynamicObject = serde_json::from_value(value.clone())?;
                Some(target.api(client).create(&PostParams::default(), &object).await?)
            }
            Self::Patch(target, patch) => {
                let patch = with_uid(target, patch.clone());
                let api = target.api(client);
                Some(api.patch(&target.name, &PatchParams::default(), &patch).await?)
            }
            Self::Status(target, status) => {
                let patch = with_uid(target, json!({ "status": status }));
                let api = target.api(client);
                Some(api.patch_status(&target.name, &PatchParams::default(), &patch).await?)
            }
            Self::Bind(target, node) => {
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": { "name": target.name, "namespace": target.namespace, "uid": target.uid },
                    "target": { "apiVersion": "v1", "kind": "Node", "name": node },
                });
                let api = target.api(client);
                let parameters = PostParams::default();
                let _: Value = api.create_subresource("binding", &target.name, &parameters, &binding).await?;
                None
            }
            Self::Delete(target) => {
                let parameters = DeleteParams {
                    preconditions: target
                        .uid
                        .clone()
                        .map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
                    ..DeleteParams::background()
                };
                match target.api(client).delete(&target.name, &parameters).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => None,
                    deleted => deleted?.left(),
                }
            }
            Self::RemoveDirectory(path) => match tokio::fs::remove_dir_all(path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)?,
                _ => None,
            },
        };
        Ok(self.target().zip(written).and_then(|(target, object)| {
            let version = object.resource_version()?;
            // The name may be the API server's choice.
            Some((Target { name: object.name_any(), ..target.clone() }, version))
        }))
    }
}

fn with_uid(target: &Target, mut patch: Value) -> Patch<Value> {
    if let Some(uid) = &target.uid {
        patch["metadata"]["uid"] = json!(uid);
    }
    Patch::Merge(patch)
}

/// A merge patch keeps what it does not mention: fields that the new status no longer has are set to null.
fn forget_dropped_fields(new: &mut Value, old: Option<&Value>) {
    let (Value::Object(new), Some(Value::Object(old))) = (new, old) else {
        return;
    };
    for (key, old_value) in old {
        match new.get_mut(key) {
            Some(value) => forget_dropped_fields(value, Some(old_value)),
            None => {
                new.insert(key.clone(), Value::Null);
            }
        }
    }
}

/// The JSON of a Kubernetes type with `apiVersion` and `kind`; these types always serialize.
pub fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// An API handle for all namespaces.
pub fn all<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = ()>,
{
    Api::all(client.clone())
}

/// An API handle for the namespace of `object`.
pub fn beside<K>(client: &Client, object: &impl ResourceExt) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &object.namespace().unwrap_or_default())
}

/// Whether `resource version` `seen` is at or after `wanted`. Ours are revisions of one store and so are numbers.
pub fn reached(seen: Option<&str>, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match (seen.and_then(number), number(wanted)) {
        (Some(seen), Some(wanted)) => seen >= wanted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_gone_is_nulled_in_the_patch() {
        let mut new = json!({"a": 1, "inner": {"x": 1}});
        forget_dropped_fields(&mut new, Some(&json!({"a": 2, "b": 3, "inner": {"x": 1, "y": 2}})));
        assert_eq!(new, json!({"a": 1, "b": null, "inner": {"x": 1, "y": null}}));
    }
}
