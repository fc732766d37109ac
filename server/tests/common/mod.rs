//! Members as real processes on loopback addresses of their own.
#![allow(dead_code)]

pub mod authority;
pub mod secure;

use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, WatchOptions, WatchStream};
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_keelson-server");

/// Longer than anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `check` gives something, looking again and again.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An address of the loopback network that no other test has, in this process or another.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id() % (100 * 250);
    let member = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(member < 250, "a test process has 250 addresses");
    Ipv4Addr::new(127, 100 + (process / 250) as u8, 1 + (process % 250) as u8, 1 + member as u8)
}

/// One member: a process that may be running or not, and what it keeps.
pub struct Member {
    pub name: String,
    address: Ipv4Addr,
    pub folder: TempDir,
    /// Of the URLs for clients, and for peers.
    pub schemes: (&'static str, &'static str),
    /// What is run: another program than ours, or one that runs it.
    pub program: Vec<OsString>,
    child: Option<Child>,
}

impl Member {
    pub fn new(name: impl Into<String>) -> Self {
        Member {
            name: name.into(),
            address: address(),
            folder: tempfile::tempdir().expect("a folder"),
            schemes: ("http", "http"),
            program: vec![PROGRAM.into()],
            child: None,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn client_url(&self) -> String {
        format!("{}://{}:2379", self.schemes.0, self.address)
    }

    pub fn peer_url(&self) -> String {
        match self.schemes.1 {
            scheme @ ("unix" | "unixs") => format!("{scheme}://{}", self.folder.path().join("peer.sock").display()),
            scheme => format!("{scheme}://{}:2380", self.address),
        }
    }

    pub fn metrics_url(&self) -> String {
        format!("http://{}:2381", self.address)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts the process with these flags behind the usual ones.
    pub fn start(&mut self, flags: &[&str]) {
        self.start_with(flags, &[]);
    }

    /// The same, with variables.
    pub fn start_with(&mut self, flags: &[&str], variables: &[(&str, &str)]) {
        let log = File::options().create(true).append(true).open(self.log_file());
        let (program, arguments) = self.program.split_first().expect("a program");
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .args([
                format!("--name={}", self.name),
                format!("--data-dir={}", self.data_dir().display()),
                format!("--listen-client-urls={}", self.client_url()),
                format!("--advertise-client-urls={}", self.client_url()),
                format!("--listen-peer-urls={}", self.peer_url()),
                format!("--initial-advertise-peer-urls={}", self.peer_url()),
                format!("--listen-metrics-urls={}", self.metrics_url()),
            ])
            .args(flags)
            .stderr(log.expect("a log"))
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("the program starts"));
    }

    /// Id of the running process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running process").id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("waited for");
        }
    }

    /// SIGTERM, and its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("a running process");
        let pid = child.id().to_string();
        let status = Command::new("kill").arg(&pid).status().expect("kill runs");
        assert!(status.success());
        self.exit().await
    }

    /// Stops the process for a while, or lets it go on.
    pub fn pause(&self, paused: bool) {
        let pid = self.child.as_ref().expect("a running process").id().to_string();
        let signal = if paused { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("a running process");
        eventually("the process ends", || {
            let status = child.try_wait().expect("waited for");
            std::future::ready(status)
        })
        .await
        .code()
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("looked").is_some())
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// A client of this member, as soon as it is ready.
    pub async fn client(&self) -> Client {
        eventually(&format!("{} is ready", self.name), || async {
            self.get("/readyz").await.filter(|(code, _)| *code == 200)
        })
        .await;
        Client::connect([self.client_url()], None).await.expect("a client")
    }

    /// GET on the port of probes: status and body; none if nobody listens.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(&self.metrics_url(), path).await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- the last lines of {}", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// GET over HTTP/1.1: status and body; none if the connection fails.
pub async fn http_get(url: &str, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.strip_prefix("http://").expect("plaintext");
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A running single member.
pub async fn single() -> (Member, Client) {
    let mut member = Member::new("single");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url())]);
    let client = member.client().await;
    (member, client)
}

/// Members that found a cluster together.
pub struct Cluster {
    pub members: Vec<Member>,
    flags: Vec<String>,
}

impl Cluster {
    /// Starts all members at once.
    pub fn start(size: usize) -> Self {
        Self::start_with(size, &[])
    }

    /// The same, with these flags behind the usual ones.
    pub fn start_with(size: usize, flags: &[&str]) -> Self {
        let members: Vec<_> = (0..size).map(|n| Member::new(format!("m{n}"))).collect();
        let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
        let mut flags: Vec<_> = flags.iter().map(|flag| flag.to_string()).collect();
        flags.push(format!("--initial-cluster={}", list.join(",")));
        let mut cluster = Cluster { members, flags };
        for n in 0..size {
            cluster.restart(n);
        }
        cluster
    }

    /// Starts a member that does not run.
    pub fn restart(&mut self, n: usize) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.members[n].start(&flags);
    }

    /// A client of each running member.
    pub async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for member in self.members.iter().filter(|member| member.is_running()) {
            clients.push(member.client().await);
        }
        clients
    }

    /// Which of the running members leads, as one of them sees it.
    pub async fn leader(&self) -> usize {
        eventually("a leader is known", || async {
            for member in self.members.iter().filter(|member| member.is_running()) {
                let mut client = Client::connect([member.client_url()], None).await.ok()?;
                let Ok(status) = client.status().await else {
                    continue;
                };
                let list = client.member_list().await.ok()?;
                let leader = list.members().iter().find(|member| member.id() == status.leader())?;
                let found = self.members.iter().position(|member| member.name == leader.name())?;
                return self.members[found].is_running().then_some(found);
            }
            None
        })
        .await
    }
}

/// A stream with one watcher that has been told to be created.
pub async fn watch(client: &mut Client, key: &str, options: WatchOptions) -> WatchStream {
    let mut stream = client.watch(key, Some(options)).await.expect("a watch");
    let created = stream.message().await.expect("a response").expect("an open stream");
    assert!(created.created() && created.events().is_empty());
    stream
}

/// The gRPC code and message of a refused call.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, etcd_client::Error>) -> (i32, String) {
    match result.expect_err("the call must be refused") {
        etcd_client::Error::GRpcStatus(status) => (status.code() as i32, status.message().to_owned()),
        other => panic!("not a status: {other}"),
    }
}
