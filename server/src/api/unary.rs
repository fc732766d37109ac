//! The calls that are asked most, served without what gRPC's machinery needs for streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, request};
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::Api;
use super::messages::PREFIX_BYTES;
use super::services::MAX_ANSWER_BYTES;
use crate::mvcc::range_bytes;
use crate::proto::etcdserverpb::kv_server::Kv;

/// A method of KV that is served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
}

impl Method {
    /// The method with this path, if it is served here.
    pub fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Some(Method::Range),
            "Put" => Some(Method::Put),
            "DeleteRange" => Some(Method::DeleteRange),
            "Txn" => Some(Method::Txn),
            _ => None,
        }
    }

    /// Answers a request. One whose message cannot be decoded goes back.
    pub async fn answer(
        self,
        api: &Api,
        head: request::Parts,
        message: Bytes,
    ) -> Result<Result<Answer, Status>, request::Parts> {
        macro_rules! call {
            () => {{
                let Ok(message) = Message::decode(message) else { return Err(head) };
                let metadata = MetadataMap::from_headers(head.headers);
                tonic::Request::from_parts(metadata, head.extensions, message)
            }};
        }
        Ok(match self {
            Method::Range => {
                let request = call!();
                if range_bytes::serves(request.get_ref()) {
                    // On the heap, for the sake of the others.
                    Box::pin(api.range_bytes(request, PREFIX_BYTES)).await.and_then(Answer::of_pieces)
                } else {
                    api.range(request).await.and_then(Answer::of)
                }
            }
            Method::Put => api.put(call!()).await.and_then(Answer::of),
            Method::DeleteRange => api.delete_range(call!()).await.and_then(Answer::of),
            Method::Txn => api.txn(call!()).await.and_then(Answer::of),
        })
    }
}

/// An answer as it goes out.
pub struct Answer {
    /// The message with its prefix.
    data: Pieces,
    /// What the service has put beside it.
    pub extensions: Extensions,
}

/// A message in pieces: most have one.
struct Pieces {
    first: Option<Bytes>,
    rest: vec::IntoIter<BytesMut>,
}

impl Answer {
    fn of<T: Message>(response: Response<T>) -> Result<Self, Status> {
        let (_, message, extensions) = response.into_parts();
        let prefix = prefix(message.encoded_len())?;
        let mut data = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
        data.put_slice(&prefix);
        message.encode_raw(&mut data);
        Ok(Answer { data: Pieces { first: Some(data.freeze()), rest: Vec::new().into_iter() }, extensions })
    }

    /// The first piece begins with room for the prefix.
    fn of_pieces(response: Response<Vec<BytesMut>>) -> Result<Self, Status> {
        let (_, mut pieces, extensions) = response.into_parts();
        let bytes: usize = pieces.iter().map(BytesMut::len).sum();
        pieces[0][..PREFIX_BYTES].copy_from_slice(&prefix(bytes - PREFIX_BYTES)?);
        Ok(Answer { data: Pieces { first: None, rest: pieces.into_iter() }, extensions })
    }
}

/// What is before an uncompressed message of so many bytes.
fn prefix(length: usize) -> Result<[u8; PREFIX_BYTES], Status> {
    if length > MAX_ANSWER_BYTES {
        let text = format!("grpc: trying to send message larger than max ({length} vs. {MAX_ANSWER_BYTES})");
        return Err(Status::resource_exhausted(text));
    }
    let [a, b, c, d] = (length as u32).to_be_bytes();
    Ok([0, a, b, c, d])
}

/// A request's body of which the first frames were looked at.
pub struct Reread<B: Body> {
    first: Option<Result<Frame<B::Data>, B::Error>>,
    second: Option<Result<Frame<B::Data>, B::Error>>,
    rest: B,
}

impl<B: Body<Data = Bytes> + Unpin> Reread<B> {
    /// Nothing was looked at.
    pub fn new(rest: B) -> Self {
        Reread { first: None, second: None, rest }
    }

    async fn next(&mut self) -> Option<Result<Frame<Bytes>, B::Error>> {
        poll_fn(|context| Pin::new(&mut self.rest).poll_frame(context)).await
    }

    /// The message of a call, if the body is one message that came whole, uncompressed, and not above `most` bytes. All else is
    /// for gRPC's machinery, which finds the body as it was.
    pub async fn message(&mut self, most: usize) -> Option<Bytes> {
        self.first = self.next().await;
        let data = self.first.as_ref()?.as_ref().ok()?.data_ref()?.clone();
        let [compressed, length @ ..] = *data.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 || length > most || data.len() != PREFIX_BYTES + length {
            return None;
        }
        if !self.rest.is_end_stream() {
            self.second = self.next().await;
        }
        self.second.is_none().then(|| data.slice(PREFIX_BYTES..))
    }
}

impl<B> Body for Reread<B>
where
    B: Body<Data = Bytes, Error: Unpin> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(seen) = self.first.take().or_else(|| self.second.take()) {
            return Poll::Ready(Some(seen));
        }
        Pin::new(&mut self.rest).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.second.is_none() && self.rest.is_end_stream()
    }
}

/// Whether a call says that its messages may be compressed.
pub fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity")
}

/// An answer on its way: its message, then its status.
pub struct AnswerBody {
    data: Pieces,
    trailers: Option<HeaderMap>,
}

impl Answer {
    /// What is sent: the message, and that all went well.
    pub fn into_body(self) -> AnswerBody {
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        AnswerBody { data: self.data, trailers: Some(trailers) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Pieces { first, rest } = &mut self.data;
        let data = first.take().or_else(|| rest.next().map(BytesMut::freeze)).map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// What is made of a body that comes in these frames, and what whoever reads on gets.
    async fn read(frames: &[&'static [u8]], most: usize) -> (Option<Bytes>, Bytes) {
        let frames = frames.iter().map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from_static(data))));
        let mut body = Reread::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
        let message = body.message(most).await;
        (message, body.collect().await.expect("no error").to_bytes())
    }

    #[tokio::test]
    async fn whole_messages_are_taken_and_all_else_is_left_as_it_was() {
        let whole: &[u8] = b"\0\0\0\0\x03abc";
        assert_eq!(read(&[whole], 3).await, (Some(Bytes::from_static(b"abc")), Bytes::from_static(whole)));
        assert_eq!(read(&[b"\0\0\0\0\0"], 3).await.0, Some(Bytes::new()));
        let others: [&[&'static [u8]]; 8] = [
            &[],
            &[b"\0\0\0"],
            &[b"\0\0\0\0\x04abcd"],
            &[b"\x01\0\0\0\x03abc"],
            &[b"\0\0\0\0\x03ab"],
            &[b"\0\0\0\0\x03abcd"],
            &[b"\0\0\0\0\x03a", b"bc"],
            &[b"\0\0\0\0\x03abc", b"\0\0\0\0\x01d"],
        ];
        for frames in others {
            assert_eq!(read(frames, 3).await, (None, Bytes::from(frames.concat())), "{frames:?}");
        }
    }
}
