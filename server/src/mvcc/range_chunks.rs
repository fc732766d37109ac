//! A range handed out in chunks. Each is read from a view of its own, at one revision for all of them, so that nothing of
//! the store is held while a client takes its time.

use std::ops::ControlFlow;

use prost::Message;

use super::range::{Wanted, check_revision, walk};
use super::{KeyRange, KeyValue, ReadError, View};
use crate::proto::etcdserverpb::RangeRequest;

/// What is left of a streamed range.
#[derive(Debug)]
pub struct RangeChunks {
    request: RangeRequest,
    rest: KeyRange,
    /// The store's revision when the range was asked for.
    revision: i64,
    /// Key-values that the limit still allows.
    allowed: usize,
    /// Keys in what was handed out.
    count: i64,
}

/// Key-values in key order.
#[derive(Debug, Default, PartialEq)]
pub struct Chunk {
    /// They follow those of the chunk before.
    pub kvs: Vec<KeyValue>,
    /// With the last chunk.
    pub end: Option<End>,
}

/// What is left to tell when all key-values were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The store's revision when the range was asked for.
    pub revision: i64,
    /// Keys in the range, whatever the limit.
    pub count: i64,
    /// The limit held some back.
    pub more: bool,
}

impl RangeChunks {
    /// The range as of now, or at the revision that the request names. The request has neither a sort nor filters by
    /// revision.
    pub fn new<V: View>(view: &V, request: RangeRequest) -> Self {
        let allowed = match usize::try_from(request.limit) {
            Ok(limit @ 1..) => limit,
            _ => usize::MAX,
        };
        let rest = KeyRange::new(request.key.clone(), request.range_end.clone());
        Self { request, rest, revision: view.revision(), allowed, count: 0 }
    }

    /// Reads up to the key-value with which the chunk reaches a size. A view from after a compaction beyond the revision
    /// refuses, as it does in etcd.
    pub fn next<V: View>(&mut self, view: &V, bytes: usize) -> Result<Chunk, ReadError> {
        let at = if self.request.revision <= 0 { self.revision } else { self.request.revision };
        check_revision(view, at)?;
        let mut wanted = Wanted::of(&self.request);
        if wanted.limit > 0 {
            // One more than allowed tells whether there is more.
            wanted.limit = self.allowed.saturating_add(1);
        }
        let (mut kvs, mut size, mut more) = (Vec::new(), 0, false);
        self.count += walk(view, &self.rest, at, &wanted, |kv| {
            more = kvs.len() == self.allowed;
            if more {
                return ControlFlow::Continue(());
            }
            let mut kv = kv.keep();
            if self.request.keys_only {
                kv.value.clear();
            }
            size += kv.encoded_len();
            kvs.push(kv);
            if size < bytes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.allowed -= kvs.len();
        let end = match kvs.last() {
            Some(last) if size >= bytes => {
                self.rest = self.rest.behind(&last.key);
                None
            }
            _ => Some(End { revision: self.revision, count: self.count, more }),
        };
        Ok(Chunk { kvs, end })
    }
}
