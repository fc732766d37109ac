//! Old revisions dropped without being asked: `--auto-compaction-mode`. A timer of the leader; it only proposes.
//!
//! Every member remembers which revision was current when, so that a new leader goes on where the old one was.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::AutoCompaction;
use crate::mvcc::View;
use crate::node::Node;
use crate::proto::command::Command;
use crate::proto::command::command::Op;
use crate::proto::etcdserverpb::CompactionRequest;

/// Time between two compactions by number of revisions, and the longest between two by age; both are etcd's.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Looks at the revision in a period; more is more exact.
const LOOKS: u32 = 10;

/// Compacts as configured until stopped.
pub async fn run(mode: AutoCompaction, node: Node, stop: CancellationToken) {
    let Some(mut plan) = Plan::new(mode) else {
        return;
    };
    let mut ticks = tokio::time::interval(plan.look_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let view = node.view();
        let Some(revision) = plan.look(view.revision()) else {
            continue;
        };
        if revision <= view.compact_revision() || !node.status().is_leader() {
            continue;
        }
        let request = CompactionRequest { revision, physical: false };
        match node.propose(Command { op: Some(Op::Compact(request)), ..Default::default() }).await {
            Ok(_) => tracing::info!(revision, "compacted old revisions"),
            Err(error) => tracing::warn!(revision, %error, "old revisions could not be compacted"),
        }
    }
}

/// What to compact when.
struct Plan {
    look_every: Duration,
    keep: Keep,
    /// Looks between two compactions, and since the last.
    looks_between: usize,
    looks: usize,
}

enum Keep {
    Revisions(i64),
    /// The revisions seen at the last looks, oldest first; `span` of them cover the period.
    Since {
        seen: VecDeque<i64>,
        span: usize,
    },
}

impl Plan {
    fn new(mode: AutoCompaction) -> Option<Self> {
        match mode {
            AutoCompaction::Off => None,
            AutoCompaction::Revision(count) => {
                Some(Plan { look_every: REVISION_INTERVAL, keep: Keep::Revisions(count), looks_between: 1, looks: 0 })
            }
            AutoCompaction::Periodic(period) => {
                let look_every = period.min(PERIODIC_INTERVAL_MAX) / LOOKS;
                let span = (period.as_nanos() / look_every.as_nanos().max(1)) as usize;
                Some(Plan {
                    look_every: look_every.max(Duration::from_millis(1)),
                    keep: Keep::Since { seen: VecDeque::new(), span },
                    looks_between: LOOKS as usize,
                    looks: 0,
                })
            }
        }
    }

    /// Notes the revision now, and tells up to which one to compact if it is time.
    fn look(&mut self, revision: i64) -> Option<i64> {
        self.looks += 1;
        let target = match &mut self.keep {
            Keep::Revisions(count) => Some(revision - *count),
            Keep::Since { seen, span } => {
                seen.push_back(revision);
                (seen.len() > *span).then(|| seen.pop_front()).flatten()
            }
        };
        if self.looks < self.looks_between {
            return None;
        }
        let target = target.filter(|target| *target > 0)?;
        self.looks = 0;
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_younger_than_the_period() {
        let mut plan = Plan::new(AutoCompaction::Periodic(Duration::from_secs(600))).expect("a plan");
        assert_eq!(plan.look_every, Duration::from_secs(60));
        // One revision a look: the eleventh look is the first to know what is ten looks old.
        let compacted: Vec<_> = (1..=31).filter_map(|revision| plan.look(revision)).collect();
        assert_eq!(compacted, [1, 11, 21]);
    }

    #[test]
    fn long_periods_are_compacted_every_hour() {
        let mut plan = Plan::new(AutoCompaction::Periodic(Duration::from_secs(7200))).expect("a plan");
        assert_eq!(plan.look_every, Duration::from_secs(360));
        let compacted: Vec<_> = (1..=41).filter_map(|revision| plan.look(revision)).collect();
        assert_eq!(compacted, [1, 11, 21]);
    }

    #[test]
    fn keeps_a_number_of_revisions() {
        let mut plan = Plan::new(AutoCompaction::Revision(100)).expect("a plan");
        assert_eq!(plan.look(80), None);
        assert_eq!(plan.look(500), Some(400));
        assert!(Plan::new(AutoCompaction::Off).is_none());
    }
}
