//! bbolt files, the format of etcd's backend and so of its snapshots: written in one pass, read with suspicion.
//!
//! - [`page`]: the layout of pages and their elements;
//! - [`writer`]: buckets and keys in order become a file;
//! - [`reader`]: a file of unknown origin becomes buckets and keys.
//!
//! Only what etcd uses is here: buckets in the root and keys in those, no buckets within buckets.

pub mod page;
pub mod reader;
pub mod writer;

#[cfg(test)]
mod tests;

pub use page::MAX_KEY;
pub use reader::{Reader, Visit};
pub use writer::Writer;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The disk failed, or whoever takes the bytes.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is not what it should be.
    #[error("invalid database{}: {what}", place(*offset))]
    Damaged {
        /// What is wrong.
        what: String,
        /// Where in the file, if that is known.
        offset: Option<u64>,
    },
    /// A key or a bucket that cannot follow what was written before it.
    #[error("invalid database entry: {0}")]
    Order(&'static str),
}

impl BoltError {
    /// The damage is at this offset, unless its place is known better.
    fn at(self, at: u64) -> Self {
        match self {
            Self::Damaged { what, offset } => Self::Damaged { what, offset: offset.or(Some(at)) },
            other => other,
        }
    }
}

fn damaged(what: impl Into<String>) -> BoltError {
    BoltError::Damaged { what: what.into(), offset: None }
}

fn place(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at offset {offset}"))
}
