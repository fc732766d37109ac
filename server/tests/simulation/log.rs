//! The log that openraft is given: ours, or ours with a bug.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use keelson_server::raft::log::LogStore;
use keelson_server::raft::types::{Entry, LogId, TypeConfig, Vote};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

/// Our log.
#[derive(Clone)]
pub struct Log {
    pub inner: LogStore,
    /// Where votes are kept instead of on disk: the planted bug.
    pub forgotten: Option<Arc<Mutex<Option<Vote>>>>,
}

impl Log {
    pub fn new(inner: LogStore, forgets_votes: bool) -> Self {
        Log { inner, forgotten: forgets_votes.then(Arc::default) }
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.inner.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let forgotten = self.forgotten.as_ref().and_then(|vote| *vote.lock().expect("no panic"));
        let kept = self.inner.read_vote().await?;
        Ok(if kept < forgotten { forgotten } else { kept })
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.inner.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.inner.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        match &self.forgotten {
            Some(forgotten) => *forgotten.lock().expect("no panic") = Some(*vote),
            None => self.inner.save_vote(vote).await?,
        }
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.inner.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.inner.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.inner.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.inner.purge(upto).await
    }
}
