//! The operator's program: reads its flags and wires the parts together.

mod act;
mod build;
mod controller;
mod crd;
mod events;
mod lease;
mod member;
mod memory;
mod metrics;
mod names;
mod observe;
mod plan;
mod status;
mod validate;
mod watches;

use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::lease::Lock;
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
    /// Print the custom resource definitions and exit.
    Crds,
    /// Run the operator; the same as no command.
    Run(RunArgs),
}

#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// Watch this namespace only; all namespaces otherwise.
    #[arg(long, env = "WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// The namespace of the Lease by which operators elect a leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "keelson-system")]
    lease_namespace: String,
    /// This operator's name in the election; by default the host's name.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Where metrics and probes are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: String,
    /// How many clusters are worked on at the same time.
    #[arg(long, default_value_t = 4)]
    concurrency: u16,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let arguments = match cli.command {
        Some(Command::Crds) => {
            print!("{}", crd::definitions()?);
            return Ok(());
        }
        Some(Command::Run(arguments)) => arguments,
        None => cli.run,
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
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

    let client = Client::try_default().await.context("finding the API server")?;
    let version = client.apiserver_version().await.context("reaching the API server")?;
    tracing::info!(version = version.git_version, "reached the API server");
    metrics.set_ready();

    let identity = arguments.identity.clone().unwrap_or_else(host_name);
    let leases = Api::namespaced(client.clone(), &arguments.lease_namespace);
    let lock = Lock::new(leases, "keelson-operator", identity.clone());
    let acquired = tokio::select! {
        acquired = lock.acquire() => acquired,
        () = until(stopped.clone()) => return Ok(()),
    };
    tracing::info!(identity, "leading");
    metrics.set_leader(true);
    let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(identity) };
    let recorder = Recorder::new(client.clone(), reporter);
    let controller = controller::run(
        client,
        arguments.watch_namespace.as_deref(),
        recorder,
        metrics,
        arguments.concurrency,
        until(stopped),
    );
    tokio::select! {
        () = controller => {
            lock.release().await;
            tracing::info!("stopped");
            Ok(())
        }
        // Another may lead by now: whatever is under way ends with the process.
        () = lock.hold(acquired) => anyhow::bail!("lost the lease"),
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
