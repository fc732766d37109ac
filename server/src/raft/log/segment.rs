//! The bytes of one segment of the log.
//!
//! A record is a 16-byte header (CRC32C, payload length, `synced`, kind) and a payload, padded to 8 bytes. The CRC covers
//! the segment's number and the record's offset too, so that what a recycled file held before never passes for a record.
//! `synced` is the offset up to which the segment was on disk when the record was written: a valid record behind a broken
//! one shows by it whether the broken bytes were ever promised (corruption) or belong to the same lost write (a torn tail).

/// Bytes of a record's header.
pub const HEADER: usize = 16;
const ALIGN: usize = 8;

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

fn checksum(number: u64, offset: u64, body: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&number.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(seed, body)
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
    let rest = data.get((offset - base) as usize..)?;
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
    if checksum(number, offset, body) != word(0) {
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

/// Looks behind the first invalid record at `end` for valid ones.
fn classify(data: &[u8], number: u64, end: u64) -> Tail {
    let mut dirty = None;
    let mut at = end + ALIGN as u64;
    while (at as usize) < data.len() {
        match get(data, number, 0, at) {
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
    use super::*;

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
}
