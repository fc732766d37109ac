//! What a door leaves of a request's body. It is read before the answer goes out: a client that is still sending when the
//! connection closes, or its stream is reset, reports that, not the answer. So does Go's server.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::gate::is_grpc;

/// Bytes that are read and dropped at most.
const MOST_BYTES: usize = 64 << 20;

/// How long they may take to arrive.
const LATEST: Duration = Duration::from_secs(1);

/// A request's body, which goes back when the door drops it before its end.
pub struct Lent<B: Body + Unpin> {
    inner: Option<B>,
    back: Option<oneshot::Sender<B>>,
}

/// Where it comes back.
pub struct Unread<B>(oneshot::Receiver<B>);

/// Lends a request's body to a door. A client that waits to be asked for the body (`Expect`) is better not asked, and
/// calls of gRPC may have no end before their answer: there nothing is read.
pub fn lend<B: Body + Unpin>(request: Request<B>) -> (Request<Lent<B>>, Option<Unread<B>>) {
    let is_sent = !request.headers().contains_key(EXPECT) && !is_grpc(request.headers());
    let (back, returned) = is_sent.then(oneshot::channel).unzip();
    (request.map(|inner| Lent { inner: Some(inner), back }), returned.map(Unread))
}

impl<B: Body<Data = Bytes> + Unpin> Unread<B> {
    /// Reads what came back by now and drops it. A body that the door still holds is left alone.
    pub async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else { return };
        let reading = async {
            let mut seen = 0;
            while seen < MOST_BYTES
                && let Some(Ok(frame)) = body.frame().await
            {
                seen += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // A body that is later than that is not waited for.
        let _ = tokio::time::timeout(LATEST, reading).await;
    }
}

impl<B: Body + Unpin> Drop for Lent<B> {
    fn drop(&mut self) {
        if let (Some(inner), Some(back)) = (self.inner.take(), self.back.take())
            && !inner.is_end_stream()
        {
            // The answer may be gone already.
            drop(back.send(inner));
        }
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
