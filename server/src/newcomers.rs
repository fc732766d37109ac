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
use tokio::sync::{Notify, oneshot};

/// Time for one step: a handshake and the check of addresses behind it, or the first words.
const LIMIT: Duration = Duration::from_secs(10);
/// As many at a time. The oldest makes room for a new one.
const MOST: usize = 512;

/// How a client of HTTP/2 begins, with the header of the frame that follows. Other clients begin otherwise.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GREETING: usize = PREFACE.len() + 9;

const LOCK: &str = "no holder of this lock panics";

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

impl From<Late> for io::Error {
    fn from(late: Late) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, late)
    }
}

/// Newcomers that share a bound, as clones do.
#[derive(Clone)]
pub struct Newcomers {
    limit: Duration,
    most: usize,
    pending: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
    entered: Arc<Notify>,
}

impl Newcomers {
    /// As many at once, and no more than the usual number.
    pub fn new(most: usize) -> Self {
        Newcomers { limit: LIMIT, most: most.clamp(1, MOST), pending: Arc::default(), entered: Arc::default() }
    }

    /// With another limit.
    #[cfg(test)]
    pub(crate) fn within(self, limit: Duration) -> Self {
        Newcomers { limit, ..self }
    }

    /// Does one step of a connection's begin.
    pub async fn during<T>(&self, step: impl Future<Output = T>) -> Result<T, Late> {
        let mut evicted = self.enter();
        let done = tokio::select! {
            biased;
            _ = &mut evicted => return Err(Late::Crowded(self.most)),
            done = tokio::time::timeout(self.limit, step) => done.map_err(|_| Late::TimeIsOver),
        };
        // Whoever was made to leave leaves, even if it was about to be done: somebody waits for its place.
        evicted.close();
        match evicted.try_recv() {
            Ok(()) => Err(Late::Crowded(self.most)),
            Err(_) => done,
        }
    }

    /// Takes a place; the receiver hears when another one needs it.
    fn enter(&self) -> oneshot::Receiver<()> {
        let (place, evicted) = oneshot::channel();
        let mut pending = self.pending.lock().expect(LOCK);
        if pending.len() >= self.most {
            pending.retain(|place| !place.is_closed());
        }
        if pending.len() >= self.most {
            evict_oldest(&mut pending);
        }
        pending.push_back(place);
        self.entered.notify_waiters();
        evicted
    }

    /// The oldest gives its place to one that could not be accepted yet; if there is none now, the next one does.
    pub async fn make_room(&self) {
        loop {
            let entered = self.entered.notified();
            if evict_oldest(&mut self.pending.lock().expect(LOCK)) {
                return;
            }
            entered.await;
        }
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
        self.during(listening).await??;
        Ok(Greeted { words: words.freeze(), inner })
    }
}

/// Whether there was one.
fn evict_oldest(pending: &mut VecDeque<oneshot::Sender<()>>) -> bool {
    while let Some(place) = pending.pop_front() {
        if place.send(()).is_ok() {
            return true;
        }
    }
    false
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
        let newcomers = Newcomers::new(1).within(Duration::from_millis(100));
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
        let newcomers = Newcomers::new(3).within(Duration::from_secs(1));
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
        newcomers.make_room().await;
        let last = waiting.split_off(4);
        for evicted in waiting {
            assert_eq!(evicted.await.expect("no panic"), Err(Late::Crowded(3)));
        }
        for late in last {
            assert_eq!(late.await.expect("no panic"), Err(Late::TimeIsOver));
        }
    }
}
