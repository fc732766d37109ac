//! One watcher, and the responses made for it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::budget::Share;
use crate::mvcc::{Event, EventType, KeyRange};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};

/// Events that are put into one response, at most, unless one revision has more.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Which events a watcher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// The keys.
    pub range: KeyRange,
    /// None below this revision.
    pub start_revision: i64,
    no_put: bool,
    no_delete: bool,
}

impl Interest {
    /// Where a request's range begins. An empty key is the smallest one.
    pub fn first_key(request: &WatchCreateRequest) -> Bytes {
        match request.key.is_empty() {
            true => Bytes::from_static(&[0]),
            false => request.key.clone(),
        }
    }

    /// Reads a request.
    pub fn new(request: &WatchCreateRequest) -> Self {
        let filtered = |filter| request.filters().any(|given| given == filter);
        Self {
            range: KeyRange::new(Self::first_key(request), request.range_end.clone()),
            start_revision: request.start_revision,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
        }
    }

    /// Whether the watcher wants an event of its keys.
    pub fn accepts(&self, revision: i64, event: &Event) -> bool {
        let filtered = match event.r#type() {
            EventType::Put => self.no_put,
            EventType::Delete => self.no_delete,
        };
        revision >= self.start_revision && !filtered
    }

    /// Which of a revision's events the watcher wants.
    pub fn picks(&self, revision: i64, events: &[Event]) -> Vec<u32> {
        let wanted = |event: &Event| {
            let kv = event.kv.as_ref();
            kv.is_some_and(|kv| self.range.contains(&kv.key)) && self.accepts(revision, event)
        };
        (0u32..).zip(events).filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect()
    }
}

/// A watcher as its stream knows it.
#[derive(Debug)]
pub struct Watcher {
    /// Which events it wants.
    pub interest: Arc<Interest>,
    /// It wants the previous versions too.
    pub prev_kv: bool,
    /// Large responses shall be split.
    pub fragment: bool,
    /// It wants to be told the revision now and then.
    pub progress_notify: bool,
    /// It got events since it last could have been told.
    pub busy: bool,
}

impl Watcher {
    /// Reads a request.
    pub fn new(request: &WatchCreateRequest) -> Self {
        Self {
            interest: Arc::new(Interest::new(request)),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            busy: false,
        }
    }

    /// The event as this watcher gets it.
    pub fn show(&self, event: &Event) -> Event {
        let prev_kv = if self.prev_kv { event.prev_kv.clone() } else { None };
        Event { r#type: event.r#type, kv: event.kv.clone(), prev_kv }
    }
}

/// A response on its way to the client, and its share of the memory that all of them may take.
#[derive(Debug)]
pub struct Outgoing {
    /// What the client gets.
    pub response: WatchResponse,
    pub(super) _share: Option<Arc<Share>>,
}

impl From<WatchResponse> for Outgoing {
    /// One that is too small to be counted.
    fn from(response: WatchResponse) -> Self {
        Outgoing { response, _share: None }
    }
}

/// A response that says nothing yet; the door that sends it completes the header.
pub fn response(watch_id: i64, revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..Default::default() });
    WatchResponse { header, watch_id, ..Default::default() }
}

/// Collects events into responses, whole revisions together, the order of each watcher kept.
#[derive(Debug, Default)]
pub struct Outbox {
    responses: Vec<(WatchResponse, usize)>,
    /// Where each watcher's last one is.
    last: HashMap<i64, usize>,
}

impl Outbox {
    /// Adds one revision's events for a watcher. `revision` is what the response tells of the store.
    pub fn add(&mut self, watch_id: i64, revision: i64, events: Vec<Event>) {
        let bytes: usize = events.iter().map(Message::encoded_len).sum();
        let last = self.last.get(&watch_id).map(|at| &mut self.responses[*at]);
        match last {
            Some((response, size)) if *size + bytes <= MAX_RESPONSE_BYTES => {
                *size += bytes;
                response.events.extend(events);
                response.header = Some(ResponseHeader { revision, ..Default::default() });
            }
            _ => {
                self.last.insert(watch_id, self.responses.len());
                self.responses.push((WatchResponse { events, ..response(watch_id, revision) }, bytes));
            }
        }
    }

    /// The responses with the bytes of their events, in order.
    pub fn into_responses(self) -> impl Iterator<Item = (WatchResponse, usize)> {
        self.responses.into_iter()
    }
}

/// Splits a response into fragments below `limit` bytes where its events allow it.
pub fn fragments(whole: WatchResponse, limit: usize) -> Vec<WatchResponse> {
    if whole.encoded_len() < limit || whole.events.len() < 2 {
        return vec![whole];
    }
    let empty = WatchResponse { events: Vec::new(), fragment: true, ..whole.clone() };
    let mut parts = vec![empty.clone()];
    let mut size = empty.encoded_len();
    for event in whole.events {
        // Tag and length take at most 6 bytes more.
        let more = event.encoded_len() + 6;
        let part = parts.last_mut().expect("there is a first part");
        if !part.events.is_empty() && size + more >= limit {
            size = empty.encoded_len() + more;
            parts.push(WatchResponse { events: vec![event], ..empty.clone() });
        } else {
            size += more;
            part.events.push(event);
        }
    }
    parts.last_mut().expect("there is a last part").fragment = false;
    parts
}
