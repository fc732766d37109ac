//! etcd's promises to a watch: events in the order of revisions, each once, all of a revision together, none missing, none
//! invented, bookmarks that hold, and the right previous values. A watch that goes on where another ended names its start,
//! so that a gap between the two is an event missing from the second.

use std::collections::{BTreeMap, BTreeSet};

use super::compaction::requested;
use super::order::{Order, Step};
use super::violation::{Property, Violation};
use crate::history::{Event, History, Kind, Time, Watch, WatchId, WatchResponse};
use crate::model::Change;

/// What a watch claims to have told: all of its events from `start` to `reached`.
#[derive(Debug)]
pub struct Coverage<'a> {
    pub start: i64,
    pub reached: i64,
    events: BTreeMap<i64, Vec<&'a Event>>,
}

impl<'a> Coverage<'a> {
    /// None of one that was never created.
    pub fn of(watch: &'a Watch) -> Option<Self> {
        let created = watch.responses.iter().find(|response| response.created && !response.canceled)?;
        let start = if watch.start == 0 { created.revision + 1 } else { watch.start };
        let mut coverage = Self { start, reached: start - 1, events: BTreeMap::new() };
        for response in &watch.responses {
            if response.is_bookmark() {
                coverage.reached = coverage.reached.max(response.revision);
            }
            for event in &response.events {
                coverage.events.entry(event.kv.mod_revision).or_default().push(event);
                coverage.reached = coverage.reached.max(event.kv.mod_revision);
            }
        }
        Some(coverage)
    }

    /// Whether the watch told these changes of a revision, if it should have, and no other previous values.
    pub fn agrees_fully(&self, watch: &Watch, revision: i64, changes: &[Change]) -> bool {
        let before = |event: &Event| changes.iter().find(|change| change.key == event.kv.key)?.before.clone();
        let mut previous = self.at(revision).iter().filter(|event| event.prev.is_some());
        self.agrees(watch, revision, changes) && previous.all(|event| event.prev == before(event))
    }

    /// Whether the watch told these changes of a revision, if it should have.
    fn agrees(&self, watch: &Watch, revision: i64, changes: &[Change]) -> bool {
        if !(self.start..=self.reached).contains(&revision) {
            return true;
        }
        let mut told = self.at(revision).iter();
        let mut wanted = wanted(watch, changes);
        loop {
            match (told.next(), wanted.next()) {
                (None, None) => return true,
                (Some(event), Some(change)) if is_of(event, change) => {}
                _ => return false,
            }
        }
    }

    fn at(&self, revision: i64) -> &[&'a Event] {
        self.events.get(&revision).map_or(&[], Vec::as_slice)
    }
}

/// What the watch should tell of these changes.
fn wanted<'a>(watch: &'a Watch, changes: &'a [Change]) -> impl Iterator<Item = &'a Change> {
    changes.iter().filter(|change| {
        let filtered = if change.now.is_some() { watch.no_puts } else { watch.no_deletes };
        watch.span.contains(&change.key) && !filtered
    })
}

fn is_of(event: &Event, change: &Change) -> bool {
    match (&change.now, event.kind) {
        (Some(kv), Kind::Put) => event.kv == *kv,
        (None, Kind::Delete) => event.kv.key == change.key,
        _ => false,
    }
}

pub fn check(history: &History, order: &Order) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, watch) in history.watches.iter().enumerate() {
        let Some(coverage) = Coverage::of(watch) else { continue };
        let found = sequence(id, watch, &coverage)
            .or_else(|| contents(id, watch, &coverage, order))
            .or_else(|| times(id, watch, history, order))
            .or_else(|| previous(id, watch, history, order))
            .or_else(|| end(id, watch, &coverage));
        violations.extend(found);
    }
    violations
}

/// By itself: order, repetitions, revisions torn apart, bookmarks.
fn sequence(id: WatchId, watch: &Watch, coverage: &Coverage<'_>) -> Option<Violation> {
    let broken = |property, message| Some(Violation::new(property, message).watch(id));
    let mut seen = BTreeSet::new();
    let (mut newest, mut bookmark) = (0, 0);
    for response in &watch.responses {
        if response.is_bookmark() {
            if response.revision < bookmark.max(newest) {
                let message = format!("a bookmark goes back to {}: {response}", response.revision);
                return broken(Property::WatchBookmark, message);
            }
            bookmark = response.revision;
        }
        let newest_before = newest;
        for event in &response.events {
            let revision = event.kv.mod_revision;
            if !seen.insert((revision, &event.kv.key)) {
                return broken(Property::WatchUnique, format!("{event} came twice, then in: {response}"));
            }
            if revision <= bookmark {
                let message = format!("{event} came after a bookmark at {bookmark}: {response}");
                return broken(Property::WatchBookmark, message);
            }
            if revision < newest {
                return broken(Property::WatchOrdered, format!("{event} came after revision {newest}: {response}"));
            }
            if revision == newest_before {
                return broken(Property::WatchAtomic, format!("revision {revision} came in two parts: {response}"));
            }
            if revision < coverage.start {
                let message = format!("{event} is before the start, {}: {response}", coverage.start);
                return broken(Property::WatchReliable, message);
            }
            if revision > response.revision {
                return broken(Property::WatchBookmark, format!("{event} is newer than its header: {response}"));
            }
            newest = revision;
        }
    }
    None
}

/// Against what the operations did.
fn contents(id: WatchId, watch: &Watch, coverage: &Coverage<'_>, order: &Order) -> Option<Violation> {
    for revision in coverage.start..=coverage.reached.min(order.last()) {
        let step = order.step(revision);
        let changes = step.map_or(&[][..], |step| &step.changes);
        if coverage.agrees(watch, revision, changes) {
            continue;
        }
        let told = coverage.at(revision);
        let missing = wanted(watch, changes).find(|change| !told.iter().any(|event| is_of(event, change)));
        let invented = told.iter().find(|event| !wanted(watch, changes).any(|change| is_of(event, change)));
        let (property, message) = match (missing, invented) {
            (_, Some(event)) => (Property::WatchReliable, format!("{event} is not what revision {revision} did")),
            (Some(change), None) => {
                let what = change.now.as_ref().map_or_else(|| "its deletion".into(), |kv| kv.to_string());
                (Property::WatchReliable, format!("revision {revision} of key {} is missing: {what}", change.key))
            }
            (None, None) => (Property::WatchOrdered, format!("the events of revision {revision} are in another order")),
        };
        return Some(Violation::new(property, message).operations(step.map(|step| step.operation)).watch(id));
    }
    None
}

fn each<'a>(watch: &'a Watch, order: &'a Order) -> impl Iterator<Item = (&'a WatchResponse, &'a Event, &'a Step)> {
    let events = watch.responses.iter().flat_map(|response| response.events.iter().map(move |event| (response, event)));
    events.filter_map(|(response, event)| Some((response, event, order.step(event.kv.mod_revision)?)))
}

/// Nothing is told before it was asked for.
fn times(id: WatchId, watch: &Watch, history: &History, order: &Order) -> Option<Violation> {
    let early = |response: &WatchResponse, step: &Step| history.operations[step.operation].call > response.time;
    let (response, event, step) = each(watch, order).find(|(response, _, step)| early(response, step))?;
    let message = format!("{event} came before anyone asked for it: {response}");
    Some(Violation::new(Property::WatchReliable, message).operations([step.operation]).watch(id))
}

fn previous(id: WatchId, watch: &Watch, history: &History, order: &Order) -> Option<Violation> {
    let gone =
        |event: &Event, time: Time| requested(history, time).any(|(_, compacted)| compacted >= event.kv.mod_revision);
    for (response, event, step) in each(watch, order) {
        let before = step.changes.iter().find(|change| change.key == event.kv.key).and_then(|of| of.before.as_ref());
        let right = match (watch.prev_kv, &event.prev) {
            (false, prev) => prev.is_none(),
            (true, None) => before.is_none() || gone(event, response.time),
            (true, prev) => prev.as_ref() == before,
        };
        if !right {
            let asked = if watch.prev_kv { "" } else { ", which nobody asked for" };
            let was = before.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let message = format!("a wrong previous value{asked}; it was {was}: {event}");
            return Some(Violation::new(Property::WatchPrevious, message).operations([step.operation]).watch(id));
        }
    }
    None
}

fn end(id: WatchId, watch: &Watch, coverage: &Coverage<'_>) -> Option<Violation> {
    let wanted = watch.must_reach.filter(|wanted| *wanted > coverage.reached)?;
    if watch.responses.iter().any(|response| response.canceled) {
        return None;
    }
    let message = format!("it got as far as revision {} and no further; {wanted} was waited for", coverage.reached);
    Some(Violation::new(Property::WatchReliable, message).watch(id))
}
