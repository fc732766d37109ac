//! Merges small files, in the background.
//!
//! RocksDB moves a file down to the last level as it is when no other file has keys in its range, and merges nothing there.
//! The history grows at its end only, so each flush would leave a file for ever, however small.

use std::ops::Range;
use std::sync::{Arc, Weak};

use rocksdb::LiveFile;

use super::columns::{Column, Database};
use super::worker::Orders;
use super::{StorageError, Store};

/// So many small files in a row become one.
const NEIGHBOURS: usize = 32;
/// What is small, in bytes: the least of these for which there are so many neighbours. What was merged counts as larger,
/// so a byte is written again about once for each of these.
const SMALL: [usize; 5] = [4 << 10, 32 << 10, 256 << 10, 2 << 20, 16 << 20];

/// Runs until the store is closed. Does not hold the store while it merges.
pub fn run(store: &Weak<Store>, orders: &Orders) {
    while orders.wait() {
        let Some(database) = store.upgrade().map(|open| Arc::clone(&open.head().database)) else { return };
        if let Err(error) = merge(&database, orders) {
            // Nothing depends on it but speed.
            tracing::error!(%error, "small files could not be merged");
        }
    }
}

/// One look at all files. What is left, or could not be merged, is looked at after the next flush.
fn merge(database: &Database, orders: &Orders) -> Result<(), StorageError> {
    let mut files = database.rocks().live_files()?;
    // RocksDB merges the first level by itself, as its files overlap.
    files.retain(|file| file.level > 0);
    files.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    for column in Column::ALL {
        let files: Vec<&LiveFile> = files.iter().filter(|file| file.column_family_name == column.name()).collect();
        let sizes: Vec<usize> = files.iter().map(|file| file.size).collect();
        for small in small(&sizes) {
            if orders.closed() {
                return Ok(());
            }
            let files = &files[small];
            let start = files.first().and_then(|file| file.start_key.as_deref());
            let end = files.iter().filter_map(|file| file.end_key.as_deref()).max();
            database.rewrite_range(column, start, end);
        }
    }
    Ok(())
}

/// The rows of neighbours to merge.
fn small(sizes: &[usize]) -> Vec<Range<usize>> {
    SMALL.into_iter().map(|limit| rows(sizes, limit)).find(|rows| !rows.is_empty()).unwrap_or_default()
}

/// The rows of neighbours that are all smaller than `limit`.
fn rows(sizes: &[usize], limit: usize) -> Vec<Range<usize>> {
    let (mut rows, mut start) = (Vec::new(), 0);
    for (at, size) in sizes.iter().chain([&usize::MAX]).enumerate() {
        if *size >= limit {
            if at - start >= NEIGHBOURS {
                rows.push(start..at);
            }
            start = at + 1;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{NEIGHBOURS, small};

    #[test]
    fn rows_of_small_files_are_merged_the_smallest_first() {
        let row = |size: usize, count: usize| vec![size; count];
        let small = |sizes: &[usize]| -> Vec<(usize, usize)> {
            small(sizes).into_iter().map(|row| (row.start, row.end)).collect()
        };
        assert!(small(&[]).is_empty());
        assert!(small(&row(1000, NEIGHBOURS - 1)).is_empty());
        assert!(small(&row(16 << 20, NEIGHBOURS)).is_empty());
        assert_eq!(small(&row(1000, NEIGHBOURS)), [(0, NEIGHBOURS)]);
        let apart = [row(1000, NEIGHBOURS - 1), row(5000, 1), row(1000, NEIGHBOURS + 3)].concat();
        assert_eq!(small(&apart), [(NEIGHBOURS, 2 * NEIGHBOURS + 3)]);
        let between = [row(1000, NEIGHBOURS - 1), row(5000, 1)].concat();
        assert_eq!(small(&between), [(0, NEIGHBOURS)]);
        let larger = [row(5000, NEIGHBOURS), row(1 << 20, 2), row(1000, NEIGHBOURS)].concat();
        assert_eq!(small(&larger), [(NEIGHBOURS + 2, 2 * NEIGHBOURS + 2)]);
    }
}
