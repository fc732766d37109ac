//! Where members and clients are, and how packets get from one to the other.

mod namespace;
mod switch;

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};

pub use namespace::become_root;
pub use switch::{Link, Switch};

/// Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub enum Network {
    /// An address of this machine for each member; nothing can be cut off.
    Loopback,
    /// A network namespace for each member and one for the clients, with a switch of our own between them.
    Switched(Arc<Switch>),
}

impl Network {
    /// For so many members. To be called before this process has other threads: all of it goes into a namespace.
    ///
    /// # Errors
    /// The message says what is missing: root, at least of a user namespace, or /dev/net/tun.
    pub fn switched(members: usize) -> Result<Self> {
        namespace::isolate().context("a network namespace for the clients")?;
        let ports = (0..members).map(|member| namespace::Port::open(address(member)));
        let ports: Result<Vec<_>> = ports.collect();
        let clients = namespace::Port::open_here(address(members))?;
        let ports = ports.context("a network namespace for a member")?.into_iter().chain([clients]);
        Ok(Network::Switched(Arc::new(Switch::start(ports.collect())?)))
    }

    pub fn address(&self, member: usize) -> Ipv4Addr {
        match self {
            Network::Loopback => {
                let [_, _, high, low] = std::process::id().to_be_bytes();
                Ipv4Addr::new(127, 64 + high % 128, low, 1 + member as u8)
            }
            Network::Switched(_) => address(member),
        }
    }

    /// What to put before a member's command, so that it runs in the member's namespace.
    pub fn enter(&self, member: usize) -> Vec<String> {
        match self {
            Network::Loopback => Vec::new(),
            Network::Switched(switch) => {
                vec!["nsenter".into(), format!("--net={}", switch.namespace(member)), "--".into()]
            }
        }
    }

    /// What packets between members can be made to suffer; none on the loopback network.
    pub fn switch(&self) -> Option<&Switch> {
        match self {
            Network::Loopback => None,
            Network::Switched(switch) => Some(switch),
        }
    }
}

/// One after the other, from 10.77.0.1 on.
fn address(port: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1 + port as u8)
}
