//! The answer to a range as the bytes that a client gets: what the store lends is copied once.

use std::ops::ControlFlow;

use bytes::{BufMut, BytesMut};
use prost::Message;
use prost::encoding::{WireType, bool, encode_key, encode_varint, encoded_len_varint, int64, key_len, message};

use super::range::{Asked, Found, Room, walk};
use super::{ReadError, View};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, ResponseHeader};

/// Bytes of the first piece, and of the largest ones; each has twice the room of the one before.
const PIECE_BYTES: (usize, usize) = (4 << 10, 256 << 10);

/// Whether the request asks for several keys in the order that they have in the store.
pub fn serves(request: &RangeRequest) -> bool {
    let ordered = request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend;
    ordered && !request.range_end.is_empty()
}

/// An encoded `RangeResponse` that lacks its header.
pub struct RangeBytes {
    /// The store's revision.
    pub revision: i64,
    /// The answer in pieces, the first of which begins with as many bytes as were asked for.
    pieces: Vec<BytesMut>,
}

impl RangeBytes {
    /// The pieces, complete with the header.
    pub fn with(mut self, header: &ResponseHeader) -> Vec<BytesMut> {
        let last = room(&mut self.pieces, 1 + header.encoded_len() + 1);
        message::encode(1, header, last);
        self.pieces
    }
}

/// Answers a Range request that [`serves`] takes, as long as there is room for the answer, behind `prefix` zeros.
pub fn range<V: View>(
    view: &V,
    request: &RangeRequest,
    prefix: usize,
    may_take: &mut Room<'_>,
) -> Result<RangeBytes, ReadError> {
    let revision = view.revision();
    let Asked { at, keys, wanted, count: known } = Asked::of(view, request)?;
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let mut pieces = vec![BytesMut::with_capacity(PIECE_BYTES.0)];
    pieces[0].put_bytes(0, prefix);
    let (mut written, mut more, mut full) = (0, false, false);
    let mut counted = 0;
    if known.is_none() || wanted.limit > 0 {
        counted = walk(view, &keys, at, &wanted, |found| {
            more = written == limit;
            if more {
                return if known.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            let (body, field) = found.encoded_len();
            full = !may_take(field);
            if full {
                return ControlFlow::Break(());
            }
            found.encode(body, room(&mut pieces, field));
            written += 1;
            ControlFlow::Continue(())
        })?;
    }
    if full {
        return Err(EtcdError::RequestTooManyRequests.into());
    }
    let count = known.unwrap_or(counted);
    let last = room(&mut pieces, 2 + int64::encoded_len(4, &count));
    if more {
        bool::encode(3, &more, last);
    }
    if count != 0 {
        int64::encode(4, &count, last);
    }
    Ok(RangeBytes { revision, pieces })
}

/// A piece with room for so many bytes: the last one, or a new one.
fn room(pieces: &mut Vec<BytesMut>, bytes: usize) -> &mut BytesMut {
    let last = pieces.last().map_or(0, BytesMut::capacity);
    if pieces.last().is_none_or(|piece| piece.capacity() - piece.len() < bytes) {
        let size = (last * 2).clamp(PIECE_BYTES.0, PIECE_BYTES.1);
        pieces.push(BytesMut::with_capacity(size.max(bytes)));
    }
    pieces.last_mut().expect("there is one")
}

impl Found<'_> {
    /// The bytes of the key-value, and of the field of the answer that it becomes.
    fn encoded_len(&self) -> (usize, usize) {
        let text = |tag, text: &[u8]| match text.len() {
            0 => 0,
            bytes => key_len(tag) + encoded_len_varint(bytes as u64) + bytes,
        };
        let number = |tag, value: i64| if value == 0 { 0 } else { int64::encoded_len(tag, &value) };
        let body = text(1, self.key)
            + number(2, self.create_revision)
            + number(3, self.mod_revision)
            + number(4, self.version)
            + text(5, &self.value)
            + number(6, self.lease);
        (body, key_len(2) + encoded_len_varint(body as u64) + body)
    }

    /// Appends the field, of which the key-value takes `body` bytes.
    fn encode(&self, body: usize, out: &mut BytesMut) {
        fn text(tag: u32, text: &[u8], out: &mut BytesMut) {
            if !text.is_empty() {
                encode_key(tag, WireType::LengthDelimited, out);
                encode_varint(text.len() as u64, out);
                out.put_slice(text);
            }
        }
        fn number(tag: u32, value: i64, out: &mut BytesMut) {
            if value != 0 {
                int64::encode(tag, &value, out);
            }
        }
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(body as u64, out);
        text(1, self.key, out);
        number(2, self.create_revision, out);
        number(3, self.mod_revision, out);
        number(4, self.version, out);
        text(5, &self.value, out);
        number(6, self.lease, out);
    }
}
