//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::bug::Bug;
use crate::cluster::Clock;
use crate::crash::{self, Loss, Scenario};
use crate::fault::Kind;
use crate::network::{self, Network};
use crate::round::Settings;

const WAY_OUT: &str = "--loopback does without network namespaces, and without faults of the network";

/// Clusters of an etcd-compatible server under faults: what clients saw is judged by etcd's promises.
#[derive(Debug, Clone, Parser)]
#[command(name = "keelson-faults", version)]
pub struct Options {
    /// The server [default: keelson-server beside this program]
    #[arg(long, env = "KEELSON_SERVER")]
    pub server: Option<PathBuf>,
    /// More flags for the server, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub server_flags: String,
    /// The first round's seed, the next one's is one more [default: any]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds in which rounds are begun
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Seconds of faults in a round, at most
    #[arg(long, default_value_t = 45.0)]
    pub round_seconds: f64,
    /// Members of a cluster; with several numbers, of one round after the other
    #[arg(long, value_delimiter = ',', default_value = "3")]
    pub members: Vec<usize>,
    /// Clients that write and read
    #[arg(long, default_value_t = 6)]
    pub clients: u32,
    /// Clients that watch
    #[arg(long, default_value_t = 4)]
    pub watchers: u32,
    /// Milliseconds between two operations of a client, on average
    #[arg(long, default_value_t = 10)]
    pub pace: u64,
    /// Faults that may happen [default: all]
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<Kind>,
    /// Leave the members on the loopback network, without faults of it
    #[arg(long)]
    pub loopback: bool,
    /// Leave the members' files to the kernel, without faults of disks
    #[arg(long)]
    pub plain_disks: bool,
    /// Where the members keep their data [default: TMPDIR]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where histories and logs of failed rounds go
    #[arg(long, default_value = "faults")]
    pub output: PathBuf,
    /// Save every history, also of rounds without a violation
    #[arg(long)]
    pub keep: bool,
    /// A bug that the servers seem to have; the faults are those that bring it to light
    #[arg(long)]
    pub plant: Option<Bug>,
    /// Instead of rounds: kill members at their steps towards what is durable, in these situations
    #[arg(long, value_delimiter = ',')]
    pub crash: Vec<Scenario>,
    /// With --crash: only before each of so many steps
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// With --crash: only before this step
    #[arg(long, requires = "crash")]
    pub step: Option<u64>,
    /// With --step: only with this loss
    #[arg(long, requires = "step")]
    pub loss: Option<Loss>,
    /// With --crash: end after about so many seconds, when something of everything was tried
    #[arg(long, value_name = "SECONDS")]
    pub within: Option<f64>,
    /// Judge a saved history instead
    #[arg(long, value_name = "FILE")]
    pub judge: Option<PathBuf>,
}

impl Options {
    pub fn settings(&self, seed: u64, round: usize, network: &Network) -> Result<Settings> {
        let mut kinds = self.kinds();
        if network.switch().is_none() {
            kinds.retain(|kind| !kind.needs_network());
        }
        if Clock::library().is_none() {
            anyhow::ensure!(!self.faults.contains(&Kind::Clock), "clocks that jump need Debian's package libfaketime");
            kinds.retain(|kind| !kind.needs_own_clocks());
        }
        if self.plain_disks {
            kinds.retain(|kind| !kind.needs_own_disks());
        }
        Ok(Settings {
            program: self.program()?,
            flags: self.server_flags.split_whitespace().map(str::to_owned).collect(),
            data_dir: self.data_dir.clone().unwrap_or_else(std::env::temp_dir),
            seed,
            duration: Duration::from_secs_f64(self.round_seconds.min(self.seconds)),
            members: *self.members.get(round % self.members.len().max(1)).context("--members: no number")?,
            workers: self.clients,
            watchers: self.watchers,
            pace: Duration::from_millis(self.pace),
            kinds,
            bug: self.plant,
            own_disks: !self.plain_disks,
        })
    }

    /// Those that are asked for; a round has those of them for which there is what they need.
    pub fn kinds(&self) -> Vec<Kind> {
        match self.plant {
            Some(bug) => bug.faults(),
            None if self.faults.is_empty() => Kind::value_variants().to_vec(),
            None => self.faults.clone(),
        }
    }

    pub fn crashes(&self) -> Result<crash::Settings> {
        let early_ack = self.plant == Some(Bug::EarlyAck);
        anyhow::ensure!(early_ack || self.plant.is_none(), "--crash finds --plant early-ack, and no other bug");
        Ok(crash::Settings {
            early_ack,
            program: self.program()?,
            data_dir: self.data_dir.clone().unwrap_or_else(std::env::temp_dir),
            seed: self.seed.unwrap_or(0),
            every: self.every,
            step: self.step,
            loss: self.loss,
        })
    }

    /// Namespaces if that is possible. To be called while there is one thread.
    pub fn network(&self) -> Result<Network> {
        let most = self.members.iter().copied().max().unwrap_or(0);
        if self.loopback {
            return Ok(Network::Loopback);
        }
        if !rustix::process::geteuid().is_root() {
            network::become_root().context(WAY_OUT)?;
        }
        Network::switched(most).context(WAY_OUT)
    }

    fn program(&self) -> Result<PathBuf> {
        if let Some(named) = &self.server {
            return std::path::absolute(named).with_context(|| named.display().to_string());
        }
        let own = std::env::current_exe()?;
        let found =
            own.ancestors().skip(1).take(2).map(|folder| folder.join("keelson-server")).find(|file| file.is_file());
        found.with_context(|| format!("no keelson-server beside {}: `make build` makes it", own.display()))
    }
}
