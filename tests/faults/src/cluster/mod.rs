//! A cluster of either server: members as processes, each with its own address and data.

mod ask;
mod clock;
mod member;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::Recorder;
use crate::network::Network;
pub use ask::Status;
pub use clock::Clock;
pub use member::{Member, peer_url};

/// A cluster without faults serves again within this time.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub struct Cluster {
    pub members: Vec<Member>,
    pub network: Network,
    // After the members, so that they have ended when it goes.
    folder: TempDir,
}

impl Cluster {
    /// Starts members with empty stores below `data_dir`, each on a disk of ours if wanted, and waits until they serve.
    pub async fn start(
        program: &Path,
        flags: &[String],
        size: usize,
        data_dir: &Path,
        network: Network,
        own_disks: bool,
        recorder: &Recorder,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("keelson-faults-").tempdir_in(data_dir)?;
        let addresses: Vec<_> = (0..size).map(|index| network.address(index)).collect();
        let peers: Vec<_> =
            addresses.iter().enumerate().map(|(index, ip)| format!("m{index}={}", member::peer_url(*ip))).collect();
        let members = addresses.iter().enumerate().map(|(index, ip)| {
            let mut flags = flags.to_owned();
            flags.push(format!("--initial-cluster={}", peers.join(",")));
            Member::new(index, *ip, program, folder.path(), flags, network.enter(index), recorder.clone())
        });
        let mut cluster = Self { members: members.collect(), network, folder };
        for member in cluster.members.iter_mut().filter(|_| own_disks) {
            member.put_on_disk()?;
        }
        for member in &mut cluster.members {
            member.give_a_clock()?;
        }
        for member in &cluster.members {
            member.start("new").await?;
        }
        cluster.recovered().await?;
        Ok(cluster)
    }

    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::client).collect()
    }

    /// Waits until every member answers a linearizable read; the newest revision that one of them told.
    ///
    /// # Errors
    /// That takes too long.
    pub async fn recovered(&self) -> Result<i64> {
        let deadline = Instant::now() + RECOVERS_WITHIN;
        let mut newest = 0;
        for member in &self.members {
            loop {
                match member.read().await {
                    Ok(revision) => {
                        newest = newest.max(revision);
                        break;
                    }
                    Err(error) if member.has_ended().await => {
                        let log = std::fs::read_to_string(member.log()).unwrap_or_default();
                        let last = log.lines().next_back().unwrap_or_default();
                        bail!("{} does not serve and has ended by itself: {error}; its last words: {last}", member.name)
                    }
                    Err(error) if Instant::now() > deadline => {
                        bail!("{} does not serve after {RECOVERS_WITHIN:?}: {error}", member.name)
                    }
                    Err(_) => sleep(POLL).await,
                }
            }
        }
        Ok(newest)
    }

    /// The member that says of itself that it leads, if there is one.
    pub async fn leader(&self) -> Option<usize> {
        for (index, member) in self.members.iter().enumerate() {
            if member.status().await.is_ok_and(|status| status.leads()) {
                return Some(index);
            }
        }
        None
    }

    /// The members' logs.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.members.iter().map(Member::log).collect()
    }

    /// Where the members' data and logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
