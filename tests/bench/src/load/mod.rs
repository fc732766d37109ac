//! Many clients on few connections in one thread, in a closed loop or at a rate, and how long their operations take.

mod run;
mod tally;

pub use run::{Load, Observer, Window};
pub use tally::Measured;

/// Bytes of an answer that a client gets to see.
pub const SEEN: usize = 4096;

/// Where an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Unary(&'static str),
    /// One message and one answer on a stream that the client keeps open.
    Stream(&'static str),
}

/// Who does one operation after another.
pub trait Client: Send {
    /// Appends the request of the operation that was due at `due` (see `clock`). None: there is nothing left to do.
    fn next(&mut self, due: u64, message: &mut Vec<u8>) -> Option<Call>;

    /// Looks at the answer's first `SEEN` bytes of `length`.
    ///
    /// # Errors
    /// It is not what it must be, so that the operation counts as failed.
    fn answered(&mut self, answer: &[u8], length: usize) -> Result<(), String>;
}

/// Who hears of what others write. A write's value begins with `stamp`.
#[derive(Debug, Clone)]
pub struct Watches {
    /// Key and end of range of each.
    pub ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// Streams that they share.
    pub streams: usize,
    /// Watchers that each write reaches.
    pub fan_out: u32,
}

/// Bytes of a stamp.
pub const STAMP: usize = 12;

/// The start of a value by which whoever receives it as an event knows when it was due, and who wrote it.
pub fn stamp(due: u64, client: u32) -> [u8; STAMP] {
    let mut stamp = [0; STAMP];
    stamp[..8].copy_from_slice(&due.to_be_bytes());
    stamp[8..].copy_from_slice(&client.to_be_bytes());
    stamp
}

/// What `stamp` wrote.
fn read_stamp(value: &[u8]) -> Option<(u64, u32)> {
    let (due, rest) = value.split_first_chunk()?;
    Some((u64::from_be_bytes(*due), u32::from_be_bytes(*rest.first_chunk()?)))
}
