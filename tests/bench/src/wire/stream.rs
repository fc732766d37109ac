//! One call of a session: gRPC messages out of the pieces in which they arrive, and what waits to be sent.

use anyhow::{Result, ensure};

/// A message begins with a flag and its length.
const PREFIX: usize = 5;

/// What arrives.
pub trait Arrivals {
    /// A message of `length` bytes, of which `head` are the first (all, up to what the call keeps).
    fn message(&mut self, tag: u32, head: &[u8], length: usize);
    /// The last of a call.
    fn end(&mut self, tag: u32, status: Result<(), String>);
}

pub struct Stream {
    pub tag: u32,
    /// Bytes of a message that are handed on.
    keep: usize,
    /// Of the message that arrives: its first bytes, with the prefix, and how many came so far.
    incoming: Vec<u8>,
    arrived: usize,
    /// Bytes for which the server has not got a new window yet.
    pub received: u32,
    pub window: i64,
    pub unsent: Vec<u8>,
    /// Nothing follows what is unsent.
    pub last: bool,
}

impl Stream {
    pub fn new(tag: u32, keep: usize, window: i64) -> Self {
        Self { tag, keep, incoming: Vec::new(), arrived: 0, received: 0, window, unsent: Vec::new(), last: false }
    }

    /// Takes bytes of at most one message, and gives back the others.
    pub fn take<'a>(&mut self, bytes: &'a [u8], arrivals: &mut impl Arrivals) -> Result<&'a [u8]> {
        if self.arrived == 0
            && let Some(length) = whole(bytes)
            && let Some(message) = bytes.get(PREFIX..PREFIX + length)
        {
            arrivals.message(self.tag, &message[..length.min(self.keep)], length);
            return Ok(&bytes[PREFIX + length..]);
        }
        let missing = match whole(&self.incoming) {
            Some(length) => PREFIX + length - self.arrived,
            None => PREFIX - self.arrived,
        };
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        let kept = (PREFIX + self.keep).saturating_sub(self.incoming.len()).min(taken.len());
        self.incoming.extend_from_slice(&taken[..kept]);
        self.arrived += taken.len();
        if let Some(length) = whole(&self.incoming)
            && self.arrived == PREFIX + length
        {
            ensure!(self.incoming[0] == 0, "a compressed message, which nobody asked for");
            arrivals.message(self.tag, &self.incoming[PREFIX..], length);
            self.incoming.clear();
            self.arrived = 0;
        }
        Ok(rest)
    }
}

/// The length of the message whose prefix `bytes` begin with.
fn whole(bytes: &[u8]) -> Option<usize> {
    let [_, length @ ..] = *bytes.first_chunk::<PREFIX>()?;
    Some(u32::from_be_bytes(length) as usize)
}

/// Makes a message in `buffer` out of what `encode` appends to it.
pub fn framed(buffer: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    buffer.clear();
    buffer.resize(PREFIX, 0);
    encode(buffer);
    let length = (buffer.len() - PREFIX) as u32;
    buffer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
}
