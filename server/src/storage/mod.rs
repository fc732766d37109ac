//! The store on disk, and the only room that names RocksDB.
//!
//! - [`columns`]: column families and settings;
//! - [`read`]: a view of the committed state;
//! - [`recent`]: newest versions of keys in memory;
//! - [`batch`]: many commands' changes in one write;
//! - [`compact`]: removal of superseded versions;
//! - [`merge`]: small files become larger ones;
//! - [`counter`]: how many keys there are;
//! - [`worker`]: a background thread;
//! - [`load`]: a new store out of a history that was made elsewhere;
//! - [`place`]: which directory holds the state, and how it is replaced.
//!
//! There is no log here: a write is in memory until a flush, which takes all column families at once. After a crash
//! the store stands at its last flush, `applied` with it, and Raft applies the entries behind that again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Instant;

use prost::Message;
use rocksdb::{Cache, ErrorKind, checkpoint::Checkpoint};

use crate::budget;
use crate::mvcc::counts::Blocks;
use crate::mvcc::hash::{KeyValueHash, hash_kv};
use crate::mvcc::{Auth, Effects, ReadError, Source, ViewError, keys};
use crate::proto::etcdserverpb::AlarmResponse;
use crate::telemetry::NodeMetrics;

mod batch;
mod columns;
mod compact;
mod counter;
mod load;
mod merge;
mod place;
mod read;
mod recent;
mod worker;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use columns::verify;
pub use load::{Loaded, Loader, Version};
pub use read::ReadView;

use columns::{Column, Database, meta};
use compact::Progress;
use counter::Counted;
use place::Place;
use read::Facts;
use worker::Worker;

/// Why the store failed. Except when opening or installing, the process must stop: what is on disk is then unknown.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// RocksDB's own words.
    #[error("rocksdb: {0}")]
    Rocks(#[from] rocksdb::Error),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// What is stored is not what was written.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl StorageError {
    /// Whether a file's contents are not what was written to it; otherwise it could not be read, or written.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Rocks(error) if error.kind() == ErrorKind::Corruption)
    }
}

/// Sizes of buffers; the defaults suit a member.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Memory for writes before they are flushed; grows only with use.
    pub write_buffer_bytes: usize,
    /// Memory for blocks read from disk, at most; grows only with use, and with what is on the disk.
    pub block_cache_bytes: usize,
    /// Memory for keys that were written lately; grows only with use.
    pub recent_keys_bytes: usize,
    /// Counts compactions.
    pub metrics: Arc<NodeMetrics>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 64 << 20,
            block_cache_bytes: budget::memory_bytes() / 8,
            recent_keys_bytes: 32 << 20,
            metrics: Arc::default(),
        }
    }
}

/// Memory for blocks of a store that is small.
const LEAST_CACHE_BYTES: usize = 32 << 20;
/// The cache takes one in so many bytes of the files. Indexes and filters are one in 60 where a key and its value take 300 bytes.
const CACHED_PART: u64 = 24;

/// How much disk the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// All files and buffers.
    pub total_bytes: u64,
    /// What of it is not waiting to be cleaned up.
    pub in_use_bytes: u64,
}

/// The replicated state on disk. All methods block; all may be called from any thread.
pub struct Store {
    options: StoreOptions,
    cache: Cache,
    place: Place,
    /// One writer at a time: commits, steps of compaction, installations.
    writer: Mutex<()>,
    head: RwLock<Head>,
    flushed: Mutex<Option<Vec<u8>>>,
    unflushed_bytes: AtomicU64,
    removal: Arc<Progress>,
    counter: Worker,
    merger: Worker,
    /// A copy of `head.facts.auth.enabled`, for a look without a lock.
    auth_enabled: AtomicBool,
}

/// The committed state, as far as every read needs it.
struct Head {
    /// What reads get. Made anew with each change, by whoever holds the writer's lock.
    view: ReadView,
    database: Arc<Database>,
    facts: Facts,
    applied: Option<Vec<u8>>,
    counted: Counted,
}

impl Store {
    /// Opens or creates the store in `dir`, which belongs to it alone. One process at a time.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Arc<Self>, StorageError> {
        let cache = columns::cache(LEAST_CACHE_BYTES);
        let place = Place::open(dir)?;
        let (state_dir, create) = place.current();
        let database = Arc::new(Database::open(&state_dir, &options, &cache, create)?);
        let (head, removed) = Head::load(database)?;
        let removal = Arc::new(Progress::default());
        removal.set(head.facts.compact_revision, removed);
        let store = Arc::new(Self {
            options,
            cache,
            place,
            writer: Mutex::new(()),
            flushed: Mutex::new(head.applied.clone()),
            auth_enabled: AtomicBool::new(head.facts.auth.enabled),
            head: RwLock::new(head),
            unflushed_bytes: AtomicU64::new(0),
            removal: Arc::clone(&removal),
            counter: Worker::default(),
            merger: Worker::default(),
        });
        store.fit_cache();
        let fail = |source| io_error(dir, source);
        let weak = Arc::downgrade(&store);
        let compaction = thread::Builder::new().name("compaction".to_owned());
        compaction.spawn(move || compact::run(weak, removal)).map_err(fail)?;
        let weak = Arc::downgrade(&store);
        store.counter.start("key-counter", move |orders| counter::run(&weak, orders)).map_err(fail)?;
        let weak = Arc::downgrade(&store);
        store.merger.start("file-merger", move |orders| merge::run(&weak, orders)).map_err(fail)?;
        store.merger.want();
        Ok(store)
    }

    /// Counts all keys in the background, once; until then each range is counted by a look at its keys.
    pub fn count_keys(&self) {
        self.counter.want();
    }

    /// Begins a batch on the committed state. Batches are made and committed by one thread, one after the other.
    pub fn begin(self: &Arc<Self>) -> Batch {
        Batch::new(Arc::clone(self))
    }

    /// The committed state as of now.
    pub fn view(&self) -> ReadView {
        self.head().view.clone()
    }

    /// Whether requests must tell whose they are: cheap enough to be asked with each.
    pub fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Acquire)
    }

    /// Users and roles as of now.
    pub fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.head().facts.auth)
    }

    /// What `Batch::set_applied` last committed; after a crash, what belongs to the state that was flushed.
    pub fn applied(&self) -> Option<Vec<u8>> {
        self.head().applied.clone()
    }

    /// `applied` as of the last finished flush: everything up to it is durable. Flushes that RocksDB makes by itself
    /// are not counted, so more may be durable.
    pub fn flushed_applied(&self) -> Option<Vec<u8>> {
        self.flushed().clone()
    }

    /// A value set by `Batch::set_meta`.
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let database = Arc::clone(&self.head().database);
        let key = [meta::CALLER, key].concat();
        Ok(database.rocks().get_cf(database.column(Column::Meta), key)?)
    }

    /// Makes everything committed before the call durable; returns the `applied` that is durable now.
    pub fn flush(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let (database, applied) = {
            let head = self.head();
            self.unflushed_bytes.store(0, Ordering::Relaxed);
            (Arc::clone(&head.database), head.applied.clone())
        };
        database.flush()?;
        self.merger.want();
        self.fit_cache();
        let mut flushed = self.flushed();
        // Not if the state was replaced meanwhile.
        if Arc::ptr_eq(&database, &self.head().database) {
            flushed.clone_from(&applied);
        }
        Ok(flushed.clone())
    }

    /// Bytes committed since the last flush, to decide when to flush.
    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    /// Writes a consistent copy of the store into `dir`, which must not exist; returns the `applied` in the copy.
    /// Files are hard links where the file system allows.
    pub fn checkpoint(&self, dir: &Path) -> Result<Option<Vec<u8>>, StorageError> {
        // Most of the flush happens while commits go on.
        self.flush()?;
        let _writer = self.writer();
        let head = self.head();
        Checkpoint::new(head.database.rocks())?.create_checkpoint(dir)?;
        Ok(head.applied.clone())
    }

    /// Replaces the state by a checkpoint in `dir` (moved away from there; same file system). Open views go on reading
    /// the old state. After a crash either the old or the new state is there.
    pub fn install(&self, dir: &Path) -> Result<(), StorageError> {
        let _writer = self.writer();
        let next = self.place.prepare(dir)?;
        let database = Arc::new(Database::open(&next.dir, &self.options, &self.cache, false)?);
        let (head, removed) = Head::load(database)?;
        self.place.switch(&next)?;
        self.removal.set(head.facts.compact_revision, removed);
        let applied = head.applied.clone();
        self.auth_enabled.store(head.facts.auth.enabled, Ordering::Release);
        let old = std::mem::replace(&mut *self.head_mut(), head);
        old.database.discard();
        self.counter.want();
        self.merger.want();
        self.unflushed_bytes.store(0, Ordering::Relaxed);
        *self.flushed() = applied;
        self.fit_cache();
        Ok(())
    }

    /// Lets the cache have room for the indexes and filters of all files, and for some of their blocks.
    fn fit_cache(&self) {
        let bytes = self.head().database.file_bytes() / CACHED_PART;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.options.block_cache_bytes);
        self.cache.clone().set_capacity(bytes.max(LEAST_CACHE_BYTES));
    }

    /// Current sizes.
    pub fn sizes(&self) -> Sizes {
        let database = Arc::clone(&self.head().database);
        database.sizes()
    }

    /// Rewrites all files so that only what is in use remains. Readers and writers go on meanwhile.
    pub fn defragment(&self) -> Result<(), StorageError> {
        let database = Arc::clone(&self.head().database);
        database.rewrite()
    }

    /// HashKV at `revision` (0: the newest).
    pub fn hash_kv(&self, revision: i64) -> Result<KeyValueHash, ReadError> {
        hash_kv(&self.view(), revision)
    }

    /// Waits until superseded versions up to `revision` are removed (CompactionRequest.physical). Does not wait for a
    /// compaction that was not committed.
    pub fn wait_compacted(&self, revision: i64) {
        self.removal.wait(revision);
    }

    /// Writes one batch and lets new views see it.
    fn commit(
        &self,
        effects: Effects,
        applied: Option<Vec<u8>>,
        values: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), StorageError> {
        let _writer = self.writer();
        let (database, stored_auth) = {
            let head = self.head();
            (Arc::clone(&head.database), Arc::clone(&head.facts.auth))
        };
        let mut batch = batch::encode(&database, &effects, applied.as_deref(), values);
        if let Some(auth) = &effects.auth {
            batch::put_auth(&database, &mut batch, auth, &stored_auth);
        }
        let bytes = batch.size_in_bytes() as u64;
        database.write(batch)?;
        self.unflushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        effects.keys.iter().for_each(|(key, record)| database.recent.put(key, record));
        let mut head = self.head_mut();
        head.view.forget_counts();
        if let Some(revision) = effects.revision {
            assert!(revision > head.facts.revision, "revisions grow");
            head.facts.revision = revision;
        }
        if head.counted.change(&effects.history)? {
            self.counter.want();
        }
        if let Some(alarms) = effects.alarms {
            head.facts.alarms = alarms.into();
        }
        if let Some(auth) = effects.auth {
            self.auth_enabled.store(auth.enabled, Ordering::Release);
            head.facts.auth = auth;
        }
        if applied.is_some() {
            head.applied = applied;
        }
        if let Some(revision) = effects.compact_revision {
            assert!(revision > head.facts.compact_revision, "compaction goes forward");
            head.facts.compact_revision = revision;
            self.removal.want(revision);
        }
        head.renew();
        Ok(())
    }

    /// What there is to count. Changes from here on are remembered until `end_count`.
    fn begin_count(&self) -> ReadView {
        let mut head = self.head_mut();
        head.counted.begin();
        head.view.clone()
    }

    /// Takes over what was counted in the view of `begin_count`, if the state was not replaced since.
    fn end_count(&self, view: &ReadView, found: Vec<Blocks>) {
        let mut head = self.head_mut();
        if view.is_of(&head.database) {
            head.counted.end(found);
            head.view = head.view.with_counts(head.counted.counts());
        }
    }

    /// One step of removing superseded versions; returns how far the removal got.
    fn remove_some(&self) -> Result<i64, StorageError> {
        let _writer = self.writer();
        let begun = Instant::now();
        let view = self.view();
        let database = Arc::clone(&self.head().database);
        let done = database.number(meta::REMOVED_REVISION)?.unwrap_or(-1);
        let (batch, done) = compact::step(&view, &database, done, self.head().facts.compact_revision)?;
        // All but the note of how far it got.
        self.options.metrics.compacted_keys.inc_by(batch.len().saturating_sub(1) as u64);
        database.write(batch)?;
        self.head_mut().renew();
        self.options.metrics.compaction_pause_milliseconds.observe(begun.elapsed().as_millis() as f64);
        Ok(done)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().expect("a failed write ends the process")
    }

    fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().expect("a failed write ends the process")
    }

    fn head_mut(&self) -> std::sync::RwLockWriteGuard<'_, Head> {
        self.head.write().expect("a failed write ends the process")
    }

    fn flushed(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.flushed.lock().expect("nothing panics while holding it")
    }
}

impl Source for Store {
    type View = ReadView;

    fn view(&self) -> ReadView {
        Store::view(self)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.removal.close();
        self.counter.close();
        self.merger.close();
        // A merge ends before it is done. What is in memory is flushed, as when a database is closed.
        let head = self.head.get_mut().unwrap_or_else(PoisonError::into_inner);
        head.database.rocks().cancel_all_background_work(false);
        // Either may hold the database open.
        self.counter.join();
        self.merger.join();
    }
}

impl Head {
    /// Lets reads see the state as it is now.
    fn renew(&mut self) {
        self.view = ReadView::new(Arc::clone(&self.database), self.facts.clone(), self.counted.counts());
    }

    /// Reads the state's numbers, and up to which revision superseded versions are removed.
    fn load(database: Arc<Database>) -> Result<(Self, i64), StorageError> {
        let column = database.column(Column::Meta);
        let alarms = match database.rocks().get_cf(column, meta::ALARMS)? {
            Some(bytes) => {
                AlarmResponse::decode(bytes.as_slice())
                    .map_err(|error| ViewError(format!("stored alarms: {error}")))?
                    .alarms
            }
            None => Vec::new(),
        };
        let facts = Facts {
            revision: database.number(meta::REVISION)?.unwrap_or(1),
            compact_revision: database.number(meta::COMPACT_REVISION)?.unwrap_or(-1),
            alarms: alarms.into(),
            auth: Arc::new(database.auth()?),
        };
        let head = Self {
            view: ReadView::new(Arc::clone(&database), facts.clone(), None),
            facts,
            applied: database.rocks().get_cf(column, meta::APPLIED)?,
            counted: Counted::default(),
            database: Arc::clone(&database),
        };
        let removed = database.number(meta::REMOVED_REVISION)?.unwrap_or(-1);
        Ok((head, removed))
    }
}

impl Database {
    /// The stored users and roles.
    fn auth(&self) -> Result<Auth, StorageError> {
        let entries = self.rocks().iterator_cf(self.column(Column::Auth), rocksdb::IteratorMode::Start);
        Ok(Auth::read(entries.collect::<Result<Vec<_>, _>>()?)?)
    }

    /// A number in `meta`.
    fn number(&self, key: &[u8]) -> Result<Option<i64>, StorageError> {
        let bytes = self.rocks().get_cf(self.column(Column::Meta), key)?;
        Ok(bytes.map(|bytes| keys::int(&bytes, 0)).transpose()?)
    }
}

fn io_error(path: &Path, source: std::io::Error) -> StorageError {
    StorageError::Io { path: path.to_owned(), source }
}
