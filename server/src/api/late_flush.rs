//! Fewer and larger writes to a socket. HTTP/2 flushes as soon as one answer is ready, though others follow in a moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// Bytes that wait for a flush at most.
const BUFFER_BYTES: usize = 32 << 10;

/// A stream whose flush lets every task that is ready run first: what they answer goes out with it.
pub struct LateFlush<S> {
    inner: BufWriter<S>,
    has_yielded: bool,
}

impl<S: AsyncWrite> LateFlush<S> {
    /// Writes to `inner`.
    pub fn new(inner: S) -> Self {
        LateFlush { inner: BufWriter::with_capacity(BUFFER_BYTES, inner), has_yielded: false }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LateFlush<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_yielded && !self.inner.buffer().is_empty() {
            self.has_yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.has_yielded = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LateFlush<S> {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Each write, as the socket gets it.
    #[derive(Default)]
    struct Socket(Vec<Vec<u8>>);

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_others_answer_before_the_flush_goes_out_with_it() {
        let (woken, mut stream) = (Arc::new(Woken::default()), LateFlush::new(Socket::default()));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut stream = Pin::new(&mut stream);
        for round in 1..=2 {
            assert!(stream.as_mut().poll_write(&mut context, b"one").is_ready());
            assert!(stream.as_mut().poll_flush(&mut context).is_pending());
            assert_eq!(woken.0.load(Ordering::Relaxed), round, "the flush goes on by itself");
            assert!(stream.as_mut().poll_write(&mut context, b"two").is_ready());
            assert!(stream.as_mut().poll_flush(&mut context).is_ready());
            assert_eq!(stream.inner.get_ref().0, vec![b"onetwo".to_vec(); round]);
        }
        assert!(stream.as_mut().poll_flush(&mut context).is_ready(), "nothing to wait for");
    }
}
