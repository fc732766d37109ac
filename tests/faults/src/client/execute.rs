//! One operation from its call to its answer, or to the end of patience, for the history.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::{Recorder, call, outcome};
use crate::history::{Operation, Outcome, Request};

/// Then the answer is given up; longer than an election, shorter than a fault.
const PATIENCE: Duration = Duration::from_secs(3);

/// The operation as it was recorded. To be awaited to its end: otherwise the history would not know of it.
pub async fn execute(recorder: &Recorder, client: u32, member: usize, channel: Channel, request: Request) -> Operation {
    let asked = request.clone();
    execute_as(recorder, client, member, channel, request, &asked).await
}

/// The same, but the server is asked something else.
pub async fn execute_as(
    recorder: &Recorder,
    client: u32,
    member: usize,
    channel: Channel,
    request: Request,
    asked: &Request,
) -> Operation {
    let begun = recorder.now();
    let answer = timeout(PATIENCE, call(channel, asked)).await;
    let returned = recorder.now();
    let outcome = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
        Ok((revision, response)) => Outcome::Ok { revision, response },
        Err(status) => outcome::of_error(&request, &status),
    };
    let operation = Operation { client, member: member as u32, call: begun, returned, request, outcome };
    recorder.operation(operation.clone());
    operation
}
