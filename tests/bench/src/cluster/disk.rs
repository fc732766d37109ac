//! What a disk has been written, by anyone.
//!
//! The kernel also counts for each process (`write_bytes` in /proc/PID/io), but pages as they get dirty: where a file
//! system keeps large folios (ext4 since Linux 6.16), a write of 300 bytes counts as half a MiB.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes written so far to the block device that holds `folder`; none if that is no block device.
pub fn written(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    parse(&fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
}

/// The seventh number counts sectors of 512 bytes, whatever the disk's are.
fn parse(stat: &str) -> Option<u64> {
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sectors_written_are_bytes() {
        let stat = "   1 2 3 4    5 6 700 8 9 10 11 0 0 0 0 0 0\n";
        assert_eq!(super::parse(stat), Some(700 * 512));
        assert_eq!(super::parse("1 2 3"), None);
    }
}
