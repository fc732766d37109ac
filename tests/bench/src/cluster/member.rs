//! One server process, its address and its data.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::process::Usage;
use super::server::Server;

/// An orderly end that takes longer becomes a kill.
const END_WITHIN: Duration = Duration::from_secs(60);
/// Lines of a log that are told from either end.
const FEW: usize = 3;

pub struct Member {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    folder: PathBuf,
    process: Option<Child>,
}

impl Member {
    /// One with free ports, whose data and log go into `folder`.
    pub fn new(name: String, folder: PathBuf) -> Result<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        Ok(Self { name, client: free()?, peer: free()?, folder, process: None })
    }

    /// `common` are flags that all members of the cluster have.
    pub fn start(&mut self, server: &Server, scheme: &str, common: &[String]) -> Result<()> {
        let (client, peer) = (format!("{scheme}://{}", self.client), format!("{scheme}://{}", self.peer));
        let log = File::options().create(true).append(true).open(self.log())?;
        // The kernel kills it when this process ends, in whatever way.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&server.program)
            .env_clear()
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.folder.join(&self.name).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .args(common)
            .args(&server.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv (of util-linux) starts servers so that they end with the benchmark")?;
        self.process = Some(process);
        Ok(())
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks the process to end, and waits until it has.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        kill_process(Pid::from_child(process), Signal::TERM)?;
        let deadline = Instant::now() + END_WITHIN;
        while process.try_wait()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        Ok(())
    }

    /// It stands still, or goes on.
    pub fn pause(&self, stands: bool) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        Ok(kill_process(Pid::from_child(process), if stands { Signal::STOP } else { Signal::CONT })?)
    }

    /// # Errors
    /// The process has ended; what it logged last is in the message.
    pub fn check(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.try_wait()?
        {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let count = log.lines().count();
            let told = log.lines().enumerate().filter(|(index, _)| *index < FEW || index + FEW >= count);
            let told: Vec<_> = told.map(|(_, line)| line).collect();
            bail!("{} has ended with {status}; the first and last lines of its log:\n{}", self.name, told.join("\n"));
        }
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn usage(&self) -> Result<Usage> {
        self.pid().map_or(Ok(Usage::default()), Usage::of)
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
