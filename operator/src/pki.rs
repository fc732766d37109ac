//! Certificates and keys as PEM: reading what is there, and making new ones. No input, no output, no clock; making takes
//! randomness.

mod issue;
mod read;

pub use issue::{Pair, Purpose, Request, authority, leaf};
#[cfg(test)]
use read::signers;
pub use read::{authorities, fingerprint, fits, leaf as read_leaf, merge, subtract};

/// Why a certificate cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refuses it.
    #[error("certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// It is no certificate.
    #[error("{0}")]
    Read(String),
}

#[cfg(test)]
mod tests;
