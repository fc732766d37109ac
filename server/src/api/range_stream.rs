//! KV.RangeStream: a range in chunks, so that neither side holds all of it in memory.

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{errors, read_failed};
use crate::error::EtcdError;
use crate::mvcc::range_chunks::{Chunk, RangeChunks};
use crate::node::Node;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader};
use crate::storage::ReadView;

/// The answers of one call.
pub type Chunks = ReceiverStream<Result<RangeStreamResponse, Status>>;

/// The first chunk is small, so that a client has something early; each next is twice as large, up to the last.
const FIRST_CHUNK_BYTES: usize = 16 * 1024;
const LAST_CHUNK_BYTES: usize = 256 * 1024;

/// Chunks read ahead of the client. One that does not read holds up the reading of the next, but no thread.
const CHUNKS_AHEAD: usize = 1;

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

/// Streams the range as of `view`; what follows the first chunk comes from later views, as the client takes it. Header,
/// count and more come with the last chunk only.
///
/// If users and roles are not `unchanged` at the end, the stream is refused then, as in etcd.
pub fn chunks(
    node: Node,
    view: ReadView,
    request: RangeRequest,
    header: ResponseHeader,
    unchanged: impl FnOnce() -> bool + Send + 'static,
) -> Chunks {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        if let Err(status) = send(node, view, request, header, unchanged, &sender).await {
            // The client may have left, too.
            let _ = sender.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver)
}

async fn send(
    node: Node,
    view: ReadView,
    request: RangeRequest,
    header: ResponseHeader,
    unchanged: impl FnOnce() -> bool,
    sender: &mpsc::Sender<Result<RangeStreamResponse, Status>>,
) -> Result<(), Status> {
    let mut range = RangeChunks::new(&view, request);
    let (mut first, mut bytes) = (Some(view), FIRST_CHUNK_BYTES);
    while let Ok(place) = sender.reserve().await {
        let view = first.take().unwrap_or_else(|| node.view());
        let (rest, Chunk { kvs, end }) = read(view, range, bytes).await?;
        let Some(end) = end else {
            place.send(Ok(response(RangeResponse { kvs, ..RangeResponse::default() })));
            range = rest;
            bytes = (bytes * 2).min(LAST_CHUNK_BYTES);
            continue;
        };
        if !unchanged() {
            return Err(EtcdError::AuthOldRevision.into());
        }
        let header = Some(ResponseHeader { revision: end.revision, ..header });
        place.send(Ok(response(RangeResponse { header, kvs, more: end.more, count: end.count })));
        return Ok(());
    }
    tracing::debug!("a client left a range stream before its end");
    Ok(())
}

/// Reads one chunk on a thread for what blocks, which is free again before the client takes it.
async fn read(view: ReadView, mut range: RangeChunks, bytes: usize) -> Result<(RangeChunks, Chunk), Status> {
    let read = spawn_blocking(move || range.next(&view, bytes).map(|chunk| (range, chunk)));
    read.await.map_err(|error| errors::internal("a read was aborted", error))?.map_err(read_failed)
}

fn response(response: RangeResponse) -> RangeStreamResponse {
    RangeStreamResponse { range_response: Some(response) }
}
