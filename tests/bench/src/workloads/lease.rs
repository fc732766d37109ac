//! Leases: granted, and kept alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message;

use super::data::Random;
use super::measure::{Plan, measure};
use super::{Scene, clients};
use crate::load::{Call, Client};
use crate::wire::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest};
use crate::wire::{fields, method};

/// None expires while it is measured.
const TTL: i64 = 36_000;
const GRANT_WITHIN: Duration = Duration::from_secs(300);

pub fn grant(scene: &mut Scene<'_>) -> Result<Plan> {
    Ok(Plan::of(clients(scene, |_| Grant { next: None }), 0))
}

/// Of leases that are granted before; each client has a stream.
pub fn keep_alive(scene: &mut Scene<'_>) -> Result<Plan> {
    const FIRST: i64 = 1 << 40;
    let count = scene.settings.leases as i64;
    let next = Arc::new(AtomicI64::new(FIRST));
    let granters =
        (0..256).map(|_| -> Box<dyn Client> { Box::new(Grant { next: Some((next.clone(), FIRST + count)) }) });
    let mut plan = Plan::of(granters.collect(), 0);
    (plan.goal, plan.until_done) = (Some(count as u64), Some(GRANT_WITHIN));
    let granted = measure(scene, plan, None)?;
    ensure!(granted.failed == 0, "leases were not granted: {}", granted.error.unwrap_or_default());
    let client = |index| KeepAlive { first: FIRST, count, random: Random::new(index as u64) };
    Ok(Plan::of(clients(scene, client), 0))
}

struct Grant {
    /// The next id and the end of ids; otherwise the server chooses.
    next: Option<(Arc<AtomicI64>, i64)>,
}

impl Client for Grant {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let mut request = LeaseGrantRequest { ttl: TTL, id: 0 };
        if let Some((next, end)) = &self.next {
            request.id = next.fetch_add(1, Ordering::Relaxed);
            if request.id >= *end {
                return None;
            }
        }
        request.encode(message).expect("a vector grows");
        Some(Call::Unary(method::LEASE_GRANT))
    }

    fn answered(&mut self, answer: &[u8], _length: usize) -> Result<(), String> {
        granted(answer)
    }
}

struct KeepAlive {
    first: i64,
    count: i64,
    random: Random,
}

impl Client for KeepAlive {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let id = self.first + self.random.below(self.count as u64) as i64;
        LeaseKeepAliveRequest { id }.encode(message).expect("a vector grows");
        Some(Call::Stream(method::LEASE_KEEP_ALIVE))
    }

    fn answered(&mut self, answer: &[u8], _length: usize) -> Result<(), String> {
        granted(answer)
    }
}

fn granted(answer: &[u8]) -> Result<(), String> {
    // LeaseGrantResponse and LeaseKeepAliveResponse: TTL 3.
    match fields::number(answer, 3) {
        Some(ttl) if ttl > 0 => Ok(()),
        _ => Err("a lease without time to live".to_owned()),
    }
}
