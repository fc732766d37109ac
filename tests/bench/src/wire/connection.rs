//! A session on a socket.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConfig;

use super::session::Session;
use super::socket::Socket;
use super::stream::Arrivals;

/// Where a member serves clients, and with which TLS.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

pub struct Connection {
    pub session: Session,
    socket: Socket,
    written: usize,
}

impl Connection {
    pub fn open(endpoint: &Endpoint) -> Result<Self> {
        let socket = Socket::connect(endpoint.address, endpoint.tls.as_ref())?;
        let session = Session::new(endpoint.address.to_string(), endpoint.tls.is_some());
        Ok(Self { session, socket, written: 0 })
    }

    /// Sends what the session has for the server, as far as the kernel takes it now.
    pub fn flush(&mut self) -> Result<()> {
        loop {
            let taken = self.socket.write(&self.session.out[self.written..])?;
            self.written += taken;
            if self.written == self.session.out.len() {
                self.session.out.clear();
                self.written = 0;
                return Ok(());
            }
            if taken == 0 {
                return Ok(());
            }
        }
    }

    /// Reads what has arrived.
    pub fn pull(&mut self, arrivals: &mut impl Arrivals) -> Result<()> {
        while let Some(read) = self.socket.read(self.session.space())? {
            let full = read == self.session.space().len();
            self.session.received(read, arrivals)?;
            if !full && self.socket.is_plain() {
                break;
            }
        }
        Ok(())
    }

    fn interest(&self) -> PollFlags {
        let waiting = !self.session.out.is_empty() || self.socket.wants_write();
        if waiting { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until one of them can be read from, or written to if it has something to write; at most so long. Says which.
pub fn wait(connections: &[Connection], most: Duration, ready: &mut Vec<usize>) -> Result<()> {
    let mut polled: Vec<_> = connections.iter().map(|one| PollFd::new(one, one.interest())).collect();
    let timeout = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
    ready.clear();
    match poll(&mut polled, Some(&timeout)) {
        // A signal: whoever waits looks at the flag that it set.
        Err(rustix::io::Errno::INTR) => return Ok(()),
        other => other?,
    };
    ready.extend(polled.iter().enumerate().filter(|(_, one)| !one.revents().is_empty()).map(|(index, _)| index));
    Ok(())
}
