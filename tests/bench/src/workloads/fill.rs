//! Many keys quickly: transactions of many puts, many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message;

use super::data::{Values, key};
use super::measure::{Plan, measure};
use super::{Figures, Scene};
use crate::load::{Call, Client};
use crate::wire::method;
use crate::wire::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

const CLIENTS: usize = 32;
/// etcd refuses more than 128 operations, and requests above 1.5 MiB.
const PUTS: usize = 100;
const REQUEST_BYTES: usize = 1 << 20;
/// Slower than this many keys a second, it is given up.
const SLOWEST: u64 = 1000;

/// Writes keys 0 to `count`, each made by `key_of`.
pub fn fill(scene: &mut Scene<'_>, count: u64, key_of: fn(u64) -> Vec<u8>) -> Result<Figures> {
    let value_bytes = scene.case.environment.value_bytes;
    let batch = (REQUEST_BYTES / (value_bytes + 64)).clamp(1, PUTS) as u64;
    let next = Arc::new(AtomicU64::new(0));
    let client = |index| -> Box<dyn Client> {
        Box::new(Filler { next: next.clone(), count, batch, key_of, values: Values::new(value_bytes, index) })
    };
    let clients = (0..CLIENTS as u64).map(client).collect();
    let bytes = batch as usize * (key_of(0).len() + value_bytes);
    let length = Duration::from_secs(60 + count / SLOWEST);
    let plan = Plan { units: batch, goal: Some(count), until_done: Some(length), ..Plan::of(clients, bytes) };
    let figures = measure(scene, plan, None)?;
    let done = next.load(Ordering::Relaxed);
    ensure!(figures.failed == 0, "the fill failed: {}", figures.error.as_deref().unwrap_or_default());
    ensure!(done >= count, "only {done} of {count} keys were written within {length:?}");
    Ok(figures)
}

/// All keys that the environment says.
pub fn fill_environment(scene: &mut Scene<'_>) -> Result<Figures> {
    fill(scene, scene.case.environment.keys, key)
}

struct Filler {
    next: Arc<AtomicU64>,
    count: u64,
    batch: u64,
    key_of: fn(u64) -> Vec<u8>,
    values: Values,
}

impl Client for Filler {
    fn next(&mut self, _due: u64, message: &mut Vec<u8>) -> Option<Call> {
        let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let numbers = first..(first + self.batch).min(self.count);
        if numbers.is_empty() {
            return None;
        }
        let puts = numbers.map(|number| {
            let mut put = PutRequest { key: (self.key_of)(number), ..PutRequest::default() };
            self.values.write(&mut put.value);
            RequestOp { request: Some(Request::RequestPut(put)) }
        });
        let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
        txn.encode(message).expect("a vector grows");
        Some(Call::Unary(method::TXN))
    }

    fn answered(&mut self, _answer: &[u8], _length: usize) -> Result<(), String> {
        Ok(())
    }
}
