//! gRPC messages on their way through the gate, counted by the prefixes that they have on the wire.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tonic::Status;

use crate::budget::{Budget, Share};
use crate::error::EtcdError;

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

    /// Counts the messages that begin in these bytes, and says whether there is one.
    pub fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut begins = false;
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
                begins = true;
            }
        }
        begins
    }
}

/// Requests are counted against memory in steps of so many bytes; small ones are not.
pub const STEP_BYTES: usize = 16 << 10;

/// What has come of a call's message, as a share of the memory for requests. It ends with the call; of a stream, each message takes
/// the place of the one before.
pub struct Arriving(Mutex<Share>);

impl Arriving {
    /// Nothing has come.
    pub fn new(requests: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Arriving(Mutex::new(requests.share(STEP_BYTES))))
    }

    fn grow(&self, bytes: usize, begins: bool) -> Result<(), EtcdError> {
        let mut share = self.0.lock().expect("no holder of this lock panics");
        if begins {
            let next = share.budget().share(STEP_BYTES);
            *share = next;
        }
        if share.grow(bytes) { Ok(()) } else { Err(EtcdError::RequestTooManyRequests) }
    }
}

/// A request's body whose messages are counted, and which ends with an error where there is no memory for them.
pub struct Counting<B> {
    inner: B,
    messages: Messages,
    arriving: Arc<Arriving>,
}

impl<B> Counting<B> {
    /// Counts what `body` brings.
    pub fn new(body: B, tally: Tally, arriving: Arc<Arriving>) -> Self {
        Counting { inner: body, messages: Messages::new(tally), arriving }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Counting<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else { return Poll::Ready(None) };
        let frame = frame.map_err(Into::<BoxError>::into)?;
        if let Some(data) = frame.data_ref() {
            let begins = self.messages.pass(data);
            self.arriving.grow(data.len(), begins).map_err(Status::from)?;
        }
        Poll::Ready(Some(Ok(frame)))
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
            let begun = stream.chunks(size).filter(|bytes| messages.pass(bytes)).count();
            assert!((1..=3).contains(&begun));
            assert_eq!((tally.messages.get(), tally.bytes.get()), (3, 259), "{size}");
        }
    }

    #[test]
    fn what_arrives_is_refused_where_there_is_no_memory_for_it() {
        const MANY: usize = 4 * STEP_BYTES;
        let requests = Budget::new(MANY);
        let (one, other) = (Arriving::new(&requests), Arriving::new(&requests));
        assert_eq!(one.grow(STEP_BYTES - 1, true), Ok(()));
        assert_eq!(requests.left(), MANY, "small ones are not counted");
        assert_eq!(one.grow(2 * STEP_BYTES, false), Ok(()));
        assert_eq!(other.grow(2 * STEP_BYTES, true), Err(EtcdError::RequestTooManyRequests));
        drop(other);
        assert_eq!(one.grow(MANY, true), Ok(()), "the message before has made room");
        drop(one);
        assert_eq!(requests.left(), MANY);
    }
}
