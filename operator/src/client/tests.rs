//! Against API servers that do one thing wrong.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body as Sent, Bytes};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};

use super::*;

const LIMIT: Duration = Duration::from_millis(300);

/// The pods of an API server that answers everything so.
async fn pods<F, A>(metrics: Arc<Metrics>, answer: F) -> Api<Pod>
where
    F: Fn() -> A + Clone + Send + Sync + 'static,
    A: Future<Output: IntoResponse> + Send,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let client = connect_within(Config::new(url.parse().unwrap()), metrics, LIMIT).unwrap();
    Api::namespaced(client, "ns")
}

#[tokio::test]
async fn a_refused_request_is_not_repeated_and_tells_when_to_come_back() {
    let (count, metrics) = (Arc::new(AtomicU32::new(0)), Arc::new(Metrics::default()));
    let asked = count.clone();
    let busy = move || {
        asked.fetch_add(1, Ordering::Relaxed);
        async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "too many requests") }
    };
    let error = pods(metrics.clone(), busy).await.get("p").await.unwrap_err();
    assert!(error.to_string().contains("too many requests"), "{error}");
    assert_eq!(retry_after(&error), Duration::from_secs(7));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let text = crate::metrics::shown(&metrics);
    assert!(text.contains("keelson_operator_api_requests_total{method=\"GET\",code=\"429\"} 1"), "{text}");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_or_does_not_end_is_given_up() {
    let metrics = Arc::new(Metrics::default());
    let never = || std::future::pending::<()>();
    let half =
        || async { Sent::from_stream(stream::iter([Ok::<_, BoxError>(Bytes::from("{"))]).chain(stream::pending())) };
    for pods in [pods(metrics.clone(), never).await, pods(metrics.clone(), half).await] {
        let started = Instant::now();
        let error = pods.get("p").await.unwrap_err();
        assert!(format!("{error:?}").contains("no answer within 0.3 s"), "{error:?}");
        assert!(started.elapsed() < LIMIT * 4);
    }
    let text = crate::metrics::shown(&metrics);
    assert!(text.contains("keelson_operator_api_requests_total{method=\"GET\",code=\"none\"} 2"), "{text}");
}

#[tokio::test]
async fn a_watch_goes_on_for_longer() {
    let event = r#"{"type":"ADDED","object":{"metadata":{"name":"p"}}}"#;
    let late = move || async move {
        let line = stream::once(async move {
            tokio::time::sleep(LIMIT * 2).await;
            Ok::<_, BoxError>(Bytes::from(format!("{event}\n")))
        });
        Sent::from_stream(line)
    };
    let pods = pods(Arc::default(), late).await;
    let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
}
