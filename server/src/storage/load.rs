//! Filling a new store with a history that was made elsewhere.
//!
//! The history comes in the order of revisions, so it is written as sorted files that RocksDB takes over as they are. The
//! newest version of each key goes through the write buffers, in large batches, and is looked up again where the key
//! changes. Memory is bounded by the buffers, whatever the size of the history.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use prost::Message;
use rocksdb::{Cache, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch};

use super::columns::{Column, Database, column_options, meta};
use super::place::Place;
use super::{StorageError, StoreOptions};
use crate::mvcc::keys::{
    INLINE_VALUE_BYTES, attachment_key, decode_key_record, encode_key_record, encode_lease, encode_rev_record,
    lease_key,
};
use crate::mvcc::{
    AlarmMember, KeyRecord, KeyValue, LeaseRecord, MemberAttributes, RevKey, RevRecord, Stamp, ViewError,
};
use crate::proto::etcdserverpb::AlarmResponse;

/// Bytes of the history in one sorted file.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of newest versions written at once.
const BATCH_BYTES: usize = 8 << 20;

/// A store that is being filled. Nothing is durable before [`Loader::finish`].
pub struct Loader {
    dir: PathBuf,
    options: StoreOptions,
    cache: Cache,
    database: Database,
    batch: WriteBatch,
    /// Newest versions that are in the batch.
    newest: HashMap<Vec<u8>, Stamp>,
    leases: HashSet<i64>,
    last: Option<RevKey>,
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
        let (batch, newest) = (WriteBatch::default(), HashMap::new());
        let (dir, options) = (dir.to_owned(), options.clone());
        Ok(Self { dir, options, cache, database, batch, newest, leases: HashSet::new(), last: None })
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
        give: impl FnOnce(&mut dyn FnMut(RevKey, &[u8]) -> Result<(), StorageError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let options = column_options(Column::Rev, &self.options, &self.cache);
        let mut sorted = Sorted::new(&options, &self.dir);
        give(&mut |place, kv| {
            let record = self.version(place, kv)?;
            sorted.add(&self.database, &place.encode(), &encode_rev_record(&record))
        })?;
        Ok(sorted.end(&self.database)?)
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

    /// Makes a version the newest of its key; returns its record in the history.
    fn version(&mut self, place: RevKey, kv: &[u8]) -> Result<RevRecord, StorageError> {
        if self.last.is_some_and(|last| last.revision >= place.revision) {
            return Err(ViewError("the history is not in the order of revisions".into()).into());
        }
        self.last = Some(place);
        let kv = bytes::Bytes::copy_from_slice(kv);
        let told = KeyValue::decode(kv.clone()).map_err(|error| ViewError(format!("a key-value: {error}")))?;
        let old = self.newest(&told.key)?;
        let alive = !place.tombstone;
        let stamp = Stamp {
            modified: place.revision,
            create_revision: if alive { told.create_revision } else { 0 },
            version: if alive { told.version } else { 0 },
            lease: if alive { told.lease } else { 0 },
            tombstone: place.tombstone,
        };
        let lease = self.database.column(Column::Lease);
        if let Some(old) = old.filter(|old| old.lease != 0 && old.lease != stamp.lease) {
            self.batch.delete_cf(lease, attachment_key(old.lease, &told.key));
        }
        // As in etcd, a key may name a lease that is gone.
        if self.leases.contains(&stamp.lease) {
            self.batch.put_cf(lease, attachment_key(stamp.lease, &told.key), []);
        }
        let value = (alive && told.value.len() <= INLINE_VALUE_BYTES).then(|| told.value.clone());
        let record = encode_key_record(&KeyRecord { stamp, value });
        self.batch.put_cf(self.database.column(Column::Key), &told.key, record);
        self.newest.insert(told.key.to_vec(), stamp);
        self.write(BATCH_BYTES)?;
        Ok(RevRecord { previous: old.map(|old| old.rev_key()), kv })
    }

    fn newest(&self, key: &[u8]) -> Result<Option<Stamp>, StorageError> {
        if let Some(stamp) = self.newest.get(key) {
            return Ok(Some(*stamp));
        }
        let found = self.database.rocks().get_pinned_cf(self.database.column(Column::Key), key)?;
        Ok(found.map(|record| decode_key_record(&record).map(|(stamp, _)| stamp)).transpose()?)
    }

    /// Writes the batch if it has grown to so many bytes.
    fn write(&mut self, bytes: usize) -> Result<(), StorageError> {
        if self.batch.size_in_bytes() < bytes {
            return Ok(());
        }
        self.newest.clear();
        self.database.write(std::mem::take(&mut self.batch))
    }
}

/// The history as sorted files, which the database takes over one by one.
struct Sorted<'o> {
    writer: SstFileWriter<'o>,
    path: PathBuf,
    open: bool,
}

impl<'o> Sorted<'o> {
    fn new(options: &'o Options, dir: &Path) -> Self {
        Self { writer: SstFileWriter::create(options), path: dir.join("history.sst"), open: false }
    }

    fn add(&mut self, database: &Database, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if !self.open {
            self.writer.open(&self.path)?;
            self.open = true;
        }
        self.writer.put(key, value)?;
        match self.writer.file_size() < FILE_BYTES {
            true => Ok(()),
            false => self.end(database),
        }
    }

    fn end(&mut self, database: &Database) -> Result<(), StorageError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.writer.finish()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let column = database.column(Column::Rev);
        Ok(database.rocks().ingest_external_file_cf_opts(column, &options, vec![&self.path])?)
    }
}
