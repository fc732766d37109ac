//! Time as a number that fits into a value: events carry when their put was due.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since the process asked first.
pub fn nanos() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
