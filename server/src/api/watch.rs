//! etcdserverpb.Watch. What a stream says is made in `watch`; here it gets a door.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::errors::{in_gos_error, in_gos_words};
use crate::auth::Credentials;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};
use crate::watch::{Asked, Interest};

/// Responses that wait for the connection. Behind them the stream's mailbox fills.
const WAITING_RESPONSES: usize = 16;

/// The requests up to the first that cannot be read, whose error goes to `broken`.
fn until_broken(
    api: Arc<Api>,
    credentials: Credentials,
    requests: Streaming<WatchRequest>,
    broken: oneshot::Sender<Status>,
) -> impl Stream<Item = Asked> {
    let state = (api, credentials, requests, Some(broken));
    futures::stream::unfold(state, |(api, credentials, mut requests, mut broken)| async {
        match requests.message().await {
            Ok(request) => {
                let request = request?;
                let refusal = api.watch_refusal(&credentials, &request).await.map(in_gos_error);
                Some((Asked { request, refusal }, (api, credentials, requests, broken)))
            }
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

impl Api {
    /// Why a watcher may not be created: a watch shows all keys of its range, also those that come later.
    async fn watch_refusal(&self, credentials: &Credentials, request: &WatchRequest) -> Option<EtcdError> {
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
            return None;
        };
        if !self.node.store().auth_enabled() {
            return None;
        }
        let key = Interest::first_key(create);
        match self.caller(credentials).await {
            Ok(caller) => self.access(caller.as_ref(), |access| access.read(&key, &create.range_end)).err(),
            Err(error) => Some(error),
        }
    }
}

#[tonic::async_trait]
impl Watch for Arc<Api> {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(WAITING_RESPONSES);
        let stream = self.node.hub().open(self.node.store().clone());
        let (broken, breaks) = oneshot::channel();
        // For as long as the stream lives: each watcher that is created is checked anew.
        let credentials = Credentials::of(request.metadata(), request.extensions());
        let requests = until_broken(Arc::clone(self), credentials, request.into_inner(), broken);
        // It ends when nobody takes the responses any more.
        tokio::spawn(stream.run(requests, out));
        let api = Arc::clone(self);
        let responses = ReceiverStream::new(responses).map(move |response| {
            let mut response = response.map_err(Status::from)?.response;
            api.complete(&mut response.header);
            Ok(response)
        });
        // A request that cannot be read (it is too large, say) ends the stream; that no more come does not.
        let breaks =
            breaks.into_stream().filter_map(|broken| std::future::ready(broken.ok().map(in_gos_words).map(Err)));
        Ok(Response::new(futures::stream::select(breaks, responses).boxed()))
    }
}
