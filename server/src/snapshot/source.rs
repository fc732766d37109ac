//! A snapshot file: etcd's or ours, with the checksum of the stream behind it or without, whole or damaged.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sha2::{Digest, Sha256};

use super::{SnapshotError, content, io_error, schema};
use crate::bbolt::Reader;
use crate::mvcc::RevKey;

/// Bytes of a SHA-256, which follow the pages of a file that was saved from a stream.
const SUM_BYTES: u64 = 32;
/// Bytes that are read and summed up at once.
const SUMMED_BYTES: usize = 128 << 10;
/// Every page size is a multiple of this.
const SECTOR_BYTES: u64 = 512;

/// An open snapshot.
pub struct Source {
    path: PathBuf,
    reader: Reader,
}

/// Revisions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Versions up to here are removed; -1 is never.
    pub finished: i64,
    /// Versions up to here shall be removed, and cannot be read; -1 is never.
    pub scheduled: i64,
}

impl Source {
    /// Opens a file; the bytes of pages that are read add up in `read_bytes`.
    pub fn open(path: &Path, read_bytes: &Arc<AtomicU64>) -> Result<Self, SnapshotError> {
        std::fs::metadata(path).map_err(io_error(path))?;
        let reader = Reader::open(path).map_err(|error| SnapshotError::from(error).of(path))?;
        Ok(Self { path: path.to_owned(), reader: reader.counting_in(read_bytes.clone()) })
    }

    /// The pages behind it.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Compares the file with the checksum at its end. A file without one was copied from a data directory.
    pub fn verify_checksum(&self) -> Result<(), SnapshotError> {
        let failed = io_error(&self.path);
        let sums = || -> std::io::Result<Option<[Vec<u8>; 2]>> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            if length % SECTOR_BYTES != SUM_BYTES {
                return Ok(None);
            }
            let mut sum = Sha256::new();
            let mut pages = BufReader::with_capacity(SUMMED_BYTES, (&mut file).take(length - SUM_BYTES));
            std::io::copy(&mut pages, &mut sum)?;
            file.seek(SeekFrom::Start(length - SUM_BYTES))?;
            let mut expected = [0; SUM_BYTES as usize];
            file.read_exact(&mut expected)?;
            Ok(Some([expected.to_vec(), sum.finalize().to_vec()]))
        };
        match sums().map_err(failed)? {
            Some([expected, found]) if expected == found => Ok(()),
            Some([expected, found]) => {
                let bytes = |sum: Vec<u8>| sum.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
                Err(content(format!("expected sha256 [{}], got [{}]", bytes(expected), bytes(found))))
            }
            None => Err(content(
                "snapshot missing hash but --skip-hash-check=false (a file that was copied out of a data directory has \
                 none, and is taken with --skip-hash-check)",
            )),
        }
    }

    /// Visits a bucket's keys in order. A bucket that is not there is empty.
    pub fn for_each(
        &self,
        bucket: &str,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Some(bucket) = self.reader.bucket(bucket)? else {
            return Ok(());
        };
        let mut failed = None;
        self.reader.for_each(&bucket, &mut |key, value| {
            failed = visit(key, value).err();
            Ok(if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Visits the history.
    pub fn history(
        &self,
        mut visit: impl FnMut(RevKey, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.for_each(schema::KEY, |key, value| {
            let place = schema::rev_key(key).ok_or_else(|| content(format!("cannot parse revision key {key:?}")))?;
            visit(place, value)
        })
    }

    /// A single value of `meta`.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, SnapshotError> {
        let meta = self.reader.bucket(schema::META)?;
        let meta = meta.ok_or_else(|| content("the file has no bucket named meta: it is not etcd's"))?;
        Ok(self.reader.get(&meta, name)?)
    }

    /// How far the history is compacted.
    pub fn compacted(&self) -> Result<Compacted, SnapshotError> {
        let revision = |name| match self.meta(name)? {
            None => Ok(-1),
            Some(value) => match schema::rev_key(&value) {
                Some(place) => Ok(place.revision.main),
                None => Err(content(format!("{name} is not a revision"))),
            },
        };
        let finished = revision(schema::FINISHED_COMPACT)?;
        Ok(Compacted { finished, scheduled: revision(schema::SCHEDULED_COMPACT)?.max(finished) })
    }

    /// The version of the schema; etcd has it since 3.6.
    pub fn storage_version(&self) -> Result<String, SnapshotError> {
        let version = self.meta(schema::STORAGE_VERSION)?.unwrap_or_default();
        let text = String::from_utf8(version).unwrap_or_default();
        let numbers = text.split('.').filter(|part| part.parse::<u32>().is_ok()).count();
        Ok(if numbers == 3 && text.split('.').count() == 3 { text } else { String::new() })
    }
}
