//! PURE: events as a watch gives them become whole revisions, with what restoring them will need to know.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use prost::Message;

use crate::proto::archive::{Change, Lease, Segment};
use crate::proto::mvccpb::Event;

/// What was received and is in no segment yet.
#[derive(Debug)]
pub struct Collector {
    cluster_id: u64,
    /// The newest revision that is whole.
    position: i64,
    /// Everything that was acknowledged before this time was received (Unix, in milliseconds).
    complete_ms: i64,
    /// When something was received last; the clock may have been set back since.
    received_ms: i64,
    /// When the cluster was asked for its revision, and what that was.
    asked: Option<(i64, i64)>,
    /// Of a revision that more may come of.
    open: Option<Change>,
    changes: Vec<Change>,
    bytes: usize,
    /// What leases were granted, as far as changes that are in no segment name them.
    ttls: BTreeMap<i64, i64>,
}

/// A revision was passed over: this one came instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Jump(pub i64);

impl Collector {
    /// Everything up to this revision is archived, and nothing that was acknowledged before this time is missing.
    pub fn new(cluster_id: u64, position: i64, complete_ms: i64) -> Self {
        Self {
            cluster_id,
            position,
            complete_ms,
            received_ms: complete_ms,
            asked: None,
            open: None,
            changes: Vec::new(),
            bytes: 0,
            ttls: BTreeMap::new(),
        }
    }

    /// Whose changes these are.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The newest revision that is whole.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Everything that was acknowledged before this time was received.
    pub fn complete_ms(&self) -> i64 {
        self.complete_ms
    }

    /// About what is kept here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leases that these events name and of which nothing is known yet.
    pub fn unknown_leases(&self, events: &[Event]) -> BTreeSet<i64> {
        leases(events).filter(|lease| !self.ttls.contains_key(lease)).collect()
    }

    /// What a lease was granted.
    pub fn learn(&mut self, lease: i64, ttl_seconds: i64) {
        self.ttls.insert(lease, ttl_seconds);
    }

    /// Adds events that came now; the last revision is whole, or more may come of it.
    pub fn add(&mut self, events: Vec<Event>, now_ms: i64, whole: bool) -> Result<(), Jump> {
        self.received_ms = now_ms.max(self.received_ms);
        for event in events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if self.open.as_ref().is_some_and(|open| open.revision < revision) {
                self.close();
            }
            if revision <= self.position {
                continue;
            }
            if revision > self.position + 1 {
                return Err(Jump(revision));
            }
            self.bytes += event.encoded_len();
            let (after_ms, received_ms) = (self.complete_ms, self.received_ms);
            let new = || Change { revision, after_ms, received_ms, events: Vec::new() };
            self.open.get_or_insert_with(new).events.push(event);
        }
        if whole {
            self.close();
        }
        self.settle();
        Ok(())
    }

    /// The cluster was asked for its revision at this time, and this is it. Answers whether it was received: if not, what was
    /// asked before counts on.
    pub fn asked(&mut self, time_ms: i64, revision: i64) -> bool {
        self.asked.get_or_insert((time_ms, revision));
        self.settle();
        self.asked.is_none()
    }

    fn settle(&mut self) {
        if let Some((time_ms, _)) = self.asked.take_if(|(_, revision)| *revision <= self.position) {
            self.complete_ms = time_ms.max(self.complete_ms);
        }
    }

    fn close(&mut self) {
        if let Some(change) = self.open.take() {
            self.position = change.revision;
            self.changes.push(change);
        }
    }

    /// The watch has ended: what is not whole will be received once more.
    pub fn interrupt(&mut self) {
        self.asked = None;
        if let Some(open) = self.open.take() {
            self.bytes -= open.events.iter().map(Message::encoded_len).sum::<usize>();
        }
    }

    /// All whole revisions as a segment.
    pub fn take(&mut self) -> Option<Segment> {
        if self.changes.is_empty() {
            return None;
        }
        let changes = mem::take(&mut self.changes);
        let named: BTreeSet<i64> = changes.iter().flat_map(|change| leases(&change.events)).collect();
        let open = self.open.as_ref().map_or(&[][..], |open| &open.events[..]);
        let still: BTreeSet<i64> = leases(open).collect();
        let ttl = |id: i64| Lease { id, ttl_seconds: self.ttls.get(&id).copied().unwrap_or_default() };
        let leases = named.into_iter().map(ttl).collect();
        self.bytes = open.iter().map(Message::encoded_len).sum();
        // Asked anew with the next segment: what is remembered is bounded, and a lease's id may be another one's by then.
        self.ttls.retain(|lease, _| still.contains(lease));
        Some(Segment { cluster_id: self.cluster_id, leases, changes })
    }
}

/// The leases that events name.
fn leases(events: &[Event]) -> impl Iterator<Item = i64> {
    events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.lease).filter(|lease| *lease != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;

    fn event(revision: i64, lease: i64) -> Event {
        let kv = KeyValue { key: vec![b'k'; 10].into(), mod_revision: revision, lease, ..Default::default() };
        Event { kv: Some(kv), ..Default::default() }
    }

    /// Revisions, and how many events each has.
    fn taken(collector: &mut Collector) -> Vec<(i64, usize)> {
        let segment = collector.take().unwrap_or_default();
        segment.changes.iter().map(|change| (change.revision, change.events.len())).collect()
    }

    #[test]
    fn revisions_are_never_taken_in_part() {
        let mut collector = Collector::new(7, 4, 0);
        let add = |collector: &mut Collector, revisions: &[i64], whole| {
            collector.add(revisions.iter().map(|revision| event(*revision, 0)).collect(), 1, whole)
        };
        add(&mut collector, &[4, 5, 5, 6], false).expect("in order");
        assert_eq!((collector.position(), taken(&mut collector)), (5, vec![(5, 2)]), "6 may have more");
        add(&mut collector, &[6], false).expect("in order");
        assert_eq!(taken(&mut collector), vec![]);
        add(&mut collector, &[6, 7], true).expect("in order");
        assert_eq!((taken(&mut collector), collector.bytes()), (vec![(6, 3), (7, 1)], 0));
        // Cut off within a revision, which comes again as a whole.
        add(&mut collector, &[8, 9], false).expect("in order");
        collector.interrupt();
        add(&mut collector, &[9, 9], true).expect("in order");
        assert_eq!((taken(&mut collector), collector.bytes()), (vec![(8, 1), (9, 2)], 0));
        assert_eq!(add(&mut collector, &[10, 12], true), Err(Jump(12)));
        assert_eq!(taken(&mut collector), vec![(10, 1)]);
    }

    #[test]
    fn time_goes_on_when_everything_was_received() {
        let mut collector = Collector::new(7, 4, 1000);
        assert!(collector.asked(2000, 4), "nothing has happened");
        assert_eq!(collector.complete_ms(), 2000);
        assert!(!collector.asked(3000, 6));
        assert!(!collector.asked(4000, 9));
        collector.add(vec![event(5, 0), event(6, 0)], 4500, true).expect("in order");
        assert_eq!(collector.complete_ms(), 3000);
        // The clock was set back.
        collector.add(vec![event(7, 0)], 100, true).expect("in order");
        let times: Vec<_> =
            collector.take().expect("some").changes.iter().map(|it| (it.after_ms, it.received_ms)).collect();
        assert_eq!(times, [(2000, 4500), (2000, 4500), (3000, 4500)]);
    }

    #[test]
    fn segments_know_the_leases_that_they_name() {
        let mut collector = Collector::new(7, 4, 0);
        let events = vec![event(5, 1), event(5, 2), event(6, 1), event(7, 3)];
        assert_eq!(collector.unknown_leases(&events), [1, 2, 3].into());
        for lease in [1, 2, 3] {
            collector.learn(lease, lease * 10);
        }
        assert!(collector.unknown_leases(&events).is_empty());
        collector.add(events.clone(), 1, false).expect("in order");
        let known = |segment: Segment| segment.leases.iter().map(|it| (it.id, it.ttl_seconds)).collect::<Vec<_>>();
        assert_eq!(known(collector.take().expect("some")), [(1, 10), (2, 20)]);
        assert_eq!(collector.unknown_leases(&events), [1, 2].into(), "3 is in the revision that is not whole");
        collector.add(vec![], 1, true).expect("in order");
        assert_eq!(known(collector.take().expect("some")), [(3, 30)]);
    }
}
