//! Snapshots as etcd has them: one bbolt file that any etcd tool of the same version reads, and that becomes a member.
//!
//! - [`schema`]: etcd's buckets and what is in them;
//! - [`save`]: the store at one moment becomes a file;
//! - [`source`]: a file of unknown origin, and its checksum;
//! - [`chains`]: which version of a key follows which;
//! - [`status`]: what `snapshot status` and `hashkv` tell of a file;
//! - [`restore`]: a file becomes the data directory of a new cluster's member;
//! - [`command`]: the command line, and what it shows on a terminal meanwhile.

pub mod chains;
pub mod command;
mod output;
mod progress;
pub mod restore;
pub mod save;
pub mod schema;
pub mod source;
pub mod status;

#[cfg(test)]
mod tests;

use crate::bbolt::BoltError;
use crate::mvcc::{ReadError, ViewError};
use crate::node::StartError;
use crate::storage::StorageError;

/// Why a snapshot was not made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The file is no snapshot of etcd's, or a damaged one.
    #[error("{0}")]
    Content(String),
    /// The same, and which file that is.
    #[error("{source}: {path} is damaged, cut off, or no snapshot. Nothing was made of it; take another one")]
    Broken {
        /// Which one.
        path: String,
        /// What is wrong with it.
        source: Box<SnapshotError>,
    },
    /// The settings contradict each other or what is on the disk.
    #[error("{0}")]
    Settings(String),
    /// The store that is read or made.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The data directory that is made.
    #[error(transparent)]
    DataDir(#[from] StartError),
    /// A revision that the file cannot tell of.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Whoever wanted it is gone.
    #[error("nobody waits for the snapshot any more")]
    Abandoned,
}

impl From<ViewError> for SnapshotError {
    fn from(error: ViewError) -> Self {
        SnapshotError::Storage(error.into())
    }
}

impl SnapshotError {
    /// Where it is the content of a file, that it is of this one, and what to do.
    #[must_use]
    pub fn of(self, path: &std::path::Path) -> Self {
        match self {
            Self::Bolt(_) | Self::Content(_) => {
                Self::Broken { path: path.display().to_string(), source: Box::new(self) }
            }
            other => other,
        }
    }
}

fn content(what: impl Into<String>) -> SnapshotError {
    SnapshotError::Content(what.into())
}

fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> SnapshotError {
    let path = path.display().to_string();
    move |source| SnapshotError::Io { path, source }
}
