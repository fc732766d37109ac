//! The stream of a snapshot: the file in pieces, and at last its SHA-256.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prometheus_client::metrics::histogram::Histogram;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::errors;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::raft::state_machine::TempPath;
use crate::snapshot::SnapshotError;
use crate::snapshot::save::{save, storage_version};
use crate::storage::ReadView;

/// Bytes of the file in one message.
const CHUNK: usize = 32 << 10;
/// Messages read ahead of the client.
const AHEAD: usize = 8;
/// Snapshots at a time: each takes as much space as the live data.
pub const AT_ONCE: usize = 2;
/// A client that takes nothing for so long is given up, so that others can have its place.
const STALLED: Duration = Duration::from_secs(300);

type Chunks = mpsc::Sender<Result<SnapshotResponse, Status>>;

/// The snapshot of a view. The file is written as a whole before its first byte is sent, since its size comes first; it
/// is gone with the stream, and so is its `place` among [`AT_ONCE`]. `seconds` observes how long all of it takes.
pub fn stream(
    view: ReadView,
    dir: PathBuf,
    place: OwnedSemaphorePermit,
    seconds: Histogram,
) -> BoxStream<'static, Result<SnapshotResponse, Status>> {
    let (chunks, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let (_place, begun) = (place, Instant::now());
        let sent = write(view, &dir, &chunks).and_then(|file| send(file, &chunks));
        seconds.observe(begun.elapsed().as_secs_f64());
        match sent {
            Ok(()) => {}
            Err(SnapshotError::Abandoned) => {
                tracing::info!("the client of a snapshot went away, or took nothing for too long")
            }
            Err(error) => {
                let status = errors::internal("the snapshot could not be made", error);
                // The client may be gone too.
                let _ = chunks.blocking_send(Err(status));
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.display().to_string();
    move |source| SnapshotError::Io { path, source }
}

/// A file that has no name any more: it lives as long as it is open.
struct Saved {
    file: File,
    size: u64,
    version: String,
}

fn write(view: ReadView, dir: &Path, chunks: &Chunks) -> Result<Saved, SnapshotError> {
    let folder = TempPath::new(dir, "saving").map_err(failed(dir))?;
    std::fs::create_dir(folder.path()).map_err(failed(dir))?;
    let path = folder.path().join("db");
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed(&path))?;
    let out = BufWriter::with_capacity(1 << 20, file);
    let (out, size) = save(&view, out, || !chunks.is_closed())?;
    let file = out.into_inner().map_err(|error| failed(&path)(error.into_error()))?;
    tracing::info!(bytes = size, revision = crate::mvcc::View::revision(&view), "sending a snapshot to a client");
    Ok(Saved { file, size, version: storage_version(&view)? })
}

fn send(Saved { mut file, size, version }: Saved, chunks: &Chunks) -> Result<(), SnapshotError> {
    let runtime = Handle::current();
    let push = |remaining_bytes, blob: Bytes| {
        let chunk = SnapshotResponse { header: None, remaining_bytes, blob, version: version.clone() };
        runtime.block_on(chunks.send_timeout(Ok(chunk), STALLED)).map_err(|_| SnapshotError::Abandoned)
    };
    let io = |source| SnapshotError::Io { path: "the snapshot's file".to_owned(), source };
    file.rewind().map_err(io)?;
    let (mut sum, mut sent) = (Sha256::new(), 0);
    while sent < size {
        let mut chunk = vec![0; CHUNK.min((size - sent) as usize)];
        file.read_exact(&mut chunk).map_err(io)?;
        sum.update(&chunk);
        sent += chunk.len() as u64;
        push(size - sent, chunk.into())?;
    }
    push(0, Bytes::copy_from_slice(&sum.finalize()))
}
