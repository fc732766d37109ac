//! EtcdBackupSchedules: EtcdBackups by the clock, and which of them are kept.
//!
//! - [`controller`]: sees the schedule and its backups, and does what is planned;
//! - [`plan`]: PURE: what is due, and what is not kept;
//! - [`clock`]: PURE: cron in a time zone.

mod clock;
pub mod controller;
mod plan;

/// What is wrong with a schedule in a time zone, if anything.
#[cfg(test)]
pub(crate) fn problem(schedule: &str, zone: &str) -> Option<String> {
    clock::Clock::new(schedule, zone).err()
}
