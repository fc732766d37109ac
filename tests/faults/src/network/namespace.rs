//! Network namespaces with one interface each, whose packets this process reads and writes. They are gone when nobody uses
//! them any more: nothing has to be cleaned up, however the process ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

const TUN: &str = "/dev/net/tun";

/// One end of the switch.
pub struct Port {
    pub device: SyncDevice,
    namespace: File,
}

/// Root of a user namespace, and of the network namespaces that are made in it; nothing changes if that cannot be. To be called
/// while there is one thread.
pub fn become_root() -> Result<()> {
    File::options().read(true).write(true).open(TUN).context(TUN)?;
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context("a user namespace")?;
    // Without it no group may be mapped.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    Ok(std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?)
}

/// Leaves the machine's network. Threads that are started from now on do so too.
pub fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
    Ok(())
}

impl Port {
    /// In a namespace of its own.
    pub fn open(address: Ipv4Addr) -> Result<Self> {
        let opened = std::thread::spawn(move || {
            isolate()?;
            Self::open_here(address)
        });
        opened.join().map_err(|_| anyhow!("the thread panicked"))?
    }

    /// In this thread's namespace.
    pub fn open_here(address: Ipv4Addr) -> Result<Self> {
        // Of use for what a member sends to itself.
        let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (of iproute2)")?;
        ensure!(loopback.success(), "ip link set lo up: {loopback}");
        let device = DeviceBuilder::new().name("switch").ipv4(address, 24, None).mtu(1500).build_sync();
        let device = device.context("a tun device")?;
        Ok(Self { device, namespace: File::open("/proc/thread-self/ns/net")? })
    }

    /// A path to it, for as long as this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}
