//! Network namespaces with one interface each, whose packets this process reads and writes. They are gone when nobody uses
//! them any more: nothing has to be cleaned up, however the process ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

/// One end of the switch.
pub struct Port {
    pub device: SyncDevice,
    namespace: File,
}

/// Leaves the machine's network. Threads that are started from now on do so too.
pub fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare: this needs root")?;
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
