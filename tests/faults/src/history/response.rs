//! What can be answered.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Put {
        prev: Option<KeyValue>,
    },
    Delete {
        deleted: i64,
        prev: Vec<KeyValue>,
    },
    Range {
        kvs: Vec<KeyValue>,
        count: i64,
        more: bool,
    },
    Txn {
        succeeded: bool,
        responses: Vec<Response>,
    },
    LeaseGrant,
    LeaseRevoke,
    /// It lives on.
    LeaseKeepAlive,
    Compact,
}

impl Response {
    /// Whether the answer says that a revision was made; the end of a lease does not tell.
    pub fn wrote(&self) -> bool {
        match self {
            Response::Put { .. } => true,
            Response::Delete { deleted, .. } => *deleted > 0,
            Response::Txn { responses, .. } => responses.iter().any(Response::wrote),
            Response::Range { .. }
            | Response::LeaseGrant
            | Response::LeaseRevoke
            | Response::LeaseKeepAlive
            | Response::Compact => false,
        }
    }

    /// Every key-value that the answer shows, previous ones included.
    pub fn key_values(&self) -> Vec<&KeyValue> {
        match self {
            Response::Put { prev } => prev.iter().collect(),
            Response::Delete { prev, .. } => prev.iter().collect(),
            Response::Range { kvs, .. } => kvs.iter().collect(),
            Response::Txn { responses, .. } => responses.iter().flat_map(Response::key_values).collect(),
            Response::LeaseGrant | Response::LeaseRevoke | Response::LeaseKeepAlive | Response::Compact => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// `revision` is the answer's header's.
    Ok { revision: i64, response: Response },
    /// It has no effect, now or later.
    Failed(Failure),
    /// It may have an effect, now or later, once.
    Unknown { error: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    LeaseNotFound,
    Compacted,
    FutureRevision,
    /// Anything else that cannot have had an effect: never sent, or a read.
    Other(String),
}
