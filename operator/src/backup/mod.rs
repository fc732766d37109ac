//! EtcdBackups: the same steps as for clusters, on a smaller scale.
//!
//! - [`controller`]: sees the EtcdBackup, its cluster and its Jobs, and does what is planned;
//! - [`plan`]: PURE: the status, and the next action.

pub mod controller;
pub mod plan;

use std::fmt;

/// What a Job does. The data is taken once and never written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Takes a snapshot and brings it to the store.
    Create,
    /// Fetches it, restores it into a scratch directory, and compares.
    Verify,
    /// Deletes it from the store.
    Delete,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Create, Self::Verify, Self::Delete];

    /// The word of the command line: `keelson-server backup WORD`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Verify => "verify",
            Self::Delete => "delete",
        }
    }

    /// The name of its Job.
    pub fn job(self, backup: &str) -> String {
        format!("{backup}-{}", self.word())
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
