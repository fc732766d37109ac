//! What commands change, and a view with such changes on top of another.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::view::{Visit, VisitHistory};
use super::{
    AlarmMember, Auth, KeyRange, KeyRecord, LeaseRecord, MemberAttributes, RevKey, RevRecord, View, ViewError,
};

/// Changes to the store, of one command or of many merged: the newest wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// The revision afterwards, if it grew.
    pub revision: Option<i64>,
    /// The compacted revision afterwards, if it grew.
    pub compact_revision: Option<i64>,
    /// Newest versions of the keys that changed.
    pub keys: BTreeMap<Bytes, KeyRecord>,
    /// New versions for the history.
    pub history: BTreeMap<RevKey, RevRecord>,
    /// Leases granted, or revoked (none).
    pub leases: BTreeMap<i64, Option<LeaseRecord>>,
    /// Keys attached to leases (true) or no longer so.
    pub attachments: BTreeMap<(i64, Bytes), bool>,
    /// All alarms afterwards, if they changed.
    pub alarms: Option<Vec<AlarmMember>>,
    /// Users and roles afterwards, if they changed.
    pub auth: Option<Arc<Auth>>,
    /// The version to go back to afterwards, if that changed; empty for none.
    pub downgrade_target: Option<String>,
    /// What members told of themselves; none where a member left.
    pub members: BTreeMap<u64, Option<MemberAttributes>>,
}

impl Effects {
    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Puts later changes on top.
    pub fn merge(&mut self, later: Effects) {
        self.revision = later.revision.or(self.revision);
        self.compact_revision = later.compact_revision.or(self.compact_revision);
        self.keys.extend(later.keys);
        self.history.extend(later.history);
        self.leases.extend(later.leases);
        self.attachments.extend(later.attachments);
        self.alarms = later.alarms.or(self.alarms.take());
        self.auth = later.auth.or(self.auth.take());
        self.downgrade_target = later.downgrade_target.or(self.downgrade_target.take());
        self.members.extend(later.members);
    }

    /// A member left for good: what it told of itself goes too.
    pub fn forget_member(&mut self, member_id: u64) {
        self.members.insert(member_id, None);
    }
}

/// A view with changes on top.
#[derive(Debug, Clone)]
pub struct Overlay<V> {
    base: V,
    /// Of the base, what was read ahead.
    known: HashMap<Bytes, Option<KeyRecord>>,
    effects: Effects,
}

impl<V: View> Overlay<V> {
    /// Nothing changed yet.
    pub fn new(base: V) -> Self {
        Self { base, known: HashMap::new(), effects: Effects::default() }
    }

    /// The view without the changes.
    pub fn base(&self) -> &V {
        &self.base
    }

    /// Reads these keys of the base at once, which takes less than one after the other.
    pub fn read_ahead(&mut self, mut keys: Vec<Bytes>) -> Result<(), ViewError> {
        keys.sort_unstable();
        keys.dedup();
        let records = self.base.keys(&keys)?;
        self.known.extend(keys.into_iter().zip(records));
        Ok(())
    }

    /// The changes so far.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// To change more.
    pub fn effects_mut(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// The changes, without the view.
    pub fn into_effects(self) -> Effects {
        self.effects
    }

    fn changed_keys<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = (&'a Bytes, &'a KeyRecord)> {
        let start = Bound::Included(range.start().clone());
        self.effects.keys.range((start, Bound::Unbounded)).take_while(|(key, _)| range.contains(key))
    }
}

impl<V: View> View for Overlay<V> {
    fn revision(&self) -> i64 {
        self.effects.revision.unwrap_or_else(|| self.base.revision())
    }

    fn compact_revision(&self) -> i64 {
        self.effects.compact_revision.unwrap_or_else(|| self.base.compact_revision())
    }

    fn key(&self, key: &[u8]) -> Result<Option<KeyRecord>, ViewError> {
        if let Some(record) = self.effects.keys.get(key) {
            return Ok(Some(record.clone()));
        }
        match self.known.get(key) {
            Some(record) => Ok(record.clone()),
            None => self.base.key(key),
        }
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if self.effects.keys.is_empty() {
            return self.base.scan(range, visit);
        }
        let mut changed = self.changed_keys(range).peekable();
        let mut stopped = false;
        self.base.scan(range, &mut |key, stamp, value| {
            while let Some((name, record)) = changed.next_if(|(name, _)| name.as_ref() < key) {
                if visit(name, record.stamp, record.value.as_deref())?.is_break() {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = match changed.next_if(|(name, _)| name.as_ref() == key) {
                Some((name, record)) => visit(name, record.stamp, record.value.as_deref())?,
                None => visit(key, stamp, value)?,
            };
            stopped = flow.is_break();
            Ok(flow)
        })?;
        if stopped {
            return Ok(());
        }
        for (name, record) in changed {
            if visit(name, record.stamp, record.value.as_deref())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn record(&self, key: RevKey) -> Result<Option<RevRecord>, ViewError> {
        match self.effects.history.get(&key) {
            Some(record) => Ok(Some(record.clone())),
            None => self.base.record(key),
        }
    }

    fn history(&self, first: i64, visit: &mut VisitHistory<'_>) -> Result<(), ViewError> {
        let mut stopped = false;
        self.base.history(first, &mut |key, record| {
            let flow = visit(key, record)?;
            stopped = flow.is_break();
            Ok(flow)
        })?;
        let new = self.effects.history.iter().filter(|(key, _)| key.revision.main >= first);
        for (key, record) in new {
            if stopped || visit(*key, record.clone())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, ViewError> {
        match self.effects.leases.get(&id) {
            Some(lease) => Ok(*lease),
            None => self.base.lease(id),
        }
    }

    fn leases(&self) -> Result<Vec<LeaseRecord>, ViewError> {
        let base = self.base.leases()?;
        if self.effects.leases.is_empty() {
            return Ok(base);
        }
        let mut all: BTreeMap<i64, LeaseRecord> = base.into_iter().map(|lease| (lease.id, lease)).collect();
        for (id, lease) in &self.effects.leases {
            match lease {
                Some(lease) => all.insert(*id, *lease),
                None => all.remove(id),
            };
        }
        Ok(all.into_values().collect())
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        let mut keys = self.base.lease_keys(id)?;
        let changed = self.effects.attachments.range((id, Bytes::new())..);
        for ((_, key), attached) in changed.take_while(|((lease, _), _)| *lease == id) {
            match (keys.binary_search(key), attached) {
                (Err(at), true) => keys.insert(at, key.clone()),
                (Ok(at), false) => {
                    keys.remove(at);
                }
                _ => {}
            }
        }
        Ok(keys)
    }

    fn alarms(&self) -> Result<Vec<AlarmMember>, ViewError> {
        match &self.effects.alarms {
            Some(alarms) => Ok(alarms.clone()),
            None => self.base.alarms(),
        }
    }

    fn downgrade_target(&self) -> Result<Option<String>, ViewError> {
        match &self.effects.downgrade_target {
            Some(target) => Ok(Some(target.clone()).filter(|target| !target.is_empty())),
            None => self.base.downgrade_target(),
        }
    }

    fn auth(&self) -> &Arc<Auth> {
        self.effects.auth.as_ref().unwrap_or_else(|| self.base.auth())
    }

    fn members(&self) -> Result<Vec<MemberAttributes>, ViewError> {
        let mut all: BTreeMap<u64, MemberAttributes> =
            self.base.members()?.into_iter().map(|member| (member.member_id, member)).collect();
        for (id, member) in &self.effects.members {
            match member {
                Some(member) => all.insert(*id, member.clone()),
                None => all.remove(id),
            };
        }
        Ok(all.into_values().collect())
    }
}

/// So that an overlay can stand on a borrowed view.
impl<V: View> View for &V {
    fn revision(&self) -> i64 {
        (**self).revision()
    }
    fn compact_revision(&self) -> i64 {
        (**self).compact_revision()
    }
    fn key(&self, key: &[u8]) -> Result<Option<KeyRecord>, ViewError> {
        (**self).key(key)
    }
    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        (**self).scan(range, visit)
    }
    fn record(&self, key: RevKey) -> Result<Option<RevRecord>, ViewError> {
        (**self).record(key)
    }
    fn history(&self, first: i64, visit: &mut VisitHistory<'_>) -> Result<(), ViewError> {
        (**self).history(first, visit)
    }
    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, ViewError> {
        (**self).lease(id)
    }
    fn leases(&self) -> Result<Vec<LeaseRecord>, ViewError> {
        (**self).leases()
    }
    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        (**self).lease_keys(id)
    }
    fn alarms(&self) -> Result<Vec<AlarmMember>, ViewError> {
        (**self).alarms()
    }
    fn downgrade_target(&self) -> Result<Option<String>, ViewError> {
        (**self).downgrade_target()
    }
    fn auth(&self) -> &Arc<Auth> {
        (**self).auth()
    }
    fn members(&self) -> Result<Vec<MemberAttributes>, ViewError> {
        (**self).members()
    }
}
