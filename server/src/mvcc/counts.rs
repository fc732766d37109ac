//! How many keys there are, by blocks of neighbours: a range is counted without a look at each of its keys.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::KeyRange;

/// Keys of a block that is made.
const BLOCK_KEYS: i64 = 64;
/// A block with more keys shall be divided.
const MOST_KEYS: i64 = 2 * BLOCK_KEYS;
/// Blocks that are copied together when one of them changes while somebody else looks at them.
const CHUNK_BLOCKS: usize = 64;

/// The number of keys in each block. Clones share what does not change.
#[derive(Debug, Clone)]
pub struct KeyCounts {
    /// Never empty; the first block begins with the empty key.
    chunks: Vec<Arc<Chunk>>,
}

#[derive(Debug, Clone)]
struct Chunk {
    /// Never empty.
    blocks: Vec<Block>,
    /// In all of them.
    keys: i64,
}

/// From its first key, which need not exist, up to that of the next one.
#[derive(Debug, Clone)]
struct Block {
    first: Bytes,
    keys: i64,
}

/// Blocks made of keys that come in order.
#[derive(Debug)]
pub struct Blocks(Vec<Block>);

impl Blocks {
    /// Of keys from `first` on.
    pub fn new(first: Bytes) -> Self {
        Self(vec![Block { first, keys: 0 }])
    }

    /// Adds the next key.
    pub fn add(&mut self, key: &[u8]) {
        match self.0.last_mut() {
            Some(last) if last.keys < BLOCK_KEYS => last.keys += 1,
            _ => self.0.push(Block { first: Bytes::copy_from_slice(key), keys: 1 }),
        }
    }
}

/// The place of a block: its chunk's, and its own in that.
type Place = (usize, usize);

impl KeyCounts {
    /// Of all keys, in blocks that begin with the empty key.
    pub fn new(Blocks(blocks): Blocks) -> Self {
        Self { chunks: chunks(&blocks).collect() }
    }

    /// All keys.
    pub fn total(&self) -> i64 {
        self.chunks.iter().map(|chunk| chunk.keys).sum()
    }

    /// A key came (1) or went (-1). Tells whether its block shall be divided.
    pub fn change(&mut self, key: &[u8], by: i64) -> bool {
        let (at, block) = self.find(key);
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.keys += by;
        chunk.blocks[block].keys += by;
        let keys = chunk.blocks[block].keys;
        // The block before an empty one takes its place.
        if keys == 0 && (at, block) != (0, 0) {
            chunk.blocks.remove(block);
            if chunk.blocks.is_empty() {
                self.chunks.remove(at);
            }
        }
        keys > MOST_KEYS
    }

    /// Keys came and went.
    pub fn change_all(&mut self, changes: &[(Bytes, i64)]) {
        for (key, by) in changes {
            self.change(key, *by);
        }
    }

    /// The blocks that shall be divided.
    pub fn crowded(&self) -> Vec<KeyRange> {
        let places =
            self.chunks.iter().enumerate().flat_map(|(at, chunk)| (0..chunk.blocks.len()).map(move |n| (at, n)));
        places.filter(|(at, n)| self.chunks[*at].blocks[*n].keys > MOST_KEYS).map(|place| self.range(place)).collect()
    }

    /// Divides the block that begins as the given ones do, which are of an earlier moment; these changes were made since.
    /// If they do not explain how many keys there are now, because an empty block was taken in, all remains as it is.
    pub fn divide(&mut self, Blocks(blocks): Blocks, changes: &[(Bytes, i64)]) {
        let (at, block) = self.find(&blocks[0].first);
        let old = &self.chunks[at].blocks[block];
        if old.first != blocks[0].first {
            return;
        }
        let range = self.range((at, block));
        let mut parts = Self { chunks: chunks(&blocks).collect() };
        for (key, by) in changes.iter().filter(|(key, _)| range.contains(key)) {
            parts.change(key, *by);
        }
        if parts.total() != old.keys {
            return;
        }
        let parts = parts.chunks.iter().flat_map(|chunk| chunk.blocks.iter().cloned());
        let mut blocks = self.chunks[at].blocks.clone();
        blocks.splice(block..=block, parts);
        self.chunks.splice(at..=at, chunks(&blocks));
    }

    /// The keys in the blocks that lie in the range as a whole, and what of it is left beside them.
    pub fn within(&self, range: &KeyRange) -> (i64, Vec<KeyRange>) {
        let (start, end) = match range {
            _ if range.is_empty() => return (0, Vec::new()),
            KeyRange::One(_) => return (0, vec![range.clone()]),
            KeyRange::Span(start, end) => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        let first = match self.find(start) {
            place if self.first(place) == start => place,
            place => self.next(place),
        };
        let last = end.map_or((self.chunks.len(), 0), |end| self.find(end));
        if first >= last {
            return (0, vec![range.clone()]);
        }
        let mut rest = Vec::new();
        if start < self.first(first) {
            rest.push(KeyRange::Span(start.clone(), self.first(first).clone()));
        }
        if let Some(end) = end.filter(|end| self.first(last) < *end) {
            rest.push(KeyRange::Span(self.first(last).clone(), end.clone()));
        }
        (self.sum(first, last), rest)
    }

    /// The keys from one block up to another, which is not counted.
    fn sum(&self, (first, from): Place, (last, to): Place) -> i64 {
        let of = |chunk: usize, blocks: Range<usize>| -> i64 {
            self.chunks[chunk].blocks[blocks].iter().map(|block| block.keys).sum()
        };
        if first == last {
            return of(first, from..to);
        }
        let between: i64 = self.chunks[first + 1..last].iter().map(|chunk| chunk.keys).sum();
        let tail = if to > 0 { of(last, 0..to) } else { 0 };
        of(first, from..self.chunks[first].blocks.len()) + between + tail
    }

    /// The block that a key belongs to.
    fn find(&self, key: &[u8]) -> Place {
        let chunk = self.chunks.partition_point(|chunk| chunk.blocks[0].first <= key) - 1;
        (chunk, self.chunks[chunk].blocks.partition_point(|block| block.first <= key) - 1)
    }

    fn first(&self, (chunk, block): Place) -> &Bytes {
        &self.chunks[chunk].blocks[block].first
    }

    fn next(&self, (chunk, block): Place) -> Place {
        match block + 1 < self.chunks[chunk].blocks.len() {
            true => (chunk, block + 1),
            false => (chunk + 1, 0),
        }
    }

    fn range(&self, place: Place) -> KeyRange {
        let first = self.first(place).clone();
        match self.next(place) {
            (chunk, _) if chunk == self.chunks.len() => KeyRange::From(first),
            next => KeyRange::Span(first, self.first(next).clone()),
        }
    }
}

fn chunks(blocks: &[Block]) -> impl Iterator<Item = Arc<Chunk>> {
    // One that grows is cut in two, not in one that is full and one that is nearly empty.
    let size = blocks.len().div_ceil(blocks.len().div_ceil(2 * CHUNK_BLOCKS));
    blocks
        .chunks(size)
        .map(|blocks| Arc::new(Chunk { blocks: blocks.to_vec(), keys: blocks.iter().map(|block| block.keys).sum() }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> Bytes {
        Bytes::from(format!("k{number:05}"))
    }

    fn blocks<'a>(first: &Bytes, keys: impl Iterator<Item = &'a Bytes>) -> Blocks {
        let mut blocks = Blocks::new(first.clone());
        keys.for_each(|key| blocks.add(key));
        blocks
    }

    fn count(counts: &KeyCounts, keys: &BTreeSet<Bytes>, range: &KeyRange) -> i64 {
        let (whole, rest) = counts.within(range);
        let in_rest = keys.iter().filter(|key| rest.iter().any(|range| range.contains(key))).count();
        whole + in_rest as i64
    }

    /// A number of keys that come or go together, from one on.
    #[derive(Debug, Clone)]
    struct Run {
        first: u16,
        length: u16,
        comes: bool,
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let run = (0..20_000u16, 1..3000u16, prop::bool::weighted(0.6));
        vec(run.prop_map(|(first, length, comes)| Run { first, length, comes }), 1..12)
    }

    fn apply(run: &Run, keys: &mut BTreeSet<Bytes>) -> Vec<(Bytes, i64)> {
        let each = (run.first..run.first + run.length).map(key);
        each.filter(|key| if run.comes { keys.insert(key.clone()) } else { keys.remove(key) })
            .map(|key| (key, if run.comes { 1 } else { -1 }))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes, goes and is divided late: each range has the keys that it has.
        #[test]
        fn ranges_are_counted(
            runs in runs(),
            late in any::<bool>(),
            bounds in vec((0..25_000u16, 0..25_000u16), 20),
        ) {
            let mut keys: BTreeSet<Bytes> = (0..1000).map(|number| key(number * 3)).collect();
            let mut counts = KeyCounts::new(blocks(&Bytes::new(), keys.iter()));
            for pair in runs.chunks(2) {
                let mut changes = apply(&pair[0], &mut keys);
                counts.change_all(&changes);
                // The blocks are looked at now, and divided after the next changes.
                let (seen, crowded) = (keys.clone(), counts.crowded());
                changes = pair.get(1).filter(|_| late).map_or(Vec::new(), |run| apply(run, &mut keys));
                counts.change_all(&changes);
                for range in crowded {
                    let found = blocks(range.start(), seen.iter().filter(|key| range.contains(key)));
                    counts.divide(found, &changes);
                }
                prop_assert_eq!(counts.total(), keys.len() as i64);
                for (start, end) in &bounds {
                    for range in [KeyRange::Span(key(*start), key(*end)), KeyRange::From(key(*start))] {
                        let wanted = keys.iter().filter(|key| range.contains(key)).count();
                        prop_assert_eq!(count(&counts, &keys, &range), wanted as i64, "{:?}", range);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_left_of_a_range_is_small() {
        let keys: BTreeSet<Bytes> = (0..20_000).map(key).collect();
        let mut counts = KeyCounts::new(Blocks::new(Bytes::new()));
        let mut changes = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            changes.push((key.clone(), 1));
            if counts.change(key, 1) {
                for range in counts.crowded() {
                    counts
                        .divide(blocks(range.start(), keys.iter().take(n + 1).filter(|key| range.contains(key))), &[]);
                }
            }
        }
        let range = KeyRange::Span(key(100), key(19_900));
        let (whole, rest) = counts.within(&range);
        let in_rest = keys.iter().filter(|key| rest.iter().any(|range| range.contains(key))).count() as i64;
        assert_eq!(whole + in_rest, 19_800);
        assert!(in_rest <= 2 * MOST_KEYS, "{in_rest} keys");
        assert_eq!(counts.within(&KeyRange::From(Bytes::new())), (20_000, vec![]));
    }
}
