//! A client's first words: without them it is a newcomer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{Newcomer, Place};
use crate::stream::writes_through;

/// How a client of HTTP/2 begins, with the header of the frame that follows. Other clients begin otherwise.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GREETING: usize = PREFACE.len() + 9;

impl Newcomer {
    /// Waits for a client's first words: those of HTTP/2, or any others.
    ///
    /// # Errors
    /// [`Late`](super::Late), or the connection's own.
    pub async fn greet<S: AsyncRead + Unpin>(mut self, mut inner: S) -> io::Result<Greeted<S>> {
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
        self.stay()?;
        Ok(Greeted { words: words.freeze(), inner, place: None })
    }
}

/// A connection whose first words were heard; they are read again.
pub struct Greeted<S> {
    words: Bytes,
    inner: S,
    place: Option<Place>,
}

impl<S> Greeted<S> {
    /// It breaks when this place is lost.
    pub fn holding(self, place: Place) -> Self {
        Greeted { place: Some(place), ..self }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.place.as_mut().is_some_and(|place| place.poll_lost(context).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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
    writes_through!(inner);

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::super::{Crowd, Newcomers};
    use super::*;

    /// What is read in the end of a client that says this, and then no more; nothing if that is not enough.
    async fn heard(said: &[u8], closes: bool) -> Option<Vec<u8>> {
        let (here, mut there) = duplex(1 << 10);
        there.write_all(said).await.expect("written");
        if closes {
            there.shutdown().await.expect("closed");
        }
        let newcomers = Newcomers::new(1).within(Duration::from_millis(100));
        let mut greeted = newcomers.enter().greet(here).await.ok()?;
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
    async fn one_that_has_spoken_breaks_when_its_place_is_lost() {
        let (crowd, newcomers) = (Crowd::new(1), Newcomers::new(2));
        let mut held = Vec::new();
        for _ in 0..2 {
            let (here, mut there) = duplex(1 << 10);
            there.write_all(b"G").await.expect("written");
            let greeted = newcomers.enter().greet(here).await.expect("greeted").holding(crowd.enter());
            held.push((greeted, there));
        }
        let ((mut old, _there), (mut new, mut there)) = (held.remove(0), held.remove(0));
        assert_eq!(old.read_u8().await.expect_err("lost").kind(), io::ErrorKind::ConnectionAborted);
        there.write_all(b"E").await.expect("written");
        assert_eq!((new.read_u8().await.expect("kept"), new.read_u8().await.expect("kept")), (b'G', b'E'));
    }
}
