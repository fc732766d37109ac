//! Connections that begin: bounded in time and number until they have said something, so that silent ones cannot keep
//! others out.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Time for one step: a handshake and the check of addresses behind it, or the first words.
const LIMIT: Duration = Duration::from_secs(10);
/// As many of one listener at a time. The oldest makes room for a new one.
const MOST: usize = 512;

/// How a client of HTTP/2 begins, with the header of the frame that follows. Other clients begin otherwise.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GREETING: usize = PREFACE.len() + 9;

/// Why a connection is given up that has not said enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Late {
    /// In Go's words.
    #[error("i/o timeout")]
    TimeIsOver,
    /// Others came.
    #[error("more than {0} connections begin at once")]
    Crowded(usize),
}

/// Newcomers of one listener; clones share the bound.
#[derive(Clone)]
pub struct Newcomers {
    pub(crate) limit: Duration,
    most: usize,
    pending: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
}

impl Newcomers {
    /// As many at once, and no more than the usual number.
    pub fn new(most: usize) -> Self {
        Newcomers { limit: LIMIT, most: most.clamp(1, MOST), pending: Arc::default() }
    }

    /// Does one step of a connection's begin.
    pub async fn during<T>(&self, step: impl Future<Output = T>) -> Result<T, Late> {
        let evicted = self.enter();
        tokio::select! {
            done = tokio::time::timeout(self.limit, step) => done.map_err(|_| Late::TimeIsOver),
            _ = evicted => Err(Late::Crowded(self.most)),
        }
    }

    /// Takes a place; the receiver ends when another one needs it.
    fn enter(&self) -> oneshot::Receiver<()> {
        let (place, evicted) = oneshot::channel();
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        if pending.len() >= self.most {
            pending.retain(|place| !place.is_closed());
        }
        if pending.len() >= self.most {
            pending.pop_front();
        }
        pending.push_back(place);
        evicted
    }

    /// Waits for a client's first words: those of HTTP/2, or any others.
    pub async fn greet<S: AsyncRead + Unpin>(&self, mut inner: S) -> io::Result<Greeted<S>> {
        let mut words = BytesMut::with_capacity(GREETING);
        let listening = async {
            while words.len() < GREETING && words.iter().zip(PREFACE).all(|(said, expected)| said == expected) {
                let room = GREETING - words.len();
                if inner.read_buf(&mut (&mut words).limit(room)).await? == 0 {
                    break;
                }
            }
            Ok::<_, io::Error>(())
        };
        self.during(listening).await.map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late))??;
        Ok(Greeted { words: words.freeze(), inner })
    }
}

/// A connection whose first words were heard; they are read again.
pub struct Greeted<S> {
    words: Bytes,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.words.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let count = self.words.len().min(buffer.remaining());
        buffer.put_slice(&self.words[..count]);
        self.words.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
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
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// What is read in the end of a client that says this, and then no more; nothing if that is not enough.
    async fn heard(said: &[u8], closes: bool) -> Option<Vec<u8>> {
        let (here, mut there) = duplex(1 << 10);
        there.write_all(said).await.expect("written");
        if closes {
            there.shutdown().await.expect("closed");
        }
        let newcomers = Newcomers { limit: Duration::from_millis(100), ..Newcomers::new(1) };
        let mut greeted = newcomers.greet(here).await.ok()?;
        drop(there);
        let mut read = Vec::new();
        greeted.read_to_end(&mut read).await.expect("read");
        Some(read)
    }

    #[tokio::test]
    async fn first_words_are_waited_for_and_kept() {
        let settings = [PREFACE, b"\0\0\0\x04\0\0\0\0\0 and more"].concat();
        for (said, is_enough) in [
            (&b""[..], false),
            (b"P", false),
            (PREFACE, false),
            (&settings[..GREETING - 1], false),
            (&settings[..GREETING], true),
            (&settings, true),
            (b"G", true),
            (b"POST /v3/kv/put HTTP/1.1\r\n", true),
            (b"PRI * HTTP/1.1", true),
        ] {
            assert_eq!(heard(said, false).await, is_enough.then(|| said.to_vec()), "{}", said.escape_ascii());
            assert_eq!(heard(said, true).await.as_deref(), Some(said), "{}", said.escape_ascii());
        }
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let newcomers = Newcomers { limit: Duration::from_secs(1), ..Newcomers::new(3) };
        let silent = || {
            let newcomers = newcomers.clone();
            tokio::spawn(async move { newcomers.during(std::future::pending::<()>()).await })
        };
        let mut waiting = Vec::new();
        for _ in 0..5 {
            waiting.push(silent());
            tokio::task::yield_now().await;
        }
        // One that is done is no newcomer any more.
        assert_eq!(newcomers.during(std::future::ready(7)).await, Ok(7));
        let last = waiting.split_off(3);
        for evicted in waiting {
            assert_eq!(evicted.await.expect("no panic"), Err(Late::Crowded(3)));
        }
        for late in last {
            assert_eq!(late.await.expect("no panic"), Err(Late::TimeIsOver));
        }
    }
}
