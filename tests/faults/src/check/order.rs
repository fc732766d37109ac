//! Finds which operation made which revision, so that every answer is the one that this order gives.
//!
//! Revisions are explained one after the other. An answer's header names the operation; where no answer does, one of
//! those with an unknown outcome must have made it, and the search goes through them depth first (the algorithm of Wing and Gong, on
//! the few operations that are not in order already). An operation of unknown outcome is used once or never.

use std::collections::HashSet;

use super::evidence::{Evidence, FIRST_REVISION};
use super::violation::{Property, Violation};
use crate::history::{History, OperationId, Request, Response};
use crate::model::{Change, Store};

/// Who made revision 2, 3, and so on, and what changed.
#[derive(Debug, Default)]
pub struct Order {
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub operation: OperationId,
    pub changes: Vec<Change>,
}

impl Order {
    pub fn last(&self) -> i64 {
        FIRST_REVISION + self.steps.len() as i64
    }

    pub fn step(&self, revision: i64) -> Option<&Step> {
        usize::try_from(revision - FIRST_REVISION - 1).ok().and_then(|index| self.steps.get(index))
    }

    /// Visits each revision's state in turn.
    pub fn replay(&self, mut visit: impl FnMut(i64, &Store)) {
        let mut store = Store::default();
        visit(FIRST_REVISION, &store);
        for (revision, step) in (FIRST_REVISION + 1..).zip(&self.steps) {
            store.apply(&step.changes);
            visit(revision, &store);
        }
    }
}

/// With the order as far as it goes.
pub enum Verdict {
    Found(Order),
    Contradiction { violation: Violation, order: Order },
    GaveUp { order: Order },
}

pub fn find(history: &History, evidence: &Evidence<'_>, tries: usize) -> Verdict {
    Search {
        history,
        evidence,
        store: Store::default(),
        steps: Vec::new(),
        used: HashSet::new(),
        deepest: None,
        longest: Vec::new(),
        tries,
    }
    .run()
}

struct Search<'a> {
    history: &'a History,
    evidence: &'a Evidence<'a>,
    store: Store,
    steps: Vec<Step>,
    used: HashSet<OperationId>,
    /// What stood against the longest order that failed, and that order's length.
    deepest: Option<(usize, Violation)>,
    /// That order.
    longest: Vec<Step>,
    /// That are left.
    tries: usize,
}

/// Other operations that could have made the revision after `depth` steps.
struct Choice {
    depth: usize,
    rest: Vec<OperationId>,
}

impl Search<'_> {
    fn run(mut self) -> Verdict {
        if let Some(violation) = self.impossible() {
            return Verdict::Contradiction { violation, order: Order::default() };
        }
        if let Err(violation) = self.reads_agree(FIRST_REVISION, None) {
            return Verdict::Contradiction { violation, order: Order::default() };
        }
        let mut choices: Vec<Choice> = Vec::new();
        let mut candidates = self.candidates();
        loop {
            if self.revision() > self.evidence.last {
                return Verdict::Found(Order { steps: self.steps });
            }
            if let Some(candidate) = candidates.pop() {
                if self.tries == 0 {
                    let longer = self.steps.len() > self.longest.len();
                    return Verdict::GaveUp { order: Order { steps: if longer { self.steps } else { self.longest } } };
                }
                self.tries -= 1;
                match self.step(candidate) {
                    Ok(()) => {
                        choices.push(Choice { depth: self.steps.len() - 1, rest: candidates });
                        candidates = self.candidates();
                    }
                    Err(violation) => self.refuse(candidate, violation),
                }
            } else if let Some(choice) = choices.pop() {
                while self.steps.len() > choice.depth {
                    self.back();
                }
                candidates = choice.rest;
            } else {
                return self.contradiction();
            }
        }
    }

    /// An answer that no store can give: from before the first revision, a write that made this one, or from after its own revision.
    fn impossible(&self) -> Option<Violation> {
        self.history.operations.iter().enumerate().find_map(|(id, operation)| {
            let (told, response) = (operation.at_most()?, operation.response());
            let least = if response.is_some_and(Response::wrote) { FIRST_REVISION + 1 } else { FIRST_REVISION };
            let message = match operation.request {
                _ if told < least => format!("revision {told} was answered, {least} is the first one"),
                Request::Range { revision, .. } if response.is_some() && revision > told => {
                    format!("revision {revision} was read at {told}")
                }
                _ => return None,
            };
            Some(Violation::new(Property::Order, message).operations([id]))
        })
    }

    /// The revision to be explained.
    fn revision(&self) -> i64 {
        FIRST_REVISION + 1 + self.steps.len() as i64
    }

    /// Operations that could have made it, the likeliest last.
    fn candidates(&mut self) -> Vec<OperationId> {
        let revision = self.revision();
        if revision > self.evidence.last {
            return Vec::new();
        }
        if let Some(writers) = self.evidence.writers.get(&revision) {
            if writers.len() > 1 {
                let message = format!("revision {revision} was given to {} writes", writers.len());
                self.note(Violation::new(Property::Order, message).operations(writers.iter().copied().take(4)));
                return Vec::new();
            }
            return writers.clone();
        }
        let mut candidates: Vec<OperationId> = Vec::new();
        let unknown = self.evidence.unknown.iter().filter(|(_, first)| *first <= revision).map(|(id, _)| *id);
        for id in unknown.filter(|id| !self.used.contains(id)) {
            let request = &self.history.operations[id].request;
            // Of two that ask for the same, either would do.
            if !candidates.iter().any(|other| self.history.operations[*other].request == *request) {
                candidates.push(id);
            }
        }
        let in_time = |id: &&OperationId| self.evidence.first(self.history.operations[**id].call) <= revision;
        candidates.extend(self.evidence.revokes.get(&revision).into_iter().flatten().filter(in_time));
        if candidates.is_empty() {
            let message = format!("revision {revision} was made, but no operation can have made it");
            self.note(Violation::new(Property::Order, message).operations(self.seen(revision)));
        }
        candidates
    }

    /// A few who saw that there was this revision.
    fn seen(&self, revision: i64) -> Vec<OperationId> {
        let sightings = self.evidence.sightings.get(&revision).into_iter().flatten().map(|(id, _)| *id);
        let reads = self.evidence.reads.get(&revision).into_iter().flatten().copied();
        let next = self.evidence.writers.get(&(revision + 1)).into_iter().flatten().copied();
        let before = self.evidence.writers.get(&(revision - 1)).into_iter().flatten().copied();
        sightings.chain(reads).take(2).chain(before).chain(next).collect()
    }

    fn step(&mut self, id: OperationId) -> Result<(), Violation> {
        let revision = self.revision();
        let operation = &self.history.operations[id];
        let (response, changes) = self.store.execute(&operation.request, revision);
        let judged = self.judge(id, &response, &changes).and_then(|()| self.reads_agree(revision, Some(id)));
        if let Err(violation) = judged {
            self.store.undo(&changes);
            return Err(violation);
        }
        self.used.insert(id);
        self.steps.push(Step { operation: id, changes });
        Ok(())
    }

    fn back(&mut self) {
        if let Some(step) = self.steps.pop() {
            self.store.undo(&step.changes);
            self.used.remove(&step.operation);
        }
    }

    /// Whether the operation can have made the revision, by its answer and by what others saw.
    fn judge(&self, id: OperationId, response: &Response, changes: &[Change]) -> Result<(), Violation> {
        let revision = self.revision();
        let wrong = |message: String| Err(Violation::new(Property::Order, message).operations([id]));
        if let Some(answered) = self.history.operations[id].response()
            && answered != response
        {
            return wrong(format!("at revision {revision} the answer would be: {response}"));
        }
        if changes.is_empty() {
            return wrong(format!("it would write nothing at revision {revision}"));
        }
        let leases = changes.iter().filter_map(|change| change.now.as_ref()).map(|kv| kv.lease);
        for lease in leases.filter(|lease| *lease != 0) {
            if let Some(revoke) = self.revoked(lease) {
                let message = format!("lease {lease} was revoked, then used at revision {revision}");
                return Err(Violation::new(Property::Lease, message).operations([revoke, id]));
            }
        }
        for (seer, kv) in self.evidence.sightings.get(&revision).into_iter().flatten() {
            if !changes.iter().any(|change| change.now.as_ref() == Some(kv)) {
                let message = format!("{kv} was seen, but revision {revision} did not write that");
                return Err(Violation::new(Property::Order, message).operations([id, *seer]));
            }
        }
        for (watch, coverage) in &self.evidence.watches {
            if !coverage.agrees_fully(&self.history.watches[*watch], revision, changes) {
                let message = format!("a watch has other events of revision {revision}");
                return Err(Violation::new(Property::Order, message).operations([id]).watch(*watch));
            }
        }
        Ok(())
    }

    /// Who ended the lease before the revision that is to be explained.
    fn revoked(&self, lease: i64) -> Option<OperationId> {
        let ended = self.evidence.ended.get(&lease).filter(|(revision, _)| *revision < self.revision());
        let by_step = || {
            let steps = self.steps.iter().map(|step| step.operation);
            steps.into_iter().find(|id| self.history.operations[*id].request == Request::LeaseRevoke { lease })
        };
        ended.map(|(_, id)| *id).or_else(by_step)
    }

    /// Whether those who saw the state at `revision`, which `writer` made, saw this one.
    fn reads_agree(&mut self, revision: i64, writer: Option<OperationId>) -> Result<(), Violation> {
        for id in self.evidence.reads.get(&revision).into_iter().flatten() {
            let operation = &self.history.operations[*id];
            let (response, changes) = self.store.execute(&operation.request, revision + 1);
            self.store.undo(&changes);
            if operation.response() != Some(&response) {
                let message = format!("the state at revision {revision} gives: {response}");
                return Err(Violation::new(Property::Order, message).operations([*id]).operations(writer));
            }
        }
        for id in self.evidence.revokes.get(&revision).into_iter().flatten().filter(|id| Some(**id) != writer) {
            if let Request::LeaseRevoke { lease } = &self.history.operations[*id].request
                && let Some(kv) = self.store.attached(*lease).first()
            {
                let message = format!("the lease was revoked at revision {revision}, but there still is {kv}");
                return Err(Violation::new(Property::Order, message).operations([*id]).operations(writer));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, candidate: OperationId, violation: Violation) {
        if !self.history.operations[candidate].is_unknown() {
            return self.note(violation);
        }
        let revision = self.revision();
        let why = &violation.message;
        let message = format!(
            "no answer belongs to revision {revision}, and no operation of unknown outcome can have made it; one of them: {why}"
        );
        self.note(Violation { message, ..violation }.operations(self.seen(revision)));
    }

    fn note(&mut self, violation: Violation) {
        let depth = self.steps.len();
        if self.deepest.as_ref().is_none_or(|(deepest, _)| depth > *deepest) {
            self.deepest = Some((depth, violation));
            self.longest.clone_from(&self.steps);
        }
    }

    fn contradiction(self) -> Verdict {
        let unexplained = || Violation::new(Property::Order, "no order".into());
        let violation = self.deepest.map_or_else(unexplained, |(_, violation)| violation);
        Verdict::Contradiction { violation, order: Order { steps: self.longest } }
    }
}
