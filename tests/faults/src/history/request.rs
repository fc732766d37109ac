//! What can be asked.

use serde::{Deserialize, Serialize};

/// Keys from `start` up to, and without, `end`; or just `start`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    pub start: String,
    pub end: Option<String>,
}

impl Span {
    /// etcd's end of a range that has none.
    pub const NO_END: &'static str = "\0";

    pub fn key(key: impl Into<String>) -> Self {
        Self { start: key.into(), end: None }
    }

    pub fn between(start: impl Into<String>, end: impl Into<String>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    pub fn all() -> Self {
        Self::between(Self::NO_END, Self::NO_END)
    }

    pub fn contains(&self, key: &str) -> bool {
        match &self.end {
            None => key == self.start,
            Some(end) => key >= self.start.as_str() && (end == Self::NO_END || key < end.as_str()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// `lease` 0 is none.
    Put {
        key: String,
        value: String,
        lease: i64,
        prev_kv: bool,
    },
    Delete {
        span: Span,
        prev_kv: bool,
    },
    /// `revision` 0 is the newest, `limit` 0 is none.
    Range {
        span: Span,
        revision: i64,
        serializable: bool,
        limit: i64,
    },
    /// The branches hold puts, deletes, and ranges at the newest revision.
    Txn {
        compares: Vec<Compare>,
        then: Vec<Request>,
        otherwise: Vec<Request>,
    },
    LeaseGrant {
        lease: i64,
        ttl_seconds: i64,
    },
    /// Also the end of a lease whose time was over: of unknown outcome, called when that time was over at the earliest.
    LeaseRevoke {
        lease: i64,
    },
    LeaseKeepAlive {
        lease: i64,
    },
    Compact {
        revision: i64,
    },
}

impl Request {
    /// A read of whatever the member has, which may be behind the others.
    pub fn is_serializable(&self) -> bool {
        matches!(self, Request::Range { serializable: true, .. })
    }

    /// Whether it could make a revision.
    pub fn may_write(&self) -> bool {
        match self {
            Request::Put { .. } | Request::Delete { .. } | Request::LeaseRevoke { .. } => true,
            Request::Txn { then, otherwise, .. } => then.iter().chain(otherwise).any(Request::may_write),
            Request::Range { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseKeepAlive { .. }
            | Request::Compact { .. } => false,
        }
    }

    /// Leases that its puts name, in both branches.
    pub fn leases(&self) -> Vec<i64> {
        match self {
            Request::Put { lease, .. } if *lease != 0 => vec![*lease],
            Request::Txn { then, otherwise, .. } => then.iter().chain(otherwise).flat_map(Request::leases).collect(),
            _ => Vec::new(),
        }
    }
}

/// A condition on one key; a key that is not there has zeros, and no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub key: String,
    pub comparison: Comparison,
    pub target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Value(String),
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
}
