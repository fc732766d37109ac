//! Judges a history: one promise of etcd, one file.
//!
//! All of it hangs on the `order`: which operation made which revision. etcd tells it in the header of each answer, so that
//! only operations of unknown outcome have to be searched for, and everything else is looked up in it.

mod compaction;
mod evidence;
mod hash;
mod lease;
mod member;
mod order;
mod real_time;
mod serializable;
mod violation;
mod watch;

use crate::history::History;
use evidence::{Evidence, Trust};
use order::{Order, Verdict};

pub use violation::{Property, Violation};

/// Operations that the search tries before it gives up.
const TRIES: usize = 1_000_000;

#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// Why not everything could be judged: neither right nor wrong.
    pub gave_up: Option<String>,
    /// The revisions that are explained.
    pub revisions: usize,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.gave_up.is_none()
    }
}

pub fn check(history: &History) -> Report {
    check_within(history, TRIES)
}

/// Gives up where more than so many tries would be needed.
pub fn check_within(history: &History, tries: usize) -> Report {
    let mut report = Report::default();
    report.violations.extend(real_time::check(history));
    report.violations.extend(member::check(history));
    report.violations.extend(compaction::check(history));
    report.violations.extend(hash::check(history));
    let order = explain(history, tries, &mut report);
    report.violations.extend(lease::check(history, &order));
    report.revisions = order.steps.len();
    report
}

/// First with all that was seen, since only that tells apart deletions that nobody read. If that fails, with what
/// linearizable operations saw, to know whose promise is broken.
fn explain(history: &History, tries: usize, report: &mut Report) -> Order {
    let (found, complaint) = match order::find(history, &Evidence::of(history, Trust::All), tries) {
        Verdict::Found(order) => (Some(order), None),
        Verdict::Contradiction { violation, .. } => (None, Some(violation)),
        Verdict::GaveUp { .. } => (None, None),
    };
    let agreed = found.is_some();
    let second = || order::find(history, &Evidence::of(history, Trust::Linearizable), tries);
    let order = match found.map_or_else(second, Verdict::Found) {
        Verdict::Found(order) => order,
        Verdict::Contradiction { violation, order } => {
            report.violations.push(violation);
            order
        }
        Verdict::GaveUp { order } => {
            let last = order.last();
            report.gave_up = Some(format!("after {tries} tries no order was found that goes beyond revision {last}"));
            order
        }
    };
    let before = report.violations.len();
    report.violations.extend(serializable::check(history, &order));
    report.violations.extend(watch::check(history, &order));
    if !agreed && report.gave_up.is_none() && report.violations.len() == before {
        match complaint {
            // The contradiction is told already, or it is one between several watches or reads.
            Some(_) if before > 0 => {}
            Some(violation) => report.violations.push(violation),
            None => report.gave_up = Some(format!("after {tries} tries no order was found that all watches agree to")),
        }
    }
    order
}
