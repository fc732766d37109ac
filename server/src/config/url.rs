//! The URLs in flags: where to listen, and what to tell others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Why a URL in a flag was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither http, https, unix nor unixs.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// Host or port is missing or malformed.
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    /// A path, query or fragment stands behind the address.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// A name where only an address can be bound.
    #[error("expected IP in URL for binding ({0})")]
    NotAnIp(String),
}

/// An address to listen on. Whether TLS is spoken there is the scheme's choice (`https`, `unixs`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenUrl {
    /// The socket's address.
    pub address: ListenAddress,
    /// TLS on this listener.
    pub tls: bool,
}

/// What a listener binds to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// A TCP address; port 0 takes a free one.
    Tcp(IpAddr, u16),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl ListenUrl {
    /// Plaintext on a free port of the loopback interface.
    pub fn loopback() -> Self {
        ListenUrl { address: ListenAddress::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), tls: false }
    }

    /// Address and port, or the socket's path.
    pub fn host(&self) -> String {
        match &self.address {
            ListenAddress::Tcp(ip, port) => SocketAddr::new(*ip, *port).to_string(),
            ListenAddress::Unix(path) => path.display().to_string(),
        }
    }

    /// Plaintext on a Unix domain socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        ListenUrl { address: ListenAddress::Unix(path.into()), tls: false }
    }

    /// Whether it names a TCP port, and leaves none to the system.
    pub fn is_fixed_tcp(&self) -> bool {
        matches!(self.address, ListenAddress::Tcp(_, port) if port != 0)
    }
}

impl FromStr for ListenUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Parts::parse(text)?;
        let tls = matches!(url.scheme, "https" | "unixs");
        if matches!(url.scheme, "unix" | "unixs") {
            return Ok(ListenUrl { address: ListenAddress::Unix(url.rest.into()), tls });
        }
        let (host, port) = url.host_and_port(text)?;
        let ip = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => host.parse().map_err(|_| UrlError::NotAnIp(text.to_owned()))?,
        };
        Ok(ListenUrl { address: ListenAddress::Tcp(ip, port), tls })
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = if self.tls { "s" } else { "" };
        match &self.address {
            ListenAddress::Tcp(ip @ IpAddr::V4(_), port) => write!(f, "http{secure}://{ip}:{port}"),
            ListenAddress::Tcp(ip @ IpAddr::V6(_), port) => {
                write!(f, "http{secure}://[{ip}]:{port}")
            }
            ListenAddress::Unix(path) => write!(f, "unix{secure}://{}", path.display()),
        }
    }
}

/// Checks a URL that others are told of: any host name is allowed, a path is not.
pub fn check_advertised(text: &str) -> Result<(), UrlError> {
    let url = Parts::parse(text)?;
    match url.scheme {
        "unix" | "unixs" => Ok(()),
        _ => url.host_and_port(text).map(drop),
    }
}

struct Parts<'a> {
    scheme: &'a str,
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        if !matches!(scheme, "http" | "https" | "unix" | "unixs") {
            return Err(UrlError::Scheme(text.to_owned()));
        }
        Ok(Parts { scheme, rest })
    }

    /// Host without the brackets of IPv6, and port.
    fn host_and_port(&self, text: &str) -> Result<(&'a str, u16), UrlError> {
        let malformed = || UrlError::Address(text.to_owned());
        // A lone slash is a path too, as in etcd: two spellings of one URL would pass for two members.
        if self.rest.contains(['/', '?', '#']) {
            return Err(UrlError::Path(text.to_owned()));
        }
        let (host, port) = self.rest.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        let host = match host.strip_prefix('[') {
            Some(ipv6) => ipv6.strip_suffix(']').ok_or_else(malformed)?,
            None if host.contains(':') => return Err(malformed()),
            None => host,
        };
        Ok((host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_urls_read_and_print() {
        for (text, printed) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://0.0.0.0:2379", "https://0.0.0.0:2379"),
            ("http://localhost:0", "http://127.0.0.1:0"),
            ("http://[::1]:2380", "http://[::1]:2380"),
            ("unix:///run/keelson.sock", "unix:///run/keelson.sock"),
            ("unix://localhost:2379", "unix://localhost:2379"),
        ] {
            let url: ListenUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), printed);
        }
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (text, error) in [
            ("127.0.0.1:2379", UrlError::Scheme("127.0.0.1:2379".into())),
            ("ftp://a:1", UrlError::Scheme("ftp://a:1".into())),
            ("http://10.0.0.1", UrlError::Address("http://10.0.0.1".into())),
            ("http://10.0.0.1:x", UrlError::Address("http://10.0.0.1:x".into())),
            ("http://::1:2", UrlError::Address("http://::1:2".into())),
            ("http://10.0.0.1:1/a", UrlError::Path("http://10.0.0.1:1/a".into())),
            ("http://10.0.0.1:1/", UrlError::Path("http://10.0.0.1:1/".into())),
            ("http://db.example:1", UrlError::NotAnIp("http://db.example:1".into())),
        ] {
            assert_eq!(text.parse::<ListenUrl>(), Err(error));
        }
        assert_eq!(check_advertised("http://db.example:1"), Ok(()));
    }
}
