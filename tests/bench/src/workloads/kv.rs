//! Puts, gets, deletes, and both mixed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use prost::Message;

use super::data::{Random, Values, key};
use super::fill::{fill, fill_environment};
use super::measure::Plan;
use super::{Scene, clients};
use crate::load::{Call, Client};
use crate::wire::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use crate::wire::{fields, method};

/// Updates of random keys among those that are there.
pub fn put(scene: &mut Scene<'_>) -> Result<Plan> {
    let environment = scene.case.environment;
    Ok(Plan::of(clients(scene, |index| Put::new(scene, index)), key(0).len() + environment.value_bytes))
}

/// The same, when a follower has missed that all keys were written once more.
pub fn put_behind(scene: &mut Scene<'_>) -> Result<Plan> {
    scene.cluster.stop_follower()?;
    fill_environment(scene)?;
    put(scene)
}

pub fn get_linearizable(scene: &mut Scene<'_>) -> Result<Plan> {
    Ok(Plan::of(clients(scene, |index| Get::new(scene, index, false)), 0))
}

pub fn get_serializable(scene: &mut Scene<'_>) -> Result<Plan> {
    Ok(Plan::of(clients(scene, |index| Get::new(scene, index, true)), 0))
}

/// Nine linearizable gets for one put.
pub fn mix(scene: &mut Scene<'_>) -> Result<Plan> {
    let client = |index| Mix { get: Get::new(scene, index, false), put: Put::new(scene, index), puts: false };
    let bytes = key(0).len() + scene.case.environment.value_bytes;
    // Of one in ten.
    Ok(Plan::of(clients(scene, client), bytes / 10))
}

/// Of keys that are written before; the measurement ends when they have run out.
pub fn delete(scene: &mut Scene<'_>) -> Result<Plan> {
    const FASTEST: u64 = 60_000;
    let seconds = scene.settings.warm_up + scene.settings.length;
    let count = (seconds.as_secs_f64() * FASTEST as f64) as u64;
    fill(scene, count, doomed)?;
    let next = Arc::new(AtomicU64::new(0));
    Ok(Plan::of(clients(scene, |_| Delete { next: next.clone(), count }), 0))
}

fn doomed(number: u64) -> Vec<u8> {
    format!("/registry/events/{number:011}").into_bytes()
}

pub struct Put {
    keys: u64,
    random: Random,
    values: Values,
    request: PutRequest,
}

impl Put {
    pub fn new(scene: &Scene<'_>, index: usize) -> Self {
        let environment = scene.case.environment;
        Self {
            keys: environment.keys,
            random: Random::new(2 * index as u64 + 1),
            values: Values::new(environment.value_bytes, index as u64),
            request: PutRequest::default(),
        }
    }
}

impl Client for Put {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        self.request.key = key(self.random.below(self.keys));
        self.values.write(&mut self.request.value);
        self.request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::PUT))
    }

    fn answered(&mut self, _answer: &[u8], _length: usize) -> Result<(), String> {
        Ok(())
    }
}

struct Get {
    keys: u64,
    random: Random,
    request: RangeRequest,
    value_bytes: usize,
}

impl Get {
    fn new(scene: &Scene<'_>, index: usize, serializable: bool) -> Self {
        let environment = scene.case.environment;
        Self {
            keys: environment.keys,
            random: Random::new(2 * index as u64),
            request: RangeRequest { serializable, ..RangeRequest::default() },
            value_bytes: environment.value_bytes,
        }
    }
}

impl Client for Get {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        self.request.key = key(self.random.below(self.keys));
        self.request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::RANGE))
    }

    fn answered(&mut self, _answer: &[u8], length: usize) -> Result<(), String> {
        if length > self.value_bytes { Ok(()) } else { Err("a get without the value".to_owned()) }
    }
}

struct Mix {
    get: Get,
    put: Put,
    puts: bool,
}

impl Client for Mix {
    fn next(&mut self, due: u64, message: &mut Vec<u8>) -> Option<Call> {
        self.puts = self.get.random.below(10) == 0;
        if self.puts { self.put.next(due, message) } else { self.get.next(due, message) }
    }

    fn answered(&mut self, answer: &[u8], length: usize) -> Result<(), String> {
        if self.puts { self.put.answered(answer, length) } else { self.get.answered(answer, length) }
    }
}

struct Delete {
    next: Arc<AtomicU64>,
    count: u64,
}

impl Client for Delete {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.count {
            return None;
        }
        let request = DeleteRangeRequest { key: doomed(number), ..DeleteRangeRequest::default() };
        request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::DELETE_RANGE))
    }

    fn answered(&mut self, answer: &[u8], _length: usize) -> Result<(), String> {
        // DeleteRangeResponse: deleted 2.
        if fields::number(answer, 2) == Some(1) { Ok(()) } else { Err("a delete of nothing".to_owned()) }
    }
}
