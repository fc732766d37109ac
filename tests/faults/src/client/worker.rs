//! A client that does one operation after the other, on one member until that fails, or for a change.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch::Receiver;
use tonic::transport::Channel;

use super::{Phase, Recorder, call, connect, outcome};
use crate::history::{Operation, Outcome, Request};
use crate::workload::Workload;

/// Then the answer is given up; longer than an election, shorter than a fault.
const PATIENCE: Duration = Duration::from_secs(3);
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
            let operation = self.execute(member, channel.clone(), request).await;
            workload.learn(&operation);
            if let Outcome::Ok { .. } | Outcome::Failed(_) = operation.outcome {
                connection = Some((member, channel));
                tokio::time::sleep(self.pace.mul_f64(rng.random_range(0.0..2.0))).await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
            self.recorder.operation(operation);
        }
    }

    async fn execute(&self, member: usize, channel: Channel, request: Request) -> Operation {
        let begun = self.recorder.now();
        let answer = tokio::time::timeout(PATIENCE, call(channel, &request)).await;
        let returned = self.recorder.now();
        let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        let outcome = match answer {
            Ok((revision, response)) => Outcome::Ok { revision, response },
            Err(status) => outcome::of_error(&request, &status),
        };
        Operation { client: self.id, member: member as u32, call: begun, returned, request, outcome }
    }
}
