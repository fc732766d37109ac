//! The garbage collector: one watch over all keys, the graph of owners, and what follows when an object goes. It also
//! empties namespaces and CRDs that are being deleted, and furnishes new namespaces.

use crate::App;
use crate::admission::CRD_CLEANUP;
use crate::crds;
use crate::kinds::Registry;
use crate::object::{self, Part, meta};
use crate::request::Target;
use crate::status::{ApiError, ApiResult};
use crate::store::{ROOT, decode};
use crate::verbs::{DeleteOptions, FOREGROUND, ORPHAN, Propagation, WriteOptions};
use etcd_client::{Event, EventType};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// After a failure the affected objects are looked at again.
const RETRY: Duration = Duration::from_secs(1);

/// What the collector needs to know of an object.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    uid: String,
    namespace: Option<String>,
    /// Owners by uid; true where the owner's foreground deletion waits for this object.
    owners: Vec<(String, bool)>,
    deleting: bool,
    finalizers: Vec<String>,
}

impl Node {
    fn of(object: &Value) -> Node {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        Node {
            uid: meta(object, "uid").to_owned(),
            namespace: object::namespace(object).map(str::to_owned),
            owners: owners
                .map(|o| (o["uid"].as_str().unwrap_or_default().to_owned(), o["blockOwnerDeletion"] == json!(true)))
                .collect(),
            deleting: object::is_deleting(object),
            finalizers: object::finalizers(object),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.deleting && self.finalizers.iter().any(|f| f == finalizer)
    }
}

/// All objects by key, and the keys by uid.
#[derive(Debug, Default)]
struct Graph {
    nodes: BTreeMap<String, Node>,
    keys: BTreeMap<String, String>,
}

/// What to do about one object.
#[derive(Debug, PartialEq)]
enum Action {
    /// Its owners are gone, or what contains it is going.
    Delete(String, Propagation),
    /// Its dependents stay: they forget this owner.
    Disown { dependent: String, owner_uid: String },
    /// Nothing holds it any more on this account.
    RemoveFinalizer(String, &'static str),
    /// The namespace is empty.
    FinishNamespace(String),
    /// A namespace gets its ServiceAccount and CA.
    Furnish(String),
}

impl Graph {
    /// Takes a change in, and returns the keys to look at because of it.
    fn update(&mut self, key: &str, node: Option<Node>) -> BTreeSet<String> {
        let mut affected = BTreeSet::new();
        let old = match node {
            Some(node) => {
                affected.insert(key.to_owned());
                if node.deleting {
                    affected.extend(self.dependents(&node.uid).map(|(key, _)| key.clone()));
                }
                self.keys.insert(node.uid.clone(), key.to_owned());
                self.nodes.insert(key.to_owned(), node)
            }
            None => self.nodes.remove(key),
        };
        let Some(old) = old else { return affected };
        if !self.nodes.contains_key(key) {
            self.keys.remove(&old.uid);
            affected.extend(self.dependents(&old.uid).map(|(key, _)| key.clone()));
            affected.extend(self.containers(key, old.namespace.as_deref()));
        }
        affected.extend(old.owners.iter().filter_map(|(uid, _)| self.keys.get(uid).cloned()));
        affected
    }

    fn dependents<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a String, &'a Node)> + 'a {
        self.nodes.iter().filter(move |(_, node)| node.owners.iter().any(|(owner, _)| owner == uid))
    }

    /// The namespace and the CRD that a key belongs to.
    fn containers(&self, key: &str, namespace: Option<&str>) -> Vec<String> {
        let mut containers: Vec<String> = namespace.iter().map(|ns| format!("{ROOT}namespaces/{ns}")).collect();
        let mut parts = key.strip_prefix(ROOT).unwrap_or(key).split('/');
        if let (Some(group), Some(plural)) = (parts.next(), parts.next()) {
            containers.push(format!("{ROOT}{}/{plural}.{group}", crds::STORAGE));
        }
        containers.retain(|key| self.nodes.contains_key(key));
        containers
    }

    /// The keys of what lives in a namespace or is of a CRD's kind; None for other objects.
    fn contents(&self, key: &str) -> Option<Vec<&String>> {
        let rest = key.strip_prefix(ROOT)?;
        if let Some(namespace) = rest.strip_prefix("namespaces/") {
            let inside = self.nodes.iter().filter(|(_, node)| node.namespace.as_deref() == Some(namespace));
            return Some(inside.map(|(key, _)| key).collect());
        }
        let (plural, group) = rest.strip_prefix(crds::STORAGE)?.strip_prefix('/')?.split_once('.')?;
        let prefix = format!("{ROOT}{group}/{plural}/");
        Some(
            self.nodes.range(prefix.clone()..).map(|(key, _)| key).take_while(|key| key.starts_with(&prefix)).collect(),
        )
    }

    /// What to do about the object at `key`, as things are.
    fn actions(&self, key: &str) -> Vec<Action> {
        let Some(node) = self.nodes.get(key) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        if !node.owners.is_empty() && !node.deleting {
            let owner = |uid: &String| self.keys.get(uid).and_then(|key| self.nodes.get(key));
            let living: Vec<&Node> = node.owners.iter().filter_map(|(uid, _)| owner(uid)).collect();
            if living.is_empty() {
                actions.push(Action::Delete(key.to_owned(), Propagation::Background));
            } else if living.iter().all(|owner| owner.has(FOREGROUND)) {
                actions.push(Action::Delete(key.to_owned(), Propagation::Foreground));
            }
        }
        if node.has(ORPHAN) {
            let disown = |(dependent, _): (&String, &Node)| Action::Disown {
                dependent: dependent.clone(),
                owner_uid: node.uid.clone(),
            };
            let before = actions.len();
            actions.extend(self.dependents(&node.uid).map(disown));
            // Not before the last dependent is seen without its owner: else it would be collected.
            if actions.len() == before {
                actions.push(Action::RemoveFinalizer(key.to_owned(), ORPHAN));
            }
        }
        let blocks = |dependent: &Node| dependent.owners.iter().any(|(uid, blocks)| *uid == node.uid && *blocks);
        if node.has(FOREGROUND) && !self.dependents(&node.uid).any(|(_, dependent)| blocks(dependent)) {
            actions.push(Action::RemoveFinalizer(key.to_owned(), FOREGROUND));
        }
        actions.extend(self.container_actions(key, node));
        actions
    }

    fn container_actions(&self, key: &str, node: &Node) -> Vec<Action> {
        let Some(contents) = self.contents(key) else {
            return Vec::new();
        };
        let namespace = key.starts_with(&format!("{ROOT}namespaces/"));
        if !node.deleting {
            return if namespace { vec![Action::Furnish(key.to_owned())] } else { Vec::new() };
        }
        if !contents.is_empty() {
            let standing = contents.into_iter().filter(|key| self.nodes.get(*key).is_some_and(|node| !node.deleting));
            return standing.map(|key| Action::Delete(key.clone(), Propagation::Background)).collect();
        }
        if namespace {
            return vec![Action::FinishNamespace(key.to_owned())];
        }
        vec![Action::RemoveFinalizer(key.to_owned(), CRD_CLEANUP)]
    }
}

/// Runs as long as the server; begins anew when its watch breaks.
pub async fn run(app: Arc<App>) {
    loop {
        if let Err(error) = collect(&app).await {
            tracing::warn!(error = %error.message, "the garbage collector begins anew");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn collect(app: &App) -> ApiResult<()> {
    let page = app.store.list(ROOT, None, 0, 0).await?;
    let mut stream = app.store.watch(ROOT, page.revision + 1).await?;
    let mut graph = Graph::default();
    let mut affected = BTreeSet::new();
    app.load_crds().await?;
    for stored in page.items {
        affected.extend(graph.update(&stored.key, Some(Node::of(&stored.value))));
    }
    affected.extend(graph.nodes.keys().cloned());
    loop {
        let failed = act(app, &graph, std::mem::take(&mut affected)).await;
        let retry = async {
            if failed.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            message = stream.message() => {
                let response = message?.ok_or_else(|| ApiError::internal("the watch ended"))?;
                if response.canceled() {
                    return Err(ApiError::internal("the watch was cancelled"));
                }
                for event in response.events() {
                    affected.extend(take_in(app, &mut graph, event).await?);
                }
            }
            () = retry => {}
        }
        affected.extend(failed);
    }
}

async fn take_in(app: &App, graph: &mut Graph, event: &Event) -> ApiResult<BTreeSet<String>> {
    let Some(kv) = event.kv() else {
        return Ok(BTreeSet::new());
    };
    let key = String::from_utf8_lossy(kv.key()).into_owned();
    if key.starts_with(&format!("{ROOT}{}/", crds::STORAGE)) {
        app.load_crds().await?;
    }
    let node = if event.event_type() == EventType::Delete { None } else { Some(Node::of(&decode(kv)?.value)) };
    Ok(graph.update(&key, node))
}

/// Does what is to be done about these objects; returns those where it failed.
async fn act(app: &App, graph: &Graph, keys: BTreeSet<String>) -> BTreeSet<String> {
    let mut failed = BTreeSet::new();
    for key in keys {
        for action in graph.actions(&key) {
            if let Err(error) = app.collect(graph, &action).await
                && error.code != 404
            {
                tracing::debug!(?action, error = %error.message, "garbage collection is tried again");
                failed.insert(key.clone());
            }
        }
    }
    failed
}

/// The target that a key names.
fn target_of(registry: &Registry, key: &str) -> ApiResult<Target> {
    let parts: Vec<&str> = key.strip_prefix(ROOT).unwrap_or(key).split('/').collect();
    let kind = (1..parts.len().min(3)).rev().find_map(|n| registry.of_storage(&parts[..n].join("/")).map(|k| (k, n)));
    let (kind, used) = kind.ok_or_else(ApiError::no_such_path)?;
    let (namespace, name) = match &parts[used..] {
        [name] => (None, *name),
        [namespace, name] => (Some((*namespace).to_owned()), *name),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Target { kind, namespace, name: Some(name.to_owned()), subresource: None })
}

impl App {
    async fn collect(&self, graph: &Graph, action: &Action) -> ApiResult<()> {
        let registry = self.registry();
        let options = WriteOptions { manager: "kube-controller-manager".into(), ..WriteOptions::default() };
        match action {
            Action::Delete(key, propagation) => {
                let uid = graph.nodes.get(key).map(|node| node.uid.clone());
                let delete = DeleteOptions { propagation: *propagation, uid, ..DeleteOptions::default() };
                self.delete(&target_of(&registry, key)?, &delete).await?;
            }
            Action::Disown { dependent, owner_uid } => {
                let target = target_of(&registry, dependent)?;
                self.modify(&target, Part::Main, &options, |old| Ok(without_owner(old, owner_uid))).await?;
            }
            Action::RemoveFinalizer(key, finalizer) => {
                let target = target_of(&registry, key)?;
                let write = self.modify(&target, Part::Main, &options, |old| {
                    let mut new = old.clone();
                    let kept = object::finalizers(old).into_iter().filter(|f| f != finalizer).collect();
                    object::set_finalizers(&mut new, kept);
                    Ok(new)
                });
                write.await?;
            }
            Action::FinishNamespace(key) => {
                let target = target_of(&registry, key)?;
                let write = self.modify(&target, Part::Main, &options, |old| {
                    let mut new = old.clone();
                    if let Some(spec) = new["spec"].as_object_mut() {
                        spec.remove("finalizers");
                    }
                    Ok(new)
                });
                write.await?;
            }
            Action::Furnish(key) => self.furnish(graph, key.rsplit('/').next().unwrap_or_default()).await?,
        }
        Ok(())
    }

    /// Gives a namespace what pods in it expect: the ServiceAccount `default` and the CA's certificate.
    async fn furnish(&self, graph: &Graph, namespace: &str) -> ApiResult<()> {
        let account = json!({"metadata": {"name": "default"}});
        let ca = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self.ca_certificate}});
        for (plural, object) in [("serviceaccounts", account), ("configmaps", ca)] {
            let key = format!("{ROOT}{plural}/{namespace}/{}", object::name(&object));
            if !graph.nodes.contains_key(&key) {
                self.ensure("", "v1", plural, Some(namespace), object).await?;
            }
        }
        Ok(())
    }

    /// Creates an object if it is not there.
    async fn ensure(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        object: Value,
    ) -> ApiResult<()> {
        let kind = self.registry().find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
        let target = Target { kind, namespace: namespace.map(str::to_owned), name: None, subresource: None };
        let options = WriteOptions { manager: "kube-apiserver".into(), ..WriteOptions::default() };
        match self.create(&target, object, &options).await {
            Err(error) if error.reason != "AlreadyExists" => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates what every cluster has: its namespaces and the Service of the API itself.
    pub async fn bootstrap(&self) -> ApiResult<()> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            self.ensure("", "v1", "namespaces", None, json!({"metadata": {"name": name}})).await?;
        }
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": crate::admission::API_SERVICE_ADDRESS,
                "ports": [{"name": "https", "port": 443, "targetPort": self.config.listen.port()}]},
        });
        self.ensure("", "v1", "services", Some("default"), service).await
    }
}

fn without_owner(object: &Value, uid: &str) -> Value {
    let mut new = object.clone();
    if let Some(owners) = new["metadata"]["ownerReferences"].as_array_mut() {
        owners.retain(|owner| owner["uid"] != uid);
    }
    if new["metadata"]["ownerReferences"].as_array().is_some_and(Vec::is_empty)
        && let Some(metadata) = new["metadata"].as_object_mut()
    {
        metadata.remove("ownerReferences");
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(objects: &[(&str, &str, Value)]) -> Graph {
        let mut graph = Graph::default();
        for (key, uid, metadata) in objects {
            let mut object = json!({"metadata": metadata});
            object["metadata"]["uid"] = json!(uid);
            graph.update(&format!("{ROOT}{key}"), Some(Node::of(&object)));
        }
        graph
    }

    fn actions(graph: &Graph, key: &str) -> Vec<Action> {
        graph.actions(&format!("{ROOT}{key}"))
    }

    fn owned_by(uid: &str, blocks: bool) -> Value {
        json!({"ownerReferences": [{"uid": uid, "blockOwnerDeletion": blocks}]})
    }

    #[test]
    fn objects_go_when_their_last_owner_has_gone() {
        let mut two = owned_by("a", false);
        two["ownerReferences"].as_array_mut().unwrap().push(json!({"uid": "b"}));
        let mut graph = graph(&[("x/a", "a", json!({})), ("x/b", "b", json!({})), ("pods/n/p", "p", two)]);
        assert!(actions(&graph, "pods/n/p").is_empty());
        assert!(graph.update(&format!("{ROOT}x/a"), None).contains(&format!("{ROOT}pods/n/p")));
        assert!(actions(&graph, "pods/n/p").is_empty());
        graph.update(&format!("{ROOT}x/b"), None);
        assert_eq!(actions(&graph, "pods/n/p"), [Action::Delete(format!("{ROOT}pods/n/p"), Propagation::Background)]);
    }

    #[test]
    fn an_orphaning_deletion_frees_the_dependents_first() {
        let deleting = json!({"deletionTimestamp": "t", "finalizers": [ORPHAN]});
        let mut graph = graph(&[("x/a", "a", deleting), ("pods/n/p", "p", owned_by("a", true))]);
        let (owner, dependent) = (format!("{ROOT}x/a"), format!("{ROOT}pods/n/p"));
        let disown = Action::Disown { dependent: dependent.clone(), owner_uid: "a".into() };
        assert_eq!(actions(&graph, "x/a"), [disown]);
        assert!(actions(&graph, "pods/n/p").is_empty());
        let affected = graph.update(&dependent, Some(Node::of(&json!({"metadata": {"uid": "p"}}))));
        assert!(affected.contains(&owner));
        assert_eq!(actions(&graph, "x/a"), [Action::RemoveFinalizer(owner, ORPHAN)]);
    }
}
