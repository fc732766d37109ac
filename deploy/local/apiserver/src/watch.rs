//! Watches: etcd's events of a key prefix as Kubernetes' events of a collection.

use crate::App;
use crate::convert;
use crate::request::{Query, Target};
use crate::status::{ApiError, ApiResult};
use crate::store::{Stored, decode};
use crate::verbs::Selection;
use etcd_client::{Event, EventType, WatchResponse, WatchStream};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until};

/// Bookmarks come this often, to clients that ask for them.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(50);
/// A watch without `timeoutSeconds` ends after this time.
const DEFAULT_TIMEOUT_SECONDS: i64 = 1800;
/// Events that wait for a slow client; then reading from the store waits, too.
const BUFFER: usize = 64;

/// One event: `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`, and its object.
pub type WatchEvent = (&'static str, Value);

struct Watch {
    target: Target,
    selection: Selection,
    bookmarks: bool,
    timeout: Duration,
    events: mpsc::Sender<WatchEvent>,
}

impl App {
    /// Begins a watch; the events end with the watch's timeout, or when the receiver is dropped.
    pub async fn watch(&self, target: &Target, query: &Query) -> ApiResult<mpsc::Receiver<WatchEvent>> {
        let selection = Selection::new(target, query)?;
        let initial = query.flag("sendInitialEvents");
        let bookmarks = query.flag("allowWatchBookmarks");
        let from = match query.get("resourceVersion") {
            None | Some("0") => None,
            Some(text) => {
                let parsed = text.parse::<i64>();
                Some(parsed.map_err(|_| ApiError::bad_request(format!("invalid resource version: {text}")))?)
            }
        };
        let prefix = target.kind.prefix(target.namespace.as_deref());
        let page = match from {
            Some(_) if !initial => None,
            _ if query.get("sendInitialEvents") == Some("false") => None,
            _ => Some(self.store.list(&prefix, None, 0, 0).await?),
        };
        let revision = match (&page, from) {
            (Some(page), _) => page.revision,
            (None, Some(revision)) => revision,
            (None, None) => self.store.revision().await?,
        };
        let stream = self.store.watch(&prefix, revision + 1).await?;
        let (events, receiver) = mpsc::channel(BUFFER);
        let seconds = query.number("timeoutSeconds").filter(|s| *s > 0).unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        let timeout = Duration::from_secs(seconds.unsigned_abs());
        let watch = Watch { target: target.clone(), selection, bookmarks, timeout, events };
        let end_of_initial = (initial && bookmarks).then_some(revision);
        tokio::spawn(async move {
            let items = page.map(|page| page.items).unwrap_or_default();
            if watch.send_initial(items, end_of_initial).await.is_ok() {
                watch.follow(stream).await;
            }
        });
        Ok(receiver)
    }
}

/// The client is gone.
struct Gone;

impl Watch {
    async fn send(&self, event: WatchEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }

    async fn send_initial(&self, items: Vec<Stored>, end: Option<i64>) -> Result<(), Gone> {
        for mut stored in items {
            convert::from_storage(&self.target.kind, &mut stored.value);
            if self.selection.matches(&stored.value) {
                self.send(("ADDED", stored.value)).await?;
            }
        }
        if let Some(revision) = end {
            let mut bookmark = self.bookmark(revision);
            bookmark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            self.send(("BOOKMARK", bookmark)).await?;
        }
        Ok(())
    }

    fn bookmark(&self, revision: i64) -> Value {
        let kind = &self.target.kind;
        json!({"apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}})
    }

    async fn follow(&self, mut stream: WatchStream) {
        let end = Instant::now() + self.timeout;
        let mut ticks = interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                () = self.events.closed() => return,
                _ = ticks.tick(), if self.bookmarks => {
                    if stream.request_progress().await.is_err() {
                        return;
                    }
                }
                message = stream.message() => {
                    let Ok(Some(response)) = message else { return };
                    if self.forward(response).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn forward(&self, response: WatchResponse) -> Result<(), Gone> {
        if response.canceled() {
            let error = match response.compact_revision() {
                0 => ApiError::internal(response.cancel_reason()),
                oldest => ApiError::expired(format!("too old resource version: compacted at {oldest}")),
            };
            self.send(("ERROR", error.body())).await?;
            return Err(Gone);
        }
        if response.events().is_empty() && !response.created() && self.bookmarks {
            let revision = response.header().map_or(0, |header| header.revision());
            return self.send(("BOOKMARK", self.bookmark(revision))).await;
        }
        for event in response.events() {
            match self.translate(event) {
                Ok(Some(event)) => self.send(event).await?,
                Ok(None) => {}
                Err(error) => {
                    self.send(("ERROR", error.body())).await?;
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    /// What a change of a key means to a watcher with selectors: an object that no longer matches is deleted to it.
    fn translate(&self, event: &Event) -> ApiResult<Option<WatchEvent>> {
        let Some(kv) = event.kv() else {
            return Ok(None);
        };
        let read = |kv| -> ApiResult<Value> {
            let mut value = decode(kv)?.value;
            convert::from_storage(&self.target.kind, &mut value);
            Ok(value)
        };
        let old = event.prev_kv().map(read).transpose()?;
        let revision = json!(kv.mod_revision().to_string());
        let before = old.as_ref().is_some_and(|old| self.selection.matches(old));
        if event.event_type() == EventType::Delete {
            // Compacted in this moment: the client has to list again.
            let mut last = old.ok_or_else(|| ApiError::expired("too old resource version"))?;
            last["metadata"]["resourceVersion"] = revision;
            return Ok(before.then_some(("DELETED", last)));
        }
        let new = read(kv)?;
        Ok(match (before, self.selection.matches(&new)) {
            (false, true) => Some(("ADDED", new)),
            (true, true) => Some(("MODIFIED", new)),
            (true, false) => {
                let mut last = old.unwrap_or(new);
                last["metadata"]["resourceVersion"] = revision;
                Some(("DELETED", last))
            }
            (false, false) => None,
        })
    }
}
