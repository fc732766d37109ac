//! The history by revisions: who made which, and who saw what of it.

use std::collections::BTreeMap;

use super::watch::Coverage;
use crate::history::{History, KeyValue, OperationId, Outcome, Request, Time, WatchId};

/// The revision of a store that was never written to.
pub const FIRST_REVISION: i64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    All,
    /// Without serializable reads and watches.
    Linearizable,
}

#[derive(Debug, Default)]
pub struct Evidence<'a> {
    /// Operations that say that they made this revision; more than one is a contradiction.
    pub writers: BTreeMap<i64, Vec<OperationId>>,
    /// Ends of leases that happened before this revision's successor: they made it, or deleted nothing.
    pub revokes: BTreeMap<i64, Vec<OperationId>>,
    /// The revision at which a lease had certainly ended, and by which operation.
    pub ended: BTreeMap<i64, (i64, OperationId)>,
    /// Operations that wrote nothing, by the revision that they saw.
    pub reads: BTreeMap<i64, Vec<OperationId>>,
    /// Operations of unknown outcome, with the first revision that they could have made.
    pub unknown: Vec<(OperationId, i64)>,
    /// What was read of the key-values that a revision wrote, at whatever time.
    pub sightings: BTreeMap<i64, Vec<(OperationId, &'a KeyValue)>>,
    pub watches: Vec<(WatchId, Coverage<'a>)>,
    /// When answers came, and the newest revision that was known then.
    known: Vec<(Time, i64)>,
    /// The newest revision that anyone has seen.
    pub last: i64,
}

impl<'a> Evidence<'a> {
    pub fn of(history: &'a History, trust: Trust) -> Self {
        let mut evidence = Self { last: FIRST_REVISION, ..Self::default() };
        let mut known = Vec::new();
        for (id, operation) in history.operations.iter().enumerate() {
            if trust == Trust::Linearizable && operation.request.is_serializable() {
                continue;
            }
            let (Outcome::Ok { revision, response }, Some(_)) = (&operation.outcome, operation.revision()) else {
                continue;
            };
            known.push((operation.returned, *revision));
            let (place, at) = match &operation.request {
                _ if response.wrote() => (&mut evidence.writers, *revision),
                Request::LeaseRevoke { lease } => {
                    evidence.ended.insert(*lease, (*revision, id));
                    (&mut evidence.revokes, *revision)
                }
                Request::Range { revision: asked, .. } if *asked != 0 => (&mut evidence.reads, *asked),
                _ => (&mut evidence.reads, *revision),
            };
            place.entry(at).or_default().push(id);
            evidence.last = evidence.last.max(*revision).max(at);
            for kv in response.key_values() {
                evidence.sightings.entry(kv.mod_revision).or_default().push((id, kv));
                evidence.last = evidence.last.max(kv.mod_revision);
            }
        }
        if trust == Trust::All {
            let coverages = history.watches.iter().map(Coverage::of).enumerate();
            evidence.watches = coverages.filter_map(|(id, coverage)| Some((id, coverage?))).collect();
            let told = evidence.watches.iter().filter(|(_, coverage)| coverage.reached >= coverage.start);
            let reached = told.map(|(_, coverage)| coverage.reached);
            evidence.last = reached.fold(evidence.last, i64::max);
        }
        if trust == Trust::All {
            let responses = history.watches.iter().flat_map(|watch| &watch.responses);
            known.extend(responses.map(|response| (response.time, response.revision)));
        }
        known.sort_unstable();
        let mut newest = FIRST_REVISION;
        for (_, revision) in &mut known {
            newest = newest.max(*revision);
            *revision = newest;
        }
        evidence.known = known;
        let unknown = history.operations.iter().enumerate();
        let unknown = unknown.filter(|(_, operation)| operation.is_unknown() && operation.request.may_write());
        evidence.unknown = unknown.map(|(id, operation)| (id, evidence.first(operation.call))).collect();
        evidence
    }

    /// The first revision that something called at that time could have made: newer than all that was known before.
    pub fn first(&self, call: Time) -> i64 {
        let count = self.known.partition_point(|(time, _)| *time < call);
        count.checked_sub(1).map_or(FIRST_REVISION, |index| self.known[index].1) + 1
    }
}
