//! Column families, RocksDB's settings, and one open database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, FlushOptions, LogLevel, LruCacheOptions, Options, ReadOptions, WriteBatch,
    WriteOptions, properties,
};

use super::recent::Recent;
use super::{Sizes, StorageError, StoreOptions, io_error};

/// A column family; `mvcc::keys` tells what is in the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The history.
    Rev,
    /// The newest version of each key.
    Key,
    /// Leases and the keys attached to them.
    Lease,
    /// Users and roles; empty until there are any.
    Auth,
    /// Single values, see [`meta`].
    Meta,
}

impl Column {
    /// All of them.
    pub const ALL: [Column; 5] = [Column::Rev, Column::Key, Column::Lease, Column::Auth, Column::Meta];

    /// RocksDB's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Column::Rev => "rev",
            Column::Key => "key",
            Column::Lease => "lease",
            Column::Auth => "auth",
            Column::Meta => "meta",
        }
    }
}

/// Keys of the column family `meta`.
pub mod meta {
    /// BE64: the newest transaction.
    pub const REVISION: &[u8] = b"s/revision";
    /// BE64: revisions below cannot be read.
    pub const COMPACT_REVISION: &[u8] = b"s/compact";
    /// BE64: up to here superseded versions are removed.
    pub const REMOVED_REVISION: &[u8] = b"s/removed";
    /// Raft's bytes: the last applied entry and the membership.
    pub const APPLIED: &[u8] = b"s/applied";
    /// The raised alarms, as an AlarmResponse without header.
    pub const ALARMS: &[u8] = b"s/alarms";
    /// The version to go back to; empty for none.
    pub const DOWNGRADE_TARGET: &[u8] = b"s/downgrade";
    /// Then BE64 member id: what the member told of itself.
    pub const MEMBER: &[u8] = b"m/";
    /// Then the key of a value that belongs to the caller.
    pub const CALLER: &[u8] = b"x/";
}

/// An open database in a directory of its own.
pub struct Database {
    /// None only while it is being dropped.
    rocks: Option<DB>,
    /// What was written to it lately.
    pub recent: Recent,
    dir: PathBuf,
    discarded: AtomicBool,
}

impl Database {
    /// Opens the database in `dir`; `create` makes it if it is missing.
    pub fn open(dir: &Path, settings: &StoreOptions, cache: &Cache, create: bool) -> Result<Self, StorageError> {
        let mut options = Options::default();
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        // The Raft log is the log. All column families are flushed as one, so that after a crash they agree.
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(settings.write_buffer_bytes);
        options.set_max_background_jobs(2);
        options.set_max_open_files(1024);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        check_current(dir)?;
        let rocks = DB::open_cf_descriptors(&options, dir, descriptors(settings, cache))?;
        let recent = Recent::new(settings.recent_keys_bytes);
        Ok(Self { rocks: Some(rocks), recent, dir: dir.to_owned(), discarded: AtomicBool::new(false) })
    }

    /// RocksDB itself.
    pub fn rocks(&self) -> &DB {
        self.rocks.as_ref().expect("the database is open until it is dropped")
    }

    /// The handle of a column family.
    pub fn column(&self, column: Column) -> &ColumnFamily {
        self.rocks().cf_handle(column.name()).expect("every column family is opened")
    }

    /// Writes a batch to memory; it becomes durable with the next flush.
    pub fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.rocks().write_opt(batch, &options)?)
    }

    /// Makes everything written before durable, all column families at once.
    pub fn flush(&self) -> Result<(), StorageError> {
        let columns = Column::ALL.map(|column| self.column(column));
        Ok(self.rocks().flush_cfs_opt(&columns, &FlushOptions::default())?)
    }

    /// Rewrites all files.
    pub fn rewrite(&self) -> Result<(), StorageError> {
        self.flush()?;
        Column::ALL.into_iter().for_each(|column| self.rewrite_range(column, None, None));
        Ok(())
    }

    /// Rewrites the files that have keys from `start` to `end`, both included, or from the first or to the last one.
    /// Nothing tells whether that failed.
    pub fn rewrite_range(&self, column: Column, start: Option<&[u8]>, end: Option<&[u8]>) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.rocks().compact_range_cf_opt(self.column(column), start, end, &options);
    }

    /// What the files take that are read from.
    pub fn file_bytes(&self) -> u64 {
        self.sum(properties::LIVE_SST_FILES_SIZE)
    }

    fn sum(&self, property: &properties::PropName) -> u64 {
        let of = |column: &Column| self.rocks().property_int_value_cf(self.column(*column), property).ok().flatten();
        Column::ALL.iter().filter_map(of).sum()
    }

    /// What the files and buffers take.
    pub fn sizes(&self) -> Sizes {
        let buffers = self.sum(properties::CUR_SIZE_ALL_MEM_TABLES);
        let total_bytes = self.sum(properties::TOTAL_SST_FILES_SIZE) + buffers;
        let live = self.sum(properties::ESTIMATE_LIVE_DATA_SIZE) + buffers;
        Sizes { total_bytes, in_use_bytes: live.min(total_bytes) }
    }

    /// Removes the directory as soon as nobody reads from it any more.
    pub fn discard(&self) {
        self.discarded.store(true, Ordering::Release);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.rocks.take());
        if self.discarded.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a replaced store could not be removed");
        }
    }
}

/// Whether the file that names the manifest does so, if there is data: RocksDB's own errors do not tell that it is this one.
fn check_current(dir: &Path) -> Result<(), StorageError> {
    let current = dir.join("CURRENT");
    let broken = |what: &str| Err(io_error(&current, io::Error::other(what.to_owned())));
    match fs::read_to_string(&current) {
        Ok(name) => match name.strip_suffix('\n').filter(|name| name.starts_with("MANIFEST-")) {
            Some(manifest) if dir.join(manifest).exists() => Ok(()),
            Some(manifest) => {
                broken(&format!("names {manifest}, which is not there: one of the two is damaged or gone"))
            }
            None => broken("does not name a manifest"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let files = fs::read_dir(dir).into_iter().flatten().flatten();
            let is_data = |path: PathBuf| path.extension().is_some_and(|of| of == "sst");
            if files.map(|file| file.path()).any(is_data) { broken("is missing") } else { Ok(()) }
        }
        Err(error) => Err(io_error(&current, error)),
    }
}

/// Reads all that is in the closed database in `dir`: RocksDB compares each block with its checksum.
///
/// # Errors
/// A file that is damaged, by its name.
pub fn verify(dir: &Path) -> Result<(), StorageError> {
    let settings = StoreOptions::default();
    let cache = cache(VERIFY_CACHE_BYTES);
    let rocks = DB::open_cf_descriptors_read_only(&Options::default(), dir, descriptors(&settings, &cache), false)?;
    for column in Column::ALL {
        let handle = rocks.cf_handle(column.name()).expect("every column family is opened");
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD_BYTES);
        let mut entries = rocks.raw_iterator_cf_opt(handle, options);
        entries.seek_to_first();
        while entries.valid() {
            entries.next();
        }
        entries.status()?;
    }
    Ok(())
}

/// Of indexes, while everything is read once.
const VERIFY_CACHE_BYTES: usize = 8 << 20;
/// Bytes read at once.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// Bits of the number of parts of the cache; none of them takes a block that is larger than it.
const CACHE_SHARD_BITS: i32 = 4;

/// Memory for blocks read from disk.
pub fn cache(bytes: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(CACHE_SHARD_BITS);
    Cache::new_lru_cache_opts(&options)
}

fn descriptors(settings: &StoreOptions, cache: &Cache) -> [ColumnFamilyDescriptor; Column::ALL.len()] {
    Column::ALL.map(|column| ColumnFamilyDescriptor::new(column.name(), column_options(column, settings, cache)))
}

/// RocksDB's settings for a column family.
pub fn column_options(column: Column, settings: &StoreOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In parts: the index of a large file as a whole is more than the cache takes, and would be read with each get.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    if column == Column::Key {
        // Creating a key asks for one that is not there.
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options
}
