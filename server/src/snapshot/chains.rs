//! Which version of a key follows which: the history is in the order of revisions, and tells nothing of that by itself.
//!
//! The keys are dealt out to parts by their hashes. Each part is small enough for a table of its keys, and keeps the order
//! of revisions, so that two passes over the history do without sorting: the first one deals out, the second one reads
//! each part's answers in step. Memory is bounded by the table of one part (64 MB of the file; above 16 GB, a 256th) and by
//! the buffers; the rest is in files without names, at most 67 bytes for each version.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};
use tempfile::SpooledTempFile;

use super::{SnapshotError, content, io_error};
use crate::mvcc::{RevKey, Revision};

/// Bytes of a snapshot for each part of its keys.
const PART_BYTES: u64 = 64 << 20;
/// Open files are bounded.
const MAX_PARTS: u64 = 256;
/// Bytes that all parts together keep in memory before they become files: small snapshots need none.
const KEPT_BYTES: u64 = 32 << 20;
/// Bytes that are written and read at once.
const BUFFER_BYTES: usize = 32 << 10;

/// Hash of a key: nobody can find two keys that share it.
const HASH_BYTES: usize = 16;
/// A place in the history, or none.
const PLACE_BYTES: usize = 17;

/// As much of a version's `mvccpb.KeyValue` as says which key it is of.
#[derive(Clone, PartialEq, prost::Message)]
struct KeyOf {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// The hash of the key that a version is of.
fn hash_of(kv: &[u8]) -> Result<u128, SnapshotError> {
    let told = KeyOf::decode(kv).map_err(|error| content(format!("cannot unmarshal value: {error}")))?;
    let hash = Sha256::digest(&told.key);
    Ok(u128::from_be_bytes(hash[..HASH_BYTES].try_into().expect("sixteen bytes")))
}

/// What a version's neighbours are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The version of the same key before it; a deletion counts.
    pub previous: Option<RevKey>,
    /// There is none behind it.
    pub newest: bool,
}

/// Where files are made, and how many bytes stay in memory.
#[derive(Clone)]
struct Files {
    dir: PathBuf,
    kept_bytes: usize,
}

impl Files {
    fn create(&self) -> BufWriter<SpooledTempFile> {
        BufWriter::with_capacity(BUFFER_BYTES, tempfile::spooled_tempfile_in(self.kept_bytes, &self.dir))
    }
}

/// The first pass.
pub struct Chains {
    files: Files,
    parts: Vec<BufWriter<SpooledTempFile>>,
}

impl Chains {
    /// For a snapshot of so many bytes; files are made in `dir`.
    pub fn new(snapshot_bytes: u64, dir: &Path) -> Self {
        let parts = (snapshot_bytes / PART_BYTES + 1).min(MAX_PARTS);
        let files = Files { dir: dir.to_owned(), kept_bytes: (KEPT_BYTES / parts) as usize };
        Self { parts: (0..parts).map(|_| files.create()).collect(), files }
    }

    /// Adds a version behind the ones before it.
    pub fn add(&mut self, place: RevKey, kv: &[u8]) -> Result<(), SnapshotError> {
        let hash = hash_of(kv)?;
        let at = part_of(hash, self.parts.len());
        let mut entry = [0; HASH_BYTES + PLACE_BYTES];
        entry[..HASH_BYTES].copy_from_slice(&hash.to_be_bytes());
        entry[HASH_BYTES..].copy_from_slice(&encode(Some(place)));
        self.parts[at].write_all(&entry).map_err(io_error(&self.files.dir))
    }

    /// Links the versions.
    pub fn link(self) -> Result<Links, SnapshotError> {
        let failed = io_error(&self.files.dir);
        let link = || -> io::Result<Links> {
            let mut links = Links { dir: self.files.dir.clone(), parts: Vec::new(), alive: 0 };
            for part in self.parts {
                let (part, alive) = Part::link(read_again(part)?, &self.files)?;
                links.alive += alive;
                links.parts.push(part);
            }
            Ok(links)
        };
        link().map_err(failed)
    }
}

/// The second pass.
pub struct Links {
    dir: PathBuf,
    parts: Vec<Part>,
    alive: u64,
}

impl Links {
    /// How many keys have a newest version that is no deletion.
    pub fn alive(&self) -> u64 {
        self.alive
    }

    /// The neighbours of the next version; versions come as they did in the first pass.
    pub fn next(&mut self, place: RevKey, kv: &[u8]) -> Result<Link, SnapshotError> {
        let at = part_of(hash_of(kv)?, self.parts.len());
        self.parts[at].next(place).map_err(io_error(&self.dir))
    }
}

/// The place before each version of a part, and the newest one of each key, both in the order of revisions.
struct Part {
    previous: BufReader<SpooledTempFile>,
    newest: BufReader<SpooledTempFile>,
    /// The first of `newest` that was not met yet.
    coming: Option<RevKey>,
}

impl Part {
    /// Answers how many keys are alive, too.
    fn link(mut entries: BufReader<SpooledTempFile>, files: &Files) -> io::Result<(Self, u64)> {
        let mut last: HashMap<u128, RevKey> = HashMap::new();
        let mut previous = files.create();
        while !entries.fill_buf()?.is_empty() {
            let mut hash = [0; HASH_BYTES];
            entries.read_exact(&mut hash)?;
            let place = read_place(&mut entries)?.ok_or_else(|| io::Error::other("a version without a place"))?;
            previous.write_all(&encode(last.insert(u128::from_be_bytes(hash), place)))?;
        }
        let alive = last.values().filter(|place| !place.tombstone).count() as u64;
        let mut places: Vec<RevKey> = last.into_values().collect();
        places.sort_unstable();
        let mut newest = files.create();
        for place in places {
            newest.write_all(&encode(Some(place)))?;
        }
        let mut newest = read_again(newest)?;
        let coming = read_place(&mut newest)?;
        Ok((Part { previous: read_again(previous)?, newest, coming }, alive))
    }

    fn next(&mut self, place: RevKey) -> io::Result<Link> {
        let previous = read_place(&mut self.previous)?;
        let newest = self.coming == Some(place);
        if newest {
            self.coming = read_place(&mut self.newest)?;
        }
        Ok(Link { previous, newest })
    }
}

/// Hashes are even in all their bits.
fn part_of(hash: u128, parts: usize) -> usize {
    (hash % parts as u128) as usize
}

/// From the beginning.
fn read_again(written: BufWriter<SpooledTempFile>) -> io::Result<BufReader<SpooledTempFile>> {
    let mut file = written.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

fn encode(place: Option<RevKey>) -> [u8; PLACE_BYTES] {
    let mut out = [0; PLACE_BYTES];
    if let Some(RevKey { revision, tombstone }) = place {
        out[0] = if tombstone { 2 } else { 1 };
        out[1..9].copy_from_slice(&revision.main.to_be_bytes());
        out[9..].copy_from_slice(&revision.sub.to_be_bytes());
    }
    out
}

/// A place; none behind the last one, too.
fn read_place(from: &mut impl BufRead) -> io::Result<Option<RevKey>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut bytes = [0; PLACE_BYTES];
    from.read_exact(&mut bytes)?;
    let number = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let revision = Revision { main: number(1), sub: number(9) };
    Ok((bytes[0] != 0).then_some(RevKey { revision, tombstone: bytes[0] == 2 }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a table of all keys tells, however many parts there are and wherever they are kept.
        #[test]
        fn links_are_those_of_a_table(
            versions in prop::collection::vec((0_u8..12, any::<bool>()), 0..200),
            parts in 1_usize..5,
            kept_bytes in prop_oneof![Just(0_usize), Just(1 << 20)],
        ) {
            let dir = tempfile::tempdir().unwrap();
            let files = Files { dir: dir.path().to_owned(), kept_bytes };
            let mut chains = Chains { parts: (0..parts).map(|_| files.create()).collect(), files };
            let versions: Vec<(RevKey, u8)> = versions
                .into_iter()
                .enumerate()
                .map(|(at, (key, tombstone))| {
                    let revision = Revision { main: 2 + at as i64 / 3, sub: at as i64 % 3 };
                    (RevKey { revision, tombstone }, key)
                })
                .collect();
            let kv = |key: u8| KeyOf { key: vec![key] }.encode_to_vec();
            let (mut table, mut previous) = (BTreeMap::new(), Vec::new());
            for (place, key) in &versions {
                chains.add(*place, &kv(*key)).unwrap();
                previous.push(table.insert(*key, *place));
            }
            let mut links = chains.link().unwrap();
            prop_assert_eq!(links.alive(), table.values().filter(|place| !place.tombstone).count() as u64);
            for ((place, key), previous) in versions.iter().zip(previous) {
                let link = links.next(*place, &kv(*key)).unwrap();
                prop_assert_eq!(link, Link { previous, newest: table[key] == *place });
            }
        }
    }
}
