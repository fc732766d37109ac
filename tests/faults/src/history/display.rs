//! Short text for reports: one operation, one line.

use std::fmt::{Display, Formatter, Result};

use super::{
    Compare, Comparison, Event, Failure, KeyValue, Kind, Operation, Outcome, Request, Response, Span, Target, Watch,
    WatchResponse,
};

/// Items of a list that are told.
const FEW: usize = 12;

fn list<T: Display>(f: &mut Formatter<'_>, items: &[T]) -> Result {
    f.write_str("[")?;
    for (index, item) in items.iter().take(FEW).enumerate() {
        write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
    }
    if items.len() > FEW {
        write!(f, ", and {} more", items.len() - FEW)?;
    }
    f.write_str("]")
}

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.end {
            None => f.write_str(&self.start),
            Some(end) if end == Span::NO_END => write!(f, "{}..", self.start.escape_default()),
            Some(end) => write!(f, "{}..{end}", self.start),
        }
    }
}

impl Display for KeyValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { key, value, create_revision, mod_revision, version, lease } = self;
        write!(f, "{key}={value} @{mod_revision}")?;
        if *version != 1 || create_revision != mod_revision {
            write!(f, " (created {create_revision}, version {version})")?;
        }
        if *lease != 0 { write!(f, " lease {lease}") } else { Ok(()) }
    }
}

impl Display for Compare {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let sign = match self.comparison {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Greater => ">",
            Comparison::Less => "<",
        };
        match &self.target {
            Target::Value(value) => write!(f, "{} {sign} {value}", self.key),
            Target::Version(number) => write!(f, "version({}) {sign} {number}", self.key),
            Target::CreateRevision(number) => write!(f, "create({}) {sign} {number}", self.key),
            Target::ModRevision(number) => write!(f, "mod({}) {sign} {number}", self.key),
        }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Request::Put { key, value, lease: 0, .. } => write!(f, "put {key}={value}"),
            Request::Put { key, value, lease, .. } => write!(f, "put {key}={value} lease {lease}"),
            Request::Delete { span, .. } => write!(f, "delete {span}"),
            Request::Range { span, revision, serializable, limit } => {
                write!(f, "{}range {span}", if *serializable { "serializable " } else { "" })?;
                if *revision != 0 {
                    write!(f, " at {revision}")?;
                }
                if *limit != 0 { write!(f, " limit {limit}") } else { Ok(()) }
            }
            Request::Txn { compares, then, otherwise } => {
                f.write_str("txn if ")?;
                list(f, compares)?;
                f.write_str(" then ")?;
                list(f, then)?;
                f.write_str(" else ")?;
                list(f, otherwise)
            }
            Request::LeaseGrant { lease, ttl_seconds } => write!(f, "grant lease {lease} for {ttl_seconds} s"),
            Request::LeaseRevoke { lease } => write!(f, "revoke lease {lease}"),
            Request::LeaseKeepAlive { lease } => write!(f, "keep lease {lease} alive"),
            Request::Compact { revision } => write!(f, "compact {revision}"),
        }
    }
}

impl Display for Response {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Response::LeaseGrant | Response::LeaseRevoke | Response::LeaseKeepAlive | Response::Compact => {
                f.write_str("done")
            }
            Response::Put { prev: None } => f.write_str("done"),
            Response::Put { prev: Some(prev) } => write!(f, "was {prev}"),
            Response::Delete { deleted, prev } => {
                write!(f, "{deleted} deleted")?;
                if prev.is_empty() {
                    return Ok(());
                }
                f.write_str(": ")?;
                list(f, prev)
            }
            Response::Range { kvs, count, more } => {
                write!(f, "{count}{} ", if *more { " and more" } else { "" })?;
                list(f, kvs)
            }
            Response::Txn { succeeded, responses } => {
                f.write_str(if *succeeded { "then " } else { "else " })?;
                list(f, responses)
            }
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Outcome::Ok { revision, response } => write!(f, "revision {revision}: {response}"),
            Outcome::Failed(Failure::LeaseNotFound) => f.write_str("refused: lease not found"),
            Outcome::Failed(Failure::Compacted) => f.write_str("refused: compacted"),
            Outcome::Failed(Failure::FutureRevision) => f.write_str("refused: future revision"),
            Outcome::Failed(Failure::Other(error)) => write!(f, "failed: {error}"),
            Outcome::Unknown { error } => write!(f, "unknown: {error}"),
        }
    }
}

/// Seconds.
pub struct Seconds(pub super::Time);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{:.6}", self.0 as f64 / 1e9)
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { client, member, call, returned, request, outcome } = self;
        let (call, returned) = (Seconds(*call), Seconds(*returned));
        write!(f, "client {client} member {member} {call}..{returned}: {request} -> {outcome}")
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.kind {
            Kind::Put => write!(f, "put {}", self.kv)?,
            Kind::Delete => write!(f, "delete {} @{}", self.kv.key, self.kv.mod_revision)?,
        }
        self.prev.as_ref().map_or(Ok(()), |prev| write!(f, " (was {prev})"))
    }
}

impl Display for WatchResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} revision {}", Seconds(self.time), self.revision)?;
        if self.created {
            f.write_str(" created")?;
        }
        if self.canceled {
            write!(f, " canceled, compacted {}", self.compact_revision)?;
        }
        if self.is_bookmark() {
            return f.write_str(" bookmark");
        }
        f.write_str(" ")?;
        list(f, &self.events)
    }
}

impl Display for Watch {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { client, member, span, start, call, .. } = self;
        write!(f, "client {client} member {member} {}: watch {span} from {start}", Seconds(*call))
    }
}
