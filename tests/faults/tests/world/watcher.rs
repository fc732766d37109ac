//! Watches: from a member's history, in batches, cut off and resumed.

use keelson_faults::history::{Event, KeyValue, Kind, Span, Watch, WatchId, WatchResponse};
use keelson_faults::model::Change;
use rand::Rng;

use super::{Bug, World};

pub struct Watcher {
    id: WatchId,
    member: usize,
    /// The next revision to be told.
    cursor: i64,
}

impl World {
    pub fn open(&mut self, span: Span, start: i64) {
        let member = self.rng.random_range(0..self.members.len());
        let mut watch = Watch {
            client: 100,
            member: member as u32,
            span,
            start,
            prev_kv: self.rng.random(),
            no_puts: start != 1 && self.rng.random_bool(0.1),
            no_deletes: start != 1 && self.rng.random_bool(0.1),
            call: self.now,
            must_reach: None,
            responses: Vec::new(),
        };
        let revision = self.members[member];
        watch.responses.push(WatchResponse { time: self.now, revision, created: true, ..Default::default() });
        let cursor = if start == 0 { revision + 1 } else { start };
        self.watchers.push(Watcher { id: self.history.watches.len(), member, cursor });
        self.history.watches.push(watch);
    }

    pub fn deliver(&mut self) {
        if self.watchers.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.watchers.len());
        if !self.is_left_alone() && self.rng.random_bool(0.02) {
            let watcher = self.watchers.swap_remove(index);
            return self.resume(&watcher);
        }
        let until = self.members[self.watchers[index].member];
        let cursor = self.watchers[index].cursor;
        let batch = self.rng.random_range(0..4);
        self.advance(index, until.min(cursor + batch));
    }

    /// Tells what there is up to `until`; with nothing to tell, perhaps a bookmark.
    fn advance(&mut self, index: usize, until: i64) {
        let Watcher { id, member, cursor } = self.watchers[index];
        if cursor < self.compacted {
            let response = WatchResponse { canceled: true, compact_revision: self.compacted, ..self.blank(member) };
            self.history.watches[id].responses.push(response);
            self.watchers.swap_remove(index);
            return;
        }
        let watch = &self.history.watches[id];
        let revisions = cursor..=until;
        let events: Vec<_> = revisions.map(|revision| self.events(watch, revision)).collect();
        self.watchers[index].cursor = cursor.max(until + 1);
        let response = WatchResponse { events: events.concat(), ..self.blank(member) };
        if !response.events.is_empty() {
            self.tell(id, response);
        } else if self.watchers[index].cursor == response.revision + 1 && self.rng.random() {
            self.history.watches[id].responses.push(response);
        }
    }

    fn events(&self, watch: &Watch, revision: i64) -> Vec<Event> {
        let changes = &self.states[revision as usize - 1].1;
        let seen = changes.iter().filter(|change| watch.span.contains(&change.key));
        let seen = seen.filter(|change| if change.now.is_some() { !watch.no_puts } else { !watch.no_deletes });
        seen.map(|change| event(watch, change, revision)).collect()
    }

    fn blank(&self, member: usize) -> WatchResponse {
        WatchResponse { time: self.now, revision: self.members[member], ..Default::default() }
    }

    fn tell(&mut self, id: WatchId, mut response: WatchResponse) {
        if !self.planted && self.rng.random_bool(0.3) {
            self.spoil(id, &mut response);
        }
        self.history.watches[id].responses.push(response);
    }

    /// Breaks a promise in what is about to be told.
    fn spoil(&mut self, id: WatchId, response: &mut WatchResponse) {
        let watch = &mut self.history.watches[id];
        let events = &mut response.events;
        let (first, last) = (events[0].kv.mod_revision, events[events.len() - 1].kv.mod_revision);
        let any = self.rng.random_range(0..events.len());
        self.planted = match self.bug {
            // Were it the last one, a watch that is resumed might tell it after all.
            Some(Bug::WatchSkips) if events.len() > 1 => {
                events.remove(0);
                true
            }
            Some(Bug::WatchRepeats) => {
                events.push(events[events.len() - 1].clone());
                true
            }
            Some(Bug::WatchRepeatsLater) => {
                watch.responses.push(response.clone());
                true
            }
            Some(Bug::WatchReorders) => {
                events.reverse();
                first != last
            }
            Some(Bug::WatchTears) => {
                let torn = events.len() > 1 && events[events.len() - 2].kv.mod_revision == last;
                if torn {
                    let rest = events.split_off(events.len() - 1);
                    watch.responses.push(response.clone());
                    response.events = rest;
                }
                torn
            }
            Some(Bug::WatchInvents) => {
                events[any].kv.key.push('?');
                true
            }
            Some(Bug::WatchWrongVersion) => {
                events[any].kv.version += 1;
                events[any].kind == Kind::Put
            }
            Some(Bug::WatchWrongPrevious) => match &mut events[any].prev {
                Some(prev) => {
                    prev.value.push('?');
                    true
                }
                None => false,
            },
            Some(Bug::WatchEarlyBookmark) => {
                watch.responses.push(WatchResponse { revision: last, events: Vec::new(), ..response.clone() });
                true
            }
            _ => false,
        };
    }

    /// Goes on where the client knows that it was.
    fn resume(&mut self, watcher: &Watcher) {
        let watch = &self.history.watches[watcher.id];
        let told = watch.responses.iter().flat_map(|response| {
            let bookmark = response.is_bookmark().then_some(response.revision);
            response.events.iter().map(|event| event.kv.mod_revision).chain(bookmark)
        });
        let created = watch.responses[0].revision + 1;
        let start = told.max().map_or(if watch.start == 0 { created } else { watch.start }, |told| told + 1);
        self.open(watch.span.clone(), start);
        if !self.planted && self.bug == Some(Bug::WatchGap) {
            let id = self.history.watches.len() - 1;
            if start <= self.revision() && !self.events(&self.history.watches[id], start).is_empty() {
                self.watchers.last_mut().expect("opened").cursor += 1;
                self.planted = true;
            }
        }
    }

    pub fn cut(&mut self, member: usize) {
        let (cut, left) = std::mem::take(&mut self.watchers).into_iter().partition(|of| of.member == member);
        self.watchers = left;
        let cut: Vec<Watcher> = cut;
        for watcher in cut {
            self.resume(&watcher);
        }
    }

    pub fn finish_watches(&mut self) {
        let last = self.revision();
        for index in (0..self.watchers.len()).rev() {
            let Watcher { id, member, .. } = self.watchers[index];
            let stalls = self.bug == Some(Bug::WatchStalls) && self.watchers[index].cursor <= last;
            if !stalls {
                self.advance(index, last);
                let bookmark = self.blank(member);
                let responses = &mut self.history.watches[id].responses;
                if !responses.iter().any(|response| response.canceled) {
                    responses.push(bookmark);
                }
            }
            self.planted |= stalls;
            self.history.watches[id].must_reach = Some(last);
        }
    }
}

fn event(watch: &Watch, change: &Change, revision: i64) -> Event {
    let prev = change.before.clone().filter(|_| watch.prev_kv);
    match &change.now {
        Some(kv) => Event { kind: Kind::Put, kv: kv.clone(), prev },
        None => {
            let (key, value) = (change.key.clone(), String::new());
            let kv = KeyValue { key, value, create_revision: 0, mod_revision: revision, version: 0, lease: 0 };
            Event { kind: Kind::Delete, kv, prev }
        }
    }
}
