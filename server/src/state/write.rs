//! Puts and deletions at one new revision.

use bytes::Bytes;
use prost::Message;

use crate::mvcc::keys::INLINE_VALUE_BYTES;
use crate::mvcc::range;
use crate::mvcc::{
    Effects, Event, EventType, KeyRange, KeyRecord, KeyValue, Overlay, RevKey, RevRecord, Revision, Stamp, View,
    ViewError,
};

/// Collects the changes of one command. All of them share one new revision, which exists once a key was changed.
pub struct Writer<'v, V> {
    overlay: Overlay<&'v V>,
    events: Vec<Event>,
    /// The transaction's number, if it changes a key.
    main: i64,
}

impl<'v, V: View> Writer<'v, V> {
    /// Nothing is changed yet.
    pub fn new(view: &'v V) -> Self {
        Self { main: view.revision() + 1, overlay: Overlay::new(view), events: Vec::new() }
    }

    /// The state before the command.
    pub fn base(&self) -> &'v V {
        self.overlay.base()
    }

    /// The state with the changes so far.
    pub fn view(&self) -> &Overlay<&'v V> {
        &self.overlay
    }

    /// To change what is not a key.
    pub fn effects(&mut self) -> &mut Effects {
        self.overlay.effects_mut()
    }

    /// The revision: that of the state before, or the new one if a key was changed.
    pub fn revision(&self) -> i64 {
        self.overlay.revision()
    }

    /// Puts a key. The lease, if any, must exist.
    pub fn put(&mut self, key: &Bytes, value: Bytes, lease: i64) -> Result<(), ViewError> {
        let old = self.overlay.key(key)?;
        let live = old.as_ref().map(|record| record.stamp).filter(|stamp| !stamp.tombstone);
        let stamp = Stamp {
            modified: self.next(),
            create_revision: live.map_or(self.main, |stamp| stamp.create_revision),
            version: live.map_or(1, |stamp| stamp.version + 1),
            lease,
            tombstone: false,
        };
        let kv = KeyValue {
            key: key.clone(),
            create_revision: stamp.create_revision,
            mod_revision: self.main,
            version: stamp.version,
            value,
            lease,
        };
        let attached = live.map_or(0, |stamp| stamp.lease);
        if attached != lease {
            self.attach(attached, key, false);
            self.attach(lease, key, true);
        }
        let inline = (kv.value.len() <= INLINE_VALUE_BYTES).then(|| kv.value.clone());
        self.record(EventType::Put, old, KeyRecord { stamp, value: inline }, kv)
    }

    /// Deletes the keys of a range that exist; returns how many.
    pub fn delete(&mut self, keys: &KeyRange) -> Result<i64, ViewError> {
        let mut found = Vec::new();
        match keys {
            KeyRange::One(key) => found.extend(self.overlay.key(key)?.map(|record| (key.clone(), record))),
            _ => self.overlay.scan(keys, &mut |key, stamp, value| {
                let value = value.map(Bytes::copy_from_slice);
                found.push((Bytes::copy_from_slice(key), KeyRecord { stamp, value }));
                Ok(std::ops::ControlFlow::Continue(()))
            })?,
        }
        found.retain(|(_, record)| !record.stamp.tombstone);
        let deleted = found.len() as i64;
        for (key, old) in found {
            self.attach(old.stamp.lease, &key, false);
            let stamp = Stamp { modified: self.next(), create_revision: 0, version: 0, lease: 0, tombstone: true };
            let kv = KeyValue { key, ..Default::default() };
            self.record(EventType::Delete, Some(old), KeyRecord { stamp, value: None }, kv)?;
        }
        Ok(deleted)
    }

    /// What was changed.
    pub fn finish(self) -> (Effects, Vec<Event>) {
        (self.overlay.into_effects(), self.events)
    }

    fn next(&self) -> Revision {
        Revision { main: self.main, sub: self.events.len() as i64 }
    }

    fn attach(&mut self, lease: i64, key: &Bytes, attached: bool) {
        if lease != 0 {
            self.effects().attachments.insert((lease, key.clone()), attached);
        }
    }

    /// What watchers are shown as the previous version: that of the revision before, also if the command itself changed the
    /// key before; nothing for a key that it creates.
    fn before_the_command(&self, kv: &KeyValue, old: Option<KeyRecord>) -> Result<Option<KeyValue>, ViewError> {
        if kv.create_revision == self.main {
            return Ok(None);
        }
        let old = match old {
            Some(own) if own.stamp.modified.main == self.main => self.base().key(&kv.key)?,
            before => before,
        };
        old.map_or(Ok(None), |record| range::key_value(self.base(), &kv.key, &record))
    }

    fn record(
        &mut self,
        kind: EventType,
        old: Option<KeyRecord>,
        new: KeyRecord,
        mut kv: KeyValue,
    ) -> Result<(), ViewError> {
        // When a deletion below the compacted revision is removed is each member's own business: to what is written,
        // which must be the same everywhere, it is gone at once.
        let compacted = self.overlay.compact_revision();
        let previous = old
            .as_ref()
            .map(|record| record.stamp.rev_key())
            .filter(|place| !place.tombstone || place.revision.main >= compacted);
        let prev_kv = self.before_the_command(&kv, old)?;
        let place: RevKey = new.stamp.rev_key();
        let stored = RevRecord { previous, kv: Bytes::from(kv.encode_to_vec()) };
        let key = kv.key.clone();
        kv.mod_revision = self.main;
        self.events.push(Event { r#type: kind.into(), kv: Some(kv), prev_kv });
        let main = self.main;
        let effects = self.effects();
        effects.revision = Some(main);
        effects.history.insert(place, stored);
        effects.keys.insert(key, new);
        Ok(())
    }
}
