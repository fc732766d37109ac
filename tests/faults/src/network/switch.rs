//! Carries IP packets between the ports, each link in its state: open, cut, slow, or losing some.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng;

use super::namespace::Port;

/// More than the interfaces' MTU.
const PACKET: usize = 2048;
/// Packets that are under way; more are lost, as in any network.
const UNDER_WAY: usize = 10_000;

/// What happens to packets from one port to another; the way back is another link.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    pub cut: bool,
    /// How likely a packet is to be lost, from 0 to 1.
    pub loss: f64,
    pub delay: Duration,
    /// Up to so much is added to the delay of each packet: they overtake each other.
    pub jitter: Duration,
}

pub struct Switch(Arc<Shared>);

struct Shared {
    /// The members', then the clients'.
    ports: Vec<Port>,
    /// By the sender, then by the receiver.
    links: Mutex<Vec<Vec<Link>>>,
    under_way: Mutex<BinaryHeap<Reverse<Packet>>>,
    arrived: Condvar,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    to: usize,
    bytes: Vec<u8>,
}

impl Switch {
    /// Its threads end with the process.
    pub fn start(ports: Vec<Port>) -> Result<Self> {
        let count = ports.len();
        let links = Mutex::new(vec![vec![Link::default(); count]; count]);
        let shared = Arc::new(Shared { ports, links, under_way: Mutex::default(), arrived: Condvar::new() });
        for port in 0..count {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("port-{port}")).spawn(move || shared.read(port))?;
        }
        let delayed = Arc::clone(&shared);
        thread::Builder::new().name("under-way".into()).spawn(move || delayed.deliver())?;
        Ok(Self(shared))
    }

    pub fn namespace(&self, port: usize) -> String {
        self.0.ports[port].path()
    }

    /// The clients' port.
    pub fn clients(&self) -> usize {
        self.0.ports.len() - 1
    }

    pub fn set(&self, from: usize, to: usize, link: Link) {
        lock(&self.0.links)[from][to] = link;
    }

    /// All links as they were.
    pub fn heal(&self) {
        lock(&self.0.links).iter_mut().flatten().for_each(|link| *link = Link::default());
    }
}

impl Shared {
    fn read(&self, from: usize) {
        let mut buffer = [0; PACKET];
        while let Ok(length) = self.ports[from].device.recv(&mut buffer) {
            let packet = &buffer[..length];
            let Some(to) = receiver(packet).filter(|to| *to < self.ports.len()) else { continue };
            let link = lock(&self.links)[from][to];
            if link.cut || (link.loss > 0.0 && rand::rng().random_bool(link.loss)) {
                continue;
            }
            if link.delay.is_zero() && link.jitter.is_zero() {
                self.send(to, packet);
            } else {
                let due = Instant::now() + link.delay + link.jitter.mul_f64(rand::rng().random());
                let mut under_way = lock(&self.under_way);
                if under_way.len() < UNDER_WAY {
                    under_way.push(Reverse(Packet { due, to, bytes: packet.to_vec() }));
                    self.arrived.notify_one();
                }
            }
        }
    }

    /// Those whose time has come.
    fn deliver(&self) {
        let mut under_way = lock(&self.under_way);
        loop {
            let wait = under_way.peek().map(|next| next.0.due.saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO) {
                if let Some(Reverse(packet)) = under_way.pop() {
                    drop(under_way);
                    self.send(packet.to, &packet.bytes);
                    under_way = lock(&self.under_way);
                }
                continue;
            }
            let wait = wait.unwrap_or(Duration::from_secs(60));
            under_way = self.arrived.wait_timeout(under_way, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One that is not taken is lost.
    fn send(&self, to: usize, packet: &[u8]) {
        let _ = self.ports[to].device.send(packet);
    }
}

/// The port that an IPv4 packet is for, by the last byte of its address.
fn receiver(packet: &[u8]) -> Option<usize> {
    let is_ipv4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let last = packet.get(19).filter(|_| is_ipv4)?;
    usize::from(*last).checked_sub(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
