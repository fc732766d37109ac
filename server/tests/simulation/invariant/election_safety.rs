//! At most one leader a term (Raft, 5.2).

use std::collections::BTreeMap;

use super::Invariant;
use crate::event::Event;

/// Who led in which term.
#[derive(Default)]
pub struct ElectionSafety(BTreeMap<u64, u64>);

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Leads { member, term, .. } = event else { return Ok(()) };
        let first = *self.0.entry(*term).or_insert(*member);
        match first == *member {
            true => Ok(()),
            false => Err(format!("{first} and {member} lead in term {term}")),
        }
    }
}
