//! Pages and what is on them. All numbers are little-endian.
//!
//! | What | Bytes |
//! |---|---|
//! | page header | id 8, flags 2, count 2, overflow 4 (pages that belong to this one) |
//! | branch element | position 4, key size 4, child page 8 |
//! | leaf element | flags 4, position 4, key size 4, value size 4 |
//! | bucket, as a leaf's value | root page 8 (0: the page follows inline), sequence 8 |
//! | meta, behind the header | magic 4, version 4, page size 4, flags 4, root bucket 16, freelist 8, end 8, txid 8, FNV-1a 8 |
//!
//! A position counts from the element itself to its key; the value follows the key.

use std::ops::Range;

use super::{BoltError, damaged};

/// Bytes of a page header, of an element and of a bucket.
pub const HEADER: usize = 16;
/// What the writer writes; readers take what the file says.
pub const PAGE_SIZE: usize = 4096;
/// The longest key that bbolt takes.
pub const MAX_KEY: usize = 32768;
/// A page with its overflow pages may be so long: a value is on it as a whole.
pub const MAX_PAGE_BYTES: u64 = 512 << 20;
/// The id that stands for a freelist that was not written.
pub const NO_FREELIST: u64 = u64::MAX;

/// Flag of branch pages.
pub const BRANCH: u16 = 1;
/// Flag of leaf pages.
pub const LEAF: u16 = 2;
/// Flag of meta pages.
pub const META: u16 = 4;
/// Flag of freelist pages.
pub const FREELIST: u16 = 16;
/// Flag of leaf elements that hold a bucket.
pub const BUCKET_ELEMENT: u32 = 1;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const META_BYTES: usize = 64;

/// The header of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the page.
    pub id: u64,
    /// What kind of page it is.
    pub flags: u16,
    /// Elements on it.
    pub count: u16,
    /// Pages behind this one that belong to it.
    pub overflow: u32,
}

impl Header {
    /// The header as bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..10].copy_from_slice(&self.flags.to_le_bytes());
        out[10..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.overflow.to_le_bytes());
        out
    }

    /// The other direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, BoltError> {
        Ok(Self {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// The root of a file. There are two, on the first two pages; the valid one with the higher transaction counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u32,
    /// Page where the tree of buckets begins.
    pub root: u64,
    /// Page of the freelist, or [`NO_FREELIST`].
    pub freelist: u64,
    /// Number of pages in use.
    pub end: u64,
    /// Number of the transaction that wrote it.
    pub txid: u64,
}

impl Meta {
    /// The meta as bytes, as they stand behind the page header.
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut out = [0; META_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        out[16..24].copy_from_slice(&self.root.to_le_bytes());
        out[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        out[40..48].copy_from_slice(&self.end.to_le_bytes());
        out[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let sum = fnv1a(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The other direction; `page` begins with the page header.
    pub fn decode(page: &[u8]) -> Result<Self, BoltError> {
        let bytes = page.get(HEADER..HEADER + META_BYTES).ok_or_else(|| damaged("the file ends within a meta page"))?;
        if u32_at(bytes, 0)? != MAGIC {
            return Err(damaged("a meta page has the wrong magic number"));
        }
        if u32_at(bytes, 4)? != VERSION {
            return Err(damaged("a meta page is of another version"));
        }
        if u64_at(bytes, 56)? != fnv1a(&bytes[..56]) {
            return Err(damaged("a meta page has the wrong checksum"));
        }
        let page_size = u32_at(bytes, 8)?;
        if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
            return Err(damaged(format!("pages of {page_size} bytes")));
        }
        Ok(Self {
            page_size,
            root: u64_at(bytes, 16)?,
            freelist: u64_at(bytes, 32)?,
            end: u64_at(bytes, 40)?,
            txid: u64_at(bytes, 48)?,
        })
    }
}

/// A page as it was read, overflow included; or one inline in a bucket.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// Its header.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// Reads the header; nothing else is checked yet.
    pub fn new(bytes: &'a [u8]) -> Result<Self, BoltError> {
        Ok(Self { header: Header::decode(bytes)?, bytes })
    }

    /// Key and child of an element of a branch page.
    pub fn branch_element(&self, at: u16) -> Result<(&'a [u8], u64), BoltError> {
        let start = HEADER + usize::from(at) * 16;
        let key = self.part(start, u32_at(self.bytes, start)?, u32_at(self.bytes, start + 4)?)?;
        Ok((&self.bytes[key], u64_at(self.bytes, start + 8)?))
    }

    /// Flags, key and value of an element of a leaf page.
    pub fn leaf_element(&self, at: u16) -> Result<(u32, &'a [u8], &'a [u8]), BoltError> {
        let start = HEADER + usize::from(at) * 16;
        let flags = u32_at(self.bytes, start)?;
        let position = u32_at(self.bytes, start + 4)?;
        let key = self.part(start, position, u32_at(self.bytes, start + 8)?)?;
        let value = self.part(key.end, 0, u32_at(self.bytes, start + 12)?)?;
        Ok((flags, &self.bytes[key], &self.bytes[value]))
    }

    fn part(&self, from: usize, position: u32, size: u32) -> Result<Range<usize>, BoltError> {
        let start = from.saturating_add(position as usize);
        let end = start.saturating_add(size as usize);
        match end <= self.bytes.len() {
            true => Ok(start..end),
            false => Err(damaged(format!("page {} has an element that reaches beyond it", self.header.id))),
        }
    }
}

/// Where a bucket begins.
#[derive(Debug, Clone, Copy)]
pub enum BucketRoot<'a> {
    /// Its tree is in pages of its own.
    Page(u64),
    /// It is one leaf page, within its parent's.
    Inline(&'a [u8]),
}

impl<'a> BucketRoot<'a> {
    /// Reads the value of a leaf's element.
    pub fn decode(value: &'a [u8]) -> Result<Self, BoltError> {
        Ok(match u64_at(value, 0)? {
            0 => BucketRoot::Inline(value.get(HEADER..).ok_or_else(|| damaged("an inline bucket is too short"))?),
            page => BucketRoot::Page(page),
        })
    }
}

/// A bucket header for a tree that begins at `root`.
pub fn bucket_header(root: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&root.to_le_bytes());
    out
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BoltError> {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    slice.and_then(|slice| slice.try_into().ok()).ok_or_else(|| damaged("a page ends too early"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, BoltError> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BoltError> {
    number(bytes, at).map(u32::from_le_bytes)
}

/// A number of eight bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> Result<u64, BoltError> {
    number(bytes, at).map(u64::from_le_bytes)
}
