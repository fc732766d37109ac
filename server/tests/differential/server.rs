//! The two servers of a pair, each a process with an empty store.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Longer than anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The program under test.
pub const OURS: &str = env!("CARGO_BIN_EXE_keelson-server");

/// The etcd to compare with: KEELSON_REFERENCE_ETCD, as make sets it, or the one on the PATH.
pub fn reference() -> Option<PathBuf> {
    let named = std::env::var_os("KEELSON_REFERENCE_ETCD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    named.into_iter().chain(on_path).find(|file| file.is_file())
}

/// Major and minor number of an etcd's version.
pub fn version(etcd: &Path) -> (u32, u32) {
    let output = Command::new(etcd).arg("--version").output().expect("etcd --version");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = output.strip_prefix("etcd Version: ").expect("a version").split('.');
    let mut numbers = numbers.map_while(|number| number.parse().ok());
    (numbers.next().expect("a major version"), numbers.next().expect("a minor version"))
}

/// A server with a client, killed when dropped.
pub struct Server {
    process: Child,
    pub channel: Channel,
    pub client_url: String,
    pub peer_url: String,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts it. The store is in memory where the machine has such a file system: nothing here is about the disk.
    pub fn start(program: &Path) -> Self {
        let in_memory = Path::new("/dev/shm");
        let folder = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let [client_url, peer_url] = urls();
        let process = Command::new(program)
            .env_clear()
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            // The least that a password may cost.
            .args(["--name=one", "--log-level=error", "--bcrypt-cost=4"])
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=one={peer_url}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let channel = Endpoint::from_shared(client_url.clone()).expect("a URL").connect_lazy();
        Self { process, channel, client_url, peer_url, _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// On an address of the loopback network that no other test has, in this process or another.
fn urls() -> [String; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id() % (50 * 250);
    // Those that are used again have been free for long.
    let server = NEXT.fetch_add(1, Ordering::Relaxed) % 250;
    let address = Ipv4Addr::new(127, 200 + (process / 250) as u8, 1 + (process % 250) as u8, 1 + server as u8);
    [2379, 2380].map(|port| format!("http://{address}:{port}"))
}
