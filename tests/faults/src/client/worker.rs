//! A client that does one operation after the other, on one member until that fails, or for a change.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch::Receiver;
use tonic::transport::Channel;

use super::{Phase, Recorder, connect, execute_as};
use crate::bug::Bug;
use crate::history::{Failure, Outcome};
use crate::workload::Workload;

/// Between a failure and the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Worker {
    pub id: u32,
    pub members: Vec<SocketAddr>,
    pub recorder: Recorder,
    pub phase: Receiver<Phase>,
    /// The mean time between two operations.
    pub pace: Duration,
    pub compactions: bool,
    pub bug: Option<Bug>,
}

impl Worker {
    /// Works until the phase is over; what it has begun it ends.
    pub async fn run(self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut workload = Workload::new(self.id, self.compactions);
        let mut connection: Option<(usize, Channel)> = None;
        while *self.phase.borrow() == Phase::Work {
            let (member, channel) = match connection.take().filter(|_| rng.random_bool(0.97)) {
                Some(connection) => connection,
                None => {
                    let member = rng.random_range(0..self.members.len());
                    let Ok(channel) = connect(self.members[member]).await else {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    (member, channel)
                }
            };
            let request = workload.next(&mut rng);
            let asked = self.bug.map_or_else(|| request.clone(), |bug| bug.asked(&request));
            let done = execute_as(&self.recorder, self.id, member, channel.clone(), request, &asked);
            let operation = done.await;
            workload.learn(&operation);
            if let Outcome::Unknown { .. } | Outcome::Failed(Failure::Other(_)) = operation.outcome {
                tokio::time::sleep(PAUSE).await;
            } else {
                connection = Some((member, channel));
                tokio::time::sleep(self.pace.mul_f64(rng.random_range(0.0..2.0))).await;
            }
        }
    }
}
