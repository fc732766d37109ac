//! The gateway on a websocket, where browsers have no other way for streams of requests: each message in is JSON of a
//! request's body, each message out a line of the answer's.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt, TryStreamExt};
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN, REFERER, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The protocol by which a browser, which can set no other header, brings a token: `Bearer, TOKEN`.
const BEARER: &str = "Bearer";

/// The cookie that may hold the token instead.
const TOKEN_COOKIE: &str = "token";

/// Headers that a request takes over.
const TAKEN_OVER: &[HeaderName] = &[HOST, ORIGIN, REFERER];

/// How long a client that goes may take to hear so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Whether a request asks for a websocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// Opens the websocket. What it carries is one request, a POST to the same path, which `answer` answers.
pub async fn open<A, F>(mut head: Parts, max_message_bytes: usize, answer: A) -> Response<Body>
where
    A: FnOnce(Request<Body>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut head, &()).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return refusal.into_response(),
    };
    let request = post(head);
    let upgrade = upgrade.protocols([BEARER]).max_message_size(max_message_bytes).max_frame_size(max_message_bytes);
    upgrade.on_upgrade(move |socket| talk(socket, request, answer))
}

/// The request without a body.
fn post(head: Parts) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = head.uri;
    for name in TAKEN_OVER {
        if let Some(value) = head.headers.get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    let token = cookie(&head.headers).or_else(|| protocol(&head.headers));
    let token = token.and_then(|token| HeaderValue::try_from(format!("{BEARER} {token}")).ok());
    if let Some(token) = token {
        request.headers_mut().insert(AUTHORIZATION, token);
    }
    request
}

fn protocol(headers: &HeaderMap) -> Option<&str> {
    let (_, token) = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split_once("Bearer,")?;
    Some(token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = values.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == TOKEN_COOKIE).map(|(_, token)| token)
}

/// Until the answer ends, or the client goes.
async fn talk<A, F>(socket: WebSocket, request: Request<()>, answer: A)
where
    A: FnOnce(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let (mut outgoing, incoming) = socket.split();
    let (sender, receiver) = mpsc::channel(1);
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>));
    let answering = async {
        let answer = answer(request.map(|()| body)).await;
        send(answer.into_body().into_data_stream(), &mut outgoing).await
    };
    tokio::select! {
        () = receive(incoming, sender) => {}
        sent = answering => if let Err(error) = sent {
            tracing::debug!(error, "a websocket broke");
        },
    }
    // The client may be gone already.
    let _ = tokio::time::timeout(FAREWELL, outgoing.close()).await;
}

/// Hands on what the client sends, and returns when it goes. What nobody waits for any more is dropped.
async fn receive(mut incoming: SplitStream<WebSocket>, body: mpsc::Sender<Bytes>) {
    while let Some(Ok(message)) = incoming.next().await {
        match message {
            Message::Text(text) => drop(body.send(text.into()).await),
            Message::Binary(bytes) => drop(body.send(bytes).await),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return,
        }
    }
}

/// Sends each piece of the answer, which is a line of JSON.
async fn send(mut answer: BodyDataStream, outgoing: &mut SplitSink<WebSocket, Message>) -> Result<(), axum::BoxError> {
    while let Some(line) = answer.try_next().await? {
        let line = Utf8Bytes::try_from(line.slice(..line.trim_ascii_end().len()))?;
        if !line.as_str().is_empty() {
            outgoing.send(Message::Text(line)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&'static str, &'static str)]) -> Parts {
        let request =
            headers.iter().fold(Request::get("/v3/watch"), |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn websockets_are_asked_for_by_two_headers() {
        assert!(is_asked_for(&head(&[("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")]).headers));
        assert!(!is_asked_for(&head(&[("Connection", "keep-alive"), ("Upgrade", "websocket")]).headers));
        assert!(!is_asked_for(&head(&[("Connection", "upgrade"), ("Upgrade", "h2c")]).headers));
    }

    #[test]
    fn a_token_comes_by_the_protocol_or_by_a_cookie() {
        for (headers, token) in [
            (&[][..], None),
            (&[("sec-websocket-protocol", "Bearer, t.1")], Some("Bearer t.1")),
            (&[("sec-websocket-protocol", "Bearer,t.1")], Some("Bearer t.1")),
            (&[("sec-websocket-protocol", "other")], None),
            (&[("sec-websocket-protocol", "Bearer, t.1"), ("cookie", "a=b; token=t.2")], Some("Bearer t.2")),
            (&[("authorization", "t.3")], None),
        ] {
            let request = post(head(headers));
            let got = request.headers().get(AUTHORIZATION).map(|value| value.to_str().expect("text"));
            assert_eq!(got, token, "{headers:?}");
        }
        assert_eq!(post(head(&[])).method(), Method::POST);
    }
}
