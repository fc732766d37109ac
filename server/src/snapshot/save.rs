//! The store at one moment as etcd's backend would hold it: as a bbolt file, or as a sum over what would be in it.

use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::ops::ControlFlow;

use prost::Message;

use super::schema;
use super::{SnapshotError, content};
use crate::bbolt::Writer;
use crate::config;
use crate::mvcc::{View, ViewError, auth as stored};
use crate::raft::state_machine::AppliedState;
use crate::storage::ReadView;

/// Takes buckets and their keys, in order.
pub trait Sink {
    /// Begins a bucket.
    fn bucket(&mut self, name: &str) -> Result<(), SnapshotError>;
    /// Adds a key to it.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError>;
}

/// A file, as long as somebody wants it.
struct ToFile<W, F> {
    writer: Writer<W>,
    wanted: F,
}

impl<W: Write + Seek, F: Fn() -> bool> Sink for ToFile<W, F> {
    fn bucket(&mut self, name: &str) -> Result<(), SnapshotError> {
        Ok(self.writer.bucket(name.as_bytes())?)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        match (self.wanted)() {
            true => Ok(self.writer.put(key, value)?),
            false => Err(SnapshotError::Abandoned),
        }
    }
}

/// The sum of the Hash call: of all that does not depend on the member.
struct ToSum {
    sum: u32,
    in_meta: bool,
}

impl Sink for ToSum {
    fn bucket(&mut self, name: &str) -> Result<(), SnapshotError> {
        self.in_meta = name == schema::META;
        self.sum = crc32c::crc32c_append(self.sum, name.as_bytes());
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        let own = [schema::TERM, schema::CONSISTENT_INDEX, schema::STORAGE_VERSION];
        if !(self.in_meta && own.iter().any(|own| own.as_bytes() == key)) {
            self.sum = crc32c::crc32c_append(crc32c::crc32c_append(self.sum, key), value);
        }
        Ok(())
    }
}

/// The version of the data's meaning: while the cluster may go back to an older one, that.
pub fn storage_version(view: &impl View) -> Result<String, ViewError> {
    Ok(view.downgrade_target()?.unwrap_or_else(|| config::STORAGE_VERSION.to_owned()))
}

/// Writes the view to `out`; answers it and the file's size in bytes. `wanted` is asked again and again.
pub fn save<W: Write + Seek>(view: &ReadView, out: W, wanted: impl Fn() -> bool) -> Result<(W, u64), SnapshotError> {
    let mut sink = ToFile { writer: Writer::new(out)?, wanted };
    dump(view, &mut sink)?;
    Ok(sink.writer.finish()?)
}

/// CRC32C over all of the backend but the index and term of the last entry (etcd's Hash).
pub fn hash(view: &ReadView) -> Result<u32, SnapshotError> {
    let mut sink = ToSum { sum: 0, in_meta: false };
    dump(view, &mut sink)?;
    Ok(sink.sum)
}

fn dump(view: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    let state = AppliedState::decode(view.applied()?).map_err(|error| content(error.to_string()))?;
    // In the order of the buckets' names.
    alarms(view, sink)?;
    auth(view, sink)?;
    cluster(view, sink)?;
    history(view, sink)?;
    leases(view, sink)?;
    members(view, &state, sink)?;
    numbers(view, &state, sink)
}

/// The cluster's version is left out: whoever restores the file founds a new cluster, which finds its own, and an older
/// etcd would not start with ours.
fn cluster(_: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::CLUSTER)
}

fn alarms(view: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::ALARM)?;
    let keys: BTreeSet<Vec<u8>> = view.alarms()?.iter().map(Message::encode_to_vec).collect();
    for key in keys {
        sink.put(&key, &[])?;
    }
    Ok(())
}

/// The values are etcd's already; only the keys are ours.
fn auth(view: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::AUTH)?;
    let mut enabled = None;
    view.auth_entries(|key, value| {
        enabled = (key == stored::ENABLED).then(|| value.to_vec());
        Ok(if enabled.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(enabled) = enabled {
        sink.put(schema::AUTH_ENABLED.as_bytes(), &enabled)?;
    }
    sink.put(schema::AUTH_REVISION.as_bytes(), &view.auth().revision.to_be_bytes())?;
    for (bucket, prefix) in [(schema::AUTH_ROLES, stored::ROLE), (schema::AUTH_USERS, stored::USER)] {
        sink.bucket(bucket)?;
        let mut failed = None;
        view.auth_entries(|key, value| {
            let name = key.strip_prefix(prefix);
            failed = name.and_then(|name| sink.put(name, value).err());
            Ok(if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

fn history(view: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::KEY)?;
    let mut failed = None;
    view.history(0, &mut |place, record| {
        failed = sink.put(&place.encode(), &record.kv).err();
        Ok(if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    failed.map_or(Ok(()), Err)
}

fn leases(view: &ReadView, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::LEASE)?;
    let mut leases = view.leases()?;
    leases.sort_by_key(|lease| lease.id as u64);
    for lease in leases {
        let stored = schema::Lease { id: lease.id, ttl: lease.ttl_seconds, remaining_ttl: lease.remaining_seconds };
        sink.put(&lease.id.to_be_bytes(), &stored.encode_to_vec())?;
    }
    Ok(())
}

fn members(view: &ReadView, state: &AppliedState, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::MEMBERS)?;
    let known = view.members()?;
    let membership = state.members.membership();
    let learners: BTreeSet<u64> = membership.learner_ids().collect();
    let members = membership.nodes().map(|(id, node)| {
        let attributes = known.iter().find(|attributes| attributes.member_id == *id);
        let member = schema::Member {
            id: *id,
            peer_urls: node.peer_urls.clone(),
            is_learner: learners.contains(id),
            name: attributes.map(|known| known.name.clone()).unwrap_or_default(),
            client_urls: attributes.map(|known| known.client_urls.clone()).unwrap_or_default(),
        };
        (format!("{id:x}"), member)
    });
    for (id, member) in members.collect::<std::collections::BTreeMap<_, _>>() {
        sink.put(id.as_bytes(), &json(&member)?)?;
    }
    sink.bucket(schema::MEMBERS_REMOVED)?;
    for id in state.removed.iter().map(|id| format!("{id:x}")).collect::<BTreeSet<_>>() {
        sink.put(id.as_bytes(), b"removed")?;
    }
    Ok(())
}

fn numbers(view: &ReadView, state: &AppliedState, sink: &mut impl Sink) -> Result<(), SnapshotError> {
    sink.bucket(schema::META)?;
    let membership = state.members.membership();
    let conf_state = schema::ConfState {
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        auto_leave: false,
    };
    sink.put(schema::CONF_STATE.as_bytes(), &json(&conf_state)?)?;
    sink.put(schema::CONSISTENT_INDEX.as_bytes(), &state.index().to_be_bytes())?;
    for (name, revision) in
        [(schema::FINISHED_COMPACT, view.removed_revision()?), (schema::SCHEDULED_COMPACT, view.compact_revision())]
    {
        if revision >= 0 {
            sink.put(name.as_bytes(), &schema::revision(revision))?;
        }
    }
    sink.put(schema::STORAGE_VERSION.as_bytes(), storage_version(view)?.as_bytes())?;
    let term = state.last.map_or(0, |last| last.committed_leader_id().term);
    sink.put(schema::TERM.as_bytes(), &term.to_be_bytes())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, SnapshotError> {
    serde_json::to_vec(value).map_err(|error| SnapshotError::from(ViewError(error.to_string())))
}
