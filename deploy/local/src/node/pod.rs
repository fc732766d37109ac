//! The life of one pod on the node: network and volumes, init containers one after the other, then all containers, each
//! restarted by its policy, until the pod is over or is to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::Node;
use super::logs::Log;
use super::network;
use super::probes::Endpoint;
use super::status::{self, Observed, restart_policy};
use super::volumes;
use crate::objects::{beside, json_of};

/// How long the node waits before it tries again what it cannot do yet, unless something changes first.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Grace that a pod gets that says nothing.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// A container that runs now.
#[derive(Clone, Debug)]
pub struct Live {
    /// How to reach it.
    pub endpoint: Endpoint,
    /// Where its output goes.
    pub log: Arc<Log>,
}

/// A pod on this node, shared by its own task, the status writer, logs and exec.
pub struct PodRun {
    pub(super) node: Arc<Node>,
    /// The pod as the API server last showed it.
    pub pod: watch::Sender<Arc<Pod>>,
    /// Set once: processes must end by then.
    pub(super) stop: watch::Sender<Option<Instant>>,
    pub(super) observed: Mutex<Observed>,
    pub(super) live: Mutex<BTreeMap<String, Live>>,
    pub(super) volumes: Mutex<BTreeMap<String, PathBuf>>,
    dirty: Notify,
    writing: tokio::sync::Mutex<()>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PodRun {
    /// Takes a pod over, with what its status remembers of earlier runs.
    pub fn new(node: Arc<Node>, pod: Arc<Pod>) -> Arc<Self> {
        let old = pod.status.clone().unwrap_or_default();
        let statuses = old.init_container_statuses.into_iter().chain(old.container_statuses).flatten();
        let observed = Observed {
            containers: statuses.map(|status| (status.name.clone(), status)).collect(),
            start_time: Some(old.start_time.unwrap_or_else(status::now)),
            ..Observed::default()
        };
        Arc::new(Self {
            node,
            pod: watch::channel(pod).0,
            stop: watch::channel(None).0,
            observed: Mutex::new(observed),
            live: Mutex::default(),
            volumes: Mutex::default(),
            dirty: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    /// Asks for the end of all processes within `grace`; a shorter grace later wins.
    pub fn stop_within(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop.send_if_modified(|current| {
            let sooner = current.is_none_or(|current| deadline + RETRY / 10 < current);
            if sooner {
                *current = Some(deadline);
            }
            sooner
        });
    }

    /// The grace that the pod's spec asks for.
    pub fn grace(&self) -> Duration {
        let pod = self.pod.borrow();
        let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        seconds.and_then(|s| u64::try_from(s).ok()).map_or(DEFAULT_GRACE, Duration::from_secs)
    }

    /// A container that runs now.
    pub fn live(&self, container: &str) -> Option<Live> {
        lock(&self.live).get(container).cloned()
    }

    /// How often a container was restarted: its current run's number.
    pub fn run_number(&self, container: &str) -> i32 {
        lock(&self.observed).containers.get(container).map_or(0, |status| status.restart_count)
    }

    /// Where a container's logs are.
    pub fn log_directory(&self, container: &str) -> PathBuf {
        self.directory().join("logs").join(container)
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.node.pod_directory(&self.uid())
    }

    pub(super) fn uid(&self) -> String {
        self.pod.borrow().uid().unwrap_or_default()
    }

    fn current(&self) -> Arc<Pod> {
        self.pod.borrow().clone()
    }

    /// Runs the pod to its end. Returns when no process is left.
    pub async fn run(self: Arc<Self>) {
        let writer = tokio::spawn({
            let this = self.clone();
            async move {
                loop {
                    this.dirty.notified().await;
                    this.write_status().await;
                }
            }
        });
        let pod = self.current();
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let over = self.run_containers(&init, &spec.containers).await;
        let stopped = self.stop.borrow().is_some();
        if over && !stopped {
            lock(&self.observed).finished = true;
        }
        self.write_status().await;
        writer.abort();
        self.node.network.detach(&self.uid()).await;
    }

    /// True when the pod came to its own end, false when it was stopped.
    async fn run_containers(&self, init: &[Container], main: &[Container]) -> bool {
        let missing = |this: &Self, container: &Container, reason: &str| {
            let fresh = status::never_ran(container, reason);
            lock(&this.observed).containers.entry(container.name.clone()).or_insert(fresh);
        };
        init.iter().for_each(|c| missing(self, c, "PodInitializing"));
        let reason = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        main.iter().for_each(|c| missing(self, c, reason));
        main.iter().for_each(|c| self.update(&c.name, |status| status.ready = false));
        if !self.prepare().await {
            return false;
        }
        for container in init {
            let policy = if restart_policy(&self.current()) == "Never" { "Never" } else { "OnFailure" };
            match self.supervise(container, policy).await {
                Some(0) => self.update(&container.name, |status| status.ready = true),
                Some(_) => return true,
                None => return false,
            }
        }
        let policy = restart_policy(&self.current()).to_owned();
        let exits = join_all(main.iter().map(|container| self.supervise(container, &policy))).await;
        exits.iter().all(Option::is_some)
    }

    /// Network, host files and volumes, again and again until all are there. False when the pod is to stop.
    async fn prepare(&self) -> bool {
        let mut changed = self.node.changes.subscribe();
        loop {
            let error = match self.set_up_once().await {
                Ok(()) => {
                    self.dirty.notify_one();
                    return true;
                }
                Err(error) => error,
            };
            self.event(EventType::Warning, "FailedMount", &error);
            self.dirty.notify_one();
            tokio::select! {
                () = self.stopping() => return false,
                () = async { tokio::time::sleep(RETRY).await } => {}
                _ = changed.changed() => {}
            }
        }
    }

    async fn set_up_once(&self) -> Result<(), String> {
        let pod = self.current();
        let uid = self.uid();
        let text = |error: anyhow::Error| format!("{error:#}");
        let directory = self.directory().join("volumes");
        let volumes = volumes::prepare(&pod, &directory, &self.node.sources)?;
        *lock(&self.volumes) = volumes;
        if lock(&self.observed).address.is_some() {
            return Ok(());
        }
        let wanted = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let address = self.node.network.reserve(&uid, wanted).map_err(text)?;
        self.node.network.attach(&uid, address).await.map_err(text)?;
        self.write_host_files(&pod, address).map_err(|error| error.to_string())?;
        lock(&self.observed).address = Some(address);
        Ok(())
    }

    fn write_host_files(&self, pod: &Pod, address: std::net::Ipv4Addr) -> std::io::Result<()> {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        let hostname = hostname(pod);
        let full = spec.subdomain.map(|sub| format!("{hostname}.{sub}.{namespace}.svc.cluster.local "));
        let mut hosts =
            format!("127.0.0.1 localhost\n::1 localhost\n{address} {}{hostname}\n", full.unwrap_or_default());
        for alias in spec.host_aliases.iter().flatten() {
            hosts +=
                &format!("{} {}\n", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
        }
        let etc = self.directory().join("etc");
        std::fs::create_dir_all(&etc)?;
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
        std::fs::write(etc.join("resolv.conf"), network::resolv_conf(&namespace))
    }

    /// Brings the files of Secrets and ConfigMaps up to date.
    pub fn refresh_volumes(&self) {
        if lock(&self.volumes).is_empty() {
            return;
        }
        let directory = self.directory().join("volumes");
        if let Err(error) = volumes::prepare(&self.current(), &directory, &self.node.sources) {
            tracing::debug!(error, "volumes stay as they are");
        }
    }

    /// Returns once the pod is to stop.
    pub(super) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        drop(stop.wait_for(Option::is_some).await);
    }

    pub(super) fn set_state(&self, container: &str, state: ContainerState) {
        self.update(container, |status| status.state = Some(state));
    }

    pub(super) fn update(&self, container: &str, change: impl FnOnce(&mut ContainerStatus)) {
        let mut observed = lock(&self.observed);
        if let Some(status) = observed.containers.get_mut(container) {
            let before = status.clone();
            change(status);
            if *status != before {
                self.dirty.notify_one();
            }
        }
    }

    /// Writes an event about the pod in the background.
    pub(super) fn event(&self, type_: EventType, reason: &str, note: &str) {
        let (recorder, pod) = (self.node.recorder.clone(), self.current().object_ref(&()));
        let (reason, note) = (reason.to_owned(), Some(note.to_owned()));
        let event = Event { type_, action: reason.clone(), reason, note, secondary: None };
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &pod).await {
                tracing::debug!(%error, "event lost");
            }
        });
    }

    /// The pod with the status as the node knows it, for downward fields.
    pub(super) fn observed_pod(&self) -> Pod {
        let mut pod = Pod::clone(&self.current());
        pod.status = Some(status::pod_status(&pod, &lock(&self.observed)));
        pod
    }

    /// Writes the status if it differs from the API server's.
    async fn write_status(&self) {
        let _one_at_a_time = self.writing.lock().await;
        for _ in 0..5 {
            let pod = self.current();
            let status = status::pod_status(&pod, &lock(&self.observed));
            if pod.status.as_ref() == Some(&status) {
                return;
            }
            let patch = json!({ "metadata": { "uid": self.uid() }, "status": json_of(&status) });
            let api: Api<Pod> = beside(&self.node.client, pod.as_ref());
            match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(written) => {
                    self.pod.send_if_modified(|current| {
                        let newer = newer(&written, current);
                        if newer {
                            *current = Arc::new(written);
                        }
                        newer
                    });
                    return;
                }
                Err(kube::Error::Api(error)) if error.is_not_found() || error.is_conflict() => {
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, pod = pod.name_any(), "status not written, trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Whether `new` is a later version of the object than `old`.
pub fn newer(new: &Pod, old: &Pod) -> bool {
    let version = |pod: &Pod| pod.resource_version().and_then(|version| version.parse::<u64>().ok());
    version(new) >= version(old)
}

pub(super) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    own.unwrap_or_else(|| pod.name_any())
}
