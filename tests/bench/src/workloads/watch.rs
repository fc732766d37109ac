//! Writes that many watchers hear of. An event's latency counts from its write; a client writes again when all have heard.

use anyhow::Result;
use prost::Message;

use super::data::{PREFIX, Random, Values, end_of, key};
use super::measure::Plan;
use super::{Scene, clients};
use crate::load::{Call, Client, STAMP, Watches, stamp};
use crate::wire::method;
use crate::wire::proto::etcdserverpb::PutRequest;

/// 1,000 watchers of one key, on 8 streams.
pub fn one_key(scene: &mut Scene<'_>) -> Result<Plan> {
    const WATCHERS: usize = 1000;
    let ranges = vec![(node(0), Vec::new()); WATCHERS];
    plan(scene, Watches { ranges, streams: 8, fan_out: WATCHERS as u32 }, |_, _| node(0))
}

/// 10,000 watchers, each of a prefix of its own, on 8 streams.
pub fn prefixes(scene: &mut Scene<'_>) -> Result<Plan> {
    const WATCHERS: u64 = 10_000;
    let ranges = (0..WATCHERS).map(|number| (node(number), end_of(&node(number)))).collect();
    plan(scene, Watches { ranges, streams: 8, fan_out: 1 }, |random, _| {
        [node(random.below(WATCHERS)), b"status".to_vec()].concat()
    })
}

/// 8 streams that hear of everything, as caches of Kubernetes API servers do.
pub fn kubernetes(scene: &mut Scene<'_>) -> Result<Plan> {
    const STREAMS: usize = 8;
    let ranges = vec![(PREFIX.into(), end_of(PREFIX.as_bytes())); STREAMS];
    plan(scene, Watches { ranges, streams: STREAMS, fan_out: STREAMS as u32 }, |random, keys| key(random.below(keys)))
}

fn node(number: u64) -> Vec<u8> {
    format!("/registry/nodes/{number:07}/").into_bytes()
}

fn plan(scene: &mut Scene<'_>, watches: Watches, key_of: fn(&mut Random, u64) -> Vec<u8>) -> Result<Plan> {
    let environment = scene.case.environment;
    let client = |index: usize| Writer {
        client: index as u32,
        keys: environment.keys,
        random: Random::new(index as u64),
        values: Values::new(environment.value_bytes.max(STAMP), index as u64),
        key_of,
    };
    let bytes = key(0).len() + scene.case.environment.value_bytes;
    let mut plan = Plan::of(clients(scene, client), bytes);
    plan.watches = Some(watches);
    Ok(plan)
}

struct Writer {
    client: u32,
    keys: u64,
    random: Random,
    values: Values,
    key_of: fn(&mut Random, u64) -> Vec<u8>,
}

impl Client for Writer {
    fn next(&mut self, due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let mut request = PutRequest { key: (self.key_of)(&mut self.random, self.keys), ..PutRequest::default() };
        self.values.write(&mut request.value);
        request.value[..STAMP].copy_from_slice(&stamp(due, self.client));
        request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::PUT))
    }

    fn answered(&mut self, _answer: &[u8], _length: usize) -> Result<(), String> {
        Ok(())
    }
}
