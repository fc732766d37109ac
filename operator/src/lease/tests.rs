//! Against an API server with one Lease, on a thread of its own.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;

/// The Lease, and the methods of the requests for it.
#[derive(Debug, Default)]
struct Stored {
    lease: Value,
    requests: Vec<Method>,
}

type Shared = Arc<Mutex<Stored>>;

async fn answer(State(stored): State<Shared>, method: Method, body: Bytes) -> (StatusCode, Json<Value>) {
    let mut stored = stored.lock().unwrap();
    stored.requests.push(method.clone());
    let refused = |code: u16| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": if code == 404 { "NotFound" } else { "Conflict" }, "code": code});
        (StatusCode::from_u16(code).unwrap(), Json(status))
    };
    if method == Method::GET {
        return if stored.lease.is_null() { refused(404) } else { (StatusCode::OK, Json(stored.lease.clone())) };
    }
    let mut lease: Value = serde_json::from_slice(&body).unwrap();
    let version =
        |lease: &Value| lease["metadata"]["resourceVersion"].as_str().map_or(0, |it| it.parse::<u64>().unwrap());
    if version(&lease) != version(&stored.lease) {
        return refused(409);
    }
    lease["metadata"]["resourceVersion"] = json!((version(&lease) + 1).to_string());
    stored.lease = lease.clone();
    (StatusCode::OK, Json(lease))
}

/// The address of such an API server, and what it has.
fn api_server() -> (String, Shared) {
    let stored = Shared::default();
    let routes = Router::new().fallback(answer).with_state(stored.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await })
    });
    (url, stored)
}

fn lock(url: &str) -> Lock {
    let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    Lock::new(Api::namespaced(client, "ns"), "lock", "me".into())
}

fn begin(url: &str) -> Election {
    let url = url.to_string();
    Election::begin(move || Ok::<_, kube::Error>(lock(&url))).unwrap()
}

fn holder(stored: &Shared) -> Value {
    stored.lock().unwrap().lease["spec"]["holderIdentity"].clone()
}

fn held_by(holder: &str) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..Default::default() }
}

/// The time since the first renewal by which it is known what the second does.
const TWO_RENEWALS: Duration = Duration::from_millis(2 * 3000 + 500);

#[tokio::test]
async fn a_lease_is_renewed_while_the_operator_is_too_busy_for_anything_and_by_one_request() {
    let (url, stored) = api_server();
    let mut election = begin(&url);
    assert!(election.leads().await);
    stored.lock().unwrap().requests.clear();
    // No task of this runtime goes on meanwhile.
    std::thread::sleep(TWO_RENEWALS);
    // The first one reads what it renews.
    assert_eq!(stored.lock().unwrap().requests, [Method::GET, Method::PUT, Method::PUT]);
    election.resign().await;
    assert_eq!(holder(&stored), Value::Null);
}

#[tokio::test]
async fn a_lease_that_another_took_is_lost_at_the_next_renewal_and_left_to_it() {
    let (url, stored) = api_server();
    let mut election = begin(&url);
    assert!(election.leads().await);
    {
        let mut stored = stored.lock().unwrap();
        stored.lease["spec"]["holderIdentity"] = json!("other");
        stored.lease["metadata"]["resourceVersion"] = json!("77");
    }
    timeout(RENEW_EVERY + Duration::from_secs(1), election.lost()).await.unwrap();
    election.resign().await;
    assert_eq!(holder(&stored), "other");
}

/// Someone put an annotation on it, say.
#[tokio::test]
async fn a_lease_that_was_only_edited_is_still_held() {
    let (url, stored) = api_server();
    let lock = lock(&url);
    let acquired = lock.acquire().await;
    let mut known = None;
    assert!(lock.next_renewal(&mut known).await.unwrap() > acquired);
    stored.lock().unwrap().lease["metadata"]["resourceVersion"] = json!("77");
    assert!(lock.renew(&mut known).await.unwrap());
    assert_eq!(stored.lock().unwrap().lease["metadata"]["resourceVersion"], "78");
}

/// An API server that takes requests and never answers.
async fn silent_lock() -> Lock {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    lock(&url)
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_given_up_at_the_deadline_not_later() {
    let lock = silent_lock().await;
    for (age, left) in [(10, 0), (9, 1), (6, 4)] {
        let started = Instant::now();
        lock.hold(started - Duration::from_secs(age)).await;
        let held = started.elapsed();
        let left = Duration::from_secs(left);
        assert!(held >= left && held < left + Duration::from_millis(900), "{held:?}");
    }
}

#[test]
fn a_lease_is_taken_only_when_free_own_or_expired() {
    let fresh = Duration::from_secs(3);
    let stale = Duration::from_secs(16);
    assert!(may_take(None, "me", fresh));
    assert!(may_take(Some(&held_by("")), "me", fresh));
    assert!(may_take(Some(&held_by("me")), "me", fresh));
    assert!(!may_take(Some(&held_by("other")), "me", fresh));
    assert!(may_take(Some(&held_by("other")), "me", stale));
}
