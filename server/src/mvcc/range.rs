//! The Range request.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::view::{KeyRecord, Stamp};
use super::{KeyRange, KeyValue, ReadError, RevKey, View, ViewError};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};

/// Whether an answer may take so many bytes of memory more.
pub type Room<'a> = dyn FnMut(usize) -> bool + 'a;

/// Room for everything.
pub fn unbounded(_: usize) -> bool {
    true
}

/// Answers a Range request with every option, as long as there is room for the answer. The header carries only the revision.
pub fn range<V: View>(view: &V, request: &RangeRequest, room: &mut Room<'_>) -> Result<RangeResponse, ReadError> {
    let Asked { at, keys, wanted, count } = Asked::of(view, request)?;
    let (count, mut kvs) = match count {
        Some(count) => (count, first(view, &keys, at, &wanted, room)?),
        None => collect(view, &keys, at, &wanted, room)?,
    };
    sort(&mut kvs, request);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::new();
        }
    }
    let header = Some(ResponseHeader { revision: view.revision(), ..Default::default() });
    Ok(RangeResponse { header, kvs, more, count })
}

/// What a request asks a view for.
pub(super) struct Asked {
    /// The revision.
    pub(super) at: i64,
    pub(super) keys: KeyRange,
    pub(super) wanted: Wanted,
    /// How many keys there are, if that is known without a look at each of them and they need not be looked at for the answer.
    pub(super) count: Option<i64>,
}

impl Asked {
    pub(super) fn of<V: View>(view: &V, request: &RangeRequest) -> Result<Self, ReadError> {
        let at = if request.revision <= 0 { view.revision() } else { request.revision };
        check_revision(view, at)?;
        let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
        let wanted = Wanted::of(request);
        let count = if wanted.is_limited() { count(view, &keys, at)? } else { None };
        Ok(Self { at, keys, wanted, count })
    }
}

/// Whether the view can be read at that revision.
pub fn check_revision<V: View>(view: &V, revision: i64) -> Result<(), EtcdError> {
    if revision > view.revision() {
        return Err(EtcdError::FutureRev);
    }
    if revision < view.compact_revision() {
        return Err(EtcdError::Compacted);
    }
    Ok(())
}

/// The key-values of the range at the newest revision, in key order.
pub fn current<V: View>(view: &V, keys: &KeyRange) -> Result<Vec<KeyValue>, ViewError> {
    let everything = Wanted { limit: usize::MAX, values: true, leases: true, filters: [(0, 0); 2] };
    let mut kvs = Vec::new();
    walk(view, keys, view.revision(), &everything, |kv| {
        kvs.push(kv.keep());
        ControlFlow::Continue(())
    })?;
    Ok(kvs)
}

/// What of the range the answer needs.
pub(super) struct Wanted {
    /// Collect no more than this; counting goes on.
    pub(super) limit: usize,
    values: bool,
    leases: bool,
    /// Bounds of mod and create revision; 0 is none.
    filters: [(i64, i64); 2],
}

impl Wanted {
    pub(super) fn of(request: &RangeRequest) -> Self {
        let filters = [
            (request.min_mod_revision, request.max_mod_revision),
            (request.min_create_revision, request.max_create_revision),
        ];
        // A limit holds back what would follow in key order, so a sorted answer needs everything first. That a sort
        // by another target than the key without an order does not count as sorted is etcd's behaviour.
        let key_order = request.sort_order() == SortOrder::None
            || (request.sort_target() == SortTarget::Key && request.sort_order() == SortOrder::Ascend);
        let limit = match usize::try_from(request.limit) {
            _ if request.count_only => 0,
            // One more than asked for tells whether there is more.
            Ok(limit @ 1..) if key_order && filters == [(0, 0); 2] => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let values = !request.keys_only || request.sort_target() == SortTarget::Value;
        Self { limit, values, leases: !request.keys_only, filters }
    }

    /// Less than all keys of the range need to be looked at, but for their number.
    fn is_limited(&self) -> bool {
        self.limit < usize::MAX
    }

    fn accepts(&self, modified: i64, created: i64) -> bool {
        let within = |(min, max): (i64, i64), revision| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        within(self.filters[0], modified) && within(self.filters[1], created)
    }
}

/// Changes since a revision that are looked at to count the keys of then; with more, the keys are looked at.
const MOST_CHANGES: usize = 10_000;

/// The number of keys of the range at a revision, if that is known without a look at each.
fn count<V: View>(view: &V, keys: &KeyRange, at: i64) -> Result<Option<i64>, ViewError> {
    let known = if matches!(keys, KeyRange::One(_)) { None } else { view.count(keys)? };
    let Some(mut count) = known else { return Ok(None) };
    let mut changes = 0;
    if at < view.revision() {
        view.history(at + 1, &mut |place, record| {
            let by = record.change(place);
            if by != 0 && keys.contains(&record.key_value()?.key) {
                count -= by;
            }
            changes += 1;
            Ok(if changes > MOST_CHANGES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    Ok((changes <= MOST_CHANGES).then_some(count))
}

/// The first of the wanted key-values, as many as the limit allows.
fn first<V: View>(
    view: &V,
    keys: &KeyRange,
    at: i64,
    wanted: &Wanted,
    room: &mut Room<'_>,
) -> Result<Vec<KeyValue>, ReadError> {
    let mut kvs = Collected::within(room);
    if wanted.limit > 0 {
        walk(view, keys, at, wanted, |kv| {
            kvs.push(kv)?;
            if kvs.kvs.len() < wanted.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    Ok(kvs.finish()?)
}

/// The count of all keys of the range at a revision, and the wanted ones in key order.
fn collect<V: View>(
    view: &V,
    keys: &KeyRange,
    at: i64,
    wanted: &Wanted,
    room: &mut Room<'_>,
) -> Result<(i64, Vec<KeyValue>), ReadError> {
    let mut kvs = Collected::within(room);
    let count = walk(view, keys, at, wanted, |kv| kvs.push(kv))?;
    Ok((count, kvs.finish()?))
}

/// Key-values, until there is no room for more.
struct Collected<'r, 'a> {
    kvs: Vec<KeyValue>,
    room: &'r mut Room<'a>,
    full: bool,
}

impl<'r, 'a> Collected<'r, 'a> {
    fn within(room: &'r mut Room<'a>) -> Self {
        Collected { kvs: Vec::new(), room, full: false }
    }

    fn push(&mut self, kv: Found<'_>) -> ControlFlow<()> {
        // Once here, and once more as what is sent.
        if !(self.room)(size_of::<KeyValue>() + 2 * (kv.key.len() + kv.value.len())) {
            self.full = true;
            return ControlFlow::Break(());
        }
        self.kvs.push(kv.keep());
        ControlFlow::Continue(())
    }

    fn finish(self) -> Result<Vec<KeyValue>, EtcdError> {
        if self.full { Err(EtcdError::RequestTooManyRequests) } else { Ok(self.kvs) }
    }
}

/// A key-value that a walk comes by. What the store lends is copied by whoever keeps it.
pub(super) struct Found<'a> {
    pub(super) key: &'a [u8],
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
    pub(super) version: i64,
    pub(super) value: Value<'a>,
    pub(super) lease: i64,
}

/// A value that lies in the store, or one that was read for the walk.
pub(super) enum Value<'a> {
    Lent(&'a [u8]),
    Held(Bytes),
}

impl std::ops::Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Value::Lent(value) => value,
            Value::Held(value) => value,
        }
    }
}

impl Found<'_> {
    /// The key-value in memory of its own.
    pub(super) fn keep(self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: match self.value {
                Value::Lent(value) => Bytes::copy_from_slice(value),
                Value::Held(value) => value,
            },
            lease: self.lease,
        }
    }
}

/// Walks the range at a revision, hands out the wanted key-values in key order, and counts all, until `emit` breaks.
pub(super) fn walk<V: View>(
    view: &V,
    keys: &KeyRange,
    at: i64,
    wanted: &Wanted,
    mut emit: impl FnMut(Found<'_>) -> ControlFlow<()>,
) -> Result<i64, ViewError> {
    let mut count = 0;
    let mut emitted = 0;
    let mut visit = |key: &[u8], stamp: Stamp, value: Option<&[u8]>| {
        let old = match () {
            () if stamp.modified.main > at => match older(view, stamp.rev_key(), at)? {
                None => return Ok(ControlFlow::Continue(())),
                old => old,
            },
            () if stamp.tombstone => return Ok(ControlFlow::Continue(())),
            () => None,
        };
        count += 1;
        let (create_revision, mod_revision, version, lease) = match &old {
            Some(kv) => (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
            None => (stamp.create_revision, stamp.modified.main, stamp.version, stamp.lease),
        };
        if emitted == wanted.limit || !wanted.accepts(mod_revision, create_revision) {
            return Ok(ControlFlow::Continue(()));
        }
        emitted += 1;
        let lease = if wanted.leases { lease } else { 0 };
        let value = match (old, value) {
            _ if !wanted.values => Value::Lent(&[]),
            (Some(kv), _) => Value::Held(kv.value),
            (None, Some(value)) => Value::Lent(value),
            (None, None) => Value::Held(stored_value(view, stamp.rev_key())?),
        };
        Ok(emit(Found { key, create_revision, mod_revision, version, value, lease }))
    };
    match keys {
        KeyRange::One(key) => {
            if let Some(record) = view.key(key)? {
                let _: ControlFlow<()> = visit(key, record.stamp, record.value.as_deref())?;
            }
        }
        _ => view.scan(keys, &mut visit)?,
    }
    Ok(count)
}

/// Sorts as etcd does; with equal targets, key order remains.
fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let descend = request.sort_order() == SortOrder::Descend;
    let target = request.sort_target();
    if target == SortTarget::Key {
        if descend {
            kvs.reverse();
        }
        return;
    }
    kvs.sort_by(|a, b| {
        let (a, b) = if descend { (b, a) } else { (a, b) };
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    });
}

/// The newest key-value that a record stands for; none if it is a tombstone.
pub fn key_value<V: View>(view: &V, key: &[u8], record: &KeyRecord) -> Result<Option<KeyValue>, ViewError> {
    if record.stamp.tombstone {
        return Ok(None);
    }
    let value = match &record.value {
        Some(value) => value.clone(),
        None => stored_value(view, record.stamp.rev_key())?,
    };
    let Stamp { create_revision, version, lease, .. } = record.stamp;
    let mod_revision = record.stamp.modified.main;
    Ok(Some(KeyValue { key: Bytes::copy_from_slice(key), create_revision, mod_revision, version, value, lease }))
}

/// Where the newest version not after `at` is stored, beginning the search at `newest`.
pub fn version_at<V: View>(view: &V, newest: RevKey, at: i64) -> Result<Option<RevKey>, ViewError> {
    let mut place = newest;
    while place.revision.main > at {
        match required(view, place)?.previous {
            Some(previous) => place = previous,
            None => return Ok(None),
        }
    }
    Ok(Some(place))
}

/// The key-value not after `at`; none if the key did not exist then.
fn older<V: View>(view: &V, newest: RevKey, at: i64) -> Result<Option<KeyValue>, ViewError> {
    match version_at(view, newest, at)? {
        Some(place) if !place.tombstone => required(view, place)?.key_value().map(Some),
        _ => Ok(None),
    }
}

fn stored_value<V: View>(view: &V, place: RevKey) -> Result<Bytes, ViewError> {
    Ok(required(view, place)?.key_value()?.value)
}

fn required<V: View>(view: &V, place: RevKey) -> Result<super::RevRecord, ViewError> {
    view.record(place)?.ok_or_else(|| ViewError(format!("the version at {place:?} is missing")))
}
