//! The operator's program: reads its flags and wires the parts together.

mod access;
mod act;
mod backup;
mod build;
mod check;
mod client;
mod controller;
mod crd;
mod events;
mod kubectl;
mod lease;
mod member;
mod memory;
mod metrics;
mod names;
mod observe;
mod pass;
mod pki;
mod plan;
mod schedule;
mod status;
mod validate;
mod watches;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use futures::future::{join_all, join5};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::crd::{EtcdRole, EtcdUser};
use crate::lease::{Election, Lock};
use crate::member::Sessions;
use crate::metrics::Metrics;

/// Runs etcd-compatible clusters of keelson-server on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "keelson-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the custom resource definitions, or one of them, and exit.
    Crds {
        /// Its plural, such as `etcdbackups`.
        plural: Option<String>,
    },
    /// Print the reference of all kinds as Markdown, and exit.
    Reference,
    /// Run the operator; the same as no command.
    Run(RunArgs),
    /// What a person does with clusters; also under the name kubectl-keelson, as a plugin of kubectl.
    Kubectl(kubectl::Cli),
    /// Ask a running operator whether it is ready, and the API server whether EtcdClusters may be read.
    Check(CheckArgs),
}

#[derive(Debug, Clone, Args)]
struct WatchArgs {
    /// Watch this namespace only; several by repetition or with commas. All namespaces otherwise.
    #[arg(long, env = "WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
}

impl WatchArgs {
    /// Each namespace once, or `None` for all.
    fn namespaces(&self) -> Vec<Option<String>> {
        let named: BTreeSet<&str> = self.watch_namespace.iter().map(|name| name.trim()).collect();
        let named: Vec<_> = named.into_iter().filter(|name| !name.is_empty()).map(|name| Some(name.into())).collect();
        if named.is_empty() { vec![None] } else { named }
    }
}

#[derive(Debug, Clone, Args)]
struct CheckArgs {
    #[command(flatten)]
    watch: WatchArgs,
    /// Where the operator serves probes.
    #[arg(long, value_name = "URL")]
    operator: http::Uri,
}

#[derive(Debug, Clone, Args)]
struct RunArgs {
    #[command(flatten)]
    watch: WatchArgs,
    /// The namespace of the Lease by which operators elect a leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "keelson-system")]
    lease_namespace: String,
    /// The name of that Lease. Operators that look after different namespaces need different ones.
    #[arg(long, default_value = "keelson-operator")]
    lease_name: String,
    /// This operator's name in the election; by default the host's name.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Where metrics and probes are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: String,
    /// How many clusters are worked on at the same time, in each namespace that is watched by name.
    #[arg(long, default_value_t = 4)]
    concurrency: u16,
}

fn main() -> anyhow::Result<()> {
    if let Some(plugin) = kubectl::called() {
        return kubectl::run(plugin);
    }
    let cli = Cli::parse();
    let arguments = match cli.command {
        Some(Command::Crds { plural }) => {
            print!("{}", crd::yaml(plural.as_deref())?);
            return Ok(());
        }
        Some(Command::Reference) => {
            print!("{}", crd::reference::markdown());
            return Ok(());
        }
        Some(Command::Kubectl(plugin)) => return kubectl::run(plugin),
        Some(Command::Check(arguments)) => {
            let namespaces = arguments.watch.namespaces();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(check::run(arguments.operator, &namespaces));
        }
        Some(Command::Run(arguments)) => arguments,
        None => cli.run,
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    // Few threads: passes wait for others most of the time, and each thread costs memory.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()?
        .block_on(run(arguments))
}

async fn run(arguments: RunArgs) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let listener = tokio::net::TcpListener::bind(&arguments.listen)
        .await
        .with_context(|| format!("listening on {}", arguments.listen))?;
    let server = axum::serve(listener, metrics::routes(metrics.clone()));
    tokio::spawn(async move { server.await });

    let (stop, stopped) = watch::channel(false);
    tokio::spawn(stop_on_signal(stop));

    let config = Config::infer().await.context("finding the API server")?;
    let client = client::connect(config.clone(), metrics.clone())?;
    tokio::select! {
        () = reach(&client) => metrics.set_ready(),
        () = until(stopped.clone()) => return Ok(()),
    }

    let identity = arguments.identity.clone().unwrap_or_else(host_name);
    let mut election = {
        let (metrics, identity) = (metrics.clone(), identity.clone());
        Election::begin(move || {
            let client = client::connect(config, metrics)?;
            let leases = Api::namespaced(client, &arguments.lease_namespace);
            Ok::<_, kube::Error>(Lock::new(leases, &arguments.lease_name, identity))
        })?
    };
    tokio::select! {
        leads = election.leads() => anyhow::ensure!(leads, "there is no election"),
        () = until(stopped.clone()) => return Ok(()),
    }
    tracing::info!(identity, "leading");
    metrics.set_leader(true);
    let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(identity) };
    let recorder = Recorder::new(client.clone(), reporter);
    let namespaces = arguments.watch.namespaces();
    let sessions = Arc::new(Sessions::default());
    let controllers = namespaces.iter().map(|namespace| {
        let namespace = namespace.as_deref();
        let clusters = controller::run(
            client.clone(),
            namespace,
            recorder.clone(),
            metrics.clone(),
            sessions.clone(),
            arguments.concurrency,
            until(stopped.clone()),
        );
        let (recorder, metrics) = (recorder.clone(), metrics.clone());
        let backups = backup::controller::run(
            client.clone(),
            namespace,
            recorder.clone(),
            metrics.clone(),
            until(stopped.clone()),
        );
        let schedules = schedule::controller::run(
            client.clone(),
            namespace,
            recorder.clone(),
            metrics.clone(),
            until(stopped.clone()),
        );
        let users = access::controller::run::<EtcdUser>(
            client.clone(),
            namespace,
            recorder.clone(),
            metrics.clone(),
            sessions.clone(),
            until(stopped.clone()),
        );
        let roles = access::controller::run::<EtcdRole>(
            client.clone(),
            namespace,
            recorder,
            metrics,
            sessions.clone(),
            until(stopped.clone()),
        );
        join5(clusters, backups, schedules, users, roles)
    });
    tokio::select! {
        _ = join_all(controllers) => {
            election.resign().await;
            tracing::info!("stopped");
            Ok(())
        }
        // Another may lead by now: whatever is under way ends with the process.
        () = election.lost() => anyhow::bail!("lost the lease"),
    }
}

/// Waits until the API server answers.
async fn reach(client: &Client) {
    for failures in 1.. {
        match client.apiserver_version().await {
            Ok(version) => return tracing::info!(version = version.git_version, "reached the API server"),
            Err(error) => tracing::warn!(%error, "cannot reach the API server"),
        }
        tokio::time::sleep(pass::backoff(Duration::from_secs(1), failures)).await;
    }
}

async fn stop_on_signal(stop: watch::Sender<bool>) {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    let _ = stop.send(true);
    // Kept: a dropped sender would look like a signal.
    std::future::pending::<()>().await;
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", name.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named_by_repetition_or_commas_and_none_are_all() {
        let namespaces = |flags: &[&str]| {
            let cli = Cli::parse_from([&["keelson-operator", "run"], flags].concat());
            let Some(Command::Run(arguments)) = cli.command else { panic!("not the command run") };
            arguments.watch.namespaces()
        };
        let [a, b] = ["a", "b"].map(|name| Some(name.to_string()));
        assert_eq!(namespaces(&[]), [None]);
        assert_eq!(namespaces(&["--watch-namespace="]), [None]);
        assert_eq!(namespaces(&["--watch-namespace=b, a,a"]), [a.clone(), b.clone()]);
        assert_eq!(namespaces(&["--watch-namespace=a", "--watch-namespace=b"]), [a, b]);
    }
}
