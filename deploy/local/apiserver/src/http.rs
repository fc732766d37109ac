//! The door: TLS on TCP and on a unix socket, the token, routing, and answers in the form that the client accepts.

use crate::App;
use crate::object::Part;
use crate::patch::PatchType;
use crate::protobuf;
use crate::rbac::Identity;
use crate::request::{Form, Query, Target};
use crate::status::{ApiError, ApiResult};
use crate::table;
use crate::verbs::{ATTEMPTS, Answer, DeleteOptions, WriteOptions};
use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

/// What handlers answer with.
pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// Larger bodies are refused (a real API server allows 3 MiB).
const MAX_BODY_BYTES: usize = 8 << 20;

/// Accepts connections on both sockets until one of them fails.
pub async fn listen(app: Arc<App>, tls: Arc<ServerConfig>) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let tcp =
        TcpListener::bind(app.config.listen).await.with_context(|| format!("listening on {}", app.config.listen))?;
    let path = &app.config.unix_socket;
    // A socket left by an earlier run refuses to be bound again.
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    let unix = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    app.bootstrap().await.map_err(|error| anyhow::anyhow!("creating the first objects: {}", error.message))?;
    tracing::info!(address = %app.config.listen, "serving the Kubernetes API");
    loop {
        tokio::select! {
            accepted = tcp.accept() => {
                let (stream, _) = accepted.context("accepting a connection")?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "set_nodelay failed");
                }
                tokio::spawn(connection(app.clone(), acceptor.clone(), stream));
            }
            accepted = unix.accept() => {
                let (stream, _) = accepted.context("accepting a connection")?;
                tokio::spawn(connection(app.clone(), acceptor.clone(), stream));
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(app: Arc<App>, tls: TlsAcceptor, stream: S) {
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
    };
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(app, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1000);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = handle(app, request).await.unwrap_or_else(|error| error_response(&error));
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    response
}

/// The response to a failure.
pub fn error_response(error: &ApiError) -> Response<Body> {
    json_response(error.code, &error.body())
}

/// A response with a JSON body.
pub fn json_response(code: u16, value: &Value) -> Response<Body> {
    bytes_response(code, "application/json", value.to_string())
}

/// A response with a body of a given media type.
pub fn bytes_response(code: u16, media_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = HeaderValue::from_str(media_type).unwrap_or(HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn authenticate(app: &App, headers: &HeaderMap) -> ApiResult<Identity> {
    let token = text(headers, header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or_default();
    let identity = Identity::of(token, &app.config.token);
    identity.ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))
}

async fn handle(app: Arc<App>, request: Request<Incoming>) -> ApiResult<Response<Body>> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut identity = match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(bytes_response(200, "text/plain", "ok")),
        ["version"] => return Ok(json_response(200, &crate::discovery::version())),
        _ => authenticate(&app, request.headers())?,
    };
    if !app.config.authorize {
        identity = Identity::Machine;
    }
    match segments.as_slice() {
        ["openapi", rest @ ..] => Ok(json_response(200, &crate::openapi::document(&app.registry(), rest)?)),
        ["api", version, rest @ ..] if !rest.is_empty() => objects(app, &identity, request, "", version, rest).await,
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            objects(app, &identity, request, group, version, rest).await
        }
        other => Ok(json_response(200, &crate::discovery::document(&app.registry(), other)?)),
    }
}

async fn objects(
    app: Arc<App>,
    identity: &Identity,
    request: Request<Incoming>,
    group: &str,
    version: &str,
    segments: &[&str],
) -> ApiResult<Response<Body>> {
    let target = Target::parse(&app.registry(), group, version, segments)?;
    check_method(request.method(), &target)?;
    let query = Query::parse(request.uri().query());
    app.authorize(identity, verb(request.method(), &target, &query), &target).await?;
    let applies = text(request.headers(), header::CONTENT_TYPE).starts_with("application/apply-patch");
    // An apply of what does not exist makes it.
    if applies && *identity != Identity::Machine && app.read(&target).await.is_err() {
        app.authorize(identity, "create", &target).await?;
    }
    if matches!(target.subresource.as_deref(), Some("log" | "exec")) {
        return app.relay(&target, request).await;
    }
    let form = Form::of_accept(text(request.headers(), header::ACCEPT))?;
    let method = request.method().clone();
    if method == Method::GET {
        return get(&app, &target, &query, form).await;
    }
    let options = WriteOptions::new(&query, text(request.headers(), header::USER_AGENT));
    let media_type =
        text(request.headers(), header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|_| ApiError::new(413, "RequestEntityTooLarge", "request body is too large"))?.to_bytes();
    let answer = if method == Method::DELETE {
        let body = if body.is_empty() { Value::Null } else { decode(&media_type, &body)? };
        let options = DeleteOptions::new(&query, &body);
        match target.name {
            Some(_) => app.delete(&target, &options).await?,
            None => Answer::ok(app.delete_collection(&target, &query, &options).await?),
        }
    } else if method == Method::POST {
        app.post(&target, decode(&media_type, &body)?, &options).await?
    } else if method == Method::PUT {
        app.put(&target, decode(&media_type, &body)?, &options).await?
    } else if method == Method::PATCH {
        change(&app, &target, &media_type, &body, &options).await?
    } else {
        return Err(not_allowed());
    };
    let mut response = json_response(answer.code, &table::shown(&target.kind, form, answer.object, &query));
    for warning in answer.warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", json!(warning))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn not_allowed() -> ApiError {
    ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

/// What a request does, in the words of RBAC.
fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    match *method {
        Method::GET if query.flag("watch") => "watch",
        Method::GET if target.name.is_none() => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_none() => "deletecollection",
        _ => "delete",
    }
}

/// Refuses what discovery does not name, and the creation of an object at its own path.
fn check_method(method: &Method, target: &Target) -> ApiResult<()> {
    let subresource = target.subresource.as_deref();
    let verb = match *method {
        Method::GET => "get",
        Method::POST if subresource.is_some() || target.name.is_none() => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return Err(not_allowed()),
    };
    if crate::discovery::allows(&target.kind, subresource, verb) { Ok(()) } else { Err(not_allowed()) }
}

async fn get(app: &App, target: &Target, query: &Query, form: Form) -> ApiResult<Response<Body>> {
    if query.flag("watch") {
        let events = ReceiverStream::new(app.watch(target, query).await?);
        let (kind, query) = (target.kind.clone(), query.clone());
        let frames = events.map(move |(event, object)| {
            let object = table::watched(&kind, form, event, object, &query);
            Ok(Frame::data(Bytes::from(json!({"type": event, "object": object}).to_string() + "\n")))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let value = match (&target.name, target.subresource.as_deref()) {
        (None, _) => app.list(target, query).await?,
        (Some(_), Some("scale")) => app.scale(target).await?,
        (Some(_), _) => app.read(target).await?.value,
    };
    Ok(json_response(200, &table::shown(&target.kind, form, value, query)))
}

/// A body in JSON or YAML.
fn decode(media_type: &str, body: &[u8]) -> ApiResult<Value> {
    let bad = |error: String| ApiError::bad_request(format!("the object provided is unrecognized: {error}"));
    match media_type {
        "" | "application/json" => serde_json::from_slice(body).map_err(|e| bad(e.to_string())),
        "application/yaml" => serde_yaml::from_slice(body).map_err(|e| bad(e.to_string())),
        protobuf::MEDIA_TYPE => protobuf::decode(body),
        other => Err(unsupported(other, "application/json, application/yaml")),
    }
}

fn unsupported(media_type: &str, accepted: &str) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format ({media_type}) - accepted media types include: {accepted}"
    );
    ApiError::new(415, "UnsupportedMediaType", message)
}

async fn change(
    app: &App,
    target: &Target,
    media_type: &str,
    body: &[u8],
    options: &WriteOptions,
) -> ApiResult<Answer> {
    let patch_type = match media_type {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        "application/apply-patch+yaml" => {
            let config = decode("application/yaml", body)?;
            return app.apply(target, part(target), config, options).await;
        }
        other => {
            let accepted = "application/json-patch+json, application/merge-patch+json, \
                            application/strategic-merge-patch+json, application/apply-patch+yaml";
            return Err(unsupported(other, accepted));
        }
    };
    let patch = decode("application/json", body)?;
    if target.subresource.as_deref() == Some("scale") {
        return patch_scale(app, target, patch_type, &patch, options).await;
    }
    app.patch(target, part(target), (patch_type, &patch), options).await
}

/// Patches the Scale as it is, again when somebody else wrote meanwhile: only a patch that names a resource version is refused then.
async fn patch_scale(
    app: &App,
    target: &Target,
    patch_type: PatchType,
    patch: &Value,
    options: &WriteOptions,
) -> ApiResult<Answer> {
    let mut attempts = 0;
    loop {
        let old = app.scale(target).await?;
        let mut scale = old.clone();
        match patch_type {
            PatchType::Json => {
                let operations: json_patch::Patch =
                    serde_json::from_value(patch.clone()).map_err(|e| ApiError::bad_request(e.to_string()))?;
                json_patch::patch(&mut scale, &operations).map_err(|e| ApiError::bad_request(e.to_string()))?;
            }
            _ => json_patch::merge(&mut scale, patch),
        }
        attempts += 1;
        match app.set_scale(target, &scale, options).await {
            Err(error)
                if error.code == 409
                    && scale["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
                    && attempts < ATTEMPTS => {}
            answer => return answer,
        }
    }
}

/// The part of the object that a write to this path may change.
fn part(target: &Target) -> Part {
    if target.subresource.as_deref() == Some("status") { Part::Status } else { Part::Main }
}

impl App {
    async fn post(&self, target: &Target, body: Value, options: &WriteOptions) -> ApiResult<Answer> {
        match target.subresource.as_deref() {
            Some("eviction") => self.evict(target, &body, options).await,
            Some("binding") => self.bind(target, &body, options).await,
            Some(_) => Err(ApiError::no_such_path()),
            None => self.create(target, body, options).await,
        }
    }

    async fn put(&self, target: &Target, body: Value, options: &WriteOptions) -> ApiResult<Answer> {
        match target.subresource.as_deref() {
            Some("scale") => self.set_scale(target, &body, options).await,
            _ => self.update(target, part(target), body, options).await,
        }
    }
}
