//! gRPC messages on their way through the gate, counted by the prefixes that they have on the wire.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;

/// Before each message: whether it is compressed, and its length in four bytes.
pub const PREFIX_BYTES: usize = 5;

/// Counts messages in one direction.
#[derive(Clone)]
pub struct Tally {
    /// Messages.
    pub messages: Counter,
    /// Their bytes, without the prefixes.
    pub bytes: Counter,
}

/// Where in a stream of messages the bytes are.
pub struct Messages {
    tally: Tally,
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    missing: usize,
}

impl Messages {
    /// The begin of a stream.
    pub fn new(tally: Tally) -> Self {
        Messages { tally, prefix: [0; PREFIX_BYTES], prefix_filled: 0, missing: 0 }
    }

    /// Counts the messages that begin in these bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = (PREFIX_BYTES - self.prefix_filled).min(bytes.len());
            self.prefix[self.prefix_filled..self.prefix_filled + taken].copy_from_slice(&bytes[..taken]);
            self.prefix_filled += taken;
            bytes = &bytes[taken..];
            if self.prefix_filled == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                self.tally.messages.inc();
                self.tally.bytes.inc_by(length.into());
                self.missing = length as usize;
                self.prefix_filled = 0;
            }
        }
    }
}

/// A request's body whose messages are counted.
pub struct Counting<B> {
    inner: B,
    messages: Messages,
}

impl<B> Counting<B> {
    /// Counts what `body` brings.
    pub fn new(body: B, tally: Tally) -> Self {
        Counting { inner: body, messages: Messages::new(tally) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counting<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.messages.pass(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        for size in [1, 2, 4, 5, 7, 100, stream.len()] {
            let tally = Tally { messages: Counter::default(), bytes: Counter::default() };
            let mut messages = Messages::new(tally.clone());
            stream.chunks(size).for_each(|bytes| messages.pass(bytes));
            assert_eq!((tally.messages.get(), tally.bytes.get()), (3, 259), "{size}");
        }
    }
}
