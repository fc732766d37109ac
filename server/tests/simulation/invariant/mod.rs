//! What must hold whatever happens, one a file.

mod durability;
mod election_safety;
mod leader_completeness;
mod log_matching;
mod revision_monotonic;
mod state_machine_safety;

use crate::event::Event;

/// Sees everything that happens, and says what must not.
pub trait Invariant {
    /// Raft's name for it, or ours.
    fn name(&self) -> &'static str;

    /// What is broken by this, if anything.
    fn see(&mut self, event: &Event<'_>) -> Result<(), String>;
}

/// All of them, before anything has happened.
pub fn all() -> Vec<Box<dyn Invariant + Send>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(state_machine_safety::StateMachineSafety::default()),
        Box::new(durability::Durability),
        Box::new(revision_monotonic::RevisionMonotonic::default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Id, Log, Write};

    fn id(index: u64, term: u64) -> Id {
        Id { index, term, content: 0 }
    }

    fn log(terms: &[u64]) -> Log {
        Log { purged: 0, entries: (1..).zip(terms).map(|(index, term)| id(index, *term)).collect() }
    }

    /// Which invariants these events break.
    fn broken(events: &[Event<'_>]) -> Vec<&'static str> {
        let mut broken = Vec::new();
        for mut invariant in all() {
            if events.iter().any(|event| invariant.see(event).is_err()) {
                broken.push(invariant.name());
            }
        }
        broken
    }

    #[test]
    fn each_invariant_sees_what_breaks_it() {
        let (short, long, other) = (log(&[1]), log(&[1, 1, 2]), log(&[1, 2, 2]));
        let write = Write { index: 2, revision: 2, key: "a".to_owned(), value: "1".to_owned() };
        let late = Write { index: 3, revision: 2, ..write.clone() };
        let content = Id { content: 1, ..id(2, 1) };
        let stands = |life, index, revision| Event::Stands { member: 1, life, index, revision };
        for (events, expected) in [
            (vec![], &[][..]),
            (
                vec![
                    Event::Leads { member: 1, term: 1, log: &short },
                    Event::Applies { member: 1, entry: id(1, 1) },
                    Event::Leads { member: 2, term: 2, log: &long },
                    Event::Acknowledged(&write),
                    Event::Finds { member: 1, write: &write, value: Some("1") },
                    Event::Reads { member: 1, acknowledged: 2, revision: 2 },
                    stands(1, 2, 2),
                    stands(2, 1, 1),
                ],
                &[],
            ),
            (
                vec![
                    Event::Leads { member: 1, term: 1, log: &short },
                    Event::Leads { member: 2, term: 1, log: &short },
                ],
                &["election safety"],
            ),
            (vec![Event::Has { member: 1, log: &long }, Event::Has { member: 2, log: &other }], &["log matching"]),
            (
                vec![
                    Event::Leads { member: 1, term: 1, log: &short },
                    Event::Applies { member: 1, entry: id(1, 1) },
                    Event::Applies { member: 1, entry: id(2, 1) },
                    Event::Leads { member: 2, term: 2, log: &short },
                ],
                &["leader completeness"],
            ),
            (
                vec![Event::Applies { member: 1, entry: id(2, 1) }, Event::Applies { member: 2, entry: content }],
                &["state machine safety"],
            ),
            (vec![stands(1, 5, 4), stands(2, 5, 5)], &["state machine safety"]),
            (
                vec![Event::Ends { member: 1, revision: 4, hash: 7 }, Event::Ends { member: 2, revision: 4, hash: 8 }],
                &["state machine safety"],
            ),
            (vec![Event::Finds { member: 1, write: &write, value: None }], &["durability"]),
            (vec![Event::Finds { member: 1, write: &write, value: Some("2") }], &["durability"]),
            (vec![Event::Acknowledged(&write), Event::Acknowledged(&late)], &["revision monotonic"]),
            (vec![Event::Reads { member: 1, acknowledged: 3, revision: 2 }], &["revision monotonic"]),
            (vec![stands(1, 5, 4), stands(1, 6, 3)], &["revision monotonic"]),
        ] {
            assert_eq!(broken(&events), expected, "{events:?}");
        }
    }
}
