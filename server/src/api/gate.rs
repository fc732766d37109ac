//! What every request passes first: gRPC or HTTP, is there a leader, may a learner serve it, and what is counted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use tonic::{Code, Status};

use super::errors::{code_name, in_gos_words};
use super::gateway::Gateway;
use super::held::{self, Counts};
use super::http::plain_error;
use super::listen::Traffic;
use super::messages::{Arriving, Counting, Messages, Tally};
use super::services::{self, Services};
use super::unary::{self, Reread};
use super::{Api, http as http_door};
use crate::auth::PeerCommonName;
use crate::error::EtcdError;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Handled, Method};
use crate::telemetry::requests::ClientRequest;

/// What a learner may serve; of ranges only the serializable ones, which their door sees to.
const FOR_LEARNERS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Whether these are the headers of a call of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Everything behind one port. Clones are cheap; each connection has one.
#[derive(Clone)]
pub struct Gate {
    doors: Arc<Doors>,
    traffic: Traffic,
    secure: bool,
}

/// What all gates share.
struct Doors {
    api: Arc<Api>,
    services: Services,
    http: axum::Router,
    gateway: Option<Arc<Gateway>>,
    methods: HashMap<String, Arc<Counted>>,
}

impl Gate {
    /// The gate to all services of `api`.
    pub fn new(api: Arc<Api>) -> Self {
        let gateway = || Arc::new(Gateway::new(api.limits.max_message_bytes(), api.node.requests()));
        let doors = Doors {
            services: Services::new(&api),
            http: http_door::router(api.clone()),
            gateway: api.limits.json_gateway.then(gateway),
            methods: Counted::table(&api.metrics),
            api,
        };
        Gate { doors: Arc::new(doors), traffic: Traffic::All, secure: false }
    }

    /// The same for a listener that serves only this, perhaps under TLS.
    pub fn behind(self, traffic: Traffic, secure: bool) -> Self {
        Gate { traffic, secure, ..self }
    }

    /// Answers one request.
    pub async fn serve<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError> + Send + Unpin> + Send + Unpin + 'static,
    {
        match (is_grpc(request.headers()), self.traffic) {
            (true, Traffic::All | Traffic::Grpc) => Ok(self.call(request).await),
            (false, Traffic::Grpc) => Ok(not_grpc(request.headers().get(CONTENT_TYPE))),
            _ => Box::pin(self.http(request)).await,
        }
    }

    async fn http<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError> + Send + Unpin> + Send + Unpin + 'static,
    {
        let Doors { api, http, gateway, .. } = &*self.doors;
        if let Some(answer) = api.limits.access.answer(&request, self.secure) {
            return Ok(answer);
        }
        let asked = request.headers().clone();
        let path = request.uri().path();
        let named = request.extensions().get::<PeerCommonName>().is_some_and(|name| !name.0.is_empty());
        let gateway = gateway.clone().filter(|_| path.starts_with("/v3/") || path.starts_with("/v3beta/"));
        let mut response = match gateway {
            Some(_) if named && api.identity.common_names && api.node.store().auth_enabled() => {
                let text =
                    "CommonName of client sending a request against gateway will be ignored and not used as expected";
                return Ok(plain_error(StatusCode::BAD_REQUEST, text));
            }
            Some(gateway) => gateway.answer(self.clone(), request).await,
            None => http_door::answer(http.clone(), request).await?,
        };
        api.limits.access.allow(&asked, response.headers_mut());
        Ok(response)
    }

    /// Answers one gRPC call.
    pub(super) async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError> + Send + Unpin> + Send + Unpin + 'static,
    {
        let Doors { api, services, methods, .. } = &*self.doors;
        let Some(counted) = methods.get(request.uri().path()).cloned() else {
            return services::unknown(request.uri().path()).into_http();
        };
        let needs_leader = request.headers().get("hasleader").is_some_and(|value| value == "true");
        let time_left = time_left(request.headers());
        api.count_client(&counted, request.headers());
        let (service, received) = (counted.service, counted.received.clone());
        let mut call = Call::begin(counted, api);
        if let Err(error) = admit(api, request.uri().path(), needs_leader) {
            return call.refuse(Status::from(error));
        }
        // Until the answer is there: what was decoded shares its bytes.
        let arriving = Arriving::new(api.node.requests());
        let request = request.map(|body| Reread::new(Counting::new(body, received, Arc::clone(&arriving))));
        // Pinned here, it is not moved again.
        let answering = pin!(answer(api, services, service, call.counted.unary, request));
        let response = match time_left {
            None => answering.await,
            // The client has given up by then, but what was not answered in time is counted as that.
            Some(_) => tokio::select! {
                response = answering => response,
                () = over(call.begun, time_left) => return call.refuse(late()),
            },
        };
        match response {
            Ok(Answered::Unary(answer)) => call.answer_unary(answer),
            Ok(Answered::Machinery(response)) => {
                let cut = call.counted.is_stream().then(|| api.clone().cut(needs_leader, call.begun, time_left));
                call.answer(response, cut)
            }
            Err(status) => call.refuse(in_gos_words(status)),
        }
    }
}

enum Answered {
    Unary(unary::Answer),
    Machinery(Response<tonic::body::Body>),
}

/// Lets the service answer, on the short way if there is one.
async fn answer<B>(
    api: &Api,
    services: &Services,
    service: services::Service,
    method: Option<unary::Method>,
    mut request: Request<Reread<B>>,
) -> Result<Answered, Status>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError> + Send + Unpin> + Send + Unpin + 'static,
{
    if let Some(method) = method.filter(|_| !unary::is_compressed(request.headers()))
        && let Some(message) = request.body_mut().message(api.limits.max_message_bytes()).await
    {
        let (head, body) = request.into_parts();
        match method.answer(api, head, message).await {
            Ok(answer) => return answer.map(Answered::Unary),
            Err(head) => request = Request::from_parts(head, body),
        }
    }
    // On the heap: it is larger than the short way.
    Ok(Answered::Machinery(Box::pin(services.call(service, request)).await))
}

/// Whether a method may be called here and now.
fn admit(api: &Api, path: &str, needs_leader: bool) -> Result<(), EtcdError> {
    if !needs_leader && api.is_voter() {
        return Ok(());
    }
    let status = api.node.status();
    if needs_leader && status.leader.is_none() {
        return Err(EtcdError::NoLeader);
    }
    if status.is_learner() && !FOR_LEARNERS.contains(&path) {
        return Err(EtcdError::NotSupportedForLearner);
    }
    Ok(())
}

/// The answer to HTTP where there is none, as gRPC servers give it.
fn not_grpc(kind: Option<&HeaderValue>) -> Response<Body> {
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(Code::InvalidArgument as i32));
    if let Ok(message) = HeaderValue::try_from(format!("invalid gRPC request content-type {kind:?}")) {
        headers.insert("grpc-message", message);
    }
    response
}

/// The time that the client gives a call, by the header that gRPC has for it: up to 8 digits and a unit.
fn time_left(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Returns when the time is over; never without one.
async fn over(begun: Instant, time_left: Option<Duration>) {
    match time_left.and_then(|time| begun.checked_add(time)) {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// The longest version that a client may be counted by: each is a series of its own.
const CLIENT_VERSION_MAX: usize = 24;

impl Api {
    /// Counts a call by what its client says of itself.
    fn count_client(&self, method: &Counted, headers: &HeaderMap) {
        let is_version = |text: &&str| {
            text.len() <= CLIENT_VERSION_MAX
                && text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b".+-".contains(&letter))
        };
        let version = headers.get("client-api-version").and_then(|version| version.to_str().ok());
        let client = ClientRequest {
            r#type: if method.is_stream() { "stream" } else { "unary" },
            client_api_version: version.filter(is_version).unwrap_or("unknown").to_owned(),
        };
        self.metrics.requests.clients.get_or_create(&client).inc();
    }

    fn is_voter(&self) -> bool {
        !self.node.is_learner()
    }

    /// Returns when a stream must end: the server stops, the leader that the client wants has been gone too long, or the
    /// client's time is over.
    async fn cut(self: Arc<Self>, needs_leader: bool, begun: Instant, time_left: Option<Duration>) -> Status {
        tokio::select! {
            () = self.stop.cancelled() => EtcdError::Stopped.into(),
            () = self.leader_lost(), if needs_leader => EtcdError::NoLeader.into(),
            () = over(begun, time_left) => late(),
        }
    }

    async fn leader_lost(&self) {
        let mut status = self.node.watch_status();
        loop {
            if status.wait_for(|status| status.leader.is_none()).await.is_err() {
                // The node has stopped, and says so otherwise.
                return std::future::pending().await;
            }
            let found = status.wait_for(|status| status.leader.is_some());
            if tokio::time::timeout(self.limits.leader_loss, found).await.is_err() {
                return;
            }
        }
    }
}

/// A method's metrics, looked up once.
struct Counted {
    service: services::Service,
    unary: Option<unary::Method>,
    method: Method,
    path: String,
    started: Counter,
    ok: Counter,
    received: Tally,
    sent: Tally,
    seconds: Option<Histogram>,
}

impl Counted {
    fn table(metrics: &Metrics) -> HashMap<String, Arc<Self>> {
        let mut table = HashMap::new();
        for (kind, service, methods) in services::METHODS {
            for name in *methods {
                let method =
                    Method { grpc_type: kind, grpc_service: service.name().to_owned(), grpc_method: name.to_string() };
                let path = format!("/{}/{name}", service.name());
                let counted = Counted {
                    service: *service,
                    unary: unary::Method::of(&path),
                    started: metrics.grpc_started.get_or_create_owned(&method),
                    received: Tally {
                        messages: metrics.requests.messages_received.get_or_create_owned(&method),
                        bytes: metrics.client_received_bytes.clone(),
                    },
                    sent: Tally {
                        messages: metrics.requests.messages_sent.get_or_create_owned(&method),
                        bytes: metrics.client_sent_bytes.clone(),
                    },
                    ok: metrics.grpc_handled.get_or_create_owned(&handled(&method, Code::Ok)),
                    seconds: metrics.grpc_seconds.as_ref().map(|family| family.get_or_create_owned(&method)),
                    path: path.clone(),
                    method,
                };
                table.insert(path, Arc::new(counted));
            }
        }
        table
    }

    fn is_stream(&self) -> bool {
        self.method.grpc_type != "unary"
    }
}

fn handled(method: &Method, code: Code) -> Handled {
    Handled {
        grpc_type: method.grpc_type,
        grpc_service: method.grpc_service.clone(),
        grpc_method: method.grpc_method.clone(),
        grpc_code: code_name(code),
    }
}

/// One call from its begin to its status.
struct Call {
    counted: Arc<Counted>,
    api: Arc<Api>,
    begun: Instant,
    finished: bool,
}

impl Call {
    fn begin(counted: Arc<Counted>, api: &Arc<Api>) -> Self {
        counted.started.inc();
        Call { counted, api: api.clone(), begun: Instant::now(), finished: false }
    }

    fn refuse(&mut self, status: Status) -> Response<Body> {
        self.finish(status.code());
        status.into_http()
    }

    fn answer_unary(self, mut answer: unary::Answer) -> Response<Body> {
        let extensions = std::mem::take(&mut answer.extensions);
        let (inner, sent) = (answer.into_body(), self.counted.sent.clone());
        let body = CallBody { inner, messages: Messages::new(sent), call: self, cut: None };
        let mut response = held::answer(body, Counts::whole(&extensions), extensions);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    fn answer(
        mut self,
        response: Response<tonic::body::Body>,
        cut: Option<impl Future<Output = Status> + Send + 'static>,
    ) -> Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            return self.refuse(in_gos_words(status));
        }
        let cut = cut.map(|cut| Box::pin(cut) as Pin<Box<dyn Future<Output = Status> + Send>>);
        let messages = Messages::new(self.counted.sent.clone());
        let is_watch = self.counted.service == services::Service::Watch;
        let events = is_watch.then(|| Counts::Pieces(self.api.node.hub().options().budget.clone()));
        let (head, inner) = response.into_parts();
        let counts = Counts::whole(&head.extensions).or(events);
        let mut response = held::answer(CallBody { inner, messages, call: self, cut }, counts, head.extensions);
        *response.headers_mut() = head.headers;
        response
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        match code {
            Code::Ok => drop(self.counted.ok.inc()),
            code => {
                let labels = handled(&self.counted.method, code);
                self.api.metrics.grpc_handled.get_or_create(&labels).inc();
            }
        }
        let took = self.begun.elapsed();
        if let Some(seconds) = &self.counted.seconds {
            seconds.observe(took.as_secs_f64());
        }
        if !self.counted.is_stream() && took > self.api.limits.slow_request {
            self.api.metrics.slow_requests.inc();
            let took_ms = took.as_millis() as u64;
            tracing::warn!(method = self.counted.path, took_ms, code = code_name(code), "a request took long");
        }
    }
}

impl Drop for Call {
    /// Nobody waited for the status: the client has cancelled or is gone.
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

/// An answer on its way out; sees its status pass, and ends it early when it must.
struct CallBody<B> {
    inner: B,
    messages: Messages,
    call: Call,
    cut: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
}

impl<B> CallBody<B> {
    /// Ends the answer with this status.
    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.call.finish(status.code());
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(added.is_ok().then(|| Ok(Frame::trailers(trailers))))
    }
}

impl<B: hyper::body::Body<Data = Bytes, Error = Status> + Unpin> hyper::body::Body for CallBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.call.finished {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.messages.pass(data);
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            let status = Status::from_header_map(trailers);
            let status = status.unwrap_or_else(|| Status::unknown("an answer without a status"));
            // An answer that is too large is refused behind the headers.
            if status.code() == Code::OutOfRange {
                return self.end(in_gos_words(status));
            }
            self.call.finish(status.code());
        }
        if polled.is_pending()
            && let Some(cut) = &mut self.cut
            && let Poll::Ready(status) = cut.as_mut().poll(context)
        {
            return self.end(status);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_time_is_read_as_grpc_writes_it() {
        for (text, time) in [
            ("1500m", Some(Duration::from_millis(1500))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-1S", None),
        ] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().expect("a header's value"),
            )]);
            assert_eq!(time_left(&headers), time, "{text}");
        }
    }
}
