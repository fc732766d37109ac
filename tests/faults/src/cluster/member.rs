//! One server process, its address and its data.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::clock::{Clock, Shared};
use crate::client::Recorder;
use crate::disk::Disk;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// An orderly end that takes longer becomes a kill.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Flags that not all versions of etcd know by the same name, or at all; what is not known is passed over.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", "1s"),
    ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "1s"),
    ("ETCD_SNAPSHOT_CATCHUP_ENTRIES", "100"),
    ("ETCD_EXPERIMENTAL_SNAPSHOT_CATCHUP_ENTRIES", "100"),
];

pub fn peer_url(ip: Ipv4Addr) -> String {
    format!("http://{ip}:{PEER_PORT}")
}

pub struct Member {
    pub index: usize,
    pub name: String,
    ip: Ipv4Addr,
    program: PathBuf,
    folder: PathBuf,
    flags: Vec<String>,
    /// A command that runs another one in the member's network.
    enter: Vec<String>,
    /// What is between it and the files that it keeps, if anything is.
    disk: Option<Disk>,
    /// What it has instead of the machine's, if anything.
    clock: Option<Clock>,
    recorder: Recorder,
    process: Mutex<Option<Process>>,
    /// What its processes ended with when nobody had ended them.
    crashes: Mutex<Vec<String>>,
}

struct Process {
    child: Child,
    /// After the process, so that it has ended when this goes.
    _shared: Option<Shared>,
}

/// Ends with its handle, and is gone then: who starts next may listen at the same addresses.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Member {
    pub fn new(
        index: usize,
        ip: Ipv4Addr,
        program: &Path,
        folder: &Path,
        flags: Vec<String>,
        enter: Vec<String>,
        recorder: Recorder,
    ) -> Self {
        let (program, folder) = (program.to_owned(), folder.to_owned());
        Self {
            index,
            name: format!("m{index}"),
            disk: None,
            clock: None,
            ip,
            program,
            folder,
            flags,
            enter,
            recorder,
            process: Mutex::default(),
            crashes: Mutex::default(),
        }
    }

    pub fn client(&self) -> SocketAddr {
        (self.ip, CLIENT_PORT).into()
    }

    pub fn peer_url(&self) -> String {
        peer_url(self.ip)
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join(&self.name).join("data")
    }

    /// What it keeps is on a disk of ours from now on.
    pub fn put_on_disk(&mut self) -> Result<()> {
        let folder = self.folder.join(&self.name);
        std::fs::create_dir_all(&folder)?;
        self.disk = Some(Disk::new(&folder)?);
        Ok(())
    }

    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// It has a clock of its own from now on, where there is a library for that.
    pub fn give_a_clock(&mut self) -> Result<()> {
        if let Some(library) = Clock::library() {
            self.clock = Some(Clock::new(library, &self.folder.join(format!("{}.clock", self.name)))?);
        }
        Ok(())
    }

    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Starts it with the data that there is, unless it runs already.
    pub async fn start(&self, cluster_state: &str) -> Result<()> {
        let mut process = self.process.lock().await;
        if process.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let client = format!("http://{}", self.client());
        // The kernel kills it when this process ends, in whatever way.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(&self.enter)
            .args(self.clock.iter().flat_map(Clock::enter))
            .arg(&self.program)
            .env_clear()
            .envs(ENVIRONMENT.into_iter().filter(|(variable, _)| !self.has_flag(variable)))
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-cluster-state={cluster_state}"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let attached = self.disk.as_ref().map(|disk| disk.attach(&mut command)).transpose()?;
        let why = "setpriv (of util-linux) starts servers so that they end with the harness";
        let child = command.spawn().context(why)?;
        let shared = child.id().filter(|_| self.clock.is_some()).map(Shared);
        *process = Some(Process { child, _shared: shared });
        attached.map_or(Ok(()), |attached| Ok(attached.serve()?))
    }

    /// Whether it gets a flag for what the variable sets.
    fn has_flag(&self, variable: &str) -> bool {
        let name = variable.trim_start_matches("ETCD_").trim_start_matches("EXPERIMENTAL_");
        let flag = format!("--{}=", name.to_lowercase().replace('_', "-"));
        self.flags.iter().any(|given| given.starts_with(&flag))
    }

    /// Whether its process has ended by itself.
    pub async fn has_ended(&self) -> bool {
        self.process.lock().await.as_mut().is_some_and(|process| matches!(process.child.try_wait(), Ok(Some(_))))
    }

    /// Ends it at once, as a crash does.
    pub async fn kill(&self) {
        if let Some(mut process) = self.process.lock().await.take() {
            self.look(&mut process).await;
            let _ = process.child.kill().await;
            self.recorder.restart(self.index as u32);
        }
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&self) -> Result<()> {
        let mut running = self.process.lock().await;
        if let Some(mut process) = running.take() {
            self.look(&mut process).await;
            if let Some(pid) = process.child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
                kill_process(pid, Signal::TERM)?;
            }
            let ended = timeout(END_WITHIN, process.child.wait()).await.is_ok();
            if !ended {
                let _ = process.child.kill().await;
            }
            self.recorder.restart(self.index as u32);
            anyhow::ensure!(ended, "{} had not ended {END_WITHIN:?} after SIGTERM", self.name);
        }
        Ok(())
    }

    /// Stops its execution, or lets it go on; nothing if it does not run.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().await;
        if let Some(pid) =
            process.as_ref().and_then(|process| process.child.id()).and_then(|pid| Pid::from_raw(pid as i32))
        {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// Ends it, which it may have done by itself, and removes its data.
    pub async fn discard(&self) -> Result<()> {
        if let Some(mut process) = self.process.lock().await.take() {
            let _ = process.child.kill().await;
            self.recorder.restart(self.index as u32);
        }
        std::fs::remove_dir_all(self.data())?;
        self.disk.as_ref().map_or(Ok(()), |disk| Ok(disk.settle()?))
    }

    /// Waits until it ends by itself, which it is to do; whether it did within this time.
    pub async fn ends(&self, within: Duration) -> Result<bool> {
        let mut running = self.process.lock().await;
        let Some(process) = running.as_mut() else { return Ok(false) };
        let ended = match timeout(within, process.child.wait()).await {
            Ok(status) => status.map(|_| true)?,
            Err(_) => false,
        };
        if ended {
            *running = None;
            self.recorder.restart(self.index as u32);
        }
        Ok(ended)
    }

    /// How its processes ended, where they did so by themselves.
    pub async fn crashes(&self) -> Vec<String> {
        if let Some(process) = self.process.lock().await.as_mut() {
            self.look(process).await;
        }
        self.crashes.lock().await.clone()
    }

    async fn look(&self, process: &mut Process) {
        if let Ok(Some(status)) = process.child.try_wait() {
            self.crashes.lock().await.push(format!("{} has ended by itself: {status}", self.name));
        }
    }
}
