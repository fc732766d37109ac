//! Promises that can be broken, one at a time.

use keelson_faults::check::Property;
use keelson_faults::history::{Failure, Outcome, Request, Response, Time};
use rand::Rng;

use super::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A linearizable read of what was, when newer had been answered.
    StaleRead,
    /// A linearizable read at a revision that had been answered, refused as one that is yet to come.
    ReadRefused,
    /// A serializable one at a revision that this member had answered, refused so.
    MemberRefuses,
    /// An acknowledged write that did not happen.
    LostWrite,
    /// A write that happened at two revisions.
    WrittenTwice,
    /// A write that happened, but was refused.
    FailedWriteHappens,
    /// A txn whose writes have two revisions.
    TornTxn,
    /// A txn that took the branch that its conditions do not give.
    WrongBranch,
    /// A serializable read that is no state that was.
    MixedRead,
    /// A serializable read older than what this member had answered.
    MemberBack,
    /// The end of a lease that left its keys.
    LeaseKeepsKeys,
    LeaseForgotten,
    /// A lease that lives, kept alive too late.
    LeaseEnded,
    /// A lease that had ended, kept alive.
    LeaseRevived,
    CompactedRead,
    HashDiffers,
    WatchSkips,
    WatchRepeats,
    WatchRepeatsLater,
    WatchReorders,
    WatchTears,
    WatchInvents,
    WatchWrongVersion,
    WatchWrongPrevious,
    WatchEarlyBookmark,
    WatchGap,
    WatchStalls,
}

impl Bug {
    /// What may be said to be broken.
    pub fn breaks(self) -> &'static [Property] {
        use Property as P;
        match self {
            Bug::StaleRead | Bug::ReadRefused => &[P::RealTime],
            // A later write gets the revision again.
            Bug::LostWrite => &[P::Order, P::RealTime],
            Bug::WrittenTwice | Bug::FailedWriteHappens | Bug::TornTxn | Bug::WrongBranch => &[P::Order],
            Bug::MixedRead => &[P::Serializable],
            Bug::MemberBack | Bug::MemberRefuses => &[P::Member],
            Bug::LeaseKeepsKeys => &[P::Order],
            Bug::LeaseForgotten | Bug::LeaseEnded | Bug::LeaseRevived => &[P::Lease],
            Bug::CompactedRead => &[P::Compaction],
            Bug::HashDiffers => &[P::Hash],
            Bug::WatchSkips | Bug::WatchInvents | Bug::WatchWrongVersion | Bug::WatchGap | Bug::WatchStalls => {
                &[P::WatchReliable]
            }
            Bug::WatchRepeats | Bug::WatchRepeatsLater => &[P::WatchUnique],
            // Two events of one revision, turned round, are told apart from two revisions only by the first.
            Bug::WatchReorders => &[P::WatchOrdered],
            Bug::WatchTears => &[P::WatchAtomic],
            Bug::WatchWrongPrevious => &[P::WatchPrevious],
            Bug::WatchEarlyBookmark => &[P::WatchBookmark],
        }
    }
}

impl World {
    /// The answer to a request for which the promise is broken now.
    pub fn broken(&mut self, request: &Request, member: usize, call: Time) -> Option<Outcome> {
        let bug = self.bug.filter(|_| !self.planted && self.rng.random_bool(0.3))?;
        let answer = match (bug, request) {
            (Bug::StaleRead, Request::Range { revision: 0, serializable: false, .. }) => {
                let stale = self.answered(call) - 1;
                (stale > 0).then(|| self.read(request, stale))
            }
            (Bug::LostWrite, Request::Put { lease: 0, .. }) => {
                let revision = self.revision() + 1;
                let (response, _) = self.state(self.revision()).clone().execute(request, revision);
                Some(Outcome::Ok { revision, response })
            }
            (Bug::WrittenTwice, Request::Put { lease: 0, .. }) => {
                let outcome = self.execute(request);
                self.execute(request);
                Some(outcome)
            }
            (Bug::FailedWriteHappens, Request::Put { lease: 0, .. }) => {
                self.execute(request);
                Some(Outcome::Failed(Failure::Other("refused".into())))
            }
            (Bug::TornTxn, Request::Txn { .. }) => self.torn(request),
            (Bug::WrongBranch, Request::Txn { compares, then, otherwise }) if !compares.is_empty() => {
                let compares = Vec::new();
                let turned = Request::Txn { compares, then: otherwise.clone(), otherwise: then.clone() };
                self.wrong_branch(request, &turned)
            }
            (Bug::MixedRead, Request::Range { serializable: true, revision: 0, .. }) => self.mixed(request, member),
            (Bug::MemberBack, Request::Range { serializable: true, revision: 0, .. }) => {
                let newest = self.answered_by(member, call)?;
                (newest > 1).then(|| self.read(request, newest - 1))
            }
            (Bug::ReadRefused, Request::Range { revision: asked @ 2.., serializable: false, .. }) => {
                (self.answered(call) >= *asked).then_some(Outcome::Failed(Failure::FutureRevision))
            }
            (Bug::MemberRefuses, Request::Range { revision: asked @ 2.., serializable: true, .. }) => {
                (self.answered_by(member, call)? >= *asked).then_some(Outcome::Failed(Failure::FutureRevision))
            }
            (Bug::LeaseKeepsKeys, Request::LeaseRevoke { lease }) => {
                let revision = self.revision();
                let kept = self.granted.contains(lease) && !self.state(revision).attached(*lease).is_empty();
                kept.then_some(Outcome::Ok { revision, response: Response::LeaseRevoke })
            }
            (Bug::LeaseForgotten, Request::Put { lease, .. }) if self.granted.contains(lease) => {
                let revoked = |of: &&Request| **of == Request::LeaseRevoke { lease: *lease };
                let asked = self.history.operations.iter().map(|of| &of.request).filter(revoked).count();
                (asked == 0).then_some(Outcome::Failed(Failure::LeaseNotFound))
            }
            (Bug::LeaseEnded, Request::LeaseKeepAlive { lease }) if self.granted.contains(lease) => {
                let revoked = |of: &&Request| **of == Request::LeaseRevoke { lease: *lease };
                let asked = self.history.operations.iter().map(|of| &of.request).filter(revoked).count();
                (asked == 0).then_some(Outcome::Failed(Failure::LeaseNotFound))
            }
            (Bug::LeaseRevived, Request::LeaseKeepAlive { lease }) => {
                let revoke = |of: &&keelson_faults::history::Operation| {
                    of.request == Request::LeaseRevoke { lease: *lease }
                        && of.returned < call
                        && of.revision().is_some()
                };
                let is_over = self.history.operations.iter().any(|of| revoke(&of));
                is_over.then_some(Outcome::Ok { revision: self.revision(), response: Response::LeaseKeepAlive })
            }
            (Bug::CompactedRead, Request::Range { serializable: false, revision, span, limit }) if *revision != 0 => {
                let done = |of: &&keelson_faults::history::Operation| of.returned < call && of.revision().is_some();
                let compactions = self.history.operations.iter().filter(done).map(|of| &of.request);
                let gone = |request: &Request| matches!(request, Request::Compact { revision: to } if to > revision);
                let newest = self.revision();
                let response = self.state(*revision).range(span, *limit);
                compactions.into_iter().any(gone).then_some(Outcome::Ok { revision: newest, response })
            }
            _ => None,
        };
        self.planted |= answer.is_some();
        answer
    }

    fn torn(&mut self, request: &Request) -> Option<Outcome> {
        let revision = self.revision() + 1;
        let before = self.state(self.revision()).clone();
        let (response, changes) = before.clone().execute(request, revision);
        if changes.len() < 2 || changes.iter().any(|change| change.now.as_ref().is_some_and(|kv| kv.lease != 0)) {
            return None;
        }
        let mut store = before;
        for change in changes {
            store.apply(std::slice::from_ref(&change));
            self.states.push((store.clone(), vec![change]));
        }
        Some(Outcome::Ok { revision, response })
    }

    fn wrong_branch(&mut self, request: &Request, turned: &Request) -> Option<Outcome> {
        if !turned.leases().is_empty() {
            return None;
        }
        let right = self.state(self.revision()).clone().execute(request, self.revision() + 1).0;
        let Response::Txn { succeeded, .. } = right else { unreachable!("a txn") };
        if !succeeded {
            return None;
        }
        let Outcome::Ok { revision, response: Response::Txn { responses, .. } } = self.execute(turned) else {
            unreachable!("no leases")
        };
        Some(Outcome::Ok { revision, response: Response::Txn { succeeded: false, responses } })
    }

    /// A key-value of an older state among those of the member's.
    fn mixed(&mut self, request: &Request, member: usize) -> Option<Outcome> {
        let revision = self.members[member];
        let older = self.rng.random_range(1..=revision);
        let answer = |revision| match self.read(request, revision) {
            Outcome::Ok { response: Response::Range { kvs, count, more }, .. } => Some((kvs, count, more)),
            _ => None,
        };
        let ((mut kvs, count, more), (old, ..)) = (answer(revision)?, answer(older)?);
        let (now, then) = (kvs.first_mut()?, old.first()?);
        if now.key != then.key || now == then {
            return None;
        }
        *now = then.clone();
        Some(Outcome::Ok { revision, response: Response::Range { kvs, count, more } })
    }
}
