//! What everything was measured on.

use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// Of the members' data.
    pub file_system: String,
    /// The median time that 4 KiB take to the disk.
    pub sync_us: f64,
    /// Load average of the minute before: what else was going on.
    pub load: f64,
}

impl Machine {
    pub fn look(data_dir: &Path) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let after = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let memory = after(&read("/proc/meminfo")?, "MemTotal");
        let kib: f64 = memory.split(' ').next().unwrap_or_default().parse().context("MemTotal")?;
        Ok(Self {
            cpu: after(&read("/proc/cpuinfo")?, "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease")?.trim()),
            file_system: file_system(&read("/proc/self/mounts")?, &data_dir.canonicalize()?),
            sync_us: sync_us(data_dir)?,
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().parse().context("/proc/loadavg")?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_gib, kernel, file_system, sync_us, load } = self;
        write!(f, "{cores} cores of {cpu}, {memory_gib} GiB, {kernel}, {file_system} ")?;
        write!(f, "(fdatasync of 4 KiB: {sync_us} µs), load {load} before")
    }
}

/// Of the last mount whose folder is `path` or above it.
fn file_system(mounts: &str, path: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(folder, _)| path.starts_with(folder));
    above.max_by_key(|(folder, _)| folder.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

fn sync_us(folder: &Path) -> Result<f64> {
    const TIMES: usize = 100;
    let mut file: File = tempfile::tempfile_in(folder)?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        file.rewind()?;
        file.write_all(&[7; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(super::median(took).unwrap_or_default().round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_innermost_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/data xfs rw 0 0\n";
        for (path, kind) in [("/tmp/data/x", "xfs"), ("/tmp/database", "tmpfs"), ("/home", "ext4")] {
            assert_eq!(file_system(mounts, Path::new(path)), kind);
        }
    }
}
