//! The bytes of one segment of the log.
//!
//! A record is a 16-byte header (CRC32C, payload length, `synced`, kind, 3 bytes of the header's own sum) and a payload,
//! padded to 8 bytes. Both sums start from the segment's key and the record's offset, so that what a recycled file held
//! before never passes for a record, and not even for a header whose payload would be worth a look.
//! `synced` is the offset up to which the segment was on disk when the record was written: a valid record behind a broken
//! one shows by it whether the broken bytes were ever promised (corruption) or belong to the same lost write (a torn tail).

/// Bytes of a record's header.
pub const HEADER: usize = 16;
const ALIGN: usize = 8;

/// What the sums of a segment's records start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The segment's number.
    pub number: u64,
    /// The log's salt.
    pub salt: u64,
}

impl Key {
    /// Half of the salt for the sum of a record, the other half for that of its header.
    fn seed(self, offset: u64, salt: u32) -> u32 {
        let parts = [u64::from(salt), self.number, offset];
        parts.into_iter().fold(0, |sum, part| crc32c::crc32c_append(sum, &part.to_le_bytes()))
    }

    fn sum(self, offset: u64, body: &[u8]) -> [u8; 4] {
        crc32c::crc32c_append(self.seed(offset, self.salt as u32), body).to_le_bytes()
    }

    fn header_sum(self, offset: u64, header: &[u8]) -> [u8; 3] {
        let [sum @ .., _] = crc32c::crc32c_append(self.seed(offset, (self.salt >> 32) as u32), header).to_le_bytes();
        sum
    }
}

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

/// Appends one record to `buf`, whose first byte goes to `base` in the key's segment. Returns the record's offset.
pub fn put(buf: &mut Vec<u8>, key: Key, base: u64, synced: u64, kind: Kind, payload: &[u8]) -> u64 {
    let start = buf.len();
    let offset = base + start as u64;
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buf.extend_from_slice(&(synced as u32).to_le_bytes());
    buf.push(kind as u8);
    let header_sum = key.header_sum(offset, &buf[start + 4..]);
    buf.extend_from_slice(&header_sum);
    buf.extend_from_slice(payload);
    let sum = key.sum(offset, &buf[start + 4..]);
    buf[start..start + 4].copy_from_slice(&sum);
    buf.resize(start + record_size(payload.len()), 0);
    offset
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

/// Reads the record at `offset`, where `data` starts at `base` of the key's segment, if there is a valid one.
pub fn get(data: &[u8], key: Key, base: u64, offset: u64) -> Option<Record<'_>> {
    let rest = data.get((offset - base) as usize..)?;
    let header = rest.get(..HEADER)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // Before the sums: behind the last record every place that a record might be at is looked at.
    let kind = Kind::from_byte(header[12])?;
    let body = rest.get(4..HEADER + word(4) as usize)?;
    if key.header_sum(offset, &header[4..13]) != header[13..] {
        return None;
    }
    if key.sum(offset, body) != header[..4] {
        return None;
    }
    Some(Record { kind, offset, synced: word(8).into(), payload: &body[HEADER - 4..] })
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
pub fn scan<'a, E>(data: &'a [u8], key: Key, mut each: impl FnMut(Record<'a>) -> Result<(), E>) -> Result<Tail, E> {
    let mut offset = 0;
    while let Some(record) = get(data, key, 0, offset) {
        if record.kind == Kind::End {
            return Ok(Tail::Sealed);
        }
        offset = record.end();
        each(record)?;
    }
    Ok(classify(data, key, offset))
}

/// Looks behind the first invalid record at `end` for valid ones.
fn classify(data: &[u8], key: Key, end: u64) -> Tail {
    let mut dirty = None;
    let mut at = end + ALIGN as u64;
    while (at as usize) < data.len() {
        match get(data, key, 0, at) {
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

    const KEY: Key = Key { number: 9, salt: 0x0123_4567_89ab_cdef };

    fn segment(batches: &[&[&[u8]]]) -> (Vec<u8>, Vec<u64>) {
        let mut data = Vec::new();
        let mut offsets = Vec::new();
        for batch in batches {
            let synced = data.len() as u64;
            for payload in *batch {
                offsets.push(put(&mut data, KEY, 0, synced, Kind::Entry, payload));
            }
        }
        data.resize(data.len() + 4096, 0);
        (data, offsets)
    }

    fn scan_all(data: &[u8], key: Key) -> (Vec<Vec<u8>>, Tail) {
        let mut found = Vec::new();
        let tail = scan(data, key, |record| {
            found.push(record.payload.to_vec());
            Ok::<_, ()>(())
        });
        (found, tail.unwrap())
    }

    #[test]
    fn records_come_back_in_order() {
        let (data, _) = segment(&[&[b"one", b""], &[b"three"]]);
        let (found, tail) = scan_all(&data, KEY);
        assert_eq!(found, [b"one".to_vec(), vec![], b"three".to_vec()]);
        assert!(matches!(tail, Tail::Clean { .. }));
    }

    #[test]
    fn another_segments_bytes_are_no_records() {
        let (data, _) = segment(&[&[b"old"]]);
        for key in
            [Key { number: 10, ..KEY }, Key { salt: KEY.salt ^ 1, ..KEY }, Key { salt: KEY.salt ^ 1 << 63, ..KEY }]
        {
            assert_eq!(scan_all(&data, key), (vec![], Tail::Clean { end: 0 }));
        }
    }

    #[test]
    fn a_hole_in_the_last_write_is_a_torn_tail() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"lost", b"stray"]]);
        data[offsets[1] as usize + HEADER] ^= 1;
        let (found, tail) = scan_all(&data, KEY);
        assert_eq!(found, [b"kept".to_vec()]);
        assert!(matches!(tail, Tail::Torn { end, .. } if end == offsets[1]));
    }

    #[test]
    fn a_hole_in_a_finished_write_is_corruption() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"broken"], &[b"later"]]);
        data[offsets[1] as usize + HEADER] ^= 1;
        let (_, tail) = scan_all(&data, KEY);
        assert_eq!(tail, Tail::Corrupt { end: offsets[1] });
    }

    /// Were what they claim to be their payload looked at for each of them, this would take hours.
    #[test]
    fn what_looks_like_records_costs_no_more_than_a_header() {
        let (mut data, offsets) = segment(&[&[b"kept"], &[b"lost"]]);
        let end = data.len();
        data.resize(16 << 20, 0);
        for at in (end..data.len()).step_by(HEADER) {
            let length = (data.len() - at - HEADER) as u32;
            data[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
            data[at + 12] = Kind::Entry as u8;
        }
        data[offsets[1] as usize + HEADER] ^= 1;
        let (found, tail) = scan_all(&data, KEY);
        assert_eq!((found, tail), (vec![b"kept".to_vec()], Tail::Clean { end: offsets[1] }));
    }

    proptest! {
        /// Any bytes at all: no panic, and no record that was not written at its place.
        #[test]
        fn any_bytes_can_be_scanned(data in vec(any::<u8>(), 0..2000), number in any::<u64>(), salt in any::<u64>()) {
            prop_assert_eq!(scan_all(&data, Key { number, salt }).0, Vec::<Vec<u8>>::new());
        }

        /// A segment with a few bytes changed, cut or moved: what is read is what was written, up to some point.
        #[test]
        fn a_damaged_segment_gives_a_beginning(
            payloads in vec(vec(any::<u8>(), 0..60), 1..12),
            damages in vec(Damage::any(), 0..4),
        ) {
            let (mut data, _) = segment(&[&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>()]);
            damages.into_iter().for_each(|damage| damage.strike(&mut data));
            let (found, _) = scan_all(&data, KEY);
            prop_assert!(payloads.starts_with(&found), "{:?}", found);
        }
    }
}
