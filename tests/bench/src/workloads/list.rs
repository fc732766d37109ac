//! Ranges of many keys.

use anyhow::Result;
use prost::Message;

use super::data::{NAMESPACE, PREFIX, Random, end_of, key};
use super::measure::Plan;
use super::{Scene, clients};
use crate::load::{Call, Client};
use crate::wire::method;
use crate::wire::proto::etcdserverpb::RangeRequest;

/// All keys of a random namespace.
pub fn range(scene: &mut Scene<'_>) -> Result<Plan> {
    let first = |random: &mut Random, keys: u64| random.below(keys / NAMESPACE) * NAMESPACE;
    let end = |first: u64| key(first + NAMESPACE);
    plan(scene, NAMESPACE, move |random, keys, request| {
        let first = first(random, keys);
        (request.key, request.range_end) = (key(first), end(first));
    })
}

/// As Kubernetes lists: from somewhere to the end of all, 500 at a time.
pub fn list_page(scene: &mut Scene<'_>) -> Result<Plan> {
    const PAGE: u64 = 500;
    plan(scene, PAGE, |random, keys, request| {
        request.key = key(random.below(keys.saturating_sub(PAGE)));
        request.range_end = end_of(PREFIX.as_bytes());
        request.limit = PAGE as i64;
    })
}

/// Of all keys.
pub fn count(scene: &mut Scene<'_>) -> Result<Plan> {
    plan(scene, 0, |_, _, request| {
        (request.key, request.range_end) = (PREFIX.into(), end_of(PREFIX.as_bytes()));
        request.count_only = true;
    })
}

fn plan(
    scene: &mut Scene<'_>,
    answered: u64,
    prepare: impl Fn(&mut Random, u64, &mut RangeRequest) + Clone + Send + 'static,
) -> Result<Plan> {
    let environment = scene.case.environment;
    let least_bytes = answered.min(environment.keys) as usize * (32 + environment.value_bytes);
    let client = |index| Range {
        keys: environment.keys,
        random: Random::new(index as u64),
        prepare: prepare.clone(),
        least_bytes,
    };
    Ok(Plan::of(clients(scene, client), 0))
}

struct Range<F> {
    keys: u64,
    random: Random,
    prepare: F,
    least_bytes: usize,
}

impl<F: Fn(&mut Random, u64, &mut RangeRequest) + Send> Client for Range<F> {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let mut request = RangeRequest::default();
        (self.prepare)(&mut self.random, self.keys, &mut request);
        request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::RANGE))
    }

    fn answered(&mut self, _answer: &[u8], length: usize) -> Result<(), String> {
        if length >= self.least_bytes { Ok(()) } else { Err(format!("an answer of {length} bytes only")) }
    }
}
