//! The watches. Each names the object that a change belongs to, and most fill a cache. One that fails, is cut off or is told that
//! its place in the history is gone begins again with a list, after a pause that grows.

use futures::stream::{self, BoxStream, SelectAll, Stream};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, Secret};
use kube::api::{Api, PartialObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store as Cache, store};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::crd::EtcdCluster;
use crate::names::{CLUSTER_LABEL, FIELD_MANAGER};
use crate::observe::Caches;

/// The object that something changed of.
pub type Change<K> = Result<ObjectRef<K>, watcher::Error>;

/// Changes of objects of a kind, and of what belongs to them. Caches are filled while this is polled.
pub type Changes<K> = SelectAll<BoxStream<'static, Change<K>>>;

/// A kind whose objects can be watched.
pub trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + DeserializeOwned
    + Clone
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static
{
}

/// The watch of all objects of a kind, and others that wake passes over them.
pub struct Queue<K: Watched> {
    /// The objects.
    pub cache: Cache<K>,
    /// What wakes passes.
    pub changes: Changes<K>,
}

impl<K: Watched> Queue<K> {
    /// The objects themselves, when they go as well.
    pub fn of(api: Api<K>) -> Self {
        let (cache, objects) = reflected(api, watcher::Config::default(), trim_metadata);
        let changes = SelectAll::from_iter([objects.map_ok(|object| ObjectRef::from_obj(&object)).boxed()]);
        Self { cache, changes }
    }

    /// Passes are made over `whose` objects as well.
    pub fn woken_by<O: Watched>(
        mut self,
        api: Api<O>,
        which: watcher::Config,
        whose: impl Fn(O) -> Vec<ObjectRef<K>> + Send + 'static,
    ) -> Self {
        let others = watcher(api, which).default_backoff().touched_objects();
        let named = others.map_ok(move |other| stream::iter(whose(other).into_iter().map(Ok))).try_flatten();
        self.changes.push(named.boxed());
        self
    }
}

/// A cache of objects without what `trim` forgets, and those that changed.
fn reflected<K: Watched>(
    api: Api<K>,
    which: watcher::Config,
    trim: fn(&mut K),
) -> (Cache<K>, BoxStream<'static, Result<K, watcher::Error>>) {
    let (cache, writer) = store();
    let objects = watcher(api, which).default_backoff().modify(trim).reflect(writer).touched_objects();
    (cache, objects.boxed())
}

/// All watches for the clusters.
pub struct Watches {
    /// The clusters themselves.
    pub clusters: Cache<EtcdCluster>,
    /// What belongs to them.
    pub caches: Caches,
    /// Changes of any of it.
    pub changes: Changes<EtcdCluster>,
}

impl Watches {
    /// Watches one namespace, or all.
    pub fn start(client: Client, namespace: Option<&str>) -> Self {
        let Queue { cache: clusters, changes } = Queue::of(scoped::<EtcdCluster>(&client, namespace));
        let mut source = Source { client, namespace: namespace.map(str::to_string), changes };
        Self {
            clusters,
            caches: Caches {
                statefulsets: source.metadata(),
                pods: source.objects(trim_pod),
                claims: source.objects(trim_metadata::<PersistentVolumeClaim>),
                services: source.metadata(),
                budgets: source.metadata(),
                secrets: source.objects(trim_metadata::<Secret>),
            },
            changes: source.changes,
        }
    }

    /// Resolves once every cache has its first list.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let clusters = self.clusters.clone();
        let caches = self.caches.clone();
        async move {
            // A writer that was dropped means that the program is stopping.
            let _ = futures::join!(
                clusters.wait_until_ready(),
                caches.statefulsets.wait_until_ready(),
                caches.pods.wait_until_ready(),
                caches.claims.wait_until_ready(),
                caches.services.wait_until_ready(),
                caches.budgets.wait_until_ready(),
                caches.secrets.wait_until_ready(),
            );
        }
    }
}

/// The objects of one namespace, or of all.
pub fn scoped<K: Watched>(client: &Client, namespace: Option<&str>) -> Api<K> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

struct Source {
    client: Client,
    namespace: Option<String>,
    changes: Changes<EtcdCluster>,
}

impl Source {
    /// Only the metadata of members' objects of this kind.
    fn metadata<K: Watched>(&mut self) -> Cache<PartialObjectMeta<K>> {
        self.objects(trim_metadata::<PartialObjectMeta<K>>)
    }

    /// Objects of this kind that belong to members, without what `trim` forgets.
    fn objects<K: Watched>(&mut self, trim: fn(&mut K)) -> Cache<K> {
        let api = scoped::<K>(&self.client, self.namespace.as_deref());
        let (cache, objects) = reflected(api, of_members(), trim);
        self.changes.push(name_clusters(objects));
        cache
    }
}

fn of_members() -> watcher::Config {
    watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"))
}

fn name_clusters<K: Resource + 'static>(
    stream: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> BoxStream<'static, Change<EtcdCluster>> {
    stream
        .try_filter_map(|object| {
            let cluster = object.labels().get(CLUSTER_LABEL).map(|name| {
                let namespace = object.namespace().unwrap_or_default();
                ObjectRef::new(name).within(&namespace)
            });
            std::future::ready(Ok(cluster))
        })
        .boxed()
}

/// Forgets what no part of the operator reads.
fn trim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Forgets what no part of the operator reads of a pod.
fn trim_pod(pod: &mut Pod) {
    trim_metadata(pod);
    let gates = pod.spec.take().and_then(|spec| spec.scheduling_gates);
    pod.spec = gates.map(|gates| PodSpec { scheduling_gates: Some(gates), ..Default::default() });
    if let Some(status) = &mut pod.status {
        status.host_ips = None;
        status.pod_ips = None;
    }
}
