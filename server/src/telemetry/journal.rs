//! Lines for systemd's journal, in its own protocol: a datagram of fields.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::Level;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects; fails where there is no journal.
    pub fn open() -> io::Result<Self> {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let missing = |error: io::Error| io::Error::new(error.kind(), format!("can't find journal ({path}: {error})"));
        socket.connect(path).map_err(missing)?;
        Ok(Journal(socket))
    }

    /// Sends one line. The error of a line too long for a datagram is the caller's to handle.
    pub fn send(&self, level: Level, caller: &str, line: &str) -> io::Result<()> {
        let priority = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let package = caller.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let line = line.trim_end_matches('\n');
        let mut datagram =
            format!("PRIORITY={priority}\nPACKAGE={package}\nSYSLOG_IDENTIFIER=keelson-server\nMESSAGE").into_bytes();
        // A value with line breaks would need its length; a value without one may have it too.
        datagram.push(b'\n');
        datagram.extend((line.len() as u64).to_le_bytes());
        datagram.extend(line.as_bytes());
        datagram.push(b'\n');
        self.0.send(&datagram).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_of_fields() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let path = path.to_str().expect("UTF-8");
        assert!(Journal::at(path).err().expect("nobody listens").to_string().contains("can't find journal"));
        let journald = UnixDatagram::bind(path).expect("bound");
        Journal::at(path).expect("connected").send(Level::WARN, "api/kv.rs:4", "{\"a\":1}\n").expect("sent");
        let mut datagram = [0; 200];
        let length = journald.recv(&mut datagram).expect("received");
        let expected =
            b"PRIORITY=4\nPACKAGE=api\nSYSLOG_IDENTIFIER=keelson-server\nMESSAGE\n\x07\0\0\0\0\0\0\0{\"a\":1}\n";
        assert_eq!(&datagram[..length], expected);
    }
}
