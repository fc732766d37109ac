//! What happens now and then in a cluster's life: as single operations, or while clients write.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::data::key;
use super::{Figures, Scene};
use crate::wire::Caller;
use crate::wire::method;
use crate::wire::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, PutRequest, PutResponse,
    SnapshotRequest,
};

/// The longest that any of it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A physical compaction up to the newest revision; then a moment in which something to compact is written.
pub fn compact(scene: &mut Scene<'_>) -> Result<()> {
    let revision = scene.cluster.status(0)?.header.map_or(0, |header| header.revision);
    let request = CompactionRequest { revision, physical: true };
    scene.cluster.call::<CompactionResponse>(method::COMPACT, &request, PATIENCE)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// One member after the other.
pub fn defragment(scene: &mut Scene<'_>) -> Result<()> {
    for endpoint in scene.cluster.endpoints()? {
        let mut caller = Caller::connect(&endpoint)?;
        caller.call::<DefragmentResponse>(method::DEFRAGMENT, &DefragmentRequest {}, PATIENCE)?;
    }
    Ok(())
}

/// A new member joins, catches up, and is taken out again.
pub fn join_and_leave(scene: &mut Scene<'_>) -> Result<()> {
    join(scene).map(|_| ())
}

/// Until a new member, whose store is empty, has what was written last before it was added.
pub fn join(scene: &mut Scene<'_>) -> Result<Figures> {
    let marker = b"/registry/marker".to_vec();
    let request = PutRequest { key: marker.clone(), ..PutRequest::default() };
    scene.cluster.call::<PutResponse>(method::PUT, &request, PATIENCE)?;
    let (id, took) = scene.cluster.join(&marker, PATIENCE)?;
    let figures = single(scene, took)?;
    scene.cluster.leave(id)?;
    Ok(figures)
}

/// The follower that was stopped goes on, until it has nearly all that the leader has.
pub fn catch_up(scene: &mut Scene<'_>) -> Result<()> {
    scene.cluster.resume_follower(PATIENCE)
}

/// All of a snapshot, read as quickly as it comes.
pub fn snapshot(scene: &mut Scene<'_>) -> Result<Figures> {
    let mut caller = Caller::connect(&scene.cluster.endpoints()?[0])?;
    let (begun, mut bytes) = (Instant::now(), 0);
    caller.stream(method::SNAPSHOT, &SnapshotRequest {}, PATIENCE, |message| bytes += message.len())?;
    let figures = single(scene, begun.elapsed())?;
    let least = scene.case.environment.keys as usize * scene.case.environment.value_bytes;
    ensure!(bytes >= least, "a snapshot of {bytes} bytes only");
    Ok(figures)
}

/// All members end in order and start again, until the first linearizable read is answered.
pub fn restart(scene: &mut Scene<'_>) -> Result<Figures> {
    scene.cluster.terminate_all()?;
    start(scene)
}

/// As `restart`, but killed.
pub fn crash_restart(scene: &mut Scene<'_>) -> Result<Figures> {
    scene.cluster.kill_all();
    start(scene)
}

fn start(scene: &mut Scene<'_>) -> Result<Figures> {
    let begun = Instant::now();
    scene.cluster.start_all()?;
    let found = scene.cluster.wait_for_read(0, &key(0))?;
    let took = begun.elapsed();
    ensure!(found == 1, "a key is gone after the restart");
    scene.cluster.wait_until_served()?;
    // Memory is looked at when the members have nothing left to do.
    scene.cluster.settle(scene.settings.settle)?;
    single(scene, took)
}

fn single(scene: &Scene<'_>, took: Duration) -> Result<Figures> {
    let seconds = Some(took.as_secs_f64());
    Ok(Figures { seconds, ..Figures::default() }.with_memory(&scene.cluster.usage()?))
}
