//! A small Kubernetes on one machine, for trying Keelson out and for its tests.
//!
//! `up` runs the control plane (store, API server, controllers) and starts `node` in namespaces of its own, where pods
//! are processes. See README.md for what it is and what it is not.

mod controllers;
mod layout;
mod node;
mod objects;
mod store;
mod up;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use layout::Layout;

#[derive(Parser)]
#[command(name = "keelson-local", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the cluster in the foreground until Ctrl-C
    Up(UpArgs),
    /// Run a command inside the pod network, with KUBECONFIG and cluster DNS
    Enter {
        #[command(flatten)]
        data: DataArgs,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Stop the cluster that runs on this data directory
    Down(DataArgs),
    /// Run the node: started by `up`, in the node's namespaces
    #[command(hide = true)]
    Node {
        #[command(flatten)]
        data: DataArgs,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Args)]
struct DataArgs {
    /// Where everything is kept
    #[arg(long)]
    data_dir: PathBuf,
}

#[derive(Args)]
struct NodeArgs {
    /// The program that stands for an image, with or without tag; may be repeated
    #[arg(long = "image", value_name = "NAME=BINARY")]
    images: Vec<node::Image>,
    /// Seconds before the second restart of a failing container; doubles up to 300
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    restart_backoff: f64,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Port of the API server on 127.0.0.1
    #[arg(long, default_value_t = 16443)]
    port: u16,
    /// Let service accounts do only what RBAC objects permit
    #[arg(long)]
    authorize: bool,
    /// Make a service reachable on 127.0.0.1; may be repeated
    #[arg(long, value_name = "HOSTPORT=NAMESPACE/SERVICE:PORT")]
    publish: Vec<up::Publish>,
    #[command(flatten)]
    node: NodeArgs,
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| {
        let apiserver = "keelson_local_apiserver=warn,keelson_local_apiserver::rbac=info";
        format!("warn,keelson_local=info,{apiserver},kube_client=off").into()
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match Cli::parse().command {
        Command::Up(args) => {
            let layout = Layout::new(&args.data.data_dir)?;
            tokio::runtime::Runtime::new()?.block_on(up::up(layout, &args))
        }
        Command::Enter { data, command } => up::enter(&Layout::new(&data.data_dir)?, &command),
        Command::Down(data) => up::down(&Layout::new(&data.data_dir)?),
        Command::Node { data, node } => {
            let config = node::Config {
                layout: Layout::new(&data.data_dir)?,
                images: node.images,
                restart_backoff: Duration::from_secs_f64(node.restart_backoff.clamp(0.0, 300.0)),
            };
            // One thread: containers die with the thread that started them (bwrap --die-with-parent), so it must be one that
            // lives as long as the process.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(node::run(config))
        }
    }
}
