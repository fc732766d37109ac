//! KV.RangeStream: a range in chunks, so that neither side holds all of it in memory.

use std::ops::ControlFlow;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::read_failed;
use crate::error::EtcdError;
use crate::mvcc::KeyValue;
use crate::mvcc::range::stream;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader};
use crate::storage::ReadView;

/// The answers of one call.
pub type Chunks = ReceiverStream<Result<RangeStreamResponse, Status>>;

/// The first chunk is small, so that a client has something early; each next is twice as large, up to the last.
const FIRST_CHUNK_BYTES: usize = 16 * 1024;
const LAST_CHUNK_BYTES: usize = 1024 * 1024;

/// Chunks that wait for the client; the walk stops meanwhile.
const CHUNKS_WAITING: usize = 2;

/// Sorts and revision filters would need the whole range first.
pub fn check(request: &RangeRequest) -> Result<(), Status> {
    let in_key_order = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !in_key_order {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    match filters == [0; 4] {
        true => Ok(()),
        false => Err(Status::unimplemented("RangeStream does not support revision filters")),
    }
}

/// Streams what `view` holds. Header, count and more come with the last chunk only.
///
/// If users and roles are not `unchanged` at the end, the stream is refused then, as in etcd.
pub fn chunks(
    view: ReadView,
    request: RangeRequest,
    header: ResponseHeader,
    unchanged: impl FnOnce() -> bool + Send + 'static,
) -> Chunks {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    tokio::task::spawn_blocking(move || walk(&view, &request, header, unchanged, &sender));
    ReceiverStream::new(receiver)
}

fn walk(
    view: &ReadView,
    request: &RangeRequest,
    header: ResponseHeader,
    unchanged: impl FnOnce() -> bool,
    sender: &mpsc::Sender<Result<RangeStreamResponse, Status>>,
) {
    let mut kvs: Vec<KeyValue> = Vec::new();
    let (mut bytes, mut chunk_bytes) = (0, FIRST_CHUNK_BYTES);
    let streamed = stream(view, request, |mut kv| {
        if request.keys_only {
            kv.value.clear();
        }
        bytes += kv.encoded_len();
        kvs.push(kv);
        if bytes < chunk_bytes {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        chunk_bytes = (chunk_bytes * 2).min(LAST_CHUNK_BYTES);
        let response = RangeResponse { kvs: std::mem::take(&mut kvs), ..RangeResponse::default() };
        // The client may have gone; then nobody waits for the rest.
        match sender.blocking_send(Ok(chunk(response))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let streamed = streamed.map_err(read_failed);
    let still_permitted = streamed.and_then(|streamed| match unchanged() {
        true => Ok(streamed),
        false => Err(EtcdError::AuthOldRevision.into()),
    });
    let last = still_permitted.map(|streamed| {
        chunk(RangeResponse {
            header: Some(ResponseHeader { revision: streamed.revision, ..header }),
            kvs,
            more: streamed.more,
            count: streamed.count,
        })
    });
    if sender.blocking_send(last).is_err() {
        tracing::debug!("a client left a range stream before its end");
    }
}

fn chunk(response: RangeResponse) -> RangeStreamResponse {
    RangeStreamResponse { range_response: Some(response) }
}
