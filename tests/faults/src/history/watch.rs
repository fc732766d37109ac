//! What a watch was answered.

use serde::{Deserialize, Serialize};

use super::{KeyValue, Span, Time};

/// One watch, alone on its stream. One that goes on where another was cut off is a watch of its own, with its `start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    pub client: u32,
    pub member: u32,
    pub span: Span,
    /// The first revision of interest; 0 is what comes after its creation.
    pub start: i64,
    pub prev_kv: bool,
    pub no_puts: bool,
    pub no_deletes: bool,
    /// When it was asked for.
    pub call: Time,
    /// The client waited, as long as it had patience, until events or a bookmark reached this revision.
    pub must_reach: Option<i64>,
    pub responses: Vec<WatchResponse>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchResponse {
    pub time: Time,
    /// The header's.
    pub revision: i64,
    pub created: bool,
    pub canceled: bool,
    /// Not 0: cancelled since events before this revision are gone.
    pub compact_revision: i64,
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// A promise that all events up to the header's revision have been sent.
    pub fn is_bookmark(&self) -> bool {
        !self.created && !self.canceled && self.events.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Put,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: Kind,
    /// Of a deletion: key and `mod_revision`, the rest is empty.
    pub kv: KeyValue,
    pub prev: Option<KeyValue>,
}
