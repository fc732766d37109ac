//! The JSON gateway: POST under `/v3`, each path an RPC.
//!
//! It knows no RPC. By the API's descriptors it turns JSON into the message that a gRPC client would send, calls the gate
//! as such a client does, so that everything holds for it that holds for them, and turns the answer into JSON. A call
//! carries nothing of the connection that it came on, so a client certificate never says who calls.

mod headers;
mod json;
mod message;
mod reply;
mod routes;
mod websocket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::Status;
use tonic::client::Grpc;
use tower::util::BoxCloneSyncService;

use super::Gate;
use super::messages::STEP_BYTES;
use crate::budget::{self, Budget, Share};
use crate::error::EtcdError;
use crate::proto::DESCRIPTORS;
use message::Messages;

/// Base64 takes four bytes for three, and JSON a little more.
const JSON_OVERHEAD: usize = 2;

/// The routes, and how large a request may be.
pub struct Gateway {
    routes: HashMap<String, Route>,
    max_body_bytes: usize,
    requests: Arc<Budget>,
}

struct Route {
    method: MethodDescriptor,
    rpc: PathAndQuery,
}

impl Gateway {
    /// A gateway to all RPCs that have a path, for messages up to a size, and the memory for requests.
    pub fn new(max_message_bytes: usize, requests: &Arc<Budget>) -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build has written descriptors");
        let routes = routes::ROUTES.iter().filter_map(|(path, rpc)| {
            let (service, name) = rpc.split_once('/')?;
            let method = pool.get_service_by_name(service)?.methods().find(|method| method.name() == name)?;
            let rpc = PathAndQuery::try_from(format!("/{rpc}")).ok()?;
            Some((format!("/v3{path}"), Route { method, rpc }))
        });
        let max_body_bytes = max_message_bytes.saturating_mul(JSON_OVERHEAD);
        Gateway { routes: routes.collect(), max_body_bytes, requests: requests.clone() }
    }

    /// Answers one request, whose path is below `/v3/` or `/v3beta/`, or opens a websocket for one.
    pub async fn answer<B>(self: Arc<Self>, gate: Gate, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        if websocket::is_asked_for(request.headers()) {
            let (head, _) = request.into_parts();
            let max_message_bytes = self.max_body_bytes;
            let answer = move |request| async move { self.respond(gate, request).await };
            return websocket::open(head, max_message_bytes, answer).await;
        }
        self.respond(gate, request).await
    }

    async fn respond<B>(&self, gate: Gate, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        // An old name of the same.
        let path = request.uri().path().replacen("/v3beta/", "/v3/", 1);
        let Some(route) = self.routes.get(&path) else {
            return reply::error(&Status::not_found("Not Found"));
        };
        if request.method() != Method::POST {
            return reply::error(&Status::unimplemented("Method Not Allowed"));
        }
        let streams = route.method.is_client_streaming() || route.method.is_server_streaming();
        let answered = match streams {
            false => self.unary(gate, route, request).await,
            true => self.stream(gate, route, request).await,
        };
        answered.unwrap_or_else(|status| reply::error(&status))
    }

    async fn unary<B>(&self, gate: Gate, route: &Route, request: Request<B>) -> Result<Response<Body>, Status>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        let metadata = headers::metadata(&request)?;
        let message = self.only_message(route, request.into_body()).await?;
        let call = tonic::Request::from_parts(metadata, Default::default(), message);
        let mut client = client(gate);
        let answer = client.unary(call, route.rpc.clone(), Messages(route.method.output())).await?;
        let held = answer.extensions().get::<Arc<Share>>().cloned();
        let reply = reply::message(&answer.into_inner());
        Ok(match held {
            Some(share) => reply.map(|text| {
                Body::new(text.map_frame(move |frame| frame.map_data(|text| budget::shared(text, share.clone()))))
            }),
            None => reply,
        })
    }

    async fn stream<B>(&self, gate: Gate, route: &Route, request: Request<B>) -> Result<Response<Body>, Status>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        let metadata = headers::metadata(&request)?;
        let messages = match route.method.is_client_streaming() {
            true => self.messages(route, request.into_body()).boxed(),
            false => futures::stream::iter([self.only_message(route, request.into_body()).await?]).boxed(),
        };
        let call = tonic::Request::from_parts(metadata, Default::default(), messages);
        let mut client = client(gate);
        let answered = client.streaming(call, route.rpc.clone(), Messages(route.method.output())).await;
        Ok(match answered {
            Ok(answers) => reply::stream(answers.into_inner()).await,
            Err(status) => reply::stream(futures::stream::iter([Err(status)])).await,
        })
    }

    /// The first message of a body, which may go on; an empty body is an empty message.
    async fn only_message<B>(&self, route: &Route, body: B) -> Result<DynamicMessage, Status>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        let mut values = std::pin::pin!(json::values(body, self.max_body_bytes, self.requests.share(STEP_BYTES)));
        let message = match values.next().await {
            Some(value) => value.and_then(|value| json::parse(route.method.input(), &value)),
            None => Ok(DynamicMessage::new(route.method.input())),
        };
        message.map_err(|error| match error {
            json::JsonError::TooLarge(_) => Status::resource_exhausted("grpc: received message larger than max"),
            json::JsonError::NoMemory => EtcdError::RequestTooManyRequests.into(),
            error => Status::invalid_argument(error.to_string()),
        })
    }

    /// The messages of a body as they come. One that cannot be read ends them, as the end of the body does.
    fn messages<B>(&self, route: &Route, body: B) -> impl Stream<Item = DynamicMessage> + Send + 'static
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        let input = route.method.input();
        json::values(body, self.max_body_bytes, self.requests.share(STEP_BYTES))
            .map(move |value| value.and_then(|value| json::parse(input.clone(), &value)))
            .scan((), |(), message| {
                let message = message.inspect_err(|error| tracing::debug!(%error, "a stream of JSON ends"));
                std::future::ready(message.ok())
            })
    }
}

/// A gRPC client whose connection is the gate.
fn client(gate: Gate) -> Grpc<BoxCloneSyncService<Request<tonic::body::Body>, Response<Body>, Infallible>> {
    let calls = tower::service_fn(move |request| {
        let gate = gate.clone();
        async move { Ok(gate.call(request).await) }
    });
    Grpc::new(BoxCloneSyncService::new(calls)).max_decoding_message_size(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_lead_to_rpcs() {
        let gateway = Gateway::new(1024, &Budget::new(1024));
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        for (path, rpc) in routes::ROUTES {
            let (service, _) = rpc.split_once('/').expect("a service and a method");
            let served = pool.get_service_by_name(service).is_some();
            assert_eq!(gateway.routes.contains_key(&format!("/v3{path}")), served, "{path}");
        }
    }
}
