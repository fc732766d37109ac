//! etcdserverpb.Watch. What a stream says is made in `watch`; here it gets a door.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};

/// Responses that wait for the connection. Behind them the stream's mailbox fills.
const WAITING_RESPONSES: usize = 16;

#[tonic::async_trait]
impl Watch for Arc<Api> {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(WAITING_RESPONSES);
        let stream = self.node.hub().open(self.node.store().clone());
        // A request that cannot be read ends the client's side; the client learns of its error by itself.
        let requests = request
            .into_inner()
            .take_while(|request| std::future::ready(request.is_ok()))
            .filter_map(|request| std::future::ready(request.ok()));
        // It ends when nobody takes the responses any more.
        tokio::spawn(stream.run(requests, out));
        let api = Arc::clone(self);
        let responses = ReceiverStream::new(responses).map(move |response| {
            let mut response: WatchResponse = response.map_err(Status::from)?;
            api.complete(&mut response.header);
            Ok(response)
        });
        Ok(Response::new(responses.boxed()))
    }
}
