//! What the kernel knows of this process, from /proc; zeros where there is none.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Resources in use.
#[derive(Debug, Default)]
pub struct Usage {
    /// Resident memory.
    pub resident_bytes: i64,
    /// Virtual memory.
    pub virtual_bytes: i64,
    /// User and system time.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: i64,
    /// Most file descriptors that may be open.
    pub max_fds: i64,
}

/// Clock ticks in a second and bytes in a page: Linux shows these to user space on every platform we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

/// Resources in use now.
pub fn usage() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name in parentheses may hold blanks; fields are counted behind it, from field 3.
    let fields: Vec<&str> = match stat.rsplit_once(") ") {
        Some((_, rest)) => rest.split(' ').collect(),
        None => Vec::new(),
    };
    let field = |number: usize| -> i64 {
        let text = fields.get(number - 3);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    Usage {
        resident_bytes: field(24) * PAGE_BYTES,
        virtual_bytes: field(23),
        cpu_seconds: (field(14) + field(15)) as f64 / TICKS_PER_SECOND,
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as i64),
        max_fds: max_fds(),
    }
}

fn max_fds() -> i64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(0)
}

/// Now, in seconds since the epoch: the start, when asked at the start.
pub fn start_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
