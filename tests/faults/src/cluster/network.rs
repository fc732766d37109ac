//! Where the members are.

use std::net::Ipv4Addr;

pub enum Network {
    /// An address of this machine for each member; nothing can be cut off.
    Loopback,
}

impl Network {
    pub fn address(&self, member: usize) -> Ipv4Addr {
        let process = std::process::id();
        let [_, _, high, low] = process.to_be_bytes();
        Ipv4Addr::new(127, 64 + high % 128, low, 1 + member as u8)
    }

    /// What to put before a member's command.
    pub fn enter(&self, _member: usize) -> Vec<String> {
        Vec::new()
    }
}
