//! The Raft log: segments on disk, written by one thread with one fdatasync for whatever waits, and an index in memory.
//!
//! Votes, entries, truncations and purges are answered only when they are on disk; a commit is written along with what
//! comes next. After a failed write or sync every further one fails.

mod index;
mod recovery;
mod salt;
pub mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, entry::RaftEntry};
use tokio::sync::oneshot;

use self::index::Index;
use self::writer::{Change, Job, Queue, Waiter, Writer};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::mvcc::WAY_OUT;
use crate::telemetry::NodeMetrics;

/// Entries sent to a follower in one message, in bytes, about.
const READ_BYTES: usize = 1 << 20;

/// Why the log cannot be opened. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A record that was once on disk is broken.
    #[error(
        "{}: the raft log is damaged at offset {offset}: a record that was on disk is broken. Nothing was changed. \
         {way_out}",
        path.display(), way_out = WAY_OUT
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where it breaks.
        offset: u64,
    },
    /// A file is shorter than it was.
    #[error(
        "{}: the raft log is cut off: the file has {length} bytes, and had {least} or more. Nothing was changed. \
         {way_out}",
        path.display(), way_out = WAY_OUT
    )]
    Short {
        /// The segment.
        path: PathBuf,
        /// What it has.
        length: u64,
        /// What it had.
        least: u64,
    },
    /// A segment between others is gone, or the salt of all.
    #[error(
        "{}: a file of the raft log is missing. {way_out}",
        path.display(), way_out = WAY_OUT
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Records contradict each other.
    #[error(
        "{}: the raft log has a hole before index {index}. {way_out}",
        dir.display(), way_out = WAY_OUT
    )]
    Hole {
        /// The directory of the log.
        dir: PathBuf,
        /// The first entry behind the hole.
        index: u64,
    },
}

/// Settings of the log.
#[derive(Clone)]
pub struct LogOptions {
    /// Size of one segment file, in bytes.
    pub segment_bytes: u64,
    /// Bytes of the newest entries that are kept in memory for replication and apply, once they are written; older ones are read
    /// from disk.
    pub cached_bytes: usize,
    /// Counts syncs and writes.
    pub metrics: Arc<NodeMetrics>,
    /// Leave the fdatasync out. What was promised may be lost with the machine, not with the process.
    pub unsafe_no_sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 64 << 20, cached_bytes: 16 << 20, metrics: Arc::default(), unsafe_no_sync: false }
    }
}

/// openraft's log store. Clones share it; only one of them, openraft's, writes.
#[derive(Clone)]
pub struct LogStore {
    index: Arc<Mutex<Index>>,
    jobs: SyncSender<Job>,
}

/// What writes a log, where that is not a thread.
pub struct LogWriter {
    writer: Writer,
    queue: Queue,
}

impl LogWriter {
    /// Writes what waits as one batch, syncs it, and tells those who asked for it.
    pub fn step(&mut self) {
        self.writer.step(&self.queue);
    }
}

/// Ends the writing thread once every [`LogStore`] is gone; waiting for it proves that the files are closed.
pub struct LogThread(thread::JoinHandle<()>);

impl LogThread {
    /// Waits for the end of the thread.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the raft log's thread panicked");
        }
    }
}

impl LogStore {
    /// Opens the log in `dir`, creating it if there is none, and starts the thread that writes it.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(LogStore, LogThread), LogError> {
        let (log, LogWriter { writer, queue }) = LogStore::prepare(dir, options)?;
        let thread = writer.spawn(queue).map_err(|source| LogError::Io { path: dir.into(), source })?;
        Ok((log, LogThread(thread)))
    }

    /// Opens the log for somebody else to write it: nothing that is asked of it is done before [`LogWriter::step`].
    pub fn prepare(dir: &Path, options: LogOptions) -> Result<(LogStore, LogWriter), LogError> {
        let fail = |source| LogError::Io { path: dir.into(), source };
        std::fs::create_dir_all(dir).map_err(fail)?;
        if let Some(parent) = dir.parent() {
            // Without its own entry on disk the directory would be lost with all that is synced in it.
            writer::sync_dir(parent).map_err(fail)?;
        }
        let mut found = recovery::recover(dir)?;
        found.index.most_cached_bytes = options.cached_bytes;
        let state = crate::proto::peer::SegmentState {
            vote: found.index.vote.as_ref().map(Into::into),
            purged: found.index.purged.map(Into::into),
            committed: found.index.committed.map(Into::into),
            segment_bytes: options.segment_bytes,
        };
        let fresh = found.open.is_none();
        let open = match found.open {
            Some(open) => open,
            None => writer::create(dir, found.next, found.spares.pop()).map_err(fail)?,
        };
        let index = Arc::new(Mutex::new(found.index));
        let mut writer = Writer {
            dir: dir.into(),
            segment_bytes: options.segment_bytes,
            closed: found.closed,
            spares: found.spares,
            // A segment that lost even its first record begins anew.
            open,
            index: index.clone(),
            metrics: options.metrics,
            unsafe_no_sync: options.unsafe_no_sync,
            state,
            failed: None,
        };
        if fresh || writer.open.offset == 0 {
            writer.begin().map_err(fail)?;
        }
        let (jobs, queue) = writer::queue();
        Ok((LogStore { index, jobs }, LogWriter { writer, queue }))
    }

    /// Nothing was ever written: neither a vote nor an entry.
    pub fn is_blank(&self) -> bool {
        let index = self.index();
        index.vote.is_none() && index.last().is_none() && index.purged.is_none()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no holder of this lock panics")
    }

    fn submit(&self, changes: Vec<Change>, waiter: Waiter) -> io::Result<()> {
        let job = Job { changes, waiter };
        self.jobs.send(job).map_err(|_| io::Error::other("the raft log's thread has ended"))
    }

    async fn write(&self, change: Change) -> io::Result<()> {
        let (reply, done) = oneshot::channel();
        self.submit(vec![change], Waiter::Reply(reply))?;
        done.await.map_err(|_| io::Error::other("the raft log's thread has ended"))?
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let found = self.index().find(range, max_bytes);
        found.into_iter().map(index::Found::load).collect()
    }
}

fn to_range(bounds: impl RangeBounds<u64>) -> Range<u64> {
    let start = match bounds.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match bounds.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(to_range(range), usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.index().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let index = self.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.index().vote = Some(*vote);
        self.write(Change::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        let mut index = self.index();
        index.committed = Some(committed);
        // Whatever is written next takes it along.
        match std::mem::take(&mut index.writer_rests) {
            true => {
                drop(index);
                self.submit(Vec::new(), Waiter::Nobody)
            }
            false => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        {
            let mut index = self.index();
            for entry in entries {
                if !index.accepts(entry.index()) {
                    let message = format!("entry {} does not follow {:?}", entry.log_id, index.last());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                }
                index.append(entry.clone());
                changes.push(Change::Entry(entry));
            }
        }
        self.submit(changes, Waiter::Callback(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.index().truncate_after(last.map(|last| last.index));
        self.write(Change::Truncate(last)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.index().purge(upto);
        self.write(Change::Purge(upto)).await
    }
}
