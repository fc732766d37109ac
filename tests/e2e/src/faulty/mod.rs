//! An API server that fails: a proxy before the real one, which does to each request what a rule says, and writes it down.

mod answer;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is refused with 500.
    Error,
    /// It is refused with 503.
    Unavailable,
    /// It is refused with 429, for a second.
    TooMany,
    /// A write is refused with 409, as if somebody else had been faster.
    Conflict,
    /// The connection ends, and nothing was done.
    Lost,
    /// It is done, and the connection ends before the answer.
    Unanswered,
    /// It is done, and the answer comes after some seconds.
    Slow,
    /// It is done, and the answer never comes.
    Stalled,
    /// A watch is refused with 410.
    Gone,
    /// A watch tells after a while that its place in the history is gone.
    Expired,
    /// A watch ends after a while.
    Closed,
    /// The connection of a watch ends after a while.
    Broken,
}

impl Fault {
    /// Those of requests that read.
    pub const READS: [Self; 6] = [Self::Error, Self::Unavailable, Self::TooMany, Self::Lost, Self::Slow, Self::Stalled];
    /// Those of requests that write.
    pub const WRITES: [Self; 8] = [
        Self::Error,
        Self::Unavailable,
        Self::TooMany,
        Self::Conflict,
        Self::Lost,
        Self::Unanswered,
        Self::Slow,
        Self::Stalled,
    ];
    /// Those of watches.
    pub const WATCHES: [Self; 7] =
        [Self::Error, Self::Unavailable, Self::TooMany, Self::Gone, Self::Expired, Self::Closed, Self::Broken];
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query.
    pub query: String,
    /// Whether it is a watch.
    pub watches: bool,
    /// When it came.
    pub at: Instant,
}

impl Asked {
    /// Whether it is about the Lease of the operator.
    pub fn is_lease(&self) -> bool {
        self.path.contains("/leases")
    }

    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The request.
    pub asked: Asked,
    /// What was done to it.
    pub fault: Option<Fault>,
    /// The status of the real API server's answer, whether it was passed on or not.
    pub code: Option<u16>,
}

type Rule = Box<dyn FnMut(&Asked) -> Option<Fault> + Send>;
/// What the proxy answers.
type Body = UnsyncBoxBody<Bytes, anyhow::Error>;

/// The proxy. It ends with this.
pub struct Faulty {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    client: Client,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Seen>>,
    cut: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    /// A proxy before the API server that KUBECONFIG names. Everything goes well until there is a rule.
    pub async fn start() -> Result<Self> {
        let mut config = kube::Config::infer().await?;
        // Failures of the real one are passed on as they are.
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            client,
            rule: Mutex::new(Box::new(|_| None)),
            seen: Mutex::default(),
            cut: Notify::new(),
        });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { url, shared, task })
    }

    /// From now on this decides what happens to requests.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        *locked(&self.shared.rule) = Box::new(rule);
    }

    /// Ends all connections, those of watches as well.
    pub fn cut(&self) {
        self.shared.cut.notify_one();
    }

    /// What became of the requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }

    /// How many requests came in the time before now, without those about the Lease.
    pub fn count_within(&self, time: Duration) -> usize {
        let seen = locked(&self.shared.seen);
        seen.iter().filter(|it| !it.asked.is_lease() && it.asked.at.elapsed() < time).count()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = shared.cut.notified() => {
                connections.abort_all();
                continue;
            }
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
        };
        let Ok(stream) = stream else {
            return;
        };
        let shared = shared.clone();
        let service = service_fn(move |request| handle(shared.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // How a connection ends is a part of the test.
        connections.spawn(async move { drop(connection.await) });
    }
}

/// An error ends the connection without an answer.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<http::Response<Body>> {
    let query = request.uri().query().unwrap_or_default();
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_string(),
        query: query.to_string(),
        watches: query.contains("watch=true"),
        at: Instant::now(),
    };
    let fault = (locked(&shared.rule))(&asked);
    let at = {
        let mut seen = locked(&shared.seen);
        seen.push(Seen { asked, fault, code: None });
        seen.len() - 1
    };
    let note = |code| locked(&shared.seen)[at].code = Some(code);
    answer::answer(&shared.client, request, fault, note).await
}

/// What is not expected to fail.
fn never<T>(never: Infallible) -> T {
    match never {}
}
