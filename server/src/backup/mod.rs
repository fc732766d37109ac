//! Backups in stores: a snapshot of a running member, compressed, as one file of an object store or of a volume.
//!
//! In the order of a backup's life:
//!
//! - [`source`]: the member that it is taken of;
//! - [`place`]: where it is kept;
//! - [`create`]: from the one to the other, in a stream;
//! - [`fetch`]: back into a file;
//! - [`verify`]: whether it can be restored, and holds what the member had;
//! - [`beside`]: what is known of the backups of a folder, beside each;
//! - [`archive`]: all changes since then, and back to any point of them;
//! - [`recover`]: a member of a new cluster out of it;
//! - [`command`]: the command line.
//!
//! The file is a snapshot as etcd has it, compressed with Zstandard: `zstd -d` gives what `etcdutl` reads. What is fetched need not
//! be compressed.

pub mod archive;
pub mod beside;
pub mod command;
pub mod create;
pub mod fetch;
pub mod place;
pub mod recover;
pub mod source;
pub mod verify;

use self::archive::ArchiveError;
use crate::node::StartError;
use crate::snapshot::SnapshotError;
use crate::storage::StorageError;
use crate::tls::TlsError;

/// Why a backup was not taken, fetched, verified or deleted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What the location says is none.
    #[error("{0}: {1}")]
    Location(String, String),
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] object_store::Error),
    /// The connection to the member.
    #[error("{0}: {1}")]
    Connect(String, String),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The member refused.
    #[error("{0}: {message}", message = .1.message())]
    Member(&'static str, Box<tonic::Status>),
    /// What the member sent is not what it said it would be.
    #[error("the member's snapshot is damaged: {0}")]
    Stream(&'static str),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The snapshot in it.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store that was restored.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The data directory that is made.
    #[error(transparent)]
    DataDir(#[from] StartError),
    /// It is not what it should be.
    #[error("{0}")]
    Differs(String),
    /// The archive does not have what is wanted.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A signal came.
    #[error("stopped by a signal")]
    Stopped,
}

fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.display().to_string();
    move |source| BackupError::Io { path, source }
}
