//! Clusters of either server: started, asked, killed.

mod certificates;
mod disk;
mod member;
mod process;
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use tempfile::TempDir;

use certificates::Certificates;
use member::Member;
pub use process::Usage;
pub use server::{Kind, Server};

use crate::wire::proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberRemoveRequest, MemberRemoveResponse, RangeRequest, RangeResponse,
    StatusRequest, StatusResponse,
};
use crate::wire::{Caller, Endpoint, method};

/// A start with much data may take long.
const START_WITHIN: Duration = Duration::from_secs(300);
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// 100 GiB: no measurement ends at the quota.
const QUOTA: &str = "--quota-backend-bytes=107374182400";

pub struct Cluster {
    pub server: Server,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    /// The follower that stands still.
    stopped: Option<usize>,
    // After the members, so that they have ended when it goes.
    folder: TempDir,
}

impl Cluster {
    /// Starts members with empty stores below `data_dir`, and waits until they serve.
    pub fn start(server: &Server, size: usize, tls: bool, data_dir: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("keelson-bench-").tempdir_in(data_dir)?;
        let certificates = if tls { Some(Certificates::write(folder.path())?) } else { None };
        let member = |index| Member::new(format!("m{index}"), folder.path().to_owned());
        let members: Result<_> = (0..size).map(member).collect();
        let mut cluster = Self { server: server.clone(), members: members?, certificates, stopped: None, folder };
        cluster.start_all()?;
        cluster.wait_until_served()?;
        Ok(cluster)
    }

    /// Starts all members again, with what they have.
    pub fn start_all(&mut self) -> Result<()> {
        let common = self.flags(self.members.len(), "new");
        let scheme = self.scheme();
        self.members.iter_mut().try_for_each(|member| member.start(&self.server, scheme, &common))
    }

    pub fn terminate_all(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::terminate)
    }

    pub fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Waits until every member has answered a linearizable read.
    pub fn wait_until_served(&mut self) -> Result<()> {
        (0..self.members.len()).try_for_each(|index| self.wait_for_read(index, b"/").map(|_| ()))
    }

    /// Waits until that member answers a linearizable read; the number of keys found.
    pub fn wait_for_read(&mut self, index: usize, key: &[u8]) -> Result<i64> {
        let deadline = Instant::now() + START_WITHIN;
        let endpoint = self.endpoint(index);
        let request = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
        loop {
            let asked: Result<RangeResponse> = Caller::connect(&endpoint)
                .and_then(|mut caller| caller.call(method::RANGE, &request, Duration::from_secs(2)));
            let error = match asked {
                Ok(answer) => return Ok(answer.count),
                Err(error) => error,
            };
            crate::stop::check()?;
            self.members.iter_mut().try_for_each(Member::check)?;
            if Instant::now() > deadline {
                let member = &self.members[index].name;
                return Err(error.context(format!("{member} does not serve after {START_WITHIN:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Member::pid).collect()
    }

    /// The leader first.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let deadline = Instant::now() + CALL_WITHIN;
        while Instant::now() < deadline {
            for index in (0..self.members.len()).filter(|index| self.stopped != Some(*index)) {
                let status = self.status(index)?;
                let id = status.header.as_ref().map_or(0, |header| header.member_id);
                if id != 0 && id == status.leader {
                    let others = (0..self.members.len()).filter(|other| *other != index);
                    return Ok(std::iter::once(index).chain(others).map(|index| self.endpoint(index)).collect());
                }
            }
            crate::stop::check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no leader within {CALL_WITHIN:?}")
    }

    pub fn status(&self, index: usize) -> Result<StatusResponse> {
        Caller::connect(&self.endpoint(index))?.call(method::STATUS, &StatusRequest {}, CALL_WITHIN)
    }

    /// A call to the leader.
    pub fn call<A: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A> {
        Caller::connect(&self.endpoints()?[0])?.call(path, request, patience)
    }

    /// Bytes that anyone has written to the members' disk so far; none if it is no block device.
    pub fn disk(&self) -> impl Fn() -> Option<u64> + Send + use<> {
        let folder = self.folder.path().to_owned();
        move || disk::written(&folder)
    }

    /// What all members have used so far.
    pub fn usage(&self) -> Result<Usage> {
        self.members.iter().try_fold(Usage::default(), |sum, member| Ok(sum.plus(member.usage()?)))
    }

    /// Waits until the members do little: what a fill or the last measurement left them to do is not the next one's.
    pub fn settle(&mut self, most: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(200);
        let deadline = Instant::now() + most;
        let mut before = self.usage()?;
        loop {
            std::thread::sleep(STEP);
            self.members.iter_mut().try_for_each(Member::check)?;
            crate::stop::check()?;
            let now = self.usage()?;
            if (now - before).cpu <= STEP / 10 || Instant::now() > deadline {
                return Ok(());
            }
            before = now;
        }
    }

    /// Adds a learner with an empty store, and waits until it has `key`; gives back its id, and how long it took from the
    /// addition on.
    pub fn join(&mut self, key: &[u8], patience: Duration) -> Result<(u64, Duration)> {
        let (deadline, refused_until) = (Instant::now() + patience, Instant::now() + CALL_WITHIN);
        let member = Member::new(format!("m{}", self.members.len()), self.folder.path().to_owned())?;
        let peer = format!("{}://{}", self.scheme(), member.peer);
        let request = MemberAddRequest { peer_ur_ls: vec![peer], is_learner: true };
        // etcd adds nobody before its members have been connected for some seconds.
        let answer: MemberAddResponse = loop {
            let asked = self.call(method::MEMBER_ADD, &request, CALL_WITHIN);
            if asked.is_ok() || Instant::now() > refused_until {
                break asked?;
            }
            crate::stop::check()?;
            std::thread::sleep(Duration::from_millis(100));
        };
        let added = Instant::now();
        let id = answer.member.context("MemberAdd: an answer without a member")?.id;
        self.members.push(member);
        let common = self.flags(self.members.len(), "existing");
        let (scheme, index) = (self.scheme(), self.members.len() - 1);
        self.members[index].start(&self.server, scheme, &common)?;
        let request = RangeRequest { key: key.to_vec(), serializable: true, ..RangeRequest::default() };
        loop {
            let endpoint = self.endpoint(index);
            let asked: Result<RangeResponse> = Caller::connect(&endpoint)
                .and_then(|mut caller| caller.call(method::RANGE, &request, Duration::from_secs(5)));
            if asked.as_ref().is_ok_and(|answer| answer.count == 1) {
                return Ok((id, added.elapsed()));
            }
            self.members[index].check()?;
            crate::stop::check()?;
            ensure!(Instant::now() < deadline, "the new member has not caught up within {patience:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes the member that joined last out again, with its data.
    pub fn leave(&mut self, id: u64) -> Result<()> {
        let request = MemberRemoveRequest { id };
        self.call::<MemberRemoveResponse>(method::MEMBER_REMOVE, &request, CALL_WITHIN)?;
        let mut member = self.members.pop().context("nobody has joined")?;
        member.kill();
        let _ = std::fs::remove_dir_all(self.folder.path().join(&member.name));
        Ok(())
    }

    /// A follower stands still from now on.
    pub fn stop_follower(&mut self) -> Result<()> {
        let leader = self.endpoints()?[0].address;
        let is_follower = |member: &Member| member.client != leader;
        let index = self.members.iter().rposition(is_follower).context("a single member has no followers")?;
        self.members[index].pause(true)?;
        self.stopped = Some(index);
        Ok(())
    }

    /// It goes on; waits until it has all that the leader has, but for the last moment's.
    pub fn resume_follower(&mut self, patience: Duration) -> Result<()> {
        /// Writes of less than a second.
        const NEARLY: i64 = 1000;
        let index = self.stopped.take().context("no follower stands still")?;
        let leader = (0..self.members.len()).find(|other| *other != index).context("a single member")?;
        self.members[index].pause(false)?;
        let revision = |index| -> Result<i64> { Ok(self.status(index)?.header.map_or(0, |header| header.revision)) };
        let deadline = Instant::now() + patience;
        while revision(leader)? - revision(index)? > NEARLY {
            crate::stop::check()?;
            ensure!(Instant::now() < deadline, "the follower has not caught up within {patience:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn endpoint(&self, index: usize) -> Endpoint {
        let tls = self.certificates.as_ref().map(|certificates| certificates.client.clone());
        Endpoint { address: self.members[index].client, tls }
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// The same for every member, and for either server.
    fn flags(&self, size: usize, state: &str) -> Vec<String> {
        let peers =
            self.members[..size].iter().map(|member| format!("{}={}://{}", member.name, self.scheme(), member.peer));
        let peers: Vec<_> = peers.collect();
        let mut flags = vec![
            format!("--initial-cluster={}", peers.join(",")),
            format!("--initial-cluster-state={state}"),
            "--initial-cluster-token=bench".to_owned(),
            "--log-level=error".to_owned(),
            QUOTA.to_owned(),
        ];
        flags.extend(self.certificates.iter().flat_map(Certificates::flags));
        flags
    }
}
