//! Binding TCP addresses as Go programs do, which is what etcd's users know.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// As many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on the first address that can be bound. "All addresses" means those of IPv4 and IPv6, whichever was written;
/// only IPv4's where the machine has no IPv6.
pub async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
    for address in lookup_host(address).await? {
        if address.ip().is_unspecified()
            && let Ok(listener) = listen_everywhere(address.port())
        {
            return Ok(listener);
        }
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        for everywhere in ["0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = listen(everywhere).await else {
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
}
