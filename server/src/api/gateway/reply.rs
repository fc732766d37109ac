//! Answers over HTTP, as grpc-gateway words them.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use prost_reflect::DynamicMessage;
use serde_json::json;
use tonic::{Code, Status};

use super::json;

/// An error that is the whole answer.
pub fn error(status: &Status) -> Response<Body> {
    let mut response = json_response(http_status(status.code()), Body::from(told(status)));
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

/// A message that is the whole answer.
pub fn message(message: &DynamicMessage) -> Response<Body> {
    of_grpc(json_response(StatusCode::OK, Body::from(json::text(message))))
}

/// A line for each message, and one for an error in the end. The HTTP status waits for the first of them.
pub async fn stream<S>(answers: S) -> Response<Body>
where
    S: Stream<Item = Result<DynamicMessage, Status>> + Send + 'static,
{
    let mut answers = Box::pin(answers);
    let first = match answers.next().await {
        None => return Response::new(Body::empty()),
        Some(Err(status)) => return json_response(http_status(status.code()), Body::from(error_line(&status))),
        Some(Ok(first)) => first,
    };
    let lines = stream::iter([Ok(first)]).chain(answers).map(|answer| {
        let line = match answer {
            Ok(message) => format!("{{\"result\":{}}}\n", json::without_markup(&json::text(&message))),
            Err(status) => error_line(&status),
        };
        Ok::<_, Infallible>(Bytes::from(line))
    });
    of_grpc(json_response(StatusCode::OK, Body::from_stream(lines)))
}

fn error_line(status: &Status) -> String {
    format!("{{\"error\":{}}}\n", json::without_markup(&told(status)))
}

fn told(status: &Status) -> String {
    json!({ "code": status.code() as i32, "message": status.message() }).to_string()
}

fn json_response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The one header of gRPC's answers that always comes through.
fn of_grpc(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// What gRPC's codes are in HTTP.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // Nginx's "client closed request", which the standard does not have.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
