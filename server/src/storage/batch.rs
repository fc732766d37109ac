//! Many commands' changes in one write.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rocksdb::WriteBatch;

use super::columns::{Column, Database, meta};
use super::read::ReadView;
use super::{StorageError, Store};
use crate::mvcc::keys::{attachment_key, encode_key_record, encode_lease, encode_rev_record, lease_key};
use crate::mvcc::{Auth, Effects, Overlay, ViewError};
use crate::proto::etcdserverpb::AlarmResponse;

/// Changes that become visible together, and after a crash are there together or not at all.
pub struct Batch {
    store: Arc<Store>,
    overlay: Overlay<ReadView>,
    applied: Option<Vec<u8>>,
    /// Values of the caller's own.
    values: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Batch {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let overlay = Overlay::new(store.view());
        Self { store, overlay, applied: None, values: Vec::new() }
    }

    /// The committed state with the batch's own changes: what the next command is applied to.
    pub fn view(&self) -> &Overlay<ReadView> {
        &self.overlay
    }

    /// Reads these keys of the committed state at once: commands that will ask for them find them in memory.
    pub fn read_ahead(&mut self, keys: Vec<Bytes>) -> Result<(), ViewError> {
        self.overlay.read_ahead(keys)
    }

    /// Adds what a command changed.
    pub fn stage(&mut self, effects: Effects) {
        self.overlay.effects_mut().merge(effects);
    }

    /// Sets what `Store::applied` returns with this batch.
    pub fn set_applied(&mut self, applied: &[u8]) {
        self.applied = Some(applied.to_vec());
    }

    /// Sets a value of the caller's own.
    pub fn set_meta(&mut self, key: &[u8], value: &[u8]) {
        self.values.push((key.to_vec(), value.to_vec()));
    }

    /// Makes the changes visible to new views. An error is fatal: the caller must not go on.
    pub fn commit(self) -> Result<(), StorageError> {
        let effects = self.overlay.into_effects();
        self.store.commit(effects, self.applied, &self.values)
    }
}

/// The write that makes the changes.
pub(super) fn encode(
    database: &Database,
    effects: &Effects,
    applied: Option<&[u8]>,
    values: &[(Vec<u8>, Vec<u8>)],
) -> WriteBatch {
    let mut batch = WriteBatch::default();
    put_effects(database, &mut batch, effects);
    let column = database.column(Column::Meta);
    if let Some(applied) = applied {
        batch.put_cf(column, meta::APPLIED, applied);
    }
    for (key, value) in values {
        batch.put_cf(column, [meta::CALLER, key].concat(), value);
    }
    batch
}

/// Adds what turns the stored users and roles into these.
pub(super) fn put_auth(database: &Database, batch: &mut WriteBatch, auth: &Auth, stored: &Auth) {
    let column = database.column(Column::Auth);
    for (key, value) in auth.changes(stored) {
        match value {
            Some(value) => batch.put_cf(column, key, value),
            None => batch.delete_cf(column, key),
        }
    }
}

fn put_effects(database: &Database, batch: &mut WriteBatch, effects: &Effects) {
    let rev = database.column(Column::Rev);
    for (key, record) in &effects.history {
        batch.put_cf(rev, key.encode(), encode_rev_record(record));
    }
    let key = database.column(Column::Key);
    for (name, record) in &effects.keys {
        batch.put_cf(key, name, encode_key_record(record));
    }
    let lease = database.column(Column::Lease);
    for (id, record) in &effects.leases {
        match record {
            Some(record) => batch.put_cf(lease, lease_key(*id), encode_lease(record)),
            None => batch.delete_cf(lease, lease_key(*id)),
        }
    }
    for ((id, key), attached) in &effects.attachments {
        match attached {
            true => batch.put_cf(lease, attachment_key(*id, key), []),
            false => batch.delete_cf(lease, attachment_key(*id, key)),
        }
    }
    put_values(database, batch, effects);
}

fn put_values(database: &Database, batch: &mut WriteBatch, effects: &Effects) {
    let column = database.column(Column::Meta);
    if let Some(revision) = effects.revision {
        batch.put_cf(column, meta::REVISION, revision.to_be_bytes());
    }
    if let Some(revision) = effects.compact_revision {
        batch.put_cf(column, meta::COMPACT_REVISION, revision.to_be_bytes());
    }
    if let Some(alarms) = &effects.alarms {
        let list = AlarmResponse { header: None, alarms: alarms.clone() };
        batch.put_cf(column, meta::ALARMS, list.encode_to_vec());
    }
    if let Some(target) = &effects.downgrade_target {
        batch.put_cf(column, meta::DOWNGRADE_TARGET, target);
    }
    for (id, member) in &effects.members {
        let key = [meta::MEMBER, &id.to_be_bytes()].concat();
        match member {
            Some(member) => batch.put_cf(column, key, member.encode_to_vec()),
            None => batch.delete_cf(column, key),
        }
    }
}
