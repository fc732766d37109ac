//! No two members apply another entry at an index (Raft, 5.4.3), or come to another state by it; in the end all have the same.

use std::collections::BTreeMap;

use super::Invariant;
use crate::event::{Event, Id};

/// By index, what was applied and the revision then; by revision, the hash in the end.
#[derive(Default)]
pub struct StateMachineSafety {
    applied: BTreeMap<u64, Id>,
    revisions: BTreeMap<u64, i64>,
    hashes: BTreeMap<i64, u32>,
}

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applies { member, entry } => {
                let first = *self.applied.entry(entry.index).or_insert(*entry);
                match first == *entry {
                    true => Ok(()),
                    false => Err(format!("{member} applies {entry:?}, another one {first:?}")),
                }
            }
            Event::Stands { member, index, revision, .. } => {
                let first = *self.revisions.entry(*index).or_insert(*revision);
                match first == *revision {
                    true => Ok(()),
                    false => Err(format!("at index {index}, {member} has revision {revision}, another one {first}")),
                }
            }
            Event::Ends { member, revision, hash } => {
                let first = *self.hashes.entry(*revision).or_insert(*hash);
                match first == *hash && self.hashes.len() == 1 {
                    true => Ok(()),
                    false => Err(format!("{member} has hash {hash} at revision {revision}; {:?}", self.hashes)),
                }
            }
            _ => Ok(()),
        }
    }
}
