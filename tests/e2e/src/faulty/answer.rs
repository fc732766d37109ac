//! The answers of the proxy.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use kube::Client;
use serde_json::json;

use super::{Body, Fault, never};

/// When a slow answer comes.
const SLOW: Duration = Duration::from_secs(3);
/// How long a watch goes on that ends by a fault.
const WATCH: Duration = Duration::from_secs(3);
/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(3600);

pub(super) async fn answer(
    client: &Client,
    request: Request<Incoming>,
    fault: Option<Fault>,
    note: impl FnOnce(u16),
) -> Result<Response<Body>> {
    let Some(fault) = fault else {
        return pass_on(client, request, note).await;
    };
    match fault {
        Fault::Error => refusal(500, "InternalError"),
        Fault::Unavailable => refusal(503, "ServiceUnavailable"),
        Fault::Conflict => refusal(409, "Conflict"),
        Fault::Gone => refusal(410, "Expired"),
        Fault::TooMany => {
            // As Kubernetes says it: not in JSON.
            let text = whole(Bytes::from("Too many requests, please try again later.\n"));
            let answer = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header(header::RETRY_AFTER, "1");
            Ok(answer.body(text)?)
        }
        Fault::Lost => bail!("the connection ends before anything was done"),
        Fault::Unanswered => {
            pass_on(client, request, note).await?;
            bail!("the connection ends after it was done")
        }
        Fault::Slow | Fault::Stalled => {
            let answer = pass_on(client, request, note).await?;
            tokio::time::sleep(if fault == Fault::Slow { SLOW } else { FOREVER }).await;
            Ok(answer)
        }
        Fault::Expired | Fault::Closed | Fault::Broken => {
            let answer = pass_on(client, request, note).await?;
            Ok(answer.map(|body| end(body, fault)))
        }
    }
}

async fn pass_on(client: &Client, request: Request<Incoming>, note: impl FnOnce(u16)) -> Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    head.headers.remove(header::HOST);
    let body = body.collect().await?.to_bytes();
    let asked = Request::from_parts(head, kube::client::Body::from(body));
    let answer = client.send(asked).await.context("asking the real API server")?;
    note(answer.status().as_u16());
    Ok(answer.map(|body| body.map_err(anyhow::Error::from).boxed_unsync()))
}

/// The body of a watch for a while, and then how it ends.
fn end(body: Body, fault: Fault) -> Body {
    let frames = body.into_data_stream().map_ok(Frame::data).take_until(tokio::time::sleep(WATCH));
    let gone = status(410, "Expired");
    let last = match fault {
        Fault::Expired => Some(Ok(Frame::data(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": gone})))))),
        Fault::Broken => Some(Err(anyhow::anyhow!("the connection ends"))),
        _ => None,
    };
    StreamBody::new(frames.chain(stream::iter(last))).boxed_unsync()
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    let message = format!("a fault that was asked for: {reason}");
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

fn refusal(code: u16, reason: &str) -> Result<Response<Body>> {
    let text = status(code, reason).to_string();
    let answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    Ok(answer.body(whole(Bytes::from(text)))?)
}

fn whole(text: Bytes) -> Body {
    Full::new(text).map_err(never).boxed_unsync()
}
