//! What one client asks for: seeded, over few keys, so that clients get in each other's way. Every value is written once,
//! which lets a value tell who wrote it.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::history::{Compare, Comparison, KeyValue, Operation, Outcome, Request, Response, Span, Target};

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Far longer than a run: a lease ends only when it is revoked.
const TTL_SECONDS: i64 = 100_000;

#[derive(Debug)]
pub struct Workload {
    client: u32,
    values: u64,
    /// Leases that this client was granted, and the number of those that it asked for.
    leases: Vec<i64>,
    asked_leases: i64,
    /// The newest that this client has seen of each key, and of the store.
    seen: BTreeMap<String, KeyValue>,
    revision: i64,
    compactions: bool,
}

impl Workload {
    pub fn new(client: u32, compactions: bool) -> Self {
        let seen = BTreeMap::new();
        Self { client, values: 0, leases: Vec::new(), asked_leases: 0, seen, revision: 1, compactions }
    }

    pub fn next(&mut self, rng: &mut impl Rng) -> Request {
        match rng.random_range(0..100) {
            0..25 => self.put(rng),
            25..35 => Request::Delete { span: span(rng), prev_kv: rng.random() },
            35..65 => self.range(rng),
            65..88 => self.txn(rng),
            88..92 => {
                self.asked_leases += 1;
                let lease = i64::from(self.client + 1) * 1_000_000 + self.asked_leases;
                Request::LeaseGrant { lease, ttl_seconds: TTL_SECONDS }
            }
            92..94 => match self.leases.choose(rng) {
                Some(lease) => Request::LeaseKeepAlive { lease: *lease },
                None => self.put(rng),
            },
            94..98 => match self.leases.choose(rng) {
                Some(lease) => Request::LeaseRevoke { lease: *lease },
                None => self.put(rng),
            },
            _ if self.compactions && self.revision > 20 => {
                Request::Compact { revision: self.revision - rng.random_range(10..20) }
            }
            _ => self.range(rng),
        }
    }

    /// Takes note of an answer, for conditions, revisions and leases that are of use.
    pub fn learn(&mut self, operation: &Operation) {
        let Outcome::Ok { revision, response } = &operation.outcome else {
            if let (Request::LeaseRevoke { lease }, Outcome::Failed(_)) = (&operation.request, &operation.outcome) {
                self.leases.retain(|known| known != lease);
            }
            return;
        };
        self.revision = self.revision.max(*revision);
        for kv in response.key_values() {
            self.seen.insert(kv.key.clone(), kv.clone());
        }
        match (&operation.request, response) {
            (Request::LeaseGrant { lease, .. }, _) => self.leases.push(*lease),
            // A few are kept, to be used after their end.
            (Request::LeaseRevoke { lease }, Response::LeaseRevoke) if lease % 3 != 0 => {
                self.leases.retain(|known| known != lease);
            }
            _ => {}
        }
    }

    fn put(&mut self, rng: &mut impl Rng) -> Request {
        let key = key(rng);
        self.put_to(key, rng)
    }

    fn put_to(&mut self, key: String, rng: &mut impl Rng) -> Request {
        self.values += 1;
        let value = format!("{}.{}", self.client, self.values);
        let lease = if rng.random_bool(0.2) { self.leases.choose(rng).copied().unwrap_or(0) } else { 0 };
        Request::Put { key, value, lease, prev_kv: rng.random() }
    }

    fn range(&self, rng: &mut impl Rng) -> Request {
        let old = rng.random_bool(0.2);
        let revision = if old { (self.revision - rng.random_range(0..15)).max(1) } else { 0 };
        let limit = if rng.random_bool(0.2) { 2 } else { 0 };
        Request::Range { span: span(rng), revision, serializable: rng.random_bool(0.4), limit }
    }

    fn txn(&mut self, rng: &mut impl Rng) -> Request {
        let keys: Vec<_> = KEYS.choose_multiple(rng, 3).map(|key| (*key).to_owned()).collect();
        let compares = (0..rng.random_range(0..3)).map(|_| self.compare(rng)).collect();
        let read = Request::Range { span: span(rng), revision: 0, serializable: false, limit: 0 };
        let then = match rng.random_range(0..4) {
            0 => vec![self.put_to(keys[0].clone(), rng), read.clone()],
            1 => vec![self.put_to(keys[0].clone(), rng), self.put_to(keys[1].clone(), rng)],
            2 => {
                let delete = Request::Delete { span: Span::key(keys[2].clone()), prev_kv: rng.random() };
                vec![self.put_to(keys[1].clone(), rng), delete, self.put_to(keys[0].clone(), rng)]
            }
            _ => vec![read.clone()],
        };
        let otherwise = match rng.random_range(0..3) {
            0 => vec![Request::Delete { span: Span::key(keys[2].clone()), prev_kv: true }],
            1 => vec![self.put_to(keys[2].clone(), rng)],
            _ => vec![read],
        };
        Request::Txn { compares, then, otherwise }
    }

    fn compare(&self, rng: &mut impl Rng) -> Compare {
        let key = key(rng);
        let seen = self.seen.get(&key);
        let number = |of: fn(&KeyValue) -> i64| seen.map_or(0, of);
        let target = match rng.random_range(0..5) {
            0 => Target::Value(seen.map_or_else(String::new, |kv| kv.value.clone())),
            1 => Target::Version(number(|kv| kv.version)),
            2 => Target::CreateRevision(number(|kv| kv.create_revision)),
            _ => Target::ModRevision(number(|kv| kv.mod_revision)),
        };
        let comparison = match rng.random_range(0..6) {
            0 => Comparison::NotEqual,
            1 => Comparison::Greater,
            2 => Comparison::Less,
            _ => Comparison::Equal,
        };
        Compare { key, comparison, target }
    }
}

fn key(rng: &mut impl Rng) -> String {
    KEYS[rng.random_range(0..KEYS.len())].to_owned()
}

/// Two keys.
pub fn keys(rng: &mut impl Rng) -> Vec<String> {
    KEYS.choose_multiple(rng, 2).map(|key| (*key).to_owned()).collect()
}

/// One key, some, or all.
pub fn span(rng: &mut impl Rng) -> Span {
    let (one, other) = (rng.random_range(0..KEYS.len()), rng.random_range(0..KEYS.len()));
    match rng.random_range(0..4) {
        0 => Span::all(),
        1 if one != other => Span::between(KEYS[one.min(other)], KEYS[one.max(other)]),
        _ => Span::key(KEYS[one]),
    }
}
