//! The bytes of one segment of the log.
//!
//! A record is a 16-byte header (CRC32C, payload length, `synced`, kind) and a payload, padded to 8 bytes. The CRC covers
//! the segment's number and the record's offset too, so that what a recycled file held before never passes for a record.
//! `synced` is the offset up to which the segment was on disk when the record was written: a valid record behind a broken
//! one shows by it whether the broken bytes were ever promised (corruption) or belong to the same lost write (a torn tail).

use std::ops::Range;

/// Bytes of a record's header.
pub const HEADER: usize = 16;
const ALIGN: usize = 8;
/// Bodies below this are summed up at once.
const SHORT: usize = 4096;

/// What a record's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `SegmentState`; the first record of each segment.
    State = 1,
    /// `Vote`.
    Vote = 2,
    /// `Entry`.
    Entry = 3,
    /// `LogId`: the entries behind its index are dropped; empty drops all.
    Truncate = 4,
    /// `LogId`: the entries up to its index are no longer needed.
    Purge = 5,
    /// `LogId`: committed up to here.
    Commit = 6,
    /// Empty; the log goes on in the next segment.
    End = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        const KINDS: [Kind; 7] =
            [Kind::State, Kind::Vote, Kind::Entry, Kind::Truncate, Kind::Purge, Kind::Commit, Kind::End];
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Bytes that a record with a payload of `payload` bytes takes.
pub fn record_size(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(ALIGN)
}

/// Appends one record to `buf`, whose first byte goes to `base` in segment `number`. Returns the record's offset.
pub fn put(buf: &mut Vec<u8>, number: u64, base: u64, synced: u64, kind: Kind, payload: &[u8]) -> u64 {
    let start = buf.len();
    let offset = base + start as u64;
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buf.extend_from_slice(&(synced as u32).to_le_bytes());
    buf.extend_from_slice(&[kind as u8, 0, 0, 0]);
    buf.extend_from_slice(payload);
    let crc = checksum(number, offset, &buf[start + 4..]);
    buf[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    buf.resize(start + record_size(payload.len()), 0);
    offset
}

fn seed(number: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &offset.to_le_bytes())
}

fn checksum(number: u64, offset: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(seed(number, offset), body)
}

/// A valid record found in a segment.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// Where it starts in the segment.
    pub offset: u64,
    /// Up to where the segment was on disk when it was written.
    pub synced: u64,
    /// Its content.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Offset of the byte behind the record.
    pub fn end(&self) -> u64 {
        self.offset + record_size(self.payload.len()) as u64
    }
}

/// Reads the record at `offset`, where `data` starts at `base` of segment `number`, if there is a valid one.
pub fn get(data: &[u8], number: u64, base: u64, offset: u64) -> Option<Record<'_>> {
    get_by(data, base, offset, |body| checksum(number, offset, &data[body]))
}

/// The same with the sum of a record's body, whose place in `data` is given, from elsewhere.
fn get_by(data: &[u8], base: u64, offset: u64, sum: impl FnOnce(Range<usize>) -> u32) -> Option<Record<'_>> {
    let start = (offset - base) as usize;
    let rest = data.get(start..)?;
    let header = rest.get(..HEADER)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let kind = Kind::from_byte(header[12])?;
    let synced = word(8) as u64;
    // What is left of an older use of the file seldom looks like this, and need not be summed then.
    if header[13..HEADER] != [0; HEADER - 13] || synced > offset || !synced.is_multiple_of(ALIGN as u64) {
        return None;
    }
    let length = word(4) as usize;
    let body = rest.get(4..HEADER + length)?;
    if sum(start + 4..start + HEADER + length) != word(0) {
        return None;
    }
    Some(Record { kind, offset, synced, payload: &body[HEADER - 4..] })
}

/// How the records of a segment end.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// With an `End` record: the log goes on in the next segment.
    Sealed,
    /// At `end`, with nothing valid behind it.
    Clean { end: u64 },
    /// At `end`; parts of a write that was never promised reach up to `dirty`.
    Torn { end: u64, dirty: u64 },
    /// At `end`, though bytes behind it prove that more was on disk once.
    Corrupt { end: u64 },
}

/// Calls `each` on every record of a whole segment, in order, and tells how they end.
pub fn scan<'a, E>(data: &'a [u8], number: u64, mut each: impl FnMut(Record<'a>) -> Result<(), E>) -> Result<Tail, E> {
    let mut offset = 0;
    while let Some(record) = get(data, number, 0, offset) {
        if record.kind == Kind::End {
            return Ok(Tail::Sealed);
        }
        offset = record.end();
        each(record)?;
    }
    Ok(classify(data, number, offset))
}

/// The sums of a segment's beginnings. With them the sum of any part takes a few steps, not its length.
struct Sums<'a> {
    data: &'a [u8],
    /// Of what is before each multiple of `ALIGN`.
    beginnings: Vec<u32>,
}

impl<'a> Sums<'a> {
    fn new(data: &'a [u8]) -> Self {
        let chunks = data.chunks_exact(ALIGN);
        let sums = chunks.scan(0, |sum, chunk| {
            *sum = crc32c::crc32c_append(*sum, chunk);
            Some(*sum)
        });
        Sums { data, beginnings: [0].into_iter().chain(sums).collect() }
    }

    fn beginning(&self, end: usize) -> u32 {
        crc32c::crc32c_append(self.beginnings[end / ALIGN], &self.data[end / ALIGN * ALIGN..end])
    }

    /// The sum of what the seed stands for and a part behind it.
    fn of(&self, seed: u32, part: Range<usize>) -> u32 {
        // A sum is linear: what comes before the part is taken out by shifting its sum over the part's length.
        let before = self.beginning(part.start) ^ seed;
        self.beginning(part.end) ^ crc32c::crc32c_combine(before, 0, part.len())
    }
}

/// Looks behind the first invalid record at `end` for valid ones. What an older use of the file left there was written by
/// clients, and may look like records that reach over all of it, at every offset.
fn classify(data: &[u8], number: u64, end: u64) -> Tail {
    let mut sums = None;
    let mut valid = |at| {
        get_by(data, 0, at, |body| match body.len() {
            ..SHORT => checksum(number, at, &data[body]),
            _ => sums.get_or_insert_with(|| Sums::new(data)).of(seed(number, at), body),
        })
    };
    let mut dirty = None;
    let mut at = end + ALIGN as u64;
    while (at as usize) < data.len() {
        match valid(at) {
            Some(record) if record.synced > end => return Tail::Corrupt { end },
            Some(record) => {
                dirty = Some(record.end());
                at = record.end();
            }
            None => at += ALIGN as u64,
        }
    }
    match dirty {
        Some(dirty) => Tail::Torn { end, dirty },
        None => Tail::Clean { end },
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::Damage;

    fn segment(batches: &[&[&[u8]]]) -> (Vec<u8>, Vec<u64>) {
        let mut data = Vec::new();
        let mut offsets = Vec::new();
        for batch in batches {
            let synced = data.len() as u64;
            for payload in *batch {
                offsets.push(put(&mut data, 9, 0, synced, Kind::Entry, payload));
            }
        }
        data.resize(data.len() + 4096, 0);
        (data, offsets)
    }

    fn scan_all(data: &[u8], number: u64) -> (Vec<Vec<u8>>, Tail) {
        let mut found = Vec::new();
        let tail = scan(data, number, |record| {
            found.push(record.payload.to_vec());
            Ok::<_, ()>(())
        });
        (found, tail.unwrap())
    }

    #[test]
    fn records_come_back_in_order() {
        let (data, _) = segment(&[&[b"one", b""], &[b"three"]]);
        let (found, tail) = scan_all(&data, 9);
        assert_eq!(found, [b"one".to_vec(), vec![], b"three".to_vec()]);
        assert!(matches!(tail, Tail::Clean { .. }));
    }

    #[test]
    fn another_segments_bytes_are_no_records() {
        let (data, _) = segment(&[&[b"old"]]);
        assert_eq!(scan_all(&data, 10), (vec![], Tail::Clean { end: 0 }));
    }

    #[test]
    fn a_hole_in_the_last_write_is_a_torn_tail() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"lost", b"stray"]]);
        data[offsets[1] as usize + HEADER] ^= 1;
        let (found, tail) = scan_all(&data, 9);
        assert_eq!(found, [b"kept".to_vec()]);
        assert!(matches!(tail, Tail::Torn { end, .. } if end == offsets[1]));
    }

    #[test]
    fn a_hole_in_a_finished_write_is_corruption() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"broken"], &[b"later"]]);
        data[offsets[1] as usize + HEADER] ^= 1;
        let (_, tail) = scan_all(&data, 9);
        assert_eq!(tail, Tail::Corrupt { end: offsets[1] });
    }

    /// Were each of them summed up by itself, this would take hours.
    #[test]
    fn what_looks_like_records_is_not_summed_up_over_and_over() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"lost"]]);
        let end = data.len();
        data.resize(2 << 20, 0);
        for at in (end..data.len()).step_by(HEADER) {
            let length = (data.len() - at - HEADER) as u32;
            data[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
            data[at + 12] = Kind::Entry as u8;
        }
        data[offsets[1] as usize + HEADER] ^= 1;
        let (found, tail) = scan_all(&data, 9);
        assert_eq!((found, tail), (vec![b"kept".to_vec()], Tail::Clean { end: offsets[1] }));
    }

    #[test]
    fn long_records_behind_a_hole_are_seen() {
        for length in [SHORT - HEADER, SHORT, SHORT + 1, SHORT + 13, 100_000] {
            let (mut data, offsets) = segment(&[&[b"broken"], &[&vec![7; length]]]);
            data[HEADER] ^= 1;
            assert_eq!(scan_all(&data, 9).1, Tail::Corrupt { end: 0 }, "{length}");
            data[offsets[1] as usize + HEADER] ^= 1;
            assert_eq!(scan_all(&data, 9).1, Tail::Clean { end: 0 }, "{length}");
        }
    }

    proptest! {
        /// Any bytes at all: no panic, and no record that was not written at its place.
        #[test]
        fn any_bytes_can_be_scanned(data in vec(any::<u8>(), 0..2000), number in any::<u64>()) {
            prop_assert_eq!(scan_all(&data, number).0, Vec::<Vec<u8>>::new());
        }

        /// A segment with a few bytes changed, cut or moved: what is read is what was written, up to some point.
        #[test]
        fn a_damaged_segment_gives_a_beginning(
            payloads in vec(vec(any::<u8>(), 0..60), 1..12),
            damages in vec(Damage::any(), 0..4),
        ) {
            let (mut data, _) = segment(&[&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>()]);
            damages.into_iter().for_each(|damage| damage.strike(&mut data));
            let (found, _) = scan_all(&data, 9);
            prop_assert!(payloads.starts_with(&found), "{:?}", found);
        }
    }
}
