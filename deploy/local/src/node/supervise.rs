//! The containers of a pod: each is started, probed, ended and started again as its restart policy says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use kube::runtime::events::EventType;
use rustix::process::Signal;

use super::container::{Bundle, DEFAULT_PATH, Process, find_image};
use super::logs::Log;
use super::pod::{Live, PodRun, RETRY, hostname, lock};
use super::probes::{self, Endpoint, Health};
use super::status::{self, Backoff, is_final};
use super::volumes::{self, InNamespace, Sources};
use super::{env, last_words, network};

impl PodRun {
    /// Runs one container again and again as `policy` says. The last exit code, or none when the pod is to stop.
    pub(super) async fn supervise(&self, container: &Container, policy: &str) -> Option<i32> {
        if let Some(exit) = self.resume(container, policy) {
            return Some(exit);
        }
        let mut backoff = Backoff::new(self.node.restart_backoff);
        let mut unstarted = false;
        loop {
            if self.stop.borrow().is_some() {
                return None;
            }
            let begun = Instant::now();
            let (ended, exit) = match self.bundle(container) {
                Ok(bundle) => {
                    let exit = self.run_once(container, bundle).await;
                    (Some(exit), exit)
                }
                Err((reason, message)) => {
                    let failed = if reason == "ErrImagePull" { "Failed" } else { reason };
                    self.event(EventType::Warning, failed, &message);
                    let again = unstarted && reason == "ErrImagePull";
                    let reason = if again { "ImagePullBackOff" } else { reason };
                    unstarted = true;
                    self.set_state(&container.name, status::waiting(reason, Some(message)));
                    (None, 1)
                }
            };
            if self.stop.borrow().is_some() {
                return None;
            }
            if ended.is_some() && is_final(policy, exit) {
                return Some(exit);
            }
            let pause = match ended {
                Some(_) => backoff.after(begun.elapsed()),
                None => backoff.after(Duration::ZERO).max(RETRY),
            };
            self.pause(container, pause, ended.is_some()).await;
        }
    }

    /// What an earlier life of the node left: counts the restart, or gives the exit code of a container that is done.
    fn resume(&self, container: &Container, policy: &str) -> Option<i32> {
        let mut done = None;
        self.update(&container.name, |status| {
            let old = status.state.take().unwrap_or_default();
            let was_running = old.running.as_ref().map(|running| running.started_at.clone());
            let ended = match was_running {
                Some(started_at) => status::terminated(255, Some("Unknown"), started_at),
                None => old.clone(),
            };
            match &ended.terminated {
                None => status.state = Some(old),
                Some(end) if is_final(policy, end.exit_code) => {
                    done = Some(end.exit_code);
                    status.state = Some(ended);
                }
                Some(_) => {
                    status.restart_count += 1;
                    status.state = Some(status::waiting("ContainerCreating", None));
                    status.last_state = Some(ended);
                }
            }
        });
        done
    }

    /// Waits between two runs, or until the pod is to stop.
    async fn pause(&self, container: &Container, pause: Duration, ran: bool) {
        if ran {
            self.update(&container.name, |status| {
                status.restart_count += 1;
                status.last_state = status.state.clone();
            });
        }
        if pause.is_zero() {
            return;
        }
        if ran {
            let message = format!("back-off {pause:?} restarting failed container={}", container.name);
            self.set_state(&container.name, status::waiting("CrashLoopBackOff", Some(message)));
            let message = format!("Back-off restarting failed container {}", container.name);
            self.event(EventType::Warning, "BackOff", &message);
        }
        let mut changed = self.node.config_changes.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stopping() => {}
            _ = changed.changed(), if !ran => {}
        }
    }

    fn termination_file(&self, container: &str) -> PathBuf {
        self.directory().join("terminations").join(container)
    }

    /// Everything for a start, or the reason and message of why not.
    fn bundle(&self, container: &Container) -> Result<Bundle, (&'static str, String)> {
        let pod = self.observed_pod();
        let image = container.image.as_deref().unwrap_or_default();
        let Some(binary) = find_image(&self.node.images, image) else {
            let message = format!(
                "image {image:?} stands for no program here; give one with --image {}=BINARY",
                image.split(':').next().unwrap_or(image)
            );
            return Err(("ErrImagePull", message));
        };
        if !binary.exists() {
            return Err(("ErrImagePull", format!("image {image:?}: there is no {}", binary.display())));
        }
        let config = |message| ("CreateContainerConfigError", message);
        let namespace = pod.namespace().unwrap_or_default();
        let sources: &Sources = &self.node.sources;
        let base = base_variables(&pod);
        let variables = env::environment(&pod, container, base, &InNamespace(sources, &namespace)).map_err(config)?;
        let volumes = lock(&self.volumes).clone();
        let mut mounts = volumes::mounts(container, &volumes, &variables).map_err(config)?;
        let left = last_words::mount(container, &self.termination_file(&container.name));
        mounts.push(left.map_err(|error| config(error.to_string()))?);
        let name = binary.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Bundle {
            network: self.node.network.namespace(&self.uid()),
            hostname: hostname(&pod),
            etc: self.directory().join("etc"),
            binary: binary.to_owned(),
            mounts,
            command: env::command_line(container, &name.into_iter().collect::<Vec<_>>(), &variables),
            directory: container.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or("/".into()),
            variables,
        })
    }

    /// One run of a container from start to end; its exit code.
    async fn run_once(&self, container: &Container, bundle: Bundle) -> i32 {
        let name = &container.name;
        let image = container.image.as_deref().unwrap_or_default();
        self.event(EventType::Normal, "Pulled", &format!("Container image {image:?} already present on machine"));
        let run = self.run_number(name);
        let started = async {
            let log = Log::create(&self.log_directory(name), run).await?;
            anyhow::Ok((log, bundle.start().await?))
        };
        let (log, mut process) = match started.await {
            Ok(started) => started,
            Err(error) => {
                self.event(EventType::Warning, "Failed", &format!("Error: {error:#}"));
                self.set_state(name, status::terminated(128, Some("StartError"), None));
                return 128;
            }
        };
        self.event(EventType::Normal, "Created", &format!("Created container: {name}"));
        let (out, err) = process.outputs();
        let out = out.map(|out| tokio::spawn(log.clone().pump(out)));
        let err = err.map(|err| tokio::spawn(log.clone().pump(err)));
        let address = lock(&self.observed).address.unwrap_or(network::GATEWAY);
        let endpoint = Endpoint { address, init: process.init(), bundle };
        let live = Live { endpoint: endpoint.clone(), log };
        lock(&self.live).insert(name.clone(), live);
        self.update(name, |status| {
            status.state = Some(status::running());
            status.container_id = Some(format!("local://{}-{name}-{run}", self.uid()));
            status.image_id = endpoint.bundle.binary.display().to_string();
        });
        self.event(EventType::Normal, "Started", &format!("Started container {name}"));
        let (exit, reason) = self.attend(container, &endpoint, &mut process).await;
        lock(&self.live).remove(name);
        for pump in out.into_iter().chain(err) {
            drop(tokio::time::timeout(Duration::from_secs(1), pump).await);
        }
        let reason = reason.then_some("Error");
        let log = Log::path(&self.log_directory(name), run);
        let message = last_words::read(container, exit, &self.termination_file(name), &log);
        self.update(name, |status| {
            let started = status.state.take().and_then(|state| state.running?.started_at);
            let mut ended = status::terminated(exit, reason, started);
            if let Some(terminated) = &mut ended.terminated {
                terminated.message = message;
            }
            status.state = Some(ended);
            status.ready = false;
            status.started = Some(false);
        });
        exit
    }

    /// Probes a running container, and ends it when it must end. The exit code, and whether it was killed for its health.
    async fn attend(&self, container: &Container, endpoint: &Endpoint, process: &mut Process) -> (i32, bool) {
        let report = |health| self.report(container, health);
        let healthy = async {
            let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
            if let Some(hook) = hook
                && let Err(error) = probes::run_hook(hook, container, endpoint).await
            {
                self.event(EventType::Warning, "FailedPostStartHook", &error);
                return "PostStartHook failed".to_owned();
            }
            probes::watch(container, endpoint, &report).await
        };
        let unhealthy = tokio::select! {
            exit = process.wait() => return (exit, false),
            reason = healthy => Some(reason),
            () = self.stopping() => None,
        };
        let message = unhealthy.clone().unwrap_or_else(|| format!("Stopping container {}", container.name));
        self.event(EventType::Normal, "Killing", &message);
        let deadline = Instant::now() + self.grace();
        (self.end(container, endpoint, process, deadline).await, unhealthy.is_some())
    }

    /// preStop, SIGTERM, and SIGKILL at the deadline or at the pod's, whichever is sooner.
    async fn end(&self, container: &Container, endpoint: &Endpoint, process: &mut Process, deadline: Instant) -> i32 {
        let mut stop = self.stop.subscribe();
        let expired = async {
            loop {
                let until = stop.borrow_and_update().map_or(deadline, |stop| stop.min(deadline));
                let until_then = tokio::time::sleep_until(until.into());
                tokio::select! {
                    () = until_then => return,
                    Ok(()) = stop.changed() => {}
                }
            }
        };
        let gracefully = async {
            let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook {
                tokio::select! {
                    exit = process.wait() => return exit,
                    ran = probes::run_hook(hook, container, endpoint) => {
                        if let Err(error) = ran {
                            self.event(EventType::Warning, "FailedPreStopHook", &error);
                        }
                    }
                }
            }
            process.signal(Signal::TERM);
            process.wait().await
        };
        let ended = tokio::select! {
            exit = gracefully => Some(exit),
            () = expired => None,
        };
        match ended {
            Some(exit) => exit,
            None => {
                process.signal(Signal::KILL);
                process.wait().await
            }
        }
    }

    fn report(&self, container: &Container, health: Health) {
        match health {
            Health::Started => self.update(&container.name, |status| status.started = Some(true)),
            Health::Ready(ready) => self.update(&container.name, |status| status.ready = ready),
            Health::Failed(probe, reason) => {
                self.event(EventType::Warning, "Unhealthy", &format!("{probe} probe failed: {reason}"));
            }
        }
    }
}

/// Variables that every container has.
fn base_variables(pod: &Pod) -> BTreeMap<String, String> {
    [
        ("PATH", DEFAULT_PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        ("HOSTNAME", hostname(pod)),
        ("KUBERNETES_SERVICE_HOST", network::API_SERVICE.to_string()),
        ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
