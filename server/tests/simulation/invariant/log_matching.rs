//! Two logs that have an entry with the same index and term are the same up to there (Raft, 5.3).

use std::collections::HashMap;

use super::Invariant;
use crate::event::{Event, Id, Log};

/// Each entry that any log had, and the term of the one before it where that was known.
#[derive(Default)]
pub struct LogMatching(HashMap<(u64, u64), (u32, Option<u64>)>);

impl LogMatching {
    fn meet(&mut self, member: u64, log: &Log) -> Result<(), String> {
        let mut before: Option<Id> = None;
        for entry in &log.entries {
            let term_before = before.map(|before| before.term);
            let known = self.0.entry((entry.index, entry.term)).or_insert((entry.content, term_before));
            if known.0 != entry.content {
                return Err(format!("entry {} of term {} is another one on {member}", entry.index, entry.term));
            }
            match (known.1, term_before) {
                (Some(one), Some(other)) if one != other => {
                    return Err(format!(
                        "before entry {} of term {} there is one of term {one}, on {member} one of term {other}",
                        entry.index, entry.term
                    ));
                }
                (None, Some(_)) => known.1 = term_before,
                _ => {}
            }
            before = Some(*entry);
        }
        Ok(())
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Has { member, log } | Event::Leads { member, log, .. } => self.meet(*member, log),
            _ => Ok(()),
        }
    }
}
