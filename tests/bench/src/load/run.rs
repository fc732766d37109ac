//! The loop: send what is due, wait, take what has arrived.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

use super::tally::{Measured, Slot, Tally, WATCH};
use super::{Call, Client, SEEN, Watches};
use crate::clock::nanos;
use crate::wire::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion};
use crate::wire::{Connection, Endpoint, framed, method, wait};

/// How long what is under way at the end may take.
const DRAIN: Duration = Duration::from_secs(20);
const WATCHES_WITHIN: Duration = Duration::from_secs(60);
/// Operations that fail one after the other before the run is given up.
const MOST_FAILURES: u64 = 10_000;
const WATCH_CONNECTIONS: usize = 8;

/// When to measure.
pub struct Window<'a> {
    pub warm_up: Duration,
    pub length: Duration,
    /// Operations a second; without it, each client begins the next when the last has ended.
    pub rate: Option<f64>,
    /// The window does not end before this is true.
    pub held_by: Option<&'a AtomicBool>,
}

/// Who is told.
pub trait Observer {
    fn begins(&mut self) {}
    fn ends(&mut self) {}
    /// Some times a second: operations (events, if there are watchers) so far.
    fn progress(&mut self, _done: u64) {}
}

pub struct Load {
    connections: Vec<Connection>,
    tally: Tally,
    fan_out: u32,
    scratch: Vec<u8>,
    ready: Vec<usize>,
}

impl Load {
    /// Connects the clients, spread over `connections` to the endpoints in turn.
    pub fn new(endpoints: &[Endpoint], connections: usize, clients: Vec<Box<dyn Client>>) -> Result<Self> {
        let count = connections.min(clients.len()).max(1).next_multiple_of(endpoints.len());
        let connections: Result<Vec<_>> = endpoints.iter().cycle().take(count).map(Connection::open).collect();
        let slots: Vec<_> =
            clients.into_iter().enumerate().map(|(index, client)| Slot::new(client, index % count)).collect();
        let idle = (0..slots.len() as u32).collect();
        let tally = Tally { slots, idle, ..Tally::default() };
        Ok(Self { connections: connections?, tally, fan_out: 0, scratch: Vec::new(), ready: Vec::new() })
    }

    /// Adds watchers, and waits until all are there.
    pub fn watch(&mut self, endpoints: &[Endpoint], watches: &Watches) -> Result<()> {
        let first = self.connections.len();
        let connections = watches.streams.min(WATCH_CONNECTIONS);
        for endpoint in endpoints.iter().cycle().take(connections) {
            self.connections.push(Connection::open(endpoint)?);
        }
        let streams: Vec<(usize, u32)> = (0..watches.streams)
            .map(|stream| {
                let connection = first + stream % connections;
                let session = &mut self.connections[connection].session;
                (connection, session.open(method::WATCH, WATCH | stream as u32, usize::MAX / 2))
            })
            .collect();
        for ((key, range_end), (connection, stream)) in watches.ranges.iter().zip(streams.iter().cycle()) {
            let create =
                WatchCreateRequest { key: key.clone(), range_end: range_end.clone(), ..WatchCreateRequest::default() };
            let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            framed(&mut self.scratch, |out| request.encode(out).expect("a vector grows"));
            self.connections[*connection].session.send(*stream, &self.scratch, false);
        }
        let deadline = nanos() + WATCHES_WITHIN.as_nanos() as u64;
        while self.tally.watchers < watches.ranges.len() {
            ensure!(nanos() < deadline, "{} of {} watchers", self.tally.watchers, watches.ranges.len());
            self.exchange(Duration::from_millis(100))?;
        }
        self.fan_out = watches.fan_out;
        Ok(())
    }

    /// Runs until the window has ended, or no client has anything left to do.
    ///
    /// # Errors
    /// A connection broke, nothing succeeds any more, or a signal asked to stop.
    pub fn run(mut self, window: &Window<'_>, observer: &mut dyn Observer) -> Result<Measured> {
        const PROGRESS: u64 = 200_000_000;
        let interval = window.rate.map(|rate| ((1e9 / rate) as u64).max(1));
        let start = nanos();
        let (mut next_due, mut next_progress) = (start, start);
        let begin = start + window.warm_up.as_nanos() as u64;
        let end = begin + window.length.as_nanos() as u64;
        let mut left = self.tally.slots.len();
        loop {
            let now = nanos();
            if self.tally.begin.is_none() && now >= begin {
                self.tally.measured = Measured::default();
                observer.begins();
                self.tally.begin = Some(nanos());
            }
            if now >= end && window.held_by.is_none_or(|done| done.load(Ordering::Acquire)) {
                break;
            }
            while (interval.is_none() || next_due <= now)
                && let Some(slot) = self.tally.idle.pop_front()
            {
                let due = if interval.is_some() { next_due } else { nanos() };
                left -= usize::from(!self.begin(slot, due));
                next_due += interval.unwrap_or(0);
            }
            if left == 0 && self.tally.under_way == 0 {
                break;
            }
            if now >= next_progress {
                next_progress = now + PROGRESS;
                observer.progress(self.tally.progress());
            }
            let mut until =
                next_progress.min(if self.tally.begin.is_none() { begin } else { end.max(now + 1_000_000) });
            if interval.is_some() && !self.tally.idle.is_empty() {
                until = until.min(next_due);
            }
            self.exchange(Duration::from_nanos(until.saturating_sub(nanos())))?;
        }
        let ended = nanos();
        observer.ends();
        self.tally.end = Some(ended);
        if let Some(interval) = interval {
            let first = next_due.max(self.tally.begin.unwrap_or(ended));
            self.tally.measured.latencies.record_overdue(first, interval, ended);
        }
        self.drain(ended)?;
        let begun = self.tally.begin.context("nothing was left to do before the measurement began")?;
        self.tally.measured.seconds = (ended - begun) as f64 / 1e9;
        Ok(self.tally.measured)
    }

    /// What was sent and not answered yet counts with the time that it takes.
    fn drain(&mut self, ended: u64) -> Result<()> {
        let deadline = ended + DRAIN.as_nanos() as u64;
        while self.tally.under_way > 0 && nanos() < deadline {
            self.exchange(Duration::from_millis(100))?;
        }
        for slot in self.tally.slots.iter().filter(|slot| slot.waits_for > 0) {
            self.tally.measured.latencies.record(nanos() - slot.due);
            self.tally.measured.failed += 1;
            self.tally.measured.error.get_or_insert_with(|| format!("no answer within {DRAIN:?}"));
        }
        Ok(())
    }

    /// False if the client has nothing left to do.
    fn begin(&mut self, index: u32, due: u64) -> bool {
        let slot = &mut self.tally.slots[index as usize];
        let mut call = None;
        framed(&mut self.scratch, |out| call = slot.client.next(due, out));
        let session = &mut self.connections[slot.connection].session;
        match call {
            None => return false,
            Some(Call::Unary(path)) => {
                let id = session.open(path, index, SEEN);
                session.send(id, &self.scratch, true);
            }
            Some(Call::Stream(path)) => {
                let id = *slot.stream.get_or_insert_with(|| session.open(path, index, SEEN));
                session.send(id, &self.scratch, false);
            }
        }
        slot.due = due;
        slot.waits_for = 1 + self.fan_out;
        self.tally.under_way += 1;
        true
    }

    fn exchange(&mut self, most: Duration) -> Result<()> {
        for connection in &mut self.connections {
            connection.flush()?;
        }
        wait(&self.connections, most, &mut self.ready)?;
        for index in &self.ready {
            self.connections[*index].pull(&mut self.tally)?;
        }
        crate::stop::check()?;
        if let Some(error) = &self.tally.watch_error {
            bail!("{error}");
        }
        if self.tally.failed_in_a_row > MOST_FAILURES {
            bail!("nothing succeeds: {}", self.tally.measured.error.as_deref().unwrap_or_default());
        }
        Ok(())
    }
}
