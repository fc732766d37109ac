//! Filling a new store with a history that was made elsewhere.
//!
//! Both go into sorted files that RocksDB takes over as they are: the history, which comes in the order of revisions, and
//! the newest version of each key, which [`newest`] sorts. Each has a thread, while the caller reads. Memory is bounded by
//! what is on its way to them and by what is sorted at once, whatever the size of the history.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use rocksdb::{Cache, IngestExternalFileOptions, SstFileWriter, WriteBatch};

use super::columns::{Column, Database, column_options, meta};
use super::place::Place;
use super::{StorageError, StoreOptions};
use crate::mvcc::keys::{
    INLINE_VALUE_BYTES, append_rev_record, attachment_key, encode_key_record, encode_lease, lease_key,
};
use crate::mvcc::{AlarmMember, KeyRecord, KeyValue, LeaseRecord, MemberAttributes, RevKey, Stamp, ViewError};
use crate::proto::etcdserverpb::AlarmResponse;

mod newest;

use newest::{Ranges, Sample, write_ranges};

/// Bytes of the history in one sorted file.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of the history on the way to the threads at once.
const STEP_BYTES: usize = 1 << 20;
/// Steps of the history that may wait.
const STEPS: usize = 4;
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
    sample: Sample,
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
        let cache = super::columns::cache(super::LEAST_CACHE_BYTES);
        let database = Database::open(&state_dir, options, &cache, create)?;
        let (dir, options, batch) = (dir.to_owned(), options.clone(), WriteBatch::default());
        let (leases, sample) = (HashSet::new(), Sample::default());
        Ok(Self { dir, options, cache, database, batch, leases, sample })
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

    /// Tells of a version that [`Self::history`] will add: of all of them, each once, in any order.
    pub fn announce(&mut self, kv: &[u8]) -> Result<(), StorageError> {
        if self.sample.pass(kv.len() as u64) {
            self.sample.add(decode(&Bytes::copy_from_slice(kv))?.key.to_vec());
        }
        Ok(())
    }

    /// Adds the whole history: `give` calls what it is given with each version, later ones after earlier ones.
    pub fn history<E: From<StorageError>>(
        &mut self,
        give: impl FnOnce(&mut dyn FnMut(Version<'_>) -> Result<(), StorageError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (database, leases, batch) = (&self.database, &self.leases, &mut self.batch);
        let [rev, key] = [Column::Rev, Column::Key].map(|column| column_options(column, &self.options, &self.cache));
        let sorted = |name, column, options| Sorted {
            writer: SstFileWriter::create(options),
            path: self.dir.join(name),
            open: false,
            column,
            database,
        };
        let ranges = Ranges::new(std::mem::take(&mut self.sample), &self.dir);
        let newest = std::thread::scope(|scope| {
            let ((history, to_history), (newest, to_newest)) = (sync_channel(STEPS), sync_channel(STEPS));
            let rev = sorted("history.sst", Column::Rev, &rev);
            let dir = &self.dir;
            let history_thread = scope.spawn(move || rev.write_history(to_history));
            let newest_thread = scope.spawn(move || deal_out(to_newest, ranges, leases, (database, batch), dir));
            let mut steps = Steps { step: Step::default(), last: None, to: [history, newest] };
            let given = give(&mut |version| steps.add(version));
            let ended = steps.send();
            drop(steps);
            // A thread that failed ends what goes to it, so its own error tells more.
            let newest = joined(newest_thread.join());
            joined(history_thread.join())?;
            given?;
            ended?;
            Ok::<_, E>(newest?)
        })?;
        let waiting = Mutex::new(newest);
        std::thread::scope(|scope| {
            ["newest-a.sst", "newest-b.sst"]
                .map(|name| scope.spawn(|| write_ranges(&waiting, sorted(name, Column::Key, &key))))
                .into_iter()
                .try_for_each(|writer| joined(writer.join()))
        })?;
        Ok(())
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

/// What a thread that writes has answered.
fn joined<T>(result: std::thread::Result<Result<T, StorageError>>) -> Result<T, StorageError> {
    result.unwrap_or_else(|_| Err(ViewError("a thread that writes the store has panicked".into()).into()))
}

fn decode(kv: &Bytes) -> Result<KeyValue, StorageError> {
    Ok(KeyValue::decode(kv.clone()).map_err(|error| ViewError(format!("a key-value: {error}")))?)
}

/// Consecutive versions.
#[derive(Default)]
struct Step {
    versions: Vec<Known>,
    /// Their `mvccpb.KeyValue`s, one behind the other.
    kvs: Vec<u8>,
}

/// A [`Version`] of a step.
struct Known {
    place: RevKey,
    previous: Option<RevKey>,
    newest: bool,
    /// Bytes of its `mvccpb.KeyValue`.
    length: usize,
}

/// A step that the threads share.
struct Shared {
    versions: Vec<Known>,
    kvs: Bytes,
}

impl Shared {
    fn iter(&self) -> impl Iterator<Item = (&Known, Bytes)> {
        let mut begin = 0;
        self.versions.iter().map(move |version| {
            let end = begin + version.length;
            (version, self.kvs.slice(std::mem::replace(&mut begin, end)..end))
        })
    }
}

/// The history on its way to the threads.
struct Steps {
    step: Step,
    last: Option<RevKey>,
    to: [SyncSender<Arc<Shared>>; 2],
}

impl Steps {
    fn add(&mut self, version: Version<'_>) -> Result<(), StorageError> {
        let Version { place, kv, previous, newest } = version;
        if self.last.replace(place).is_some_and(|last| last.revision >= place.revision) {
            return Err(ViewError("the history is not in the order of revisions".into()).into());
        }
        self.step.versions.push(Known { place, previous, newest, length: kv.len() });
        self.step.kvs.extend_from_slice(kv);
        if self.step.kvs.len() < STEP_BYTES { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<(), StorageError> {
        let room = Step { versions: Vec::new(), kvs: Vec::with_capacity(STEP_BYTES + STEP_BYTES / 8) };
        let Step { versions, kvs } = std::mem::replace(&mut self.step, room);
        let step = Arc::new(Shared { versions, kvs: kvs.into() });
        self.to.iter().try_for_each(|thread| {
            let sent = thread.send(step.clone());
            sent.map_err(|_| ViewError("a thread that writes the store has ended".into()).into())
        })
    }
}

/// Deals out the newest versions, and writes which keys are attached to leases.
fn deal_out(
    steps: Receiver<Arc<Shared>>,
    mut ranges: Ranges,
    leases: &HashSet<i64>,
    (database, batch): (&Database, &mut WriteBatch),
    dir: &Path,
) -> Result<Vec<newest::Range>, StorageError> {
    let failed = |source| StorageError::Io { path: dir.to_owned(), source };
    for step in steps {
        for (version, kv) in step.iter() {
            let told = decode(&kv)?;
            if !version.newest {
                continue;
            }
            // As in etcd, a key may name a lease that is gone.
            if !version.place.tombstone && leases.contains(&told.lease) {
                batch.put_cf(database.column(Column::Lease), attachment_key(told.lease, &told.key), []);
                write(database, batch, BATCH_BYTES)?;
            }
            let record = encode_key_record(&newest_record(version.place, &told));
            ranges.add(&told.key, &record).map_err(failed)?;
        }
    }
    ranges.into_unsorted().map_err(failed)
}

/// Sorted files, which the database takes over one by one.
struct Sorted<'a> {
    writer: SstFileWriter<'a>,
    path: PathBuf,
    open: bool,
    column: Column,
    database: &'a Database,
}

impl Sorted<'_> {
    /// The history, which is sorted already.
    fn write_history(mut self, steps: Receiver<Arc<Shared>>) -> Result<(), StorageError> {
        let mut record = Vec::new();
        for step in steps {
            for (version, kv) in step.iter() {
                record.clear();
                append_rev_record(&mut record, version.previous, &kv);
                self.put(&version.place.encode(), &record)?;
                if self.writer.file_size() >= FILE_BYTES {
                    self.hand_over()?;
                }
            }
        }
        self.hand_over()
    }

    /// Adds a record behind those before it.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if !self.open {
            self.writer.open(&self.path)?;
            self.open = true;
        }
        Ok(self.writer.put(key, value)?)
    }

    /// Gives what was added to the database; there may be nothing.
    fn hand_over(&mut self) -> Result<(), StorageError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.writer.finish()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let column = self.database.column(self.column);
        Ok(self.database.rocks().ingest_external_file_cf_opts(column, &options, vec![&self.path])?)
    }

    /// An error of the files beside it.
    fn failed(&self, source: io::Error) -> StorageError {
        StorageError::Io { path: self.path.clone(), source }
    }
}
