//! Revisions grow with the log, never go back while a member runs, and no linearizable read is behind what was acknowledged.

use std::collections::BTreeMap;

use super::Invariant;
use crate::event::Event;

/// The revisions of acknowledged writes by index, and where the members' runs stood last.
#[derive(Default)]
pub struct RevisionMonotonic {
    acknowledged: BTreeMap<u64, i64>,
    stood: BTreeMap<u64, i64>,
}

impl Invariant for RevisionMonotonic {
    fn name(&self) -> &'static str {
        "revision monotonic"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Acknowledged(write) => {
                self.acknowledged.insert(write.index, write.revision);
                let before = self.acknowledged.range(..write.index).next_back();
                let after = self.acknowledged.range(write.index + 1..).next();
                let is_between = before.is_none_or(|(_, revision)| *revision < write.revision)
                    && after.is_none_or(|(_, revision)| write.revision < *revision);
                match is_between {
                    true => Ok(()),
                    false => Err(format!("{write:?} is not between {before:?} and {after:?}")),
                }
            }
            Event::Stands { member, life, revision, .. } => {
                let last = self.stood.insert(*life, *revision).unwrap_or(0);
                match last <= *revision {
                    true => Ok(()),
                    false => Err(format!("{member} went from revision {last} to {revision}")),
                }
            }
            Event::Reads { member, acknowledged, revision } if revision < acknowledged => Err(format!(
                "a linearizable read on {member} is of revision {revision}; {acknowledged} was acknowledged"
            )),
            _ => Ok(()),
        }
    }
}
