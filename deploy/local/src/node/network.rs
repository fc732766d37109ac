//! The cluster network: one bridge in the node's network namespace, one namespace and address for each pod.
//!
//! All of it vanishes with the node process, so nothing is cleaned up at start and addresses are only kept in memory. A
//! pod that is started again asks for the address in its status.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The bridge that all pods and service addresses hang on.
pub const BRIDGE: &str = "k0";
/// Its hardware address. One that is not set changes with the pods that come and go, and the other pods then talk to nobody
/// until they have found out.
const BRIDGE_MAC: &str = "0a:58:0a:f4:00:01";
/// The node's own address on the bridge, the pods' default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// Service addresses: all of them are local to the node, so that the proxy can listen on any.
const SERVICES: &str = "10.96.0.0/16";
/// The address of the `kubernetes` service.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The address of cluster DNS.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The `resolv.conf` of a pod in this namespace.
pub fn resolv_conf(namespace: &str) -> String {
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    format!("search {search}\nnameserver {DNS_SERVICE}\noptions ndots:5\n")
}

/// Pod addresses in use, by last octet, with the uid of the pod.
#[derive(Debug, Default)]
struct Addresses {
    taken: BTreeMap<u8, String>,
    last: u8,
}

impl Addresses {
    /// The wanted octet if it is free, or else the next free one after the latest: an address is reused as late as possible.
    fn take(&mut self, uid: &str, wanted: Option<u8>) -> Option<u8> {
        if let Some((octet, _)) = self.taken.iter().find(|(_, owner)| *owner == uid) {
            return Some(*octet);
        }
        let usable = |octet: &u8| (2..=254).contains(octet) && !self.taken.contains_key(octet);
        let after = (1..=255u16).map(|step| ((u16::from(self.last) + step) % 256) as u8);
        let octet = wanted.filter(usable).or_else(|| after.clone().find(usable))?;
        if wanted != Some(octet) {
            self.last = octet;
        }
        self.taken.insert(octet, uid.to_owned());
        Some(octet)
    }

    fn release(&mut self, uid: &str) -> Option<u8> {
        let octet = self.taken.iter().find(|(_, owner)| *owner == uid).map(|(octet, _)| *octet)?;
        self.taken.remove(&octet);
        Some(octet)
    }
}

/// The bridge and the pods attached to it.
#[derive(Debug)]
pub struct Network {
    directory: PathBuf,
    addresses: Mutex<Addresses>,
}

impl Network {
    /// Sets up loopback, bridge and service addresses in the calling process's network namespace, which must be the node's
    /// own.
    pub async fn create(directory: PathBuf) -> anyhow::Result<Self> {
        tokio::fs::create_dir_all(&directory).await?;
        ip(
            None,
            &format!(
                "link set lo up\n\
                 link add {BRIDGE} address {BRIDGE_MAC} type bridge\n\
                 addr add {GATEWAY}/24 dev {BRIDGE}\n\
                 link set {BRIDGE} up\n\
                 route add local {SERVICES} dev {BRIDGE}\n"
            ),
        )
        .await
        .context("cannot make the pods' bridge: the kernel needs the modules bridge and veth")?;
        Ok(Self { directory, addresses: Mutex::default() })
    }

    /// Reserves an address for a pod: `wanted` if nobody else has it.
    pub fn reserve(&self, uid: &str, wanted: Option<Ipv4Addr>) -> anyhow::Result<Ipv4Addr> {
        let octet = wanted.map(|address| address.octets()[3]);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(octet) = addresses.take(uid, octet) else {
            bail!("all 253 pod addresses are in use");
        };
        Ok(Ipv4Addr::new(10, 244, 0, octet))
    }

    /// The file that keeps a pod's network namespace.
    pub fn namespace(&self, uid: &str) -> PathBuf {
        self.directory.join(uid)
    }

    /// Creates the pod's network namespace and connects it to the bridge; what was half done is undone.
    pub async fn attach(&self, uid: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let attached = self.connect(uid, address).await;
        if attached.is_err() {
            self.disconnect(uid, address.octets()[3]).await;
        }
        attached
    }

    async fn connect(&self, uid: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let namespace = self.namespace(uid);
        tokio::fs::write(&namespace, b"").await?;
        let mut option = std::ffi::OsString::from("--net=");
        option.push(&namespace);
        run(Command::new("unshare").arg(option).arg("true"), "").await?;
        let link = format!("veth{}", address.octets()[3]);
        let netns = namespace.display();
        ip(
            None,
            &format!(
                "link add {link} type veth peer name eth0 netns {netns}\n\
                 link set {link} master {BRIDGE} up\n"
            ),
        )
        .await?;
        let inside = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n"
        );
        ip(Some(&namespace), &inside).await
    }

    /// Gives a pod's address back and lets its namespace go. Never fails: what is gone already is fine.
    pub async fn detach(&self, uid: &str) {
        let octet = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(uid);
        if let Some(octet) = octet {
            self.disconnect(uid, octet).await;
        }
    }

    async fn disconnect(&self, uid: &str, octet: u8) {
        let deleted = ip(None, &format!("link del veth{octet}\n")).await;
        tracing::trace!(?deleted, octet, "pod link removed");
        let namespace = self.namespace(uid);
        let unmounted = run(Command::new("umount").arg("-l").arg(&namespace), "").await;
        tracing::trace!(?unmounted, uid, "pod network namespace released");
        drop(tokio::fs::remove_file(&namespace).await);
    }
}

/// Runs lines of `ip` commands in one process, inside another network namespace if one is given.
async fn ip(namespace: Option<&Path>, lines: &str) -> anyhow::Result<()> {
    match namespace {
        None => run(Command::new("ip").args(["-batch", "-"]), lines).await,
        Some(path) => {
            let mut option = std::ffi::OsString::from("--net=");
            option.push(path);
            run(Command::new("nsenter").arg(option).args(["ip", "-batch", "-"]), lines).await
        }
    }
}

/// Runs a program to its end with `input` on standard input.
pub async fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let name = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.or_else(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        })?;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reused_late_and_wishes_are_granted() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.take("a", None), Some(2));
        assert_eq!(addresses.take("a", None), Some(2), "the same pod keeps its address");
        assert_eq!(addresses.take("b", Some(9)), Some(9));
        assert_eq!(addresses.take("c", Some(2)), Some(3), "taken by another");
        addresses.release("a");
        assert_eq!(addresses.take("d", None), Some(4), "not at once the one that was just freed");
        assert_eq!(addresses.take("e", Some(1)), Some(5), "the gateway is nobody's");
    }
}
