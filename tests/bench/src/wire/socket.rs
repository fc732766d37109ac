//! A socket that never blocks, with TLS or without.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// A connect or a handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Socket {
    /// Connects, and shakes hands.
    ///
    /// # Errors
    /// Nobody listens there, or not with that TLS.
    pub fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut tcp = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect {address}"))?;
        tcp.set_nodelay(true)?;
        let mut session = None;
        if let Some(config) = tls {
            tcp.set_read_timeout(Some(PATIENCE))?;
            let name = ServerName::IpAddress(address.ip().into());
            let mut connection = Box::new(ClientConnection::new(Arc::clone(config), name)?);
            while connection.is_handshaking() {
                connection.complete_io(&mut tcp).with_context(|| format!("TLS with {address}"))?;
            }
            session = Some(connection);
        }
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp, tls: session })
    }

    /// Takes what it can of `bytes` and sends what the kernel takes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return if bytes.is_empty() { Ok(0) } else { now(self.tcp.write(bytes)).map(Option::unwrap_or_default) };
        };
        let taken = if bytes.is_empty() { 0 } else { tls.writer().write(bytes)? };
        while tls.wants_write() && now(tls.write_tls(&mut self.tcp))?.is_some() {}
        Ok(taken)
    }

    /// Whether something that `write` took waits for the kernel.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads what is there; none if nothing is.
    pub fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match &mut self.tls {
            None => now(self.tcp.read(space))?,
            Some(tls) => match now(tls.reader().read(space))? {
                None => {
                    let Some(_) = now(tls.read_tls(&mut self.tcp))? else { return Ok(None) };
                    tls.process_new_packets().map_err(io::Error::other)?;
                    now(tls.reader().read(space))?
                }
                some => some,
            },
        };
        match read {
            Some(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            read => Ok(read),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// None for what would block.
fn now<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
