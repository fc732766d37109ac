//! Answers that are counted while they wait for their client: a connection may keep what it is given for long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http::{Extensions, Response};
use hyper::body::{Frame, SizeHint};
use tonic::Status;

use crate::budget::{self, Budget, Share, Taker};

/// A connection is given so many bytes at a time: a slow client is seen to take some.
const PIECE_BYTES: usize = 256 << 10;
/// Smaller pieces of a stream are not counted.
const COUNTED_BYTES: usize = 1 << 10;

/// How an answer is counted.
pub enum Counts {
    /// It has its share as a whole.
    Whole(Arc<Share>),
    /// It goes on for long: each piece takes what it needs.
    Pieces(Arc<Budget>),
}

impl Counts {
    /// The share that an answer has beside it, if any.
    pub fn whole(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned().map(Counts::Whole)
    }

    fn budget(&self) -> &Arc<Budget> {
        match self {
            Counts::Whole(share) => share.budget(),
            Counts::Pieces(budget) => budget,
        }
    }
}

/// An answer of which nothing is counted, or all until it was sent.
pub fn answer<B>(body: B, counts: Option<Counts>, extensions: Extensions) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let Some(counts) = counts else {
        let mut response = Response::new(Body::new(body));
        *response.extensions_mut() = extensions;
        return response;
    };
    let taker = Taker::default();
    let body = HeldBody { inner: body, rest: Bytes::new(), counts, taker: taker.clone() };
    let mut response = Response::new(Body::new(body));
    *response.extensions_mut() = extensions;
    response.extensions_mut().insert(taker);
    response
}

/// A body in pieces that are counted.
struct HeldBody<B> {
    inner: B,
    /// Of a frame, what is still to be given away.
    rest: Bytes,
    counts: Counts,
    taker: Taker,
}

impl<B> HeldBody<B> {
    fn next_piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let unsent = self.counts.budget().wait_for(&self.taker);
        match &self.counts {
            Counts::Whole(share) => budget::shared(piece, (Arc::clone(share), unsent)),
            Counts::Pieces(_) if piece.len() < COUNTED_BYTES => piece,
            Counts::Pieces(budget) => {
                let share = budget.hold(piece.len());
                budget::shared(piece, (share, unsent))
            }
        }
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for HeldBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It ends with trailers, and nobody asks.
        SizeHint::default()
    }
}
