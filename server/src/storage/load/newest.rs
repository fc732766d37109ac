//! The newest version of each key, in the order of keys, out of a history that is in the order of revisions.
//!
//! What comes is dealt out to ranges of keys, each of which is sorted in memory and becomes a sorted file. The files of
//! different ranges do not overlap, so nothing has to be compacted. Ranges of about equal size come from a sample of
//! the history's keys.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;

use tempfile::SpooledTempFile;

use super::Sorted;
use crate::storage::StorageError;

/// Bytes of a history for each range of its keys.
const RANGE_BYTES: u64 = 48 << 20;
/// Open files are bounded.
const MAX_RANGES: usize = 256;
/// Bytes of records that are sorted at once: a range that is larger, as the sample was a bad one, becomes several files.
const SORTED_BYTES: usize = 96 << 20;
/// Bytes that all ranges together keep in memory before they become files: small stores need none.
const KEPT_BYTES: usize = 32 << 20;
/// Bytes that are written and read at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Keys of a sample, at most.
const SAMPLE_KEYS: usize = 1 << 14;
/// Bytes of the history for each key of a sample, at first.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Keys of a history, one for so many bytes of it.
pub struct Sample {
    keys: Vec<Vec<u8>>,
    step: u64,
    /// Bytes until the next one.
    left: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { keys: Vec::new(), step: SAMPLE_BYTES, left: SAMPLE_BYTES }
    }
}

impl Sample {
    /// Passes over so many bytes of the history; true if the key they are of shall be added.
    pub fn pass(&mut self, bytes: u64) -> bool {
        let due = bytes >= self.left;
        self.left = if due { self.step } else { self.left - bytes };
        due
    }

    /// Adds a key. All keys so far weigh the same: if they get too many, every other one goes.
    pub fn add(&mut self, key: Vec<u8>) {
        if self.keys.len() == SAMPLE_KEYS {
            let mut at = 0;
            self.keys.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.step *= 2;
        }
        self.keys.push(key);
    }

    /// Where each range but the first one begins.
    fn into_bounds(mut self) -> Vec<Vec<u8>> {
        self.keys.sort_unstable();
        let ranges = (self.keys.len() as u64 * self.step / RANGE_BYTES + 1).min(MAX_RANGES as u64) as usize;
        let mut bounds: Vec<_> = (1..ranges).map(|at| self.keys[at * self.keys.len() / ranges].clone()).collect();
        bounds.dedup();
        bounds
    }
}

/// Records that are dealt out.
pub struct Ranges {
    bounds: Vec<Vec<u8>>,
    files: Vec<BufWriter<SpooledTempFile>>,
}

impl Ranges {
    /// For a history of which this is a sample; files are made in `dir`.
    pub fn new(sample: Sample, dir: &Path) -> Self {
        let bounds = sample.into_bounds();
        let kept = KEPT_BYTES / (bounds.len() + 1);
        let file = || BufWriter::with_capacity(BUFFER_BYTES, tempfile::spooled_tempfile_in(kept, dir));
        Self { files: (0..=bounds.len()).map(|_| file()).collect(), bounds }
    }

    /// Adds a record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let at = self.bounds.partition_point(|bound| bound.as_slice() <= key);
        let file = &mut self.files[at];
        for part in [key, value] {
            file.write_all(&(part.len() as u32).to_be_bytes())?;
        }
        file.write_all(key)?;
        file.write_all(value)
    }

    /// The ranges, each of which can be sorted on its own.
    pub fn into_unsorted(self) -> io::Result<Vec<Range>> {
        self.files
            .into_iter()
            .map(|written| {
                let mut file = written.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.rewind()?;
                Ok(Range(BufReader::with_capacity(BUFFER_BYTES, file)))
            })
            .collect()
    }
}

/// One range's records, as they were added.
pub struct Range(BufReader<SpooledTempFile>);

/// Records in one piece of memory.
#[derive(Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each one's key begins, its value begins, and it ends.
    bounds: Vec<(u32, u32, u32)>,
}

impl Records {
    fn fill(&mut self, range: &mut Range) -> io::Result<()> {
        self.bytes.clear();
        self.bounds.clear();
        while self.bytes.len() < SORTED_BYTES && !range.0.fill_buf()?.is_empty() {
            let mut lengths = [0; 8];
            range.0.read_exact(&mut lengths)?;
            let length = |at: usize| u32::from_be_bytes(lengths[at..at + 4].try_into().expect("four bytes"));
            let begin = self.bytes.len();
            let (middle, end) = (begin + length(0) as usize, begin + length(0) as usize + length(4) as usize);
            self.bytes.resize(end, 0);
            range.0.read_exact(&mut self.bytes[begin..])?;
            let position = |at: usize| u32::try_from(at).expect("records stay far below 4 GiB");
            self.bounds.push((position(begin), position(middle), position(end)));
        }
        Ok(())
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

/// Takes ranges from `waiting` until there are none, and hands each over as sorted files.
pub fn write_ranges(waiting: &Mutex<Vec<Range>>, mut to: Sorted<'_>) -> Result<(), StorageError> {
    let mut records = Records::default();
    let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    while let Some(mut range) = next() {
        loop {
            records.fill(&mut range).map_err(|source| to.failed(source))?;
            if records.bounds.is_empty() {
                break;
            }
            records.sort();
            for (key, value) in records.iter() {
                to.put(key, value)?;
            }
            to.hand_over()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing is lost, and no key is in two ranges or out of their order.
        #[test]
        fn ranges_hold_what_was_dealt_out_in_their_order(
            keys in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..3), 0..200),
            bounds in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..3), 0..5),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut ranges = Ranges::new(Sample::default(), dir.path());
            let more = Ranges::new(Sample::default(), dir.path()).files.into_iter().chain(
                bounds.iter().flat_map(|_| Ranges::new(Sample::default(), dir.path()).files)).collect();
            (ranges.bounds, ranges.files) = (bounds.into_iter().collect(), more);
            for key in keys.iter().rev() {
                ranges.add(key, &[key.len() as u8]).unwrap();
            }
            let mut found = Vec::new();
            for mut range in ranges.into_unsorted().unwrap() {
                let mut records = Records::default();
                records.fill(&mut range).unwrap();
                records.sort();
                found.extend(records.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            }
            let expected: Vec<_> = keys.into_iter().map(|key| (key.clone(), vec![key.len() as u8])).collect();
            prop_assert_eq!(found, expected);
        }
    }

    /// However long the history, a sample stays small and its ranges have like shares of the bytes.
    #[test]
    fn a_sample_divides_a_history_evenly() {
        let mut sample = Sample::default();
        let (mut seed, mut bytes) = (1_u64, 0);
        while bytes < 40 * RANGE_BYTES {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let size = 30_000 + (seed >> 50);
            bytes += size;
            if sample.pass(size) {
                sample.add((seed >> 32).to_be_bytes().to_vec());
            }
        }
        assert!(sample.keys.len() <= SAMPLE_KEYS && sample.step > SAMPLE_BYTES);
        let bounds = sample.into_bounds();
        assert!((20..=41).contains(&bounds.len()), "{} bounds", bounds.len());
        let at = |bound: &[u8]| u64::from_be_bytes(bound.try_into().unwrap()) as f64 / (1_u64 << 32) as f64;
        for (number, bound) in bounds.iter().enumerate() {
            let expected = (number + 1) as f64 / (bounds.len() + 1) as f64;
            assert!((at(bound) - expected).abs() < 0.05, "bound {number} at {}, not {expected}", at(bound));
        }
    }
}
