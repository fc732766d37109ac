//! Clients that are gone without a word. HTTP/2's pings find them; but where the socket takes no more bytes, the end that follows
//! cannot be written either, and the connection would stay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails when its other side has taken nothing for too long.
pub struct Stalled<S> {
    inner: S,
    most: Option<Duration>,
    /// When what waits to be written has waited for too long; none if nothing does.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalled<S> {
    /// Writes to `inner`, which may take nothing for `most`; without one, for ever.
    pub fn new(inner: S, most: Option<Duration>) -> Self {
        Stalled { inner, most, end: None }
    }

    fn limited<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (written, self.most) {
            (Poll::Pending, Some(most)) => {
                let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(most)));
                end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            (written, _) => {
                self.end = None;
                written
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.limited(context, shut)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn only_who_takes_nothing_at_all_is_given_up() {
        let (near, mut far) = duplex(4);
        let mut stalled = Stalled::new(near, Some(Duration::from_secs(3600)));
        stalled.write_all(&[7; 4]).await.expect("there is room");
        assert!(futures::poll!(pin!(stalled.write_all(&[7]))).is_pending());
        assert!(stalled.end.is_some());
        far.read_exact(&mut [0; 4]).await.expect("read");
        stalled.write_all(&[7]).await.expect("there is room again");
        assert!(stalled.end.is_none(), "the time begins again with each byte that is taken");

        let mut stalled = Stalled::new(stalled.inner, Some(Duration::ZERO));
        let error = stalled.write_all(&[7; 4]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
