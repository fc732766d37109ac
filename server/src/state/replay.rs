//! What was changed elsewhere is changed here, too: each event of one revision, in order. Alarms and permissions were looked at
//! there.

use std::collections::BTreeMap;

use super::Applied;
use super::write::Writer;
use crate::mvcc::{Event, EventType, KeyRange, LeaseRecord, View, ViewError};

/// The time to live of a lease of which only the name is known, in seconds: it was gone before anybody could ask, and so will its
/// keys be.
const UNKNOWN_TTL_SECONDS: i64 = 60;

/// Why the events cannot have happened here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// They give something else than they did.
    #[error("{0}")]
    Differs(String),
    /// The store could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Makes the events of one revision again. Leases that a put names and that are not there are granted anew, with the times to live
/// of `ttls`. The outcome says nothing.
pub fn replay<V: View>(view: &V, ttls: &BTreeMap<i64, i64>, events: &[Event]) -> Result<Applied, ReplayError> {
    let mut writer = Writer::new(view);
    for event in events {
        let kv = event.kv.as_ref().ok_or_else(|| ReplayError::Differs("an event has no key".into()))?;
        if event.r#type() == EventType::Delete {
            writer.delete(&KeyRange::One(kv.key.clone()))?;
            continue;
        }
        if kv.lease != 0 && writer.view().lease(kv.lease)?.is_none() {
            let unknown = || ReplayError::Differs(format!("lease {:x} is not known", kv.lease));
            let ttl_seconds = match *ttls.get(&kv.lease).ok_or_else(unknown)? {
                0 => UNKNOWN_TTL_SECONDS,
                ttl_seconds => ttl_seconds,
            };
            let lease = LeaseRecord { id: kv.lease, ttl_seconds, remaining_seconds: 0 };
            writer.effects().leases.insert(kv.lease, Some(lease));
        }
        writer.put(&kv.key, kv.value.clone(), kv.lease)?;
    }
    let (effects, made) = writer.finish();
    if made.len() != events.len() {
        return Err(ReplayError::Differs("it deletes a key that is not there".into()));
    }
    match made.iter().zip(events).find(|(made, event)| made.r#type != event.r#type || made.kv != event.kv) {
        Some((made, event)) => Err(ReplayError::Differs(difference(made, event))),
        None => Ok(Applied { effects, events: made, ..Default::default() }),
    }
}

fn difference(made: &Event, event: &Event) -> String {
    let told = |event: &Event| {
        let kv = event.kv.clone().unwrap_or_default();
        let (created, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
        format!("created at {created}, modified at {modified}, version {version}")
    };
    let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
    format!("key {:?}: {}, not {}", key.escape_ascii().to_string(), told(made), told(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::view::Nothing;
    use crate::mvcc::{KeyValue, Overlay};

    fn put(key: &'static str, lease: i64, [created, modified, version]: [i64; 3]) -> Event {
        let kv = KeyValue {
            key: key.into(),
            create_revision: created,
            mod_revision: modified,
            version,
            value: "v".into(),
            lease,
        };
        Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None }
    }

    fn delete(key: &'static str, mod_revision: i64) -> Event {
        let kv = KeyValue { key: key.into(), mod_revision, ..Default::default() };
        Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }
    }

    #[test]
    fn a_history_is_made_again_with_its_leases() {
        let mut state = Overlay::new(Nothing);
        let ttls = BTreeMap::from([(5, 500), (6, 0)]);
        for events in [
            vec![put("a", 5, [2, 2, 1]), put("b", 0, [2, 2, 1])],
            vec![put("a", 6, [2, 3, 2]), delete("b", 3)],
            vec![put("b", 5, [4, 4, 1]), delete("a", 4)],
        ] {
            let applied = replay(&state, &ttls, &events).expect("as it was");
            state.effects_mut().merge(applied.effects);
        }
        let leases: Vec<_> = state.leases().expect("read").iter().map(|it| (it.id, it.ttl_seconds)).collect();
        assert_eq!((state.revision(), leases), (4, vec![(5, 500), (6, UNKNOWN_TTL_SECONDS)]));
        assert_eq!(state.lease_keys(5).expect("read"), ["b"]);
    }

    #[test]
    fn what_gives_something_else_is_refused() {
        let first = replay(&Nothing, &BTreeMap::new(), &[put("a", 0, [2, 2, 1])]).expect("as it was");
        let mut state = Overlay::new(Nothing);
        state.effects_mut().merge(first.effects);
        for (events, says) in [
            (vec![put("a", 0, [2, 3, 3])], "version 2, not created at 2, modified at 3, version 3"),
            (vec![put("a", 0, [3, 3, 1])], "created at 2"),
            (vec![put("a", 0, [2, 4, 2])], "modified at 3"),
            (vec![delete("b", 3)], "not there"),
            (vec![put("a", 9, [2, 3, 2])], "lease 9"),
            (vec![Event::default()], "no key"),
        ] {
            let refused = replay(&state, &BTreeMap::new(), &events).expect_err("refused").to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
