//! What Linux says about a process.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of one process, or of several together.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Bytes of pages that the process made dirty.
    pub written: u64,
    pub resident: u64,
    /// Of `resident`, what is no file in memory.
    pub resident_anonymous: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("{path}: has the server ended?"))
        };
        Self::parse(&read("stat")?, &read("status")?, &read("io")?, rustix::param::clock_ticks_per_second())
            .with_context(|| format!("/proc/{pid}"))
    }

    fn parse(stat: &str, status: &str, io: &str, ticks_per_second: u64) -> Result<Self> {
        // The program's name, in brackets, may hold anything; utime and stime are the 12th and 13th after it.
        let (_, fields) = stat.rsplit_once(')').context("stat without a name")?;
        let ticks: Option<u64> =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum();
        let cpu = Duration::from_secs_f64(ticks.context("stat without times")? as f64 / ticks_per_second as f64);
        let named = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Ok(Self {
            cpu,
            written: named(io, "write_bytes:").context("write_bytes")?,
            resident: named(status, "VmRSS:").context("VmRSS")? * 1024,
            resident_anonymous: named(status, "RssAnon:").context("RssAnon")? * 1024,
        })
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            written: self.written + other.written,
            resident: self.resident + other.resident,
            resident_anonymous: self.resident_anonymous + other.resident_anonymous,
        }
    }
}

/// What was used since then; memory as it is now.
impl Sub for Usage {
    type Output = Self;

    fn sub(self, then: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(then.cpu), written: self.written.saturating_sub(then.written), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 150 0 0 20 0 9 0 1000 2000 300";
        let status = "Name:\ta\nVmHWM:\t    9000 kB\nVmRSS:\t    8000 kB\nRssAnon:\t    5000 kB\n";
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        let usage = Usage::parse(stat, status, io, 100).expect("figures");
        let expected = Usage {
            cpu: Duration::from_secs(4),
            written: 4096,
            resident: 8000 * 1024,
            resident_anonymous: 5000 * 1024,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn this_process_has_figures() {
        let usage = Usage::of(std::process::id()).expect("/proc");
        assert!(usage.resident >= usage.resident_anonymous && usage.resident > 1 << 20, "{usage:?}");
    }
}
