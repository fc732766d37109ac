//! Binding addresses as Go programs do, which is what etcd's users know.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, UnixListener, UnixStream, lookup_host};

/// As many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Files that a member has open beside its clients' connections, at most: the store's, the log's, peers.
const FILES: u64 = 1280;

/// Lets this process have as many files open as it may, and tells how many of them can be connections of clients. Without
/// a bound, a flood of them would leave none for the log.
pub fn connections_at_once() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit = raised;
    }
    let files = limit.current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(FILES).max(files / 2)).unwrap_or(usize::MAX)
}

/// Listens on the first address that can be bound. "All addresses" means those of IPv4 and IPv6, whichever was written;
/// only IPv4's where the machine has no IPv6. With `reuse_port`, others that ask for it too may listen there as well.
pub async fn listen(address: impl ToSocketAddrs, reuse_port: bool) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
    for address in lookup_host(address).await? {
        if address.ip().is_unspecified()
            && let Ok(listener) = listen_everywhere(address.port(), reuse_port)
        {
            return Ok(listener);
        }
        match bind(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A Unix socket whose file is removed at the end.
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Binds; a socket that nobody listens on any more is replaced, any other file is not.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
            // It may be gone meanwhile.
            let _ = std::fs::remove_file(path);
        }
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    start(&socket, address, reuse_port)?;
    socket.listen(BACKLOG)
}

fn listen_everywhere(port: u16, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    start(&socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), reuse_port)?;
    socket.listen(BACKLOG)
}

fn start(socket: &TcpSocket, address: SocketAddr, reuse_port: bool) -> io::Result<()> {
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_is_shared_only_by_those_who_ask() {
        let first = listen("127.0.0.1:0", true).await.expect("bound");
        let address = first.local_addr().expect("an address");
        assert!(listen(address, true).await.is_ok());
        assert_eq!(listen(address, false).await.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        for everywhere in ["0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = listen(everywhere, false).await else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
            // Only where the machine has IPv6.
            if TcpListener::bind("[::1]:0").await.is_ok() {
                assert!(TcpStream::connect(("::1", port)).await.is_ok());
            }
        }
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        std::fs::write(&path, "precious").expect("written");
        assert!(UnixSocket::listen(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
        std::fs::remove_file(&path).expect("removed");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a leftover");
        let socket = UnixSocket::listen(&path).expect("bound");
        assert!(UnixSocket::listen(&path).is_err(), "somebody listens");
        drop(socket);
        assert!(!path.exists());
    }
}
