//! `up`, `enter` and `down`: what starts, watches and stops the parts.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use keelson_local_apiserver as apiserver;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::layout::{self, Layout};
use crate::store::Store;
use crate::{NodeArgs, UpArgs, controllers, node};

/// How long the API server may take to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait for pods at the end, above any usual grace period.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);

/// A service made reachable on 127.0.0.1.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    port: u16,
    /// `NAMESPACE/SERVICE:PORT`
    target: String,
}

impl std::str::FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected HOSTPORT=NAMESPACE/SERVICE:PORT".to_owned();
        let (port, target) = text.split_once('=').ok_or_else(wrong)?;
        let (path, service_port) = target.rsplit_once(':').ok_or_else(wrong)?;
        if !path.contains('/') || service_port.is_empty() {
            return Err(wrong());
        }
        Ok(Self { port: port.parse().map_err(|_| wrong())?, target: target.to_owned() })
    }
}

/// Runs everything until Ctrl-C, SIGTERM, or until a part fails for good.
pub async fn up(layout: Layout, args: &UpArgs) -> anyhow::Result<()> {
    let _lock = layout.lock("up.lock").context("keelson-local is up already on this data directory")?;
    check_machine()?;
    std::fs::write(layout.pid(), std::process::id().to_string())?;
    let store = Store::start(&layout).await?;
    let outcome = run(&layout, args, &store).await;
    store.stop().await;
    drop(std::fs::remove_file(layout.pid()));
    outcome
}

/// Everything on top of the store, from start to stop.
async fn run(layout: &Layout, args: &UpArgs, store: &Store) -> anyhow::Result<()> {
    let config = apiserver::Config {
        etcd_endpoint: store.endpoint().to_owned(),
        listen: (Ipv4Addr::LOCALHOST, args.port).into(),
        unix_socket: layout.api_socket(),
        node_socket: layout.node_socket(),
        pki_dir: layout.at("pki"),
        token: token(layout)?,
        authorize: args.authorize,
    };
    apiserver::write_kubeconfig(&config, &layout.kubeconfig())?;
    let from_pods = apiserver::Config { listen: (Ipv4Addr::new(10, 96, 0, 1), 443).into(), ..config.clone() };
    apiserver::write_kubeconfig(&from_pods, &layout.pod_kubeconfig())?;
    let mut server = tokio::spawn(apiserver::serve(config));
    let client = layout::client(&layout.kubeconfig()).await?;
    tokio::select! {
        ended = &mut server => bail!("the API server ended: {:?}", ended?),
        ready = tokio::time::timeout(START_TIMEOUT, answering(&client)) => ready.context("the API server does not answer")?,
    }
    let (stop_node, node_stopped) = oneshot::channel();
    let (ready_sender, node_ready) = oneshot::channel();
    let mut node =
        tokio::spawn(keep_node(node_arguments(layout, &args.node), layout.clone(), ready_sender, node_stopped));
    let controllers = tokio::spawn(controllers::run(client, layout.volumes()));
    for publish in &args.publish {
        serve_published(publish, layout).await?;
    }
    let announce = async {
        if node_ready.await.is_ok() {
            println!("keelson-local is up: export KUBECONFIG={}", layout.kubeconfig().display());
        }
        std::future::pending::<()>().await
    };
    let outcome = tokio::select! {
        ended = &mut server => Err(anyhow::anyhow!("the API server ended: {:?}", ended?)),
        ended = &mut node => ended?,
        failure = store.failed() => Err(failure.context("the store ended")),
        () = announce => Ok(()),
        stop = stop_signal() => stop,
    };
    controllers.abort();
    let _ = stop_node.send(());
    if !node.is_finished() {
        tracing::info!("stopping pods");
        drop(tokio::time::timeout(STOP_TIMEOUT, node).await);
    }
    server.abort();
    outcome
}

async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// The token of everybody, made once.
fn token(layout: &Layout) -> anyhow::Result<String> {
    if let Ok(token) = std::fs::read_to_string(layout.token()) {
        return Ok(token);
    }
    let token: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
    apiserver::write_private(&layout.token(), &token)?;
    Ok(token)
}

async fn answering(client: &kube::Client) {
    while client.apiserver_version().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The options of `unshare` with which this user gets network and mount namespaces.
fn namespaces() -> Vec<&'static str> {
    let mut flags = vec!["--net", "--mount"];
    if !rustix::process::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    flags
}

/// Checks that the programs are there and that the kernel gives namespaces, and says what to do if not.
fn check_machine() -> anyhow::Result<()> {
    let found = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).exists())
    };
    for (program, package) in
        [("bwrap", "bubblewrap"), ("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")]
    {
        if !found(program) {
            bail!("{program} is missing: install the package {package}");
        }
    }
    let probe = std::process::Command::new("unshare").args(namespaces()).arg("true").output()?;
    if !probe.status.success() {
        bail!(
            "this machine refuses namespaces: {}\n\
             Without root, user namespaces must be allowed: sysctl kernel.unprivileged_userns_clone=1 (Debian),\n\
             sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), sysctl user.max_user_namespaces=10000.\n\
             In a container, run it with --privileged.",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
    }
    Ok(())
}

fn node_arguments(layout: &Layout, node: &NodeArgs) -> Vec<std::ffi::OsString> {
    let mut arguments = vec!["node".into(), "--data-dir".into(), layout.root().into()];
    for image in &node.images {
        let mut value = std::ffi::OsString::from(format!("{}=", image.name));
        value.push(&image.binary);
        arguments.extend(["--image".into(), value]);
    }
    arguments.extend(["--restart-backoff".into(), node.restart_backoff.to_string().into()]);
    arguments
}

/// Runs the node, again when it dies, until it is asked to stop.
async fn keep_node(
    arguments: Vec<std::ffi::OsString>,
    layout: Layout,
    ready: oneshot::Sender<()>,
    mut stop: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let mut ready = Some(ready);
    loop {
        let mut child = start_node(&arguments)?;
        if let Some(pid) = child.id() {
            std::fs::write(layout.node_pid(), pid.to_string())?;
        }
        // Apart from the child, whose wait() would close it: its end is the sign to stop.
        let mut input = child.stdin.take();
        let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
        loop {
            let line = async {
                match &mut lines {
                    Some(lines) => lines.next_line().await.ok().flatten(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = line => match line {
                    Some(_) => drop(ready.take().map(|ready| ready.send(()))),
                    None => lines = None,
                },
                ended = child.wait() => {
                    tracing::error!(status = %ended?, "the node died, starting it again");
                    break;
                }
                _ = &mut stop => {
                    drop(input.take());
                    drop(child.wait().await);
                    drop(std::fs::remove_file(layout.node_pid()));
                    return Ok(());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = &mut stop => return Ok(()),
        }
    }
}

fn start_node(arguments: &[std::ffi::OsString]) -> anyhow::Result<Child> {
    Command::new("unshare")
        .args(namespaces())
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the node")
}

/// Listens on the host and relays each connection through the node to the service.
async fn serve_published(publish: &Publish, layout: &Layout) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, publish.port))
        .await
        .with_context(|| format!("cannot publish on 127.0.0.1:{}", publish.port))?;
    let line = format!("{}\n", publish.target);
    let socket = layout.publish_socket();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            drop(client.set_nodelay(true));
            let (line, socket) = (line.clone(), socket.clone());
            tokio::spawn(async move {
                if let Ok(mut server) = UnixStream::connect(&socket).await
                    && server.write_all(line.as_bytes()).await.is_ok()
                {
                    node::splice(client, server).await;
                }
            });
        }
    });
    Ok(())
}

/// Replaces this process by `command` inside the node's network and mount namespaces.
pub fn enter(layout: &Layout, command: &[String]) -> anyhow::Result<()> {
    let pid = Layout::read_pid(&layout.node_pid()).context("keelson-local is not up on this data directory")?;
    let mut nsenter = std::process::Command::new("nsenter");
    nsenter.args(["--net", "--mount", "--target", &pid.to_string()]);
    if !rustix::process::geteuid().is_root() {
        nsenter.args(["--user", "--preserve-credentials"]);
    }
    let mut directory = std::ffi::OsString::from("--wdns=");
    directory.push(std::env::current_dir()?);
    nsenter.arg(directory);
    nsenter.arg("--").args(command).env("KUBECONFIG", layout.pod_kubeconfig());
    Err(nsenter.exec()).context("cannot start nsenter")
}

/// Asks a running `up` to stop, and waits for it.
pub fn down(layout: &Layout) -> anyhow::Result<()> {
    let pid = Layout::read_pid(&layout.pid()).and_then(Pid::from_raw);
    let pid = pid.filter(|_| layout.lock("up.lock").is_err());
    let pid = pid.context("keelson-local is not up on this data directory")?;
    kill_process(pid, Signal::TERM)?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while test_kill_process(pid).is_ok() {
        if Instant::now() > deadline {
            bail!("process {} does not end", pid.as_raw_nonzero());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_services_are_written_as_documented() {
        let good: Publish = "2379=default/example-client:client".parse().unwrap();
        assert_eq!(good, Publish { port: 2379, target: "default/example-client:client".into() });
        for wrong in ["2379", "x=a/b:1", "1=a:1", "1=a/b", "1=a/b:"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }
}
