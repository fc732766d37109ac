//! Reads a file of which nothing is known. Every page, count, offset and size is checked before it is used, no page is
//! visited twice, and memory is bounded by the depth of a tree and the longest page.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page::{
    BRANCH, BUCKET_ELEMENT, BucketRoot, FREELIST, HEADER, LEAF, MAX_PAGE_BYTES, Meta, NO_FREELIST, Page, u64_at,
};
use super::{BoltError, damaged};

/// No tree that fits a disk is deeper.
const MAX_DEPTH: usize = 40;
/// The longest value that holds a bucket: a header, and a page inline.
const MAX_BUCKET_VALUE: usize = 1 << 16;

/// Called for each key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, BoltError> + 'a;

/// An open file.
pub struct Reader {
    file: File,
    meta: Meta,
    read_bytes: Arc<AtomicU64>,
}

/// A bucket of the file.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its name.
    pub name: Vec<u8>,
    value: Vec<u8>,
}

/// Which pages were met. As large as the file has pages, in bits.
struct Seen(Vec<u64>);

impl Seen {
    fn new(pages: u64) -> Self {
        Self(vec![0; (pages / 64 + 1) as usize])
    }

    /// Marks a page; false if it was met before.
    fn first_time(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn has(&self, page: u64) -> bool {
        self.0[(page / 64) as usize] & (1 << (page % 64)) != 0
    }
}

impl Reader {
    /// Opens a file and reads its root. What follows the last page, such as a checksum, is ignored.
    pub fn open(path: &Path) -> Result<Self, BoltError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let meta = find_meta(&file)?;
        match meta.end.checked_mul(meta.page_size.into()) {
            Some(bytes) if bytes <= length => {}
            _ => {
                let what = format!("the file is cut off: {} pages, but {length} bytes", meta.end);
                return Err(damaged(what).at(length));
            }
        }
        Ok(Self { file, meta, read_bytes: Arc::default() })
    }

    /// Adds up in `bytes` what is read from now on.
    pub fn counting_in(self, bytes: Arc<AtomicU64>) -> Self {
        Self { read_bytes: bytes, ..self }
    }

    /// Bytes of the pages in use.
    pub fn size(&self) -> u64 {
        self.meta.end * u64::from(self.meta.page_size)
    }

    /// The buckets, by name.
    pub fn buckets(&self) -> Result<Vec<Bucket>, BoltError> {
        self.buckets_seen(&mut Seen::new(self.meta.end))
    }

    /// A bucket, if the file has it.
    pub fn bucket(&self, name: &str) -> Result<Option<Bucket>, BoltError> {
        Ok(self.buckets()?.into_iter().find(|bucket| bucket.name == name.as_bytes()))
    }

    /// Visits the keys of a bucket in order until `visit` breaks.
    pub fn for_each(&self, bucket: &Bucket, visit: &mut Visit<'_>) -> Result<(), BoltError> {
        self.for_each_seen(bucket, &mut Seen::new(self.meta.end), visit)
    }

    /// The value of a key.
    pub fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, BoltError> {
        let mut found = None;
        self.for_each(bucket, &mut |name, value| {
            if name != key.as_bytes() {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(value.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Checks the whole file as bbolt does: every page in use belongs to exactly one tree, and the others are free.
    pub fn check(&self) -> Result<(), BoltError> {
        let mut seen = Seen::new(self.meta.end);
        for bucket in self.buckets_seen(&mut seen)? {
            self.for_each_seen(&bucket, &mut seen, &mut |_, _| Ok(ControlFlow::Continue(())))?;
        }
        if self.meta.freelist == NO_FREELIST {
            return Ok(());
        }
        self.mark_free(&mut seen).map_err(|error| error.at(self.offset(self.meta.freelist)))?;
        match (2..self.meta.end).find(|page| !seen.has(*page)) {
            Some(page) => Err(damaged(format!("page {page} is neither in use nor free")).at(self.offset(page))),
            None => Ok(()),
        }
    }

    /// Where a page is in the file.
    fn offset(&self, page: u64) -> u64 {
        page.saturating_mul(self.meta.page_size.into())
    }

    fn mark_free(&self, seen: &mut Seen) -> Result<(), BoltError> {
        let bytes = self.read(self.meta.freelist, seen, Vec::new())?;
        let page = Page::new(&bytes)?;
        if page.header.flags != FREELIST {
            return Err(damaged("the freelist is not where it should be"));
        }
        // A count that does not fit stands before the ids.
        let (count, ids) = match page.header.count {
            u16::MAX => (u64_at(&bytes, HEADER)?, HEADER + 8),
            count => (count.into(), HEADER),
        };
        if count > (bytes.len() - ids) as u64 / 8 {
            return Err(damaged("the freelist is longer than its pages"));
        }
        for at in 0..count as usize {
            let free = u64_at(&bytes, ids + at * 8)?;
            if !(2..self.meta.end).contains(&free) || !seen.first_time(free) {
                return Err(damaged(format!("page {free} is free and in use")));
            }
        }
        Ok(())
    }

    fn buckets_seen(&self, seen: &mut Seen) -> Result<Vec<Bucket>, BoltError> {
        let mut buckets = Vec::new();
        let mut walk = Walk { reader: self, seen, last: Vec::new(), spare: Vec::new() };
        let _ = walk.page(self.meta.root, 0, &mut |flags, name, value| {
            if flags & BUCKET_ELEMENT == 0 || value.len() > MAX_BUCKET_VALUE {
                return Err(damaged(format!("{:?} is no bucket", String::from_utf8_lossy(name))));
            }
            buckets.push(Bucket { name: name.to_vec(), value: value.to_vec() });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(buckets)
    }

    fn for_each_seen(&self, bucket: &Bucket, seen: &mut Seen, visit: &mut Visit<'_>) -> Result<(), BoltError> {
        let mut walk = Walk { reader: self, seen, last: Vec::new(), spare: Vec::new() };
        let mut visit = |flags: u32, key: &[u8], value: &[u8]| {
            if flags & BUCKET_ELEMENT != 0 {
                return Err(damaged("a bucket within a bucket"));
            }
            visit(key, value)
        };
        let _ = match BucketRoot::decode(&bucket.value)? {
            BucketRoot::Page(root) => walk.page(root, 0, &mut visit)?,
            BucketRoot::Inline(bytes) => walk.leaf(Page::new(bytes)?, &mut visit)?,
        };
        Ok(())
    }

    /// A page with its overflow pages, all of which are met for the first time; takes the place of `bytes`.
    fn read(&self, id: u64, seen: &mut Seen, bytes: Vec<u8>) -> Result<Vec<u8>, BoltError> {
        let end = self.meta.end;
        if !(2..end).contains(&id) {
            return Err(damaged(format!("page {id} of {end} is referred to")));
        }
        self.read_page(id, seen, bytes).map_err(|error| error.at(self.offset(id)))
    }

    fn read_page(&self, id: u64, seen: &mut Seen, mut bytes: Vec<u8>) -> Result<Vec<u8>, BoltError> {
        let (size, end) = (u64::from(self.meta.page_size), self.meta.end);
        bytes.resize(size as usize, 0);
        self.file.read_exact_at(&mut bytes, id * size)?;
        let header = Page::new(&bytes)?.header;
        if header.id != id {
            return Err(damaged(format!("page {id} says that it is page {}", header.id)));
        }
        let pages = 1 + u64::from(header.overflow);
        if pages > end - id || pages * size > MAX_PAGE_BYTES {
            return Err(damaged(format!("page {id} is {pages} pages long")));
        }
        if let Some(twice) = (id..id + pages).find(|page| !seen.first_time(*page)) {
            return Err(damaged(format!("page {twice} is used twice")));
        }
        bytes.resize((pages * size) as usize, 0);
        if pages > 1 {
            self.file.read_exact_at(&mut bytes[size as usize..], (id + 1) * size)?;
        }
        self.read_bytes.fetch_add(pages * size, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// The valid meta with the higher transaction. The second one's place depends on the page size, which the first may not
/// tell any more.
fn find_meta(file: &File) -> Result<Meta, BoltError> {
    let read = |offset: u64| {
        let mut bytes = [0; 128];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => return Err(damaged("the file is too short for a database")),
                more => filled += more,
            }
        }
        Meta::decode(&bytes)
    };
    let read = |offset: u64| read(offset).map_err(|error| error.at(offset));
    let first = read(0);
    let second = match &first {
        Ok(first) => read(first.page_size.into()),
        Err(_) => (9..=16).map(|shift| read(1 << shift)).find(Result::is_ok).unwrap_or(Err(damaged("no meta page"))),
    };
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if second.txid > first.txid { second } else { first }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(error), Err(_)) => Err(error),
    }
}

/// A walk through one tree.
struct Walk<'a> {
    reader: &'a Reader,
    seen: &'a mut Seen,
    last: Vec<u8>,
    /// Memory of pages that are done with, for the next ones.
    spare: Vec<Vec<u8>>,
}

type VisitElement<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<ControlFlow<()>, BoltError> + 'a;

impl Walk<'_> {
    fn page(&mut self, id: u64, depth: usize, visit: &mut VisitElement<'_>) -> Result<ControlFlow<()>, BoltError> {
        if depth > MAX_DEPTH {
            return Err(damaged("a tree is too deep"));
        }
        let spare = self.spare.pop().unwrap_or_default();
        let bytes = self.reader.read(id, self.seen, spare)?;
        let visited = self.tree(id, Page::new(&bytes)?, depth, visit);
        self.spare.push(bytes);
        visited.map_err(|error| error.at(self.reader.offset(id)))
    }

    fn tree(
        &mut self,
        id: u64,
        page: Page<'_>,
        depth: usize,
        visit: &mut VisitElement<'_>,
    ) -> Result<ControlFlow<()>, BoltError> {
        match page.header.flags {
            LEAF => self.leaf(page, visit),
            BRANCH => {
                for at in 0..page.header.count {
                    let (_, child) = page.branch_element(at)?;
                    if self.page(child, depth + 1, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            flags => Err(damaged(format!("page {id} of a tree has flags {flags:#x}"))),
        }
    }

    fn leaf(&mut self, page: Page<'_>, visit: &mut VisitElement<'_>) -> Result<ControlFlow<()>, BoltError> {
        if page.header.flags != LEAF {
            return Err(damaged("an inline bucket is no leaf"));
        }
        for at in 0..page.header.count {
            let (flags, key, value) = page.leaf_element(at)?;
            if key.is_empty() || key <= self.last.as_slice() {
                return Err(damaged(format!("the keys of page {} are not in order", page.header.id)));
            }
            self.last.clear();
            self.last.extend(key);
            if visit(flags, key, value)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
