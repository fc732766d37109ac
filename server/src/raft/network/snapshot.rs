//! A snapshot on the wire: a checkpoint of the store, file by file, each chunk with its checksum.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::Caller;
use crate::proto::peer as pb;
use crate::proto::peer::snapshot_chunk::Part;
use crate::raft::state_machine::{AppliedState, Shared, Snapshot, SnapshotFiles, SnapshotMeta, TempPath};
use crate::raft::types::{LogId, Malformed, Members, StoredMembers, Vote, maybe_log_id};
use crate::storage::{self, StorageError};
use crate::telemetry::NodeMetrics;

/// Bytes of a file sent at once.
const CHUNK: usize = 512 << 10;
/// Chunks read ahead of the network.
const AHEAD: usize = 4;

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("snapshot: {error}"))
}

/// What is damaged at its sender must not come to others.
fn refused(error: StorageError) -> Status {
    if !error.is_damage() {
        return failed(error);
    }
    let what =
        "the snapshot is damaged, and with it the leader's store: remove that member, delete its data, add it again";
    tracing::error!(%error, "{what}");
    Status::data_loss(format!("{what} ({error})"))
}

/// Sends the store as it is now. Answers the receiver's vote once it has installed the snapshot.
pub async fn send(mut client: Caller, vote: Vote, snapshot: Snapshot) -> Result<Vote, Status> {
    let SnapshotFiles::Live(shared) = snapshot.snapshot else {
        return Err(failed("only the store itself can be sent"));
    };
    let (_sending, begun) = (Sending::begin(&shared), Instant::now());
    let seconds = shared.metrics().snapshot_sent_seconds.clone();
    let (chunks, receiver) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let copy = TempPath::new(&shared.snapshot_dir, "sending")?;
        let applied = shared.store.checkpoint(copy.path()).map_err(io::Error::other)?;
        let state = AppliedState::decode(applied)?;
        if !may_know(&vote, state.last) {
            let message = "another leader's entries were applied meanwhile";
            return Err(io::Error::other(message));
        }
        let header = pb::SnapshotHeader {
            vote: Some((&vote).into()),
            last: state.last.map(Into::into),
            membership_log_id: state.members.log_id().map(Into::into),
            membership: Some(state.members.membership().into()),
        };
        read_files(copy.path(), header, &chunks)
    });
    let answer = client.install_snapshot(ReceiverStream::new(receiver)).await;
    let read = reading.await.map_err(failed)?;
    seconds.observe(begun.elapsed().as_secs_f64());
    // A reader that failed ends the stream early; its own error tells more than the receiver's.
    if let Err(error) = read
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(failed(error));
    }
    let vote = answer?.into_inner().vote.ok_or_else(|| failed("answered without a vote"))?;
    vote.try_into().map_err(failed)
}

/// While it lives, the log is not purged behind the snapshot.
struct Sending(Arc<Shared>);

impl Sending {
    fn begin(shared: &Arc<Shared>) -> Sending {
        shared.sending.fetch_add(1, Ordering::AcqRel);
        Sending(shared.clone())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether a leader with this vote can have an entry: none is of a later term.
fn may_know(vote: &Vote, last: Option<LogId>) -> bool {
    last.is_none_or(|last| last.committed_leader_id().term <= vote.leader_id().term)
}

fn read_files(dir: &Path, header: pb::SnapshotHeader, chunks: &mpsc::Sender<pb::SnapshotChunk>) -> io::Result<()> {
    let push = |part| {
        let chunk = pb::SnapshotChunk { part: Some(part) };
        chunks.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    push(Part::Header(header))?;
    let (mut files, mut bytes) = (0, 0);
    for file in fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name().into_string().map_err(|name| io::Error::other(format!("{name:?}")))?;
        bytes += read_file(&file.path(), &name, &push)?;
        files += 1;
    }
    push(Part::End(pb::SnapshotEnd { files, bytes }))
}

fn read_file(path: &Path, name: &str, push: &impl Fn(Part) -> io::Result<()>) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut data)?;
        // An empty file is one empty chunk.
        if read == 0 && offset > 0 {
            return Ok(offset);
        }
        let crc = crc32c::crc32c(&data);
        push(Part::File(pb::FileChunk { name: name.into(), offset, data: Bytes::from(data), crc }))?;
        offset += read as u64;
        if read < CHUNK {
            return Ok(offset);
        }
    }
}

/// Receives a snapshot into a new directory in `parent`.
pub async fn receive(
    parent: &Path,
    mut chunks: Streaming<pb::SnapshotChunk>,
    metrics: &NodeMetrics,
) -> Result<(Vote, Snapshot), Status> {
    let begun = Instant::now();
    let Some(Part::Header(header)) = next(&mut chunks).await? else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    let (vote, meta) = decode_header(header)?;
    let dir = TempPath::new(parent, "receiving").map_err(failed)?;
    let mut incoming = Incoming::new(dir.path(), metrics.snapshot_fsync_seconds.clone()).map_err(failed)?;
    loop {
        match next(&mut chunks).await? {
            Some(Part::File(chunk)) => {
                incoming = blocking(move || incoming.write(&chunk).map(|()| incoming)).await?;
            }
            Some(Part::End(end)) => {
                blocking(move || incoming.finish(&end)).await?;
                let files = dir.path().to_owned();
                let verified = tokio::task::spawn_blocking(move || storage::verify(&files)).await.map_err(failed)?;
                verified.map_err(refused)?;
                metrics.snapshot_received_seconds.observe(begun.elapsed().as_secs_f64());
                return Ok((vote, Snapshot { meta, snapshot: SnapshotFiles::Received(dir) }));
            }
            _ => return Err(Status::invalid_argument("the snapshot is incomplete")),
        }
    }
}

async fn next(chunks: &mut Streaming<pb::SnapshotChunk>) -> Result<Option<Part>, Status> {
    Ok(chunks.message().await?.and_then(|chunk| chunk.part))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(failed)
}

fn decode_header(header: pb::SnapshotHeader) -> Result<(Vote, SnapshotMeta), Status> {
    let vote = header.vote.ok_or_else(|| Status::invalid_argument("a snapshot comes with a vote"))?;
    let malformed = |error: Malformed| Status::invalid_argument(error.to_string());
    let members = Members::try_from(header.membership.unwrap_or_default()).map_err(malformed)?;
    let members_id = maybe_log_id(header.membership_log_id).map_err(malformed)?;
    let meta = SnapshotMeta {
        last_log_id: maybe_log_id(header.last).map_err(malformed)?,
        last_membership: StoredMembers::new(members_id, members),
    };
    let vote = vote.try_into().map_err(malformed)?;
    match may_know(&vote, meta.last_log_id) {
        true => Ok((vote, meta)),
        false => Err(Status::invalid_argument("a snapshot has entries of a later term than its sender's")),
    }
}

/// Files as they come in.
struct Incoming {
    dir: std::path::PathBuf,
    current: Option<(String, File, u64)>,
    files: u32,
    bytes: u64,
    fsync_seconds: Histogram,
}

impl Incoming {
    fn new(dir: &Path, fsync_seconds: Histogram) -> io::Result<Incoming> {
        fs::create_dir(dir)?;
        Ok(Incoming { dir: dir.into(), current: None, files: 0, bytes: 0, fsync_seconds })
    }

    fn write(&mut self, chunk: &pb::FileChunk) -> io::Result<()> {
        let plain = !chunk.name.is_empty() && !chunk.name.contains(['/', '\\', '\0']) && !chunk.name.starts_with('.');
        if !plain {
            return Err(io::Error::other(format!("{:?} is no file name", chunk.name)));
        }
        if crc32c::crc32c(&chunk.data) != chunk.crc {
            return Err(io::Error::other(format!("{}: wrong checksum at {}", chunk.name, chunk.offset)));
        }
        if chunk.offset == 0 {
            self.close()?;
            let file = File::create_new(self.dir.join(&chunk.name))?;
            self.current = Some((chunk.name.clone(), file, 0));
            self.files += 1;
        }
        match &mut self.current {
            Some((name, file, size)) if *name == chunk.name && *size == chunk.offset => {
                file.write_all(&chunk.data)?;
                *size += chunk.data.len() as u64;
                self.bytes += chunk.data.len() as u64;
                Ok(())
            }
            _ => Err(io::Error::other(format!("{}: unexpected chunk at {}", chunk.name, chunk.offset))),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((_, file, _)) = self.current.take() else {
            return Ok(());
        };
        let begun = Instant::now();
        file.sync_all()?;
        self.fsync_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Everything is on disk when this returns.
    fn finish(mut self, end: &pb::SnapshotEnd) -> io::Result<()> {
        self.close()?;
        if (self.files, self.bytes) != (end.files, end.bytes) {
            return Err(io::Error::other("the snapshot is incomplete"));
        }
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use prost::Message;

    use super::*;
    use crate::fuzz::{Damage, cases, typed};

    /// What may happen to the chunks of a transfer.
    #[derive(Debug, Clone)]
    enum Fault {
        Damage(Index, Damage),
        Other(Index, pb::FileChunk),
        Lost(Index),
        Swapped(Index, Index),
    }

    fn fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            (any::<Index>(), Damage::any()).prop_map(|(at, damage)| Fault::Damage(at, damage)),
            (any::<Index>(), typed("keelson.peer.FileChunk")).prop_map(|(at, chunk)| Fault::Other(at, chunk)),
            any::<Index>().prop_map(Fault::Lost),
            any::<(Index, Index)>().prop_map(|(one, other)| Fault::Swapped(one, other)),
        ]
    }

    fn happen(fault: Fault, chunks: &mut Vec<pb::FileChunk>) {
        let count = chunks.len();
        match fault {
            Fault::Other(at, chunk) => chunks.insert(at.index(count + 1), chunk),
            _ if count == 0 => {}
            Fault::Damage(at, damage) => {
                let chunk = at.get_mut(chunks);
                let mut bytes = chunk.encode_to_vec();
                damage.strike(&mut bytes);
                if let Ok(damaged) = pb::FileChunk::decode(&bytes[..]) {
                    *chunk = damaged;
                }
            }
            Fault::Lost(at) => drop(chunks.remove(at.index(count))),
            Fault::Swapped(one, other) => chunks.swap(one.index(count), other.index(count)),
        }
    }

    fn contents(dir: &Path) -> Vec<Vec<u8>> {
        let mut contents: Vec<_> =
            fs::read_dir(dir).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        contents.sort();
        contents
    }

    proptest! {
        #![proptest_config(cases(200))]

        /// Nothing is written elsewhere, and what is taken for complete has what was sent.
        #[test]
        fn a_transfer_is_complete_or_refused(
            files in vec(vec(vec(any::<u8>(), 1..20), 1..7), 1..3),
            faults in vec(fault(), 0..3),
        ) {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("incoming");
            let mut chunks = Vec::new();
            for (name, pieces) in files.iter().enumerate() {
                let mut offset = 0;
                for data in pieces {
                    let (data, crc) = (Bytes::from(data.clone()), crc32c::crc32c(data));
                    chunks.push(pb::FileChunk { name: name.to_string(), offset, data: data.clone(), crc });
                    offset += data.len() as u64;
                }
            }
            let sent: Vec<Vec<u8>> = files.iter().map(|pieces| pieces.concat()).collect();
            let end = pb::SnapshotEnd { files: sent.len() as u32, bytes: sent.iter().map(|file| file.len() as u64).sum() };
            let is_whole = faults.is_empty();
            faults.into_iter().for_each(|fault| happen(fault, &mut chunks));

            let mut incoming = Incoming::new(&dir, Histogram::new([1.0])).unwrap();
            let written = chunks.iter().try_for_each(|chunk| incoming.write(chunk));
            let complete = written.and_then(|()| incoming.finish(&end));
            prop_assert!(complete.is_ok() || !is_whole);
            if complete.is_ok() {
                let mut sent = sent;
                sent.sort();
                prop_assert_eq!(contents(&dir), sent);
            }
            prop_assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        }

        /// A header that is taken stands for something that its sender can have.
        #[test]
        fn a_header_is_understood_or_refused(header in typed("keelson.peer.SnapshotHeader"), alone in any::<bool>()) {
            let mut header: pb::SnapshotHeader = header;
            if alone {
                header.membership = None;
            }
            if let Ok((vote, meta)) = decode_header(header) {
                prop_assert!(may_know(&vote, meta.last_log_id));
            }
        }
    }
}
