//! A segment: consecutive revisions as one object, whose name tells which. It is compressed with Zstandard, and what is compressed
//! ends with its SHA-256.

use std::fmt;
use std::io::Write;

use prost::Message;
use sha2::{Digest, Sha256};
use zstd::stream::write::Encoder;

use super::super::create::LEVEL;
use crate::proto::archive::Segment;

/// Digits of a revision in a name, so that names are in the order of revisions.
const DIGITS: usize = 20;
const SUFFIX: &str = ".zst";
/// Bytes of a SHA-256.
const SUM_BYTES: usize = 32;

/// Which revisions are in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The first one.
    pub first: i64,
    /// The last one.
    pub last: i64,
}

impl Name {
    /// Reads a name; nothing if it is none.
    pub fn read(text: &str) -> Option<Self> {
        let (first, last) = text.strip_suffix(SUFFIX)?.split_once('-')?;
        let number = |text: &str| {
            let digits = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse::<i64>().ok() } else { None }
        };
        let name = Self { first: number(first)?, last: number(last)? };
        (name.first <= name.last).then_some(name)
    }

    /// Of a segment; nothing if it has no changes.
    pub fn of(segment: &Segment) -> Option<Self> {
        Some(Self { first: segment.changes.first()?.revision, last: segment.changes.last()?.revision })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$}-{:0DIGITS$}{SUFFIX}", self.first, self.last)
    }
}

/// The object.
pub fn encode(segment: &Segment) -> Vec<u8> {
    const IN_MEMORY: &str = "writing to memory does not fail";
    let bytes = segment.encode_to_vec();
    let mut encoder = Encoder::new(Vec::new(), LEVEL).expect(IN_MEMORY);
    encoder.include_checksum(true).expect(IN_MEMORY);
    encoder.write_all(&bytes).expect(IN_MEMORY);
    encoder.write_all(&Sha256::digest(&bytes)).expect(IN_MEMORY);
    encoder.finish().expect(IN_MEMORY)
}

/// What is in an object; or why it is not the segment of that name.
pub fn decode(name: Name, cluster_id: u64, object: &[u8]) -> Result<Segment, String> {
    let bytes = zstd::decode_all(object).map_err(|error| error.to_string())?;
    let (bytes, sum) = bytes.split_at_checked(bytes.len().wrapping_sub(SUM_BYTES)).ok_or("it is cut off")?;
    if Sha256::digest(bytes)[..] != *sum {
        return Err("its SHA-256 is another one".into());
    }
    let segment = Segment::decode(bytes).map_err(|error| error.to_string())?;
    if segment.cluster_id != cluster_id {
        return Err(format!("it is of cluster {:x}", segment.cluster_id));
    }
    let consecutive = segment.changes.windows(2).all(|two| two[1].revision == two[0].revision + 1);
    if !consecutive || Name::of(&segment) != Some(name) {
        return Err("it does not have the revisions of its name".into());
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::archive::{Change, Lease};

    fn segment(revisions: &[i64]) -> Segment {
        let change = |revision: &i64| Change { revision: *revision, ..Default::default() };
        let leases = vec![Lease { id: 1, ttl_seconds: 2 }];
        Segment { cluster_id: 7, leases, changes: revisions.iter().map(change).collect() }
    }

    #[test]
    fn names_are_in_the_order_of_revisions() {
        let names = [(9, 10), (11, 11), (100, 2000)].map(|(first, last)| Name { first, last });
        let told = names.map(|name| name.to_string());
        assert!(told.is_sorted());
        assert_eq!(told[2], "00000000000000000100-00000000000000002000.zst");
        assert_eq!(told.each_ref().map(|name| Name::read(name)), names.map(Some));
        for wrong in ["1-2.zst", "complete.json", &told[2][1..], &told[2].replace("2000", "0002"), &told[2][..41]] {
            assert_eq!(Name::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_damaged_is_not_read() {
        let whole = segment(&[4, 5, 6]);
        let (name, object) = (Name { first: 4, last: 6 }, encode(&whole));
        assert_eq!(decode(name, 7, &object).as_ref(), Ok(&whole));
        for length in 0..object.len() {
            decode(name, 7, &object[..length]).expect_err("cut off");
        }
        for bit in 0..object.len() * 8 {
            let mut other = object.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            // Some bits of the header make no difference.
            assert!(decode(name, 7, &other).map_or(true, |read| read == whole), "bit {bit}");
        }
        for (name, cluster_id, revisions) in [
            (name, 8, &[4, 5, 6][..]),
            (Name { first: 4, last: 7 }, 7, &[4, 5, 6]),
            (name, 7, &[4, 6]),
            (name, 7, &[4, 5, 5, 6]),
            (name, 7, &[]),
        ] {
            decode(name, cluster_id, &encode(&segment(revisions))).expect_err("not what its name says");
        }
    }
}
