//! Two of three members are lost for good. The third one, which has everything, is started with `--force-new-cluster`, and dies
//! while it removes the others; then it is started again with the same flags.

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::{Life, QUIET, Settings, ask, copy, disk, flags, folder, leader, member, serves, serves_or_dies};
use crate::client::{Recorder, call, connect};
use crate::cluster::Member;
use crate::history::{Request, Response, Span};
use crate::network::Network;
use crate::workload::Workload;

const NAMES: [&str; 3] = ["m0", "m1", "m2"];
const OPERATIONS: usize = 15;
/// More than the others can have been ahead.
const BUMP: i64 = 1_000_000;

pub struct Force {
    /// What each life begins with.
    base: TempDir,
    survivor: usize,
    id: u64,
    /// All of it was acknowledged.
    revision: i64,
    stored: Response,
}

impl Force {
    pub async fn prepare(settings: &Settings) -> Result<Self> {
        let (base, recorder) = (folder(settings)?, Recorder::default());
        let mut members = [0, 1, 2].map(|index| new_member(settings, &base, index, Vec::new(), &recorder));
        for member in &mut members {
            member.put_on_disk()?;
            member.start("new").await?;
        }
        let survivor = leader(&members).await?;
        let member = &members[survivor];
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let mut workload = Workload::new(0, true);
        for _ in 0..OPERATIONS {
            let done = ask(member, &recorder, workload.next(&mut rng)).await?.context("it died of nothing")?;
            workload.learn(&done);
        }
        let id = member.status().await?.member_id;
        let (revision, stored) = stored(member).await?;
        // The others may have had it first.
        disk(member)?.quiet(QUIET).await;
        for member in &members {
            member.kill().await;
        }
        Ok(Self { base, survivor, id, revision, stored })
    }

    pub async fn live(&self, life: &mut Life<'_>) -> Result<()> {
        let (folder, recorder) = (folder(life.settings)?, Recorder::default());
        copy(&self.base.path().join(NAMES[self.survivor]), folder.path())?;
        let forced = vec!["--force-new-cluster".to_owned(), format!("--force-new-cluster-bump={BUMP}")];
        let mut member = new_member(life.settings, &folder, self.survivor, forced, &recorder);
        member.put_on_disk()?;
        life.begin(disk(&member)?);
        member.start("existing").await?;
        serves_or_dies(&member).await?;
        life.end(&member).await?;
        member.start("existing").await?;
        serves(&member).await?;
        ensure!(member.members().await? == [self.id], "it is not alone");
        ensure!(member.status().await?.leads(), "it does not lead");
        let (revision, found) = stored(&member).await?;
        ensure!(found == self.stored, "{found:?} is there, {:?} was acknowledged", self.stored);
        // Twice if it died between that and the removal of the others.
        let bumped = [1, 2].map(|times| self.revision + times * BUMP);
        ensure!(bumped.contains(&revision), "revision {revision}, after {}", self.revision);
        let put = Request::Put { key: "last".into(), value: "last".into(), lease: 0, prev_kv: false };
        let put = ask(&member, &recorder, put).await?.context("it has died again")?;
        ensure!(put.revision() == Some(revision + 1), "{put}, after revision {revision}");
        member.kill().await;
        Ok(())
    }
}

fn new_member(settings: &Settings, folder: &TempDir, index: usize, more: Vec<String>, recorder: &Recorder) -> Member {
    let addresses = [0, 1, 2].map(|index| (NAMES[index], Network::Loopback.address(index)));
    member(settings, folder.path(), index, [flags(&addresses), more].concat(), recorder)
}

/// Revision and keys with their revisions.
async fn stored(member: &Member) -> Result<(i64, Response)> {
    let request = Request::Range { span: Span::all(), revision: 0, serializable: false, limit: 0 };
    Ok(call(connect(member.client()).await?, &request).await?)
}
