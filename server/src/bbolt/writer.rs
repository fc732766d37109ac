//! Writes a file in one pass: keys come in order, each tree grows from its leaves, and only one page of each level is in
//! memory. What precedes the trees (metas, freelist) is written at the end.

use std::io::{Seek, SeekFrom, Write};

use super::BoltError;
use super::page::{
    BRANCH, BUCKET_ELEMENT, FREELIST, HEADER, Header, LEAF, MAX_KEY, META, Meta, PAGE_SIZE, bucket_header,
};

/// A bucket whose page is not longer than this stands within its parent's.
const MAX_INLINE: usize = PAGE_SIZE / 4;
/// Pages before the first tree: two metas, and a freelist that is empty.
const FIRST_PAGES: u64 = 3;

/// A file that is being written.
pub struct Writer<W> {
    pages: Pages<W>,
    buckets: Tree,
    bucket: Option<(Vec<u8>, Tree)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file. `out` is empty, and buffered if that is worth it.
    pub fn new(mut out: W) -> Result<Self, BoltError> {
        out.write_all(&[0; FIRST_PAGES as usize * PAGE_SIZE])?;
        Ok(Self { pages: Pages { out, next: FIRST_PAGES }, buckets: Tree::default(), bucket: None })
    }

    /// Begins a bucket behind the ones before it, in the order of their names.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), BoltError> {
        self.end_bucket()?;
        self.bucket = Some((name.to_vec(), Tree::default()));
        Ok(())
    }

    /// Adds a key to the bucket, behind the ones before it.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        let (_, tree) = self.bucket.as_mut().ok_or(BoltError::Order("a key outside of a bucket"))?;
        tree.add(&mut self.pages, 0, key, &[value])
    }

    /// Ends the file; answers it and its size in bytes.
    pub fn finish(mut self) -> Result<(W, u64), BoltError> {
        self.end_bucket()?;
        let root = match self.buckets.finish(&mut self.pages)? {
            Root::Page(root) => root,
            Root::Small(leaf) => self.pages.write(LEAF, leaf.count() as u16, &leaf.body())?,
        };
        let Pages { mut out, next: end } = self.pages;
        out.seek(SeekFrom::Start(0))?;
        for id in 0..2 {
            let meta = Meta { page_size: PAGE_SIZE as u32, root, freelist: 2, end, txid: id };
            let mut page = Header { id, flags: META, count: 0, overflow: 0 }.encode().to_vec();
            page.extend(meta.encode());
            page.resize(PAGE_SIZE, 0);
            out.write_all(&page)?;
        }
        out.write_all(&Header { id: 2, flags: FREELIST, count: 0, overflow: 0 }.encode())?;
        out.flush()?;
        Ok((out, end * PAGE_SIZE as u64))
    }

    fn end_bucket(&mut self) -> Result<(), BoltError> {
        let Some((name, tree)) = self.bucket.take() else {
            return Ok(());
        };
        match tree.finish(&mut self.pages)? {
            Root::Page(root) => self.buckets.add(&mut self.pages, BUCKET_ELEMENT, &name, &[&bucket_header(root)]),
            Root::Small(leaf) => {
                let header = Header { id: 0, flags: LEAF, count: leaf.count() as u16, overflow: 0 };
                let parts: [&[u8]; 3] = [&bucket_header(0), &header.encode(), &leaf.body()];
                self.buckets.add(&mut self.pages, BUCKET_ELEMENT, &name, &parts)
            }
        }
    }
}

/// Where pages go to, one behind the other.
struct Pages<W> {
    out: W,
    next: u64,
}

impl<W: Write> Pages<W> {
    fn write(&mut self, flags: u16, count: u16, body: &[u8]) -> Result<u64, BoltError> {
        let id = self.next;
        let pages = (HEADER + body.len()).div_ceil(PAGE_SIZE);
        let overflow = u32::try_from(pages - 1).map_err(|_| BoltError::Order("a page is too long"))?;
        self.out.write_all(&Header { id, flags, count, overflow }.encode())?;
        self.out.write_all(body)?;
        self.out.write_all(&[0; PAGE_SIZE][..pages * PAGE_SIZE - HEADER - body.len()])?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// The elements of a page that is not written yet.
#[derive(Default)]
struct Leaf {
    /// Flags, and sizes of key and value.
    elements: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
    first: Vec<u8>,
}

impl Leaf {
    fn count(&self) -> usize {
        self.elements.len()
    }

    fn size(&self) -> usize {
        HEADER + self.count() * 16 + self.data.len()
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        let mut position = self.count() * 16;
        for (flags, key, value) in &self.elements {
            for number in [*flags, position as u32, *key, *value] {
                out.extend(number.to_le_bytes());
            }
            position = position - 16 + (*key + *value) as usize;
        }
        out.extend(&self.data);
        out
    }
}

/// A level of branches: the first key and the page of each child.
#[derive(Default)]
struct Branch {
    children: Vec<(Vec<u8>, u64)>,
    size: usize,
}

impl Branch {
    fn body(children: &[(Vec<u8>, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut position = children.len() * 16;
        for (key, child) in children {
            out.extend((position as u32).to_le_bytes());
            out.extend((key.len() as u32).to_le_bytes());
            out.extend(child.to_le_bytes());
            position = position - 16 + key.len();
        }
        children.iter().for_each(|(key, _)| out.extend(key));
        out
    }
}

/// One tree.
#[derive(Default)]
struct Tree {
    leaf: Leaf,
    last: Vec<u8>,
    branches: Vec<Branch>,
}

/// Where a finished tree begins.
enum Root {
    Page(u64),
    /// It is one short leaf, which is not written.
    Small(Leaf),
}

impl Tree {
    fn add<W: Write>(
        &mut self,
        pages: &mut Pages<W>,
        flags: u32,
        key: &[u8],
        value: &[&[u8]],
    ) -> Result<(), BoltError> {
        if key.len() > MAX_KEY || key.is_empty() {
            return Err(BoltError::Order("a key is empty or too long"));
        }
        if key <= self.last.as_slice() {
            return Err(BoltError::Order("keys are not in order"));
        }
        let value_bytes: usize = value.iter().map(|part| part.len()).sum();
        let value_size = u32::try_from(value_bytes).ok().filter(|size| *size <= i32::MAX as u32);
        let value_size = value_size.ok_or(BoltError::Order("a value is too long"))?;
        let size = 16 + key.len() + value_bytes;
        if self.leaf.count() > 0 && self.leaf.size() + size > PAGE_SIZE {
            self.end_leaf(pages)?;
        }
        if self.leaf.count() == 0 {
            self.leaf.first = key.to_vec();
        }
        self.leaf.elements.push((flags, key.len() as u32, value_size));
        self.leaf.data.extend(key);
        value.iter().for_each(|part| self.leaf.data.extend(*part));
        self.last.clear();
        self.last.extend(key);
        Ok(())
    }

    fn end_leaf<W: Write>(&mut self, pages: &mut Pages<W>) -> Result<(), BoltError> {
        let leaf = std::mem::take(&mut self.leaf);
        let page = pages.write(LEAF, leaf.count() as u16, &leaf.body())?;
        self.child(pages, 0, leaf.first, page)
    }

    /// Adds a child to a level. No branch page is left with a single child: bbolt could not delete from it.
    fn child<W: Write>(
        &mut self,
        pages: &mut Pages<W>,
        level: usize,
        key: Vec<u8>,
        page: u64,
    ) -> Result<(), BoltError> {
        if self.branches.len() == level {
            self.branches.push(Branch::default());
        }
        let branch = &mut self.branches[level];
        branch.size += 16 + key.len();
        branch.children.push((key, page));
        if HEADER + branch.size <= PAGE_SIZE || branch.children.len() < 4 {
            return Ok(());
        }
        let kept = branch.children.split_off(branch.children.len() - 2);
        branch.size = kept.iter().map(|(key, _)| 16 + key.len()).sum();
        let full = std::mem::replace(&mut branch.children, kept);
        let page = pages.write(BRANCH, full.len() as u16, &Branch::body(&full))?;
        let first = full.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        self.child(pages, level + 1, first, page)
    }

    fn finish<W: Write>(mut self, pages: &mut Pages<W>) -> Result<Root, BoltError> {
        if self.branches.is_empty() && self.leaf.size() <= MAX_INLINE {
            return Ok(Root::Small(self.leaf));
        }
        self.end_leaf(pages)?;
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.branches[level].children);
            if level + 1 == self.branches.len() && children.len() == 1 {
                return Ok(Root::Page(children[0].1));
            }
            let page = pages.write(BRANCH, children.len() as u16, &Branch::body(&children))?;
            let first = children.into_iter().next().map(|(key, _)| key).unwrap_or_default();
            self.child(pages, level + 1, first, page)?;
            level += 1;
        }
    }
}
