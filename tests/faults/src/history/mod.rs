//! What clients saw: every operation with its times and its answer, every answer of every watch, and what was done to the
//! members meanwhile. It is plain data, kept as JSON, so that a run can be judged again.

mod display;
mod request;
mod response;
mod watch;

use serde::{Deserialize, Serialize};

pub use request::{Compare, Comparison, Request, Span, Target};
pub use response::{Failure, KeyValue, Outcome, Response};
pub use watch::{Event, Kind, Watch, WatchResponse};

/// Nanoseconds of one monotonic clock since the run began.
pub type Time = u64;
/// Place of an operation in `History::operations`.
pub type OperationId = usize;
/// Place of a watch in `History::watches`.
pub type WatchId = usize;

/// A run on a cluster that was empty, at revision 1, when it began, and that only these clients used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<Watch>,
    pub restarts: Vec<Restart>,
    pub hashes: Vec<Hash>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub client: u32,
    /// The member that was asked.
    pub member: u32,
    pub call: Time,
    /// When the answer, or the error, was there. What has an unknown outcome may take effect later than this.
    pub returned: Time,
    pub request: Request,
    pub outcome: Outcome,
}

impl Operation {
    /// The store's revision that the answer told. What a member tells beside a lease is its own, whoever has renewed it.
    pub fn revision(&self) -> Option<i64> {
        match &self.outcome {
            Outcome::Ok { response: Response::LeaseKeepAlive, .. } => None,
            Outcome::Ok { revision, .. } => Some(*revision),
            _ => None,
        }
    }

    /// The newest revision of the state that answered: the one that it told, or the last before one that it did not know yet.
    pub fn at_most(&self) -> Option<i64> {
        let is_future = self.outcome == Outcome::Failed(Failure::FutureRevision);
        match self.request {
            Request::Range { revision, .. } | Request::Compact { revision } if is_future => Some(revision - 1),
            _ => self.revision(),
        }
    }

    pub fn response(&self) -> Option<&Response> {
        match &self.outcome {
            Outcome::Ok { response, .. } => Some(response),
            _ => None,
        }
    }

    /// Whether it may take effect although no answer told so.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown { .. })
    }
}

/// A member's process was ended at this time; another one took over its data later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    pub member: u32,
    pub time: Time,
}

/// A member's answer to HashKV, asked when nothing changed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash {
    pub member: u32,
    /// The revision that was asked for.
    pub revision: i64,
    pub compact_revision: i64,
    pub hash: u32,
}
