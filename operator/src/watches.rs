//! The watches. Each fills a cache, and names the cluster that a change belongs to.

use futures::stream::{BoxStream, SelectAll, Stream};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
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

/// The cluster that something changed of.
pub type Change = Result<ObjectRef<EtcdCluster>, watcher::Error>;

/// All watches of the operator.
pub struct Watches {
    /// The clusters themselves.
    pub clusters: Cache<EtcdCluster>,
    /// What belongs to them.
    pub caches: Caches,
    /// Changes of any of it. The caches are filled while this is polled.
    pub changes: SelectAll<BoxStream<'static, Change>>,
}

impl Watches {
    /// Watches one namespace, or all.
    pub fn start(client: Client, namespace: Option<&str>) -> Self {
        let mut source = Source { client, namespace: namespace.map(str::to_string), changes: SelectAll::new() };
        Self {
            clusters: source.clusters(),
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
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

struct Source {
    client: Client,
    namespace: Option<String>,
    changes: SelectAll<BoxStream<'static, Change>>,
}

impl Source {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        scoped(&self.client, self.namespace.as_deref())
    }

    fn clusters(&mut self) -> Cache<EtcdCluster> {
        let (cache, writer) = store();
        let stream = watcher(self.api::<EtcdCluster>(), watcher::Config::default())
            .default_backoff()
            .modify(trim_metadata)
            .reflect(writer)
            .touched_objects()
            .map_ok(|cluster| ObjectRef::from_obj(&cluster));
        self.changes.push(stream.boxed());
        cache
    }

    /// Only the metadata of members' objects of this kind.
    fn metadata<K>(&mut self) -> Cache<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        self.objects(trim_metadata::<PartialObjectMeta<K>>)
    }

    /// Objects of this kind that belong to members, without what `trim` forgets.
    fn objects<K>(&mut self, trim: fn(&mut K)) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let (cache, writer) = store();
        let stream =
            watcher(self.api::<K>(), of_members()).default_backoff().modify(trim).reflect(writer).touched_objects();
        self.changes.push(name_clusters(stream));
        cache
    }
}

fn of_members() -> watcher::Config {
    watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"))
}

fn name_clusters<K: Resource + 'static>(
    stream: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> BoxStream<'static, Change> {
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
    pod.spec = None;
    if let Some(status) = &mut pod.status {
        status.host_ips = None;
        status.pod_ips = None;
    }
}
