//! The one thread that writes the log: it takes whatever waits, writes it as one batch, syncs once, and tells everyone.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use prost::Message;
use tokio::sync::oneshot;

use super::index::{Index, Place};
use super::segment::{self, Key, Kind};
use crate::proto::peer as pb;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote, entry_to_wire};
use crate::telemetry::NodeMetrics;

/// Bytes written and synced at once, about.
const BATCH_BYTES: usize = 4 << 20;
/// Jobs that may wait before the Raft core has to.
const QUEUE: usize = 1024;
/// A commit is written along with what comes next; by itself if nothing comes for this long.
const COMMIT_DELAY: Duration = Duration::from_millis(50);
/// A segment file grows by this much, zero-filled, so that an idle member's log stays small. A part of the format: by it a file
/// that was cut off is known.
const GROWTH: u64 = 4 << 20;
/// Used-up segment files kept for reuse.
const SPARES: usize = 2;

/// One change to write.
pub enum Change {
    /// Save the vote.
    Vote(Vote),
    /// Append an entry.
    Entry(Entry),
    /// Drop the entries behind an index.
    Truncate(Option<LogId>),
    /// Drop the entries up to an index; their segments are recycled.
    Purge(LogId),
    /// Remember a commit. Needs no sync of its own.
    Commit(LogId),
}

/// Who waits for a write to be on disk.
pub enum Waiter {
    /// openraft.
    Callback(IOFlushed<TypeConfig>),
    /// A caller of the log store.
    Reply(oneshot::Sender<io::Result<()>>),
    /// Nobody: the write may even wait for the next one's sync.
    Nobody,
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Waiter::Callback(callback) => callback.io_completed(result),
            // A caller that went away no longer wants to know.
            Waiter::Reply(reply) => drop(reply.send(result)),
            Waiter::Nobody => {}
        }
    }
}

/// Changes that belong together.
pub struct Job {
    /// In order.
    pub changes: Vec<Change>,
    /// Who waits.
    pub waiter: Waiter,
}

/// A segment that is no longer written.
pub struct Closed {
    /// Its number.
    pub number: u64,
    /// The greatest index of an entry in it, truncated ones included.
    pub last_index: Option<u64>,
}

/// The segment being written.
pub struct Open {
    /// Its file.
    pub file: Arc<File>,
    /// Its key.
    pub key: Key,
    /// Where the records behind the first one start.
    pub start: u64,
    /// Where the next record goes.
    pub offset: u64,
    /// Up to where it is known to be on disk.
    pub synced: u64,
    /// Size of the file; everything behind `offset` is zeros or what a recycled file held.
    pub allocated: u64,
    /// The greatest index of an entry in it.
    pub last_index: Option<u64>,
    /// Length of the file when it is whole, as its first record tells; 0 if that does not.
    pub segment_bytes: u64,
}

/// Everything that the writing thread owns.
pub struct Writer {
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) closed: VecDeque<Closed>,
    pub(super) spares: Vec<PathBuf>,
    pub(super) open: Open,
    pub(super) index: Arc<Mutex<Index>>,
    pub(super) metrics: Arc<NodeMetrics>,
    pub(super) unsafe_no_sync: bool,
    /// What a new segment must tell of the ones before it, as far as it was written.
    pub(super) state: pb::SegmentState,
    /// Why a write or sync failed. Nobody knows what is on disk then, so nothing is promised any more.
    pub(super) failed: Option<String>,
}

/// The jobs of a log, for whoever writes them.
pub struct Queue(Receiver<Job>);

/// A queue, and where jobs enter it.
pub fn queue() -> (SyncSender<Job>, Queue) {
    let (jobs, queue) = mpsc::sync_channel(QUEUE);
    (jobs, Queue(queue))
}

/// Path of segment `number`.
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.wal"))
}

/// Makes renames and new files in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Writer {
    /// Starts the thread. It ends when every sender is gone.
    pub fn spawn(mut self, queue: Queue) -> io::Result<thread::JoinHandle<()>> {
        let run = move || {
            while let Some(jobs) = self.wait(&queue) {
                self.work(jobs, &queue);
            }
        };
        thread::Builder::new().name("raft-log".into()).spawn(run)
    }

    /// Writes what waits without waiting for more.
    pub fn step(&mut self, queue: &Queue) {
        let jobs: Vec<_> = queue.0.try_recv().into_iter().collect();
        if !jobs.is_empty() || self.unwritten_commit().is_some() {
            self.work(jobs, queue);
        }
    }

    /// Writes these jobs and what waits behind them as one batch, and tells everyone.
    fn work(&mut self, mut jobs: Vec<Job>, queue: &Queue) {
        let committed = self.unwritten_commit();
        let mut size: usize = jobs.iter().map(weight).sum();
        while size < BATCH_BYTES
            && let Ok(job) = queue.0.try_recv()
        {
            size += weight(&job);
            jobs.push(job);
        }
        // What was committed was in the queue before. Unless all of that is written now, the commit comes later.
        let committed = committed.filter(|_| size < BATCH_BYTES);
        if self.failed.is_none()
            && let Err(error) = self.write(&jobs, committed)
        {
            tracing::error!(%error, "the raft log cannot be written");
            self.failed = Some(error.to_string());
        }
        for job in jobs {
            let result = self.failed.as_ref().map_or(Ok(()), |reason| Err(io::Error::other(reason.clone())));
            job.waiter.tell(result);
        }
    }

    /// Waits for a job, or for a commit that nothing came along with; none when every sender is gone.
    fn wait(&self, Queue(queue): &Queue) -> Option<Vec<Job>> {
        match queue.recv_timeout(COMMIT_DELAY) {
            Ok(job) => return Some(vec![job]),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        {
            let mut index = self.index.lock().expect("no holder of this lock panics");
            if index.committed.map(Into::into) != self.state.committed {
                return Some(Vec::new());
            }
            index.writer_rests = true;
        }
        let job = queue.recv().ok()?;
        self.index.lock().expect("no holder of this lock panics").writer_rests = false;
        Some(vec![job])
    }

    fn unwritten_commit(&self) -> Option<Change> {
        let committed = self.index.lock().expect("no holder of this lock panics").committed?;
        (self.state.committed != Some(committed.into())).then_some(Change::Commit(committed))
    }

    fn write(&mut self, jobs: &[Job], committed: Option<Change>) -> io::Result<()> {
        let mut batch = Batch::default();
        for change in jobs.iter().flat_map(|job| &job.changes).chain(&committed) {
            let (kind, payload) = encode(change);
            if !self.fits(batch.bytes.len(), payload.len()) {
                self.flush(&mut batch)?;
                self.rotate()?;
            }
            self.put(&mut batch, kind, &payload);
            self.note(change, &mut batch);
        }
        let sync = jobs.iter().any(|job| !matches!(job.waiter, Waiter::Nobody));
        if sync {
            self.flush(&mut batch)?;
        } else {
            self.write_out(&mut batch)?;
        }
        let purge = jobs.iter().flat_map(|job| &job.changes).rev().find_map(|change| match change {
            Change::Purge(id) => Some(id.index),
            _ => None,
        });
        purge.map_or(Ok(()), |index| self.recycle(index))
    }

    /// Whether a record fits, and the `End` record behind it. A fresh segment takes records of any size.
    fn fits(&self, pending: usize, payload: usize) -> bool {
        let used = self.open.offset + pending as u64;
        let size = segment::record_size(payload) + segment::record_size(0);
        used + size as u64 <= self.segment_bytes || used <= self.open.start
    }

    fn put(&self, batch: &mut Batch, kind: Kind, payload: &[u8]) {
        let Open { key, offset, synced, .. } = self.open;
        batch.last = segment::put(&mut batch.bytes, key, offset, synced, kind, payload);
    }

    /// Keeps what later segments must tell, and where entries went.
    fn note(&mut self, change: &Change, batch: &mut Batch) {
        match change {
            Change::Vote(vote) => self.state.vote = Some(vote.into()),
            Change::Purge(id) => self.state.purged = Some((*id).into()),
            Change::Commit(id) => self.state.committed = Some((*id).into()),
            Change::Truncate(_) => {}
            Change::Entry(entry) => {
                let end = self.open.offset + batch.bytes.len() as u64;
                let place = Place {
                    file: self.open.file.clone(),
                    key: self.open.key,
                    offset: batch.last,
                    size: (end - batch.last) as usize,
                };
                batch.places.push((entry.log_id, place));
                self.open.last_index = self.open.last_index.max(Some(entry.log_id.index));
            }
        }
    }

    /// Writes the batch to the open segment, which grows by zeros when it must.
    fn write_out(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        let open = &mut self.open;
        let start = Instant::now();
        open.file.write_all_at(&batch.bytes, open.offset)?;
        self.metrics.wal_write_seconds.observe(start.elapsed().as_secs_f64());
        self.metrics.wal_written_bytes.inc_by(batch.bytes.len() as i64);
        open.offset += batch.bytes.len() as u64;
        let length = synced_length(open.offset, self.segment_bytes);
        if open.allocated < length {
            zero(&open.file, open.offset.max(open.allocated), length)?;
            open.allocated = length;
        }
        let mut index = self.index.lock().expect("no holder of this lock panics");
        for (id, place) in batch.places.drain(..) {
            index.written(id, place);
        }
        batch.bytes.clear();
        Ok(())
    }

    fn flush(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.write_out(batch)?;
        // Without syncs nothing is known to be on disk, and records do not claim it.
        if self.open.synced < self.open.offset && !self.unsafe_no_sync {
            let start = Instant::now();
            self.open.file.sync_data()?;
            self.open.synced = self.open.offset;
            self.metrics.wal_fsync_seconds.observe(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Seals the open segment and starts the next one. The seal is on disk before the new segment has any record.
    fn rotate(&mut self) -> io::Result<()> {
        let mut batch = Batch::default();
        self.put(&mut batch, Kind::End, &[]);
        self.flush(&mut batch)?;
        self.closed.push_back(Closed { number: self.open.key.number, last_index: self.open.last_index });
        let next = Key { number: self.open.key.number + 1, ..self.open.key };
        self.open = create(&self.dir, next, self.spares.pop())?;
        self.begin()
    }

    /// Writes the first record of the open segment.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let mut batch = Batch::default();
        let state = self.state.encode_to_vec();
        self.put(&mut batch, Kind::State, &state);
        self.flush(&mut batch)?;
        self.open.start = self.open.offset;
        Ok(())
    }

    /// Takes the segments out of the log that hold only entries up to `index`. The purge itself is on disk by now.
    fn recycle(&mut self, index: u64) -> io::Result<()> {
        while let Some(closed) = self.closed.front()
            && closed.last_index <= Some(index)
        {
            let path = segment_path(&self.dir, closed.number);
            let whole = fs::metadata(&path)?.len() == self.segment_bytes;
            if whole && self.spares.len() < SPARES {
                let spare = self.dir.join(format!("{:016x}.spare", closed.number));
                fs::rename(&path, &spare)?;
                self.spares.push(spare);
            } else {
                fs::remove_file(&path)?;
            }
            self.closed.pop_front();
        }
        sync_dir(&self.dir)
    }
}

/// Records to be written at once, and where their entries will be.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    places: Vec<(LogId, Place)>,
    /// Offset of the record put last.
    last: u64,
}

/// The least length of a segment's file that was synced up to here.
pub fn synced_length(synced: u64, segment_bytes: u64) -> u64 {
    synced.next_multiple_of(GROWTH).min(segment_bytes).max(synced)
}

/// Creates the key's segment, from a used-up file if there is one.
pub fn create(dir: &Path, key: Key, spare: Option<PathBuf>) -> io::Result<Open> {
    let path = segment_path(dir, key.number);
    if let Some(spare) = spare {
        fs::rename(spare, &path)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    let allocated = file.metadata()?.len();
    sync_dir(dir)?;
    Ok(Open {
        file: Arc::new(file),
        key,
        start: 0,
        offset: 0,
        synced: 0,
        allocated,
        last_index: None,
        segment_bytes: 0,
    })
}

/// Fills `from..to` with zeros.
pub fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; (to - from).min(1 << 20) as usize];
    let mut at = from;
    while at < to {
        let length = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

fn weight(job: &Job) -> usize {
    job.changes
        .iter()
        .map(|change| match change {
            Change::Entry(entry) => match &entry.payload {
                openraft::EntryPayload::Normal(request) => request.0.len() + 64,
                _ => 64,
            },
            _ => 64,
        })
        .sum()
}

fn encode(change: &Change) -> (Kind, Vec<u8>) {
    let id = |id: LogId| pb::LogId::from(id).encode_to_vec();
    match change {
        Change::Vote(vote) => (Kind::Vote, pb::Vote::from(vote).encode_to_vec()),
        Change::Entry(entry) => (Kind::Entry, entry_to_wire(entry).encode_to_vec()),
        // An index is never left out of the encoding of a truncation to nothing: that one is empty.
        Change::Truncate(last) => (Kind::Truncate, last.map_or_else(Vec::new, |last| truncation(last.index))),
        Change::Purge(purged) => (Kind::Purge, id(*purged)),
        Change::Commit(committed) => (Kind::Commit, id(*committed)),
    }
}

fn truncation(index: u64) -> Vec<u8> {
    index.to_le_bytes().to_vec()
}
