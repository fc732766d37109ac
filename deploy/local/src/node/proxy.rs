//! Service addresses: a userspace TCP proxy that spreads connections over ready endpoints, one listener for each address and
//! port. UDP is not proxied.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dns::{Names, ready, slices_of};
use super::network::API_SERVICE;
use crate::objects::Changes;

/// How long a connection to an endpoint may take before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest line that names a published service.
const LINE_LIMIT: u64 = 1024;

type Backends = Vec<SocketAddr>;

/// Keeps one listener for each service port, following Services and EndpointSlices until the process ends.
pub async fn run(names: Names, changes: Changes) {
    let mut changed = changes.subscribe();
    let mut listeners: BTreeMap<SocketAddrV4, Listener> = BTreeMap::new();
    loop {
        let wanted = table(&names.services.state(), &names.slices.state());
        listeners.retain(|address, _| wanted.contains_key(address));
        for (address, backends) in wanted {
            match listeners.get(&address) {
                Some(listener) => drop(listener.backends.send_if_modified(|current| {
                    let changed = *current != backends;
                    *current = backends;
                    changed
                })),
                None => match Listener::open(address, backends).await {
                    Ok(listener) => drop(listeners.insert(address, listener)),
                    Err(error) => tracing::warn!(%address, %error, "service address not served"),
                },
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// One service address and port that is being listened on.
struct Listener {
    backends: watch::Sender<Backends>,
    task: JoinHandle<()>,
}

impl Listener {
    async fn open(address: SocketAddrV4, backends: Backends) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (sender, receiver) = watch::channel(backends);
        let task = tokio::spawn(async move {
            let next = Arc::new(AtomicUsize::new(0));
            while let Ok((client, _)) = listener.accept().await {
                let backends = receiver.borrow().clone();
                let first = next.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(relay_to_one_of(client, backends, first));
            }
        });
        Ok(Self { backends: sender, task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to the first backend that answers, starting at number `first`. Without one, the client sees a reset.
async fn relay_to_one_of(client: TcpStream, backends: Backends, first: usize) {
    match connect(&backends, first).await {
        Some(server) => splice(client, server).await,
        None => drop(client.set_zero_linger()),
    }
}

async fn connect(backends: &[SocketAddr], first: usize) -> Option<TcpStream> {
    for offset in 0..backends.len() {
        let backend = backends[(first + offset) % backends.len()];
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend)).await;
        if let Ok(Ok(stream)) = attempt {
            drop(stream.set_nodelay(true));
            return Some(stream);
        }
    }
    None
}

/// Copies both ways until both sides are done.
pub async fn splice(mut left: impl AsyncRead + AsyncWrite + Unpin, mut right: impl AsyncRead + AsyncWrite + Unpin) {
    let copied = copy_bidirectional(&mut left, &mut right).await;
    tracing::trace!(?copied, "relayed connection ended");
}

/// Which backends each service address and port stands for.
fn table(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> BTreeMap<SocketAddrV4, Backends> {
    let mut table = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let Some(address) = address.filter(|address| *address != API_SERVICE) else {
            continue;
        };
        for port in spec.ports.iter().flatten().filter(|port| is_tcp(port)) {
            if let Ok(number) = u16::try_from(port.port) {
                table.insert(SocketAddrV4::new(address, number), backends(service, port, slices));
            }
        }
    }
    table
}

fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

/// The ready endpoints of one port of a service.
fn backends(service: &Service, port: &ServicePort, slices: &[Arc<EndpointSlice>]) -> Backends {
    let mut found = Vec::new();
    for slice in slices_of(service, slices) {
        let port_name = port.name.as_deref().unwrap_or_default();
        let ports = slice.ports.iter().flatten();
        let target = ports.filter(|p| p.name.as_deref().unwrap_or_default() == port_name);
        let numbers: Vec<_> = target.filter_map(|p| u16::try_from(p.port?).ok()).collect();
        for endpoint in ready(slice) {
            if let Some(address) = endpoint.addresses.first().and_then(|a| a.parse::<Ipv4Addr>().ok()) {
                found.extend(numbers.iter().map(|port| SocketAddr::from((address, *port))));
            }
        }
    }
    found
}

/// Relays the `kubernetes` service to the API server's unix socket, byte by byte: TLS ends in the API server.
pub async fn relay_api_server(socket: PathBuf) -> anyhow::Result<()> {
    let listener = TcpListener::bind((API_SERVICE, 443)).await?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            drop(client.set_nodelay(true));
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(server) = UnixStream::connect(&socket).await {
                    splice(client, server).await;
                }
            });
        }
    });
    Ok(())
}

/// Serves ports published on the host: a connection to the unix socket starts with a line `NAMESPACE/SERVICE:PORT`, and the rest
/// is relayed to an endpoint of that service.
pub async fn serve_published(socket: &Path, names: Names) -> anyhow::Result<()> {
    drop(tokio::fs::remove_file(socket).await);
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        let next = Arc::new(AtomicUsize::new(0));
        while let Ok((client, _)) = listener.accept().await {
            let names = names.clone();
            let first = next.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let mut line = String::new();
                let mut limited = tokio::io::AsyncReadExt::take(&mut client, LINE_LIMIT);
                if limited.read_line(&mut line).await.is_err() {
                    return;
                }
                let backends = named(line.trim(), &names).unwrap_or_default();
                if let Some(server) = connect(&backends, first).await {
                    splice(client, server).await;
                }
            });
        }
    });
    Ok(())
}

/// The backends of `NAMESPACE/SERVICE:PORT`, where PORT is a number or a name.
fn named(target: &str, names: &Names) -> Option<Backends> {
    let (path, wanted) = target.rsplit_once(':')?;
    let (namespace, name) = path.split_once('/')?;
    let service = names
        .services
        .find(|service| service.name_any() == name && service.namespace().as_deref() == Some(namespace))?;
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.port.to_string() == wanted || port.name.as_deref() == Some(wanted))?;
    Some(backends(&service, port, &names.slices.state()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ready_endpoints_of_the_port_get_connections() {
        let service = json!({"metadata": {"name": "client", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.7",
            "ports": [{"name": "client", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        let slice = json!({
        "metadata": {"namespace": "ns", "labels": {"kubernetes.io/service-name": "client"}},
        "addressType": "IPv4",
        "ports": [{"name": "client", "port": 2379}, {"name": "other", "port": 1}],
        "endpoints": [
            {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false}},
        ]});
        let table = table(
            &[Arc::new(serde_json::from_value(service).unwrap())],
            &[Arc::new(serde_json::from_value(slice).unwrap())],
        );
        assert_eq!(format!("{table:?}"), "{10.96.0.7:80: [10.244.0.2:2379]}");
    }
}
