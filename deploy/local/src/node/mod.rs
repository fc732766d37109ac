//! The node: runs the pods that are bound to it as processes of this machine, in network and mount namespaces of its own.
//!
//! It knows the API server only through the `kube` client. Files in the order in which a pod meets them: `pod` (its life),
//! `network`, `volumes`, `supervise` (the life of a container), `env`, `container`, `probes`, `logs`, `status`;
//! for others: `dns`, `proxy`, `agent`, `exec`; `register` is the node itself.

mod agent;
mod container;
mod dns;
mod env;
mod exec;
mod last_words;
mod logs;
mod network;
mod pod;
mod probes;
mod proxy;
mod register;
mod status;
mod supervise;
mod volumes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

pub use container::Image;
pub use proxy::splice;
pub use volumes::claim_directory;

use crate::layout::Layout;
use crate::objects::{Changes, all, beside, watch_all};

/// The only node's name.
pub const NAME: &str = "keelson-local";

/// How long the node of an earlier `up` may take to stop its pods.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(60);

/// What the node is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is.
    pub layout: Layout,
    /// Programs that stand for images.
    pub images: Vec<Image>,
    /// The first pause between restarts of a failing container.
    pub restart_backoff: Duration,
}

/// What all pods of the node share.
pub struct Node {
    layout: Layout,
    images: Vec<Image>,
    restart_backoff: Duration,
    network: network::Network,
    client: Client,
    sources: volumes::Sources,
    recorder: Recorder,
    /// Bumped when anything watched changes.
    changes: Changes,
    /// Bumped when a Secret or ConfigMap changes.
    config_changes: Changes,
}

impl Node {
    fn pod_directory(&self, uid: &str) -> PathBuf {
        self.layout.pods().join(uid)
    }
}

/// The pods of this node by uid.
#[derive(Default)]
pub struct Pods(Mutex<BTreeMap<String, Running>>);

struct Running {
    pod: Arc<pod::PodRun>,
    /// Over when no process is left.
    ended: Shared<BoxFuture<'static, ()>>,
    removing: bool,
}

impl Pods {
    /// The youngest pod of this name.
    fn find(&self, namespace: &str, name: &str) -> Option<Arc<pod::PodRun>> {
        let pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = pods.values().filter(|running| {
            let object = running.pod.pod.borrow();
            object.name_any() == name && object.namespace().as_deref() == Some(namespace)
        });
        let youngest = named.max_by_key(|running| running.pod.pod.borrow().creation_timestamp().map(|time| time.0));
        youngest.map(|running| running.pod.clone())
    }
}

/// Runs the node until standard input ends (the parent has gone or wants it to end) or SIGTERM, and then stops all pods
/// gracefully.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let layout = config.layout.clone();
    let _lock = alone(&layout).await?;
    let network = network::Network::create(layout.at("run/net")).await?;
    use_cluster_dns(&layout).await?;
    proxy::relay_api_server(layout.api_socket()).await?;
    let client = crate::layout::client(&layout.pod_kubeconfig()).await?;
    let (changes, config_changes) = (Changes::default(), Changes::default());
    let sources = volumes::Sources {
        secrets: watch_all::<Secret>(all(&client), &config_changes),
        config_maps: watch_all::<ConfigMap>(all(&client), &config_changes),
        claims: watch_all::<PersistentVolumeClaim>(all(&client), &changes),
        token: tokio::fs::read_to_string(layout.token()).await?,
        claims_directory: layout.volumes(),
    };
    let names = dns::Names {
        services: watch_all::<Service>(all(&client), &changes),
        slices: watch_all::<EndpointSlice>(all(&client), &changes),
    };
    let pods: Store<Pod> = watch_all(all(&client), &changes);
    sources.secrets.wait_until_ready().await?;
    sources.config_maps.wait_until_ready().await?;
    sources.claims.wait_until_ready().await?;
    pods.wait_until_ready().await?;
    dns::serve(names.clone()).await?;
    tokio::spawn(proxy::run(names.clone(), changes.clone()));
    proxy::serve_published(&layout.publish_socket(), names).await?;
    let reporter = Reporter { controller: "kubelet".into(), instance: Some(NAME.into()) };
    let node = Arc::new(Node {
        layout: layout.clone(),
        images: with_shell(config.images),
        restart_backoff: config.restart_backoff,
        network,
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        sources,
        changes,
        config_changes,
    });
    let running = Arc::new(Pods::default());
    agent::serve(&layout.node_socket(), running.clone()).await?;
    register::register(&client).await?;
    tokio::spawn(register::heartbeat(client));
    remove_strangers(&node, &pods);
    println!("ready");
    tokio::select! {
        () = follow(&node, &pods, &running) => {}
        () = asked_to_stop() => {}
    }
    stop_all(&running).await;
    Ok(())
}

/// Waits until the node of an `up` that was killed has stopped its pods.
async fn alone(layout: &Layout) -> anyhow::Result<std::fs::File> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_TIMEOUT;
    loop {
        match layout.lock("node.lock") {
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            locked => return locked.context("another node still runs here"),
        }
    }
}

/// The given images, and `busybox` for the host's shell unless it was given.
fn with_shell(mut images: Vec<Image>) -> Vec<Image> {
    if !images.iter().any(|image| image.name == "busybox") {
        images.push(Image { name: "busybox".into(), binary: "/bin/sh".into() });
    }
    images
}

/// Cluster DNS for whatever runs in the node's mount namespace, which is a copy of the host's.
async fn use_cluster_dns(layout: &Layout) -> anyhow::Result<()> {
    let path = layout.at("run/resolv.conf");
    tokio::fs::write(&path, network::resolv_conf("default")).await?;
    let target = Path::new("/etc/resolv.conf");
    if !target.exists() {
        tracing::warn!("no /etc/resolv.conf on this machine: cluster names only resolve in pods");
        return Ok(());
    }
    network::run(Command::new("mount").arg("--bind").arg(path).arg(target), "").await
}

/// Returns when the parent closes our standard input, or on SIGTERM. The terminal's Ctrl-C is the parent's to handle: it
/// reaches this process too, which must outlive it.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(_interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    let mut input = tokio::io::stdin();
    tokio::select! {
        () = async { while let Ok(1..) = input.read(&mut [0; 64]).await {} } => {}
        _ = terminate.recv() => {}
    }
}

/// Starts, updates and removes pods as the API server's copy changes. Never returns.
async fn follow(node: &Arc<Node>, store: &Store<Pod>, running: &Arc<Pods>) {
    let mut changed = node.changes.subscribe();
    let mut config_changed = node.config_changes.subscribe();
    loop {
        changed.borrow_and_update();
        synchronize(node, store, running);
        tokio::select! {
            _ = changed.changed() => {}
            _ = config_changed.changed() => {
                let pods = running.0.lock().unwrap_or_else(PoisonError::into_inner);
                pods.values().for_each(|entry| entry.pod.refresh_volumes());
            }
        }
    }
}

/// Makes the running pods those that the store shows for this node.
fn synchronize(node: &Arc<Node>, store: &Store<Pod>, running: &Arc<Pods>) {
    let ours = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NAME);
    let wanted = store.state().into_iter().filter(ours);
    let wanted: BTreeMap<_, _> = wanted.map(|pod| (pod.uid().unwrap_or_default(), pod)).collect();
    let mut pods = running.0.lock().unwrap_or_else(PoisonError::into_inner);
    for (uid, pod) in &wanted {
        let entry = pods.entry(uid.clone()).or_insert_with(|| start(node, pod));
        entry.pod.pod.send_if_modified(|current| {
            let newer = pod::newer(pod, current);
            if newer {
                *current = pod.clone();
            }
            newer
        });
    }
    for (uid, entry) in pods.iter_mut() {
        let grace = match wanted.get(uid) {
            // Deleted by force: nobody waits for its processes.
            None => Some(0),
            // A second, shorter deletion shortens the grace.
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
                pod.metadata.deletion_grace_period_seconds.or(Some(0))
            }
            Some(_) => None,
        };
        let Some(grace) = grace else { continue };
        entry.pod.stop_within(Duration::from_secs(u64::try_from(grace).unwrap_or(0)));
        if !entry.removing {
            entry.removing = true;
            tokio::spawn(remove(node.clone(), store.clone(), running.clone(), uid.clone()));
        }
    }
}

/// Runs a pod, unless it is over or already being deleted, when only its files and object are left to remove.
fn start(node: &Arc<Node>, pod: &Arc<Pod>) -> Running {
    let run = pod::PodRun::new(node.clone(), pod.clone());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
    let ended = match over {
        true => std::future::ready(()).boxed(),
        false => tokio::spawn(run.clone().run()).map(drop).boxed(),
    };
    Running { pod: run, ended: ended.shared(), removing: false }
}

/// Waits until a pod's processes have ended, removes its files, and then the object for good.
async fn remove(node: Arc<Node>, pods: Store<Pod>, running: Arc<Pods>, uid: String) {
    let (pod, ended) = {
        let entries = running.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(&uid) else {
            return;
        };
        (entry.pod.pod.borrow().clone(), entry.ended.clone())
    };
    ended.await;
    let api: Api<Pod> = beside(&node.client, pod.as_ref());
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        match api.delete(&pod.name_any(), &parameters).await {
            Ok(_) => break,
            Err(kube::Error::Api(error)) if error.is_not_found() || error.is_conflict() => break,
            Err(error) => tracing::warn!(%error, pod = pod.name_any(), "not deleted, trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    volumes::unmount_memory(&node.pod_directory(&uid).join("volumes"));
    drop(tokio::fs::remove_dir_all(node.pod_directory(&uid)).await);
    // The entry goes once the watch no longer shows the pod, or else it would be started anew.
    let gone = || {
        let shown = pods.get(&kube::runtime::reflector::ObjectRef::from_obj(pod.as_ref()));
        shown.is_none_or(|shown| shown.uid().as_deref() != Some(&uid))
    };
    let mut changed = node.changes.subscribe();
    while !gone() && changed.changed().await.is_ok() {}
    running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
}

/// Directories of pods that were deleted while no node ran.
fn remove_strangers(node: &Node, store: &Store<Pod>) {
    let known: Vec<_> = store.state().iter().filter_map(|pod| pod.uid()).collect();
    for entry in std::fs::read_dir(node.layout.pods()).into_iter().flatten().flatten() {
        if !known.iter().any(|uid| entry.file_name() == uid.as_str()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Ends all pods, each within its own grace. Their objects stay, to be started again next time.
async fn stop_all(running: &Pods) {
    let ends: Vec<_> = {
        let pods = running.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().for_each(|entry| entry.pod.stop_within(entry.pod.grace()));
        pods.values().map(|entry| entry.ended.clone()).collect()
    };
    futures::future::join_all(ends).await;
}
