//! A leader has every entry that was committed in earlier terms (Raft, 5.4).

use std::collections::BTreeMap;

use super::Invariant;
use crate::event::{Event, Log};

/// What was committed, by index: the entry's term, and the newest leader's term when somebody applied it.
#[derive(Default)]
pub struct LeaderCompleteness {
    newest: u64,
    committed: BTreeMap<u64, (u64, u64)>,
}

impl LeaderCompleteness {
    fn lead(&mut self, member: u64, term: u64, log: &Log) -> Result<(), String> {
        self.newest = self.newest.max(term);
        let first = log.entries.first().map_or(log.purged + 1, |entry| entry.index);
        for (index, (entry_term, newest)) in self.committed.range(log.purged + 1..) {
            // What was committed under a leader that came later, this one need not know.
            if *newest >= term {
                continue;
            }
            let found = index.checked_sub(first).and_then(|at| log.entries.get(at as usize));
            if found.map(|entry| entry.term) != Some(*entry_term) {
                return Err(format!(
                    "{member} leads in term {term}; of entry {index}, committed with term {entry_term}, it has {found:?}"
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Leads { member, term, log } => self.lead(*member, *term, log),
            Event::Applies { entry, .. } => {
                self.committed.entry(entry.index).or_insert((entry.term, self.newest.max(entry.term)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
