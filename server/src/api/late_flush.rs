//! Fewer and larger writes to a socket. HTTP/2 flushes as soon as one answer is ready, though others follow in a moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

use crate::stream::writes_through;

/// Bytes that wait for a flush at most.
const BUFFER_BYTES: usize = 32 << 10;

/// Tells a connection's stream when the connection is polled. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    /// How many there were.
    count: Arc<AtomicUsize>,
    /// During one.
    running: Arc<AtomicBool>,
}

impl Turns {
    /// Polls the connection.
    pub fn turn<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.running.store(true, Ordering::Relaxed);
        let polled = poll();
        self.running.store(false, Ordering::Relaxed);
        polled
    }
}

/// A stream of HTTP/2 whose flush lets every task that is ready run first: what they answer goes out with it, in the connection's
/// next turn. Whoever flushes meanwhile is told that it was done, and can write more.
pub struct LateFlush<S> {
    inner: BufWriter<S>,
    turns: Turns,
    put_off: Option<usize>,
    /// Whether it speaks HTTP/2, as its first bytes tell. The last words of HTTP/1 before an upgrade have no next turn.
    is_http2: Option<bool>,
}

/// How clients of HTTP/2 begin. One whose first packet is shorter is only served less well.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

impl<S: AsyncWrite> LateFlush<S> {
    /// Writes to `inner`. Out of turn nothing is put off.
    pub fn new(inner: S, turns: Turns) -> Self {
        LateFlush { inner: BufWriter::with_capacity(BUFFER_BYTES, inner), turns, put_off: None, is_http2: None }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LateFlush<S> {
    writes_through!(inner);

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turn = self.turns.count.load(Ordering::Relaxed);
        let may_wait = self.is_http2 == Some(true) && self.turns.running.load(Ordering::Relaxed);
        if may_wait && !self.inner.buffer().is_empty() {
            if self.put_off.is_none() {
                self.put_off = Some(turn);
                context.waker().wake_by_ref();
            }
            if self.put_off == Some(turn) {
                return Poll::Ready(Ok(()));
            }
        }
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.put_off = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LateFlush<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.is_http2.get_or_insert(buffer.filled()[before..].starts_with(PREFACE));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    /// Each write, as the socket gets it.
    struct Socket(Vec<Vec<u8>>, &'static [u8]);

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

    /// Says what a client says first.
    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buffer.put_slice(self.1);
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

    /// A stream whose client has said this first, its turns, and how often it was woken.
    fn stream(first: &'static [u8]) -> (LateFlush<Socket>, Turns, Arc<Woken>) {
        let (woken, turns) = (Arc::new(Woken::default()), Turns::default());
        let mut stream = LateFlush::new(Socket(Vec::new(), first), turns.clone());
        let (mut bytes, waker) = ([0; 64], Waker::noop());
        let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(waker), &mut ReadBuf::new(&mut bytes));
        assert!(read.is_ready());
        (stream, turns, woken)
    }

    /// Writes and flushes; tells how many writes the socket got so far.
    fn put(stream: &mut LateFlush<Socket>, woken: &Arc<Woken>, text: &str) -> usize {
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut *stream).poll_write(&mut context, text.as_bytes()).is_ready());
        assert!(Pin::new(&mut *stream).poll_flush(&mut context).is_ready());
        stream.inner.get_ref().0.len()
    }

    #[test]
    fn what_others_answer_before_the_next_turn_goes_out_with_it() {
        let (mut stream, turns, woken) = stream(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        for round in 1..=2 {
            turns.turn(|| {
                assert_eq!(put(&mut stream, &woken, "one"), round - 1);
                assert_eq!(put(&mut stream, &woken, "two"), round - 1);
            });
            assert_eq!(woken.0.load(Ordering::Relaxed), round, "the next turn comes by itself");
            assert_eq!(turns.turn(|| put(&mut stream, &woken, "three")), round);
        }
        assert_eq!(stream.inner.get_ref().0, vec![b"onetwothree".to_vec(); 2]);
        assert_eq!(put(&mut stream, &woken, "out of turn"), 3, "whoever has taken the connection over flushes at once");
    }

    #[test]
    fn only_http2_has_a_next_turn() {
        let (mut stream, turns, woken) = stream(b"GET /health HTTP/1.1\r\n");
        assert_eq!(turns.turn(|| put(&mut stream, &woken, "switching protocols")), 1);
    }
}
