//! Reading the committed state at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rocksdb::{DB, DBRawIterator, ReadOptions, Snapshot};

use super::columns::{Column, Database, meta};
use crate::mvcc::counts::KeyCounts;
use crate::mvcc::keys::{self, attachment_key, decode_key_record, decode_rev_record, lease_key};
use crate::mvcc::{
    AlarmMember, Auth, KeyRange, KeyRecord, LeaseRecord, MemberAttributes, RevKey, RevRecord, View, ViewError, Visit,
    VisitHistory,
};

/// The committed state at one moment, whatever is written meanwhile. Clones share it. What is superseded stays on the disk
/// while it lives, so it should not be kept for long.
#[derive(Clone)]
pub struct ReadView(Arc<Moment>);

struct Moment {
    pinned: Arc<Pinned>,
    facts: Facts,
    counts: Option<Arc<KeyCounts>>,
}

struct Pinned {
    // Dropped in this order: the snapshot is released before its database can be closed.
    snapshot: Snapshot<'static>,
    database: Arc<Database>,
}

/// What every read needs to know without a look into the database.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) alarms: Arc<[AlarmMember]>,
    pub(super) auth: Arc<Auth>,
}

impl ReadView {
    /// A view of the database as of now, of which the facts are true.
    pub(super) fn new(database: Arc<Database>, facts: Facts, counts: Option<Arc<KeyCounts>>) -> Self {
        // SAFETY: the reference is used only by `snapshot`. The database it points to is on the heap, where the `Arc`
        // beside it keeps it in place: `Database::rocks` changes only in `Database::drop`, which runs after the last
        // `Arc` is gone, and the field order above releases the snapshot before this view's `Arc`. Nothing hands out
        // the snapshot or the reference, and iterators made from it borrow from the view.
        #[allow(unsafe_code)]
        let rocks: &'static DB = unsafe { &*std::ptr::from_ref(database.rocks()) };
        let pinned = Arc::new(Pinned { snapshot: rocks.snapshot(), database });
        Self(Arc::new(Moment { pinned, facts, counts }))
    }

    /// The same moment with other counts.
    pub(super) fn with_counts(&self, counts: Option<Arc<KeyCounts>>) -> Self {
        Self(Arc::new(Moment { pinned: Arc::clone(&self.0.pinned), facts: self.0.facts.clone(), counts }))
    }

    /// How many keys there are in which block, if they were counted.
    pub(super) fn counts(&self) -> Option<&KeyCounts> {
        self.0.counts.as_deref()
    }

    /// How many keys there are, if they were counted.
    pub fn keys(&self) -> Option<i64> {
        self.counts().map(KeyCounts::total)
    }

    /// Lets go of the counts, unless a clone still needs them: they can be changed in place then.
    pub(super) fn forget_counts(&mut self) {
        if let Some(moment) = Arc::get_mut(&mut self.0) {
            moment.counts = None;
        }
    }

    /// Whether this is a view of that database.
    pub(super) fn is_of(&self, database: &Arc<Database>) -> bool {
        Arc::ptr_eq(&self.0.pinned.database, database)
    }

    /// What `Store::applied` returned at that moment.
    pub fn applied(&self) -> Result<Option<Vec<u8>>, ViewError> {
        self.get(Column::Meta, meta::APPLIED)
    }

    /// Up to here superseded versions are removed; -1 if nothing was ever compacted.
    pub fn removed_revision(&self) -> Result<i64, ViewError> {
        self.get(Column::Meta, meta::REMOVED_REVISION)?.map_or(Ok(-1), |bytes| keys::int(&bytes, 0))
    }

    /// Visits the users, roles and settings of authentication as they are stored.
    pub fn auth_entries(
        &self,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ViewError>,
    ) -> Result<(), ViewError> {
        self.walk(Column::Auth, &[], None, visit)
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.0.pinned.snapshot.get_cf(self.0.pinned.database.column(column), key).map_err(failed)
    }

    /// Visits the entries from `start` on, in key order, until `visit` breaks. `end`, if any, is not visited.
    fn walk(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ViewError>,
    ) -> Result<(), ViewError> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut entries: DBRawIterator<'_> =
            self.0.pinned.snapshot.raw_iterator_cf_opt(self.0.pinned.database.column(column), options);
        entries.seek(start);
        while let Some((key, value)) = entries.item() {
            if visit(key, value)?.is_break() {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(failed)
    }
}

impl View for ReadView {
    fn revision(&self) -> i64 {
        self.0.facts.revision
    }

    fn compact_revision(&self) -> i64 {
        self.0.facts.compact_revision
    }

    fn key(&self, key: &[u8]) -> Result<Option<KeyRecord>, ViewError> {
        if let Some(record) = self.0.pinned.database.recent.get(key, self.revision()) {
            return Ok(Some(record));
        }
        self.get(Column::Key, key)?.map(|bytes| key_record(bytes.into())).transpose()
    }

    fn keys(&self, keys: &[Bytes]) -> Result<Vec<Option<KeyRecord>>, ViewError> {
        let Pinned { snapshot, database } = &*self.0.pinned;
        let mut records: Vec<_> = keys.iter().map(|key| database.recent.get(key, self.revision())).collect();
        let unknown: Vec<_> = (0..keys.len()).filter(|n| records[*n].is_none()).collect();
        let mut options = ReadOptions::default();
        options.set_snapshot(snapshot);
        let names = unknown.iter().map(|n| &keys[*n]);
        let found = database.rocks().batched_multi_get_cf_opt(database.column(Column::Key), names, true, &options);
        for (n, bytes) in unknown.into_iter().zip(found) {
            records[n] = bytes.map_err(failed)?.map(|bytes| key_record(Bytes::copy_from_slice(&bytes))).transpose()?;
        }
        Ok(records)
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let end = match range {
            _ if range.is_empty() => return Ok(()),
            KeyRange::One(key) => Some([key, &[0][..]].concat()),
            KeyRange::Span(_, end) => Some(end.to_vec()),
            KeyRange::From(_) => None,
        };
        self.walk(Column::Key, range.start(), end.as_deref(), |key, record| {
            let (stamp, value) = decode_key_record(record)?;
            visit(key, stamp, value)
        })
    }

    fn count(&self, range: &KeyRange) -> Result<Option<i64>, ViewError> {
        let Some(counts) = &self.0.counts else { return Ok(None) };
        let (mut count, rest) = counts.within(range);
        for range in rest {
            self.scan(&range, &mut |_, stamp, _| {
                count += i64::from(!stamp.tombstone);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(Some(count))
    }

    fn record(&self, key: RevKey) -> Result<Option<RevRecord>, ViewError> {
        self.get(Column::Rev, &key.encode())?.map(|bytes| decode_rev_record(Bytes::from(bytes))).transpose()
    }

    fn history(&self, first: i64, visit: &mut VisitHistory<'_>) -> Result<(), ViewError> {
        let start = RevKey::first(first.max(0));
        self.walk(Column::Rev, &start, None, |key, record| {
            let record = decode_rev_record(Bytes::copy_from_slice(record))?;
            visit(RevKey::decode(key)?, record)
        })
    }

    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, ViewError> {
        self.get(Column::Lease, &lease_key(id))?.map(|bytes| keys::decode_lease(id, &bytes)).transpose()
    }

    fn leases(&self) -> Result<Vec<LeaseRecord>, ViewError> {
        let mut leases = Vec::new();
        self.walk(Column::Lease, &[], None, |key, value| {
            if key.len() == lease_key(0).len() {
                leases.push(keys::decode_lease(keys::int(key, 0)?, value)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // Stored in the order of unsigned numbers.
        leases.sort_by_key(|lease| lease.id);
        Ok(leases)
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        let prefix = lease_key(id);
        let mut keys = Vec::new();
        // A key is never empty, so the lease's own entry is skipped.
        self.walk(Column::Lease, &attachment_key(id, &[0]), None, |key, _| {
            Ok(match key.strip_prefix(&prefix) {
                Some(key) => {
                    keys.push(Bytes::copy_from_slice(key));
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            })
        })?;
        Ok(keys)
    }

    fn alarms(&self) -> Result<Vec<AlarmMember>, ViewError> {
        Ok(self.0.facts.alarms.to_vec())
    }

    fn downgrade_target(&self) -> Result<Option<String>, ViewError> {
        let target = self.get(Column::Meta, meta::DOWNGRADE_TARGET)?.filter(|target| !target.is_empty());
        target.map(|target| String::from_utf8(target).map_err(|error| ViewError(error.to_string()))).transpose()
    }

    fn auth(&self) -> &Arc<Auth> {
        &self.0.facts.auth
    }

    fn members(&self) -> Result<Vec<MemberAttributes>, ViewError> {
        let mut members = Vec::new();
        self.walk(Column::Meta, meta::MEMBER, None, |key, value| {
            if !key.starts_with(meta::MEMBER) {
                return Ok(ControlFlow::Break(()));
            }
            let member = MemberAttributes::decode(value);
            members.push(member.map_err(|error| ViewError(format!("stored member: {error}")))?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(members)
    }
}

fn key_record(bytes: Bytes) -> Result<KeyRecord, ViewError> {
    let (stamp, value) = decode_key_record(&bytes)?;
    let value = value.map(|value| bytes.slice_ref(value));
    Ok(KeyRecord { stamp, value })
}

fn failed(error: rocksdb::Error) -> ViewError {
    ViewError(error.to_string())
}
