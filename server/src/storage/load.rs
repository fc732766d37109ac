//! Filling a new store with a history that was made elsewhere.
//!
//! Both go into sorted files that RocksDB takes over as they are: the history, which comes in the order of revisions, and
//! the newest version of each key, as many at a time as are sorted in memory. Each has a thread that writes, while the
//! caller reads. Memory is bounded by what is on its way to them, whatever the size of the history.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use prost::Message;
use rocksdb::{Cache, IngestExternalFileOptions, SstFileWriter, WriteBatch};

use super::columns::{Column, Database, column_options, meta};
use super::place::Place;
use super::{StorageError, StoreOptions};
use crate::mvcc::keys::{
    INLINE_VALUE_BYTES, attachment_key, encode_key_record, encode_lease, encode_rev_record, lease_key,
};
use crate::mvcc::{
    AlarmMember, KeyRecord, KeyValue, LeaseRecord, MemberAttributes, RevKey, RevRecord, Stamp, ViewError,
};
use crate::proto::etcdserverpb::AlarmResponse;

/// Bytes of the history in one sorted file.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of the history on the way to their thread at once.
const STEP_BYTES: usize = 1 << 20;
/// Steps of the history that may wait.
const STEPS: usize = 4;
/// Bytes of newest versions that are sorted at once, and make one file. So many may wait for their thread, too.
const RUN_BYTES: usize = 48 << 20;
/// Bytes of leases and users written at once.
const BATCH_BYTES: usize = 8 << 20;

/// A store that is being filled. Nothing is durable before [`Loader::finish`].
pub struct Loader {
    dir: PathBuf,
    options: StoreOptions,
    cache: Cache,
    database: Database,
    batch: WriteBatch,
    leases: HashSet<i64>,
    last: Option<RevKey>,
}

/// One version of a key.
pub struct Version<'a> {
    /// Where it is in the history.
    pub place: RevKey,
    /// The encoded `mvccpb.KeyValue`.
    pub kv: &'a [u8],
    /// The version of the same key before it; a deletion counts.
    pub previous: Option<RevKey>,
    /// There is none behind it.
    pub newest: bool,
}

/// What is known only at the end.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest transaction.
    pub revision: i64,
    /// Revisions below cannot be read; `None` if nothing was ever compacted.
    pub compact_revision: Option<i64>,
    /// What `Store::applied` shall return.
    pub applied: Vec<u8>,
    /// Raised alarms.
    pub alarms: Vec<AlarmMember>,
    /// The members, as far as they are known.
    pub members: Vec<MemberAttributes>,
}

impl Loader {
    /// Creates a store in `dir`, which has none.
    pub fn create(dir: &Path, options: &StoreOptions) -> Result<Self, StorageError> {
        let place = Place::open(dir)?;
        let (state_dir, create) = place.current();
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let database = Database::open(&state_dir, options, &cache, create)?;
        let (dir, options, batch) = (dir.to_owned(), options.clone(), WriteBatch::default());
        Ok(Self { dir, options, cache, database, batch, leases: HashSet::new(), last: None })
    }

    /// Adds a lease. Leases come before the versions that are attached to them.
    pub fn lease(&mut self, lease: LeaseRecord) -> Result<(), StorageError> {
        self.leases.insert(lease.id);
        let column = self.database.column(Column::Lease);
        self.batch.put_cf(column, lease_key(lease.id), encode_lease(&lease));
        self.write(BATCH_BYTES)
    }

    /// Adds an entry of the users, roles and settings of authentication.
    pub fn auth(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.batch.put_cf(self.database.column(Column::Auth), key, value);
        self.write(BATCH_BYTES)
    }

    /// Adds the whole history: `give` calls what it is given with each version, later ones after earlier ones.
    pub fn history<E: From<StorageError>>(
        &mut self,
        give: impl FnOnce(&mut dyn FnMut(Version<'_>) -> Result<(), StorageError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let options = [Column::Rev, Column::Key].map(|column| column_options(column, &self.options, &self.cache));
        let (batch, leases, last) = (&mut self.batch, &self.leases, &mut self.last);
        let database = &self.database;
        std::thread::scope(|scope| {
            let (steps, waiting_steps) = sync_channel(STEPS);
            let (runs, waiting_runs) = sync_channel(0);
            let (history, newest) = (self.dir.join("history.sst"), self.dir.join("newest.sst"));
            let rev =
                Sorted { writer: SstFileWriter::create(&options[0]), path: history, column: Column::Rev, database };
            let key =
                Sorted { writer: SstFileWriter::create(&options[1]), path: newest, column: Column::Key, database };
            let writers = [
                scope.spawn(move || rev.write_history(waiting_steps)),
                scope.spawn(move || key.write_runs(waiting_runs)),
            ];
            let mut steps = Batched::new(STEP_BYTES, steps);
            let mut runs = Batched::new(RUN_BYTES, runs);
            let given = give(&mut |version| {
                if last.replace(version.place).is_some_and(|last| last.revision >= version.place.revision) {
                    return Err(ViewError("the history is not in the order of revisions".into()).into());
                }
                let (place, newest) = (version.place, version.newest);
                let kv = Bytes::copy_from_slice(version.kv);
                let told = KeyValue::decode(kv.clone()).map_err(|error| ViewError(format!("a key-value: {error}")))?;
                let record = RevRecord { previous: version.previous, kv };
                steps.add(&place.encode(), &encode_rev_record(&record))?;
                if newest {
                    // As in etcd, a key may name a lease that is gone.
                    if !place.tombstone && leases.contains(&told.lease) {
                        batch.put_cf(database.column(Column::Lease), attachment_key(told.lease, &told.key), []);
                        write(database, batch, BATCH_BYTES)?;
                    }
                    runs.add(&told.key, &encode_key_record(&newest_record(place, &told)))?;
                }
                Ok(())
            });
            let ended = steps.send().and_then(|()| runs.send());
            drop((steps, runs));
            // A thread that failed ends what goes to it, so its own error tells more.
            for writer in writers {
                writer
                    .join()
                    .map_err(|_| ViewError("a thread that writes the store has panicked".into()))
                    .map_err(StorageError::from)??;
            }
            given.and_then(|()| Ok(ended?))
        })
    }

    /// Makes everything durable and closes the store.
    pub fn finish(mut self, loaded: Loaded) -> Result<(), StorageError> {
        let column = self.database.column(Column::Meta);
        self.batch.put_cf(column, meta::REVISION, loaded.revision.to_be_bytes());
        if let Some(revision) = loaded.compact_revision {
            // What is superseded is removed by the running store, as after any other compaction.
            self.batch.put_cf(column, meta::COMPACT_REVISION, revision.to_be_bytes());
        }
        self.batch.put_cf(column, meta::APPLIED, &loaded.applied);
        let alarms = AlarmResponse { header: None, alarms: loaded.alarms };
        self.batch.put_cf(column, meta::ALARMS, alarms.encode_to_vec());
        for member in loaded.members {
            let key = [meta::MEMBER, &member.member_id.to_be_bytes()].concat();
            self.batch.put_cf(column, key, member.encode_to_vec());
        }
        self.write(0)?;
        self.database.flush()
    }

    fn write(&mut self, bytes: usize) -> Result<(), StorageError> {
        write(&self.database, &mut self.batch, bytes)
    }
}

/// Writes the batch if it has grown to so many bytes.
fn write(database: &Database, batch: &mut WriteBatch, bytes: usize) -> Result<(), StorageError> {
    match batch.size_in_bytes() < bytes {
        true => Ok(()),
        false => database.write(std::mem::take(batch)),
    }
}

/// What is stored of a key whose newest version this is.
fn newest_record(place: RevKey, told: &KeyValue) -> KeyRecord {
    let alive = !place.tombstone;
    let stamp = Stamp {
        modified: place.revision,
        create_revision: if alive { told.create_revision } else { 0 },
        version: if alive { told.version } else { 0 },
        lease: if alive { told.lease } else { 0 },
        tombstone: place.tombstone,
    };
    let value = (alive && told.value.len() <= INLINE_VALUE_BYTES).then(|| told.value.clone());
    KeyRecord { stamp, value }
}

/// Records in one piece of memory, so that millions of them cost no more than their bytes.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    /// Where each one's key begins, its value begins, and it ends.
    bounds: Vec<(u32, u32, u32)>,
}

impl Records {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let position = |at: usize| u32::try_from(at).expect("a batch is handed over long before 4 GiB");
        self.bounds.push((position(begin), position(middle), position(self.bytes.len())));
    }

    fn size(&self) -> usize {
        self.bytes.len() + size_of_val(self.bounds.as_slice())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |(begin, middle, _): (u32, u32, u32)| &bytes[begin as usize..middle as usize];
        self.bounds.sort_unstable_by(|a, b| key(*a).cmp(key(*b)));
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let part = |from: u32, to: u32| &self.bytes[from as usize..to as usize];
        self.bounds.iter().map(move |(begin, middle, end)| (part(*begin, *middle), part(*middle, *end)))
    }
}

/// Records on their way to a thread.
struct Batched {
    records: Records,
    full: usize,
    to: SyncSender<Records>,
}

impl Batched {
    fn new(full: usize, to: SyncSender<Records>) -> Self {
        Self { records: Records::default(), full, to }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.records.push(key, value);
        if self.records.size() < self.full { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<(), StorageError> {
        let sent = self.to.send(std::mem::take(&mut self.records));
        sent.map_err(|_| ViewError("a thread that writes the store has ended".into()).into())
    }
}

/// Sorted files, which the database takes over one by one.
struct Sorted<'a> {
    writer: SstFileWriter<'a>,
    path: PathBuf,
    column: Column,
    database: &'a Database,
}

impl Sorted<'_> {
    /// Records that follow each other.
    fn write_history(mut self, steps: Receiver<Records>) -> Result<(), StorageError> {
        let mut open = false;
        for step in steps {
            for (key, value) in step.iter() {
                if !open {
                    self.writer.open(&self.path)?;
                    open = true;
                }
                self.writer.put(key, value)?;
                if self.writer.file_size() >= FILE_BYTES {
                    self.hand_over()?;
                    open = false;
                }
            }
        }
        if open { self.hand_over() } else { Ok(()) }
    }

    /// Records in any order, a file for each run.
    fn write_runs(mut self, runs: Receiver<Records>) -> Result<(), StorageError> {
        for mut run in runs.into_iter().filter(|run| !run.bounds.is_empty()) {
            run.sort();
            self.writer.open(&self.path)?;
            for (key, value) in run.iter() {
                self.writer.put(key, value)?;
            }
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), StorageError> {
        self.writer.finish()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let column = self.database.column(self.column);
        Ok(self.database.rocks().ingest_external_file_cf_opts(column, &options, vec![&self.path])?)
    }
}
