//! What is under way, and what came of it.

use std::collections::VecDeque;

use super::{Client, read_stamp};
use crate::clock::nanos;
use crate::histogram::Latencies;
use crate::wire::Arrivals;
use crate::wire::fields::{Value, bytes, fields, number};

/// Tags of watch streams have this bit; others are numbers of clients.
pub const WATCH: u32 = 1 << 31;

/// Figures of a window.
#[derive(Default)]
pub struct Measured {
    pub seconds: f64,
    pub operations: u64,
    pub latencies: Latencies,
    pub events: u64,
    pub event_latencies: Latencies,
    pub failed: u64,
    /// Why the first of them failed.
    pub error: Option<String>,
}

pub struct Slot {
    pub client: Box<dyn Client>,
    pub connection: usize,
    /// The stream that is kept open.
    pub stream: Option<u32>,
    pub due: u64,
    /// The answer, and events of watchers.
    pub waits_for: u32,
    refused: Option<String>,
}

impl Slot {
    pub fn new(client: Box<dyn Client>, connection: usize) -> Self {
        Self { client, connection, stream: None, due: 0, waits_for: 0, refused: None }
    }
}

#[derive(Default)]
pub struct Tally {
    pub slots: Vec<Slot>,
    pub idle: VecDeque<u32>,
    pub measured: Measured,
    /// Operations that were due in here are measured.
    pub begin: Option<u64>,
    pub end: Option<u64>,
    pub under_way: usize,
    pub watchers: usize,
    pub failed_in_a_row: u64,
    pub watch_error: Option<String>,
}

impl Tally {
    /// Operations and events so far.
    pub fn progress(&self) -> u64 {
        if self.watchers > 0 { self.measured.events } else { self.measured.operations }
    }

    fn measures(&self, due: u64) -> bool {
        self.begin.is_some_and(|begin| due >= begin) && self.end.is_none_or(|end| due < end)
    }

    fn finish(&mut self, index: u32, status: Result<(), String>) {
        let now = nanos();
        let slot = &mut self.slots[index as usize];
        if slot.waits_for == 0 {
            return;
        }
        let (due, status) = (slot.due, slot.refused.take().map_or(status, Err));
        // Of a write that failed, no watcher hears.
        slot.waits_for = if status.is_ok() { slot.waits_for - 1 } else { 0 };
        let is_idle = slot.waits_for == 0;
        if is_idle {
            self.under_way -= 1;
            self.idle.push_back(index);
        }
        let measures = self.measures(due);
        match status {
            Ok(()) => {
                self.failed_in_a_row = 0;
                if measures {
                    self.measured.latencies.record(now.saturating_sub(due));
                }
                if self.begin.is_some() && self.end.is_none() {
                    self.measured.operations += 1;
                }
            }
            Err(error) => {
                self.failed_in_a_row += 1;
                self.measured.failed += 1;
                self.measured.error.get_or_insert(error);
            }
        }
    }

    fn watched(&mut self, message: &[u8]) {
        // WatchResponse: created 3, canceled 4, cancel_reason 6, events 11; Event: kv 2; KeyValue: value 5.
        let now = nanos();
        for (field, value) in fields(message) {
            match value {
                Value::Number(1) if field == 3 => self.watchers += 1,
                Value::Number(1) if field == 4 => {
                    let reason = bytes(message, 6).map(String::from_utf8_lossy);
                    self.watch_error = Some(format!("a watch was cancelled: {}", reason.unwrap_or_default()));
                }
                Value::Bytes(event) if field == 11 && number(event, 1).is_none() => {
                    let stamp = bytes(event, 2).and_then(|kv| bytes(kv, 5)).and_then(read_stamp);
                    if let Some((due, client)) = stamp {
                        self.event(now, due, client);
                    }
                }
                _ => {}
            }
        }
    }

    fn event(&mut self, now: u64, due: u64, client: u32) {
        if self.begin.is_some() && self.end.is_none() {
            self.measured.events += 1;
        }
        if self.measures(due) {
            self.measured.event_latencies.record(now.saturating_sub(due));
        }
        let Some(slot) = self.slots.get_mut(client as usize) else { return };
        if slot.due == due && slot.waits_for > 0 {
            slot.waits_for -= 1;
            if slot.waits_for == 0 {
                self.under_way -= 1;
                self.idle.push_back(client);
            }
        }
    }
}

impl Arrivals for Tally {
    fn message(&mut self, tag: u32, head: &[u8], length: usize) {
        if tag & WATCH != 0 {
            return self.watched(head);
        }
        let slot = &mut self.slots[tag as usize];
        slot.refused = slot.client.answered(head, length).err();
        if slot.stream.is_some() {
            self.finish(tag, Ok(()));
        }
    }

    fn end(&mut self, tag: u32, status: Result<(), String>) {
        if tag & WATCH != 0 {
            let error = status.err().unwrap_or_else(|| "the server ended it".to_owned());
            self.watch_error = Some(format!("a watch stream ended: {error}"));
            return;
        }
        let slot = &mut self.slots[tag as usize];
        let status = match slot.stream.take() {
            Some(_) => Err(status.err().unwrap_or_else(|| "the server ended the stream".to_owned())),
            None => status,
        };
        self.finish(tag, status);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, stamp};
    use super::*;
    use crate::wire::proto::etcdserverpb::WatchResponse;
    use crate::wire::proto::mvccpb::{Event, KeyValue};
    use prost::Message;

    struct Picky;

    impl Client for Picky {
        fn next(&mut self, _due: u64, _message: &mut Vec<u8>) -> Option<Call> {
            None
        }

        fn answered(&mut self, answer: &[u8], _length: usize) -> Result<(), String> {
            if answer == b"good" { Ok(()) } else { Err("not good".to_owned()) }
        }
    }

    fn tally(fan_out: u32) -> Tally {
        let mut slot = Slot::new(Box::new(Picky), 0);
        (slot.due, slot.waits_for) = (1, 1 + fan_out);
        Tally { slots: vec![slot], begin: Some(0), under_way: 1, ..Tally::default() }
    }

    #[test]
    fn an_answer_that_the_client_refuses_counts_as_failed() {
        for (answer, operations, failed) in [(&b"good"[..], 1, 0), (b"bad", 0, 1)] {
            let mut tally = tally(0);
            tally.message(0, answer, answer.len());
            tally.end(0, Ok(()));
            assert_eq!((tally.measured.operations, tally.measured.failed), (operations, failed));
            assert_eq!((tally.idle.len(), tally.under_way), (1, 0));
        }
    }

    #[test]
    fn a_write_is_over_when_every_watcher_has_heard_of_it() {
        let mut tally = tally(2);
        let kv = |due| KeyValue { value: [&stamp(due, 0)[..], b"rest"].concat(), ..KeyValue::default() };
        let heard = |due| {
            let event = Event { kv: Some(kv(due)), ..Event::default() };
            WatchResponse { events: vec![event], ..WatchResponse::default() }.encode_to_vec()
        };
        tally.message(WATCH, &heard(1), 0);
        tally.message(0, b"good", 4);
        tally.end(0, Ok(()));
        assert_eq!(tally.idle.len(), 0, "one watcher has not heard of it");
        tally.message(WATCH, &heard(0), 0);
        assert_eq!(tally.idle.len(), 0, "the event of an older write");
        tally.message(WATCH, &heard(1), 0);
        assert_eq!((tally.idle.len(), tally.under_way), (1, 0));
        assert_eq!((tally.measured.events, tally.measured.operations), (3, 1));
    }
}
