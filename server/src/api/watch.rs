//! etcdserverpb.Watch. What a stream says is made in `watch`; here it gets a door.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::errors::in_gos_words;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};

/// Responses that wait for the connection. Behind them the stream's mailbox fills.
const WAITING_RESPONSES: usize = 16;

/// The requests up to the first that cannot be read, whose error goes to `broken`.
fn until_broken(
    requests: Streaming<WatchRequest>,
    broken: oneshot::Sender<Status>,
) -> impl Stream<Item = WatchRequest> {
    futures::stream::unfold((requests, Some(broken)), |(mut requests, mut broken)| async {
        match requests.message().await {
            Ok(request) => Some((request?, (requests, broken))),
            Err(status) => {
                if let Some(broken) = broken.take() {
                    // The client may be gone.
                    let _ = broken.send(status);
                }
                None
            }
        }
    })
}

#[tonic::async_trait]
impl Watch for Arc<Api> {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(WAITING_RESPONSES);
        let stream = self.node.hub().open(self.node.store().clone());
        let (broken, breaks) = oneshot::channel();
        let requests = until_broken(request.into_inner(), broken);
        // It ends when nobody takes the responses any more.
        tokio::spawn(stream.run(requests, out));
        let api = Arc::clone(self);
        let responses = ReceiverStream::new(responses).map(move |response| {
            let mut response: WatchResponse = response.map_err(Status::from)?;
            api.complete(&mut response.header);
            Ok(response)
        });
        // A request that cannot be read (it is too large, say) ends the stream; that no more come does not.
        let breaks =
            breaks.into_stream().filter_map(|broken| std::future::ready(broken.ok().map(in_gos_words).map(Err)));
        Ok(Response::new(futures::stream::select(breaks, responses).boxed()))
    }
}
