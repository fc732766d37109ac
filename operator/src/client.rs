//! The way to the API server. Each request has a deadline and is counted, and none is repeated here: a pass that fails is made anew
//! from what is then, after a pause, while a repetition would carry out what was decided on an older view.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::RETRY_AFTER;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::{Body, ClientBuilder, DynBody};
use kube::{Client, Config};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use tower::layer::layer_fn;
use tower::{BoxError, Service};

use crate::metrics::Metrics;

/// How long an answer may take, whole; of a watch, its beginning.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the API server of `config`; its connections belong to the runtime in which this is called.
pub fn connect(config: Config, metrics: Arc<Metrics>) -> Result<Client, kube::Error> {
    connect_within(config, metrics, ANSWER_TIMEOUT)
}

fn connect_within(mut config: Config, metrics: Arc<Metrics>, limit: Duration) -> Result<Client, kube::Error> {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let layer = layer_fn(|inner| Bounded { inner, metrics: metrics.clone(), limit });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// Requests that end in time.
struct Bounded<S> {
    inner: S,
    metrics: Arc<Metrics>,
    limit: Duration,
}

/// An answer, and its body as it comes.
type Answer = Response<Box<DynBody>>;

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (metrics, limit) = (self.metrics.clone(), self.limit);
        let method = request.method().clone();
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|it| it == "watch=true"));
        let asked = self.inner.call(request);
        let whole = async move {
            let answer = asked.await?;
            if is_watch { Ok(answer) } else { collect(answer).await }
        };
        let answer = async move {
            let late = || Err(format!("no answer within {} s", limit.as_secs_f32()).into());
            let answer = timeout(limit, whole).await.unwrap_or_else(|_| late());
            let code = answer.as_ref().map_or_else(|_| "none".into(), |it| it.status().as_str().to_string());
            metrics.api_request(method.as_str(), code);
            answer
        };
        answer.boxed()
    }
}

/// The answer with its whole body. For how long the API server wants to be left alone is put into that: errors keep no headers.
async fn collect(answer: Answer) -> Result<Answer, BoxError> {
    let (head, body) = answer.into_parts();
    let mut whole = body.collect().await?.to_bytes();
    let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    if let Some(seconds) = seconds.filter(|_| !head.status.is_success()) {
        let mut told: Map<String, Value> = serde_json::from_slice(&whole).unwrap_or_else(|_| {
            let text = json!(String::from_utf8_lossy(&whole));
            let code = json!(head.status.as_u16());
            let failure =
                [("status", json!("Failure")), ("message", text), ("reason", json!("Refused")), ("code", code)];
            failure.map(|(key, value)| (key.to_string(), value)).into_iter().collect()
        });
        if let Some(details) = told.entry("details").or_insert_with(|| json!({})).as_object_mut() {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        whole = serde_json::to_vec(&told)?.into();
    }
    let whole = Full::new(whole).map_err(|never| -> BoxError { match never {} });
    Ok(Response::from_parts(head, Box::new(whole)))
}

/// For how long the API server asks to be left alone.
pub fn retry_after(error: &kube::Error) -> Duration {
    let kube::Error::Api(status) = error else {
        return Duration::ZERO;
    };
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests;
