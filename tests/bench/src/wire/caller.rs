//! One call at a time: for what prepares a measurement, and for single long operations.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use prost::Message;

use super::connection::{Connection, Endpoint, wait};
use super::stream::{Arrivals, framed};

pub struct Caller {
    connection: Connection,
}

/// What came of a call.
struct Answer<F> {
    each: F,
    status: Option<Result<(), String>>,
}

impl<F: FnMut(&[u8])> Arrivals for Answer<F> {
    fn message(&mut self, _tag: u32, head: &[u8], _length: usize) {
        (self.each)(head);
    }

    fn end(&mut self, _tag: u32, status: Result<(), String>) {
        self.status = Some(status);
    }
}

impl Caller {
    pub fn connect(endpoint: &Endpoint) -> Result<Self> {
        Ok(Self { connection: Connection::open(endpoint)? })
    }

    /// A unary call.
    ///
    /// # Errors
    /// The server refused it, or did not answer within `patience`.
    pub fn call<A: Message + Default>(
        &mut self,
        path: &'static str,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A> {
        let mut answer = None;
        self.stream(path, request, patience, |message| answer = Some(A::decode(message)))?;
        Ok(answer.with_context(|| format!("{path}: an answer without a message"))??)
    }

    /// A call that is answered with many messages, each of which goes to `each`.
    ///
    /// # Errors
    /// As those of `call`.
    pub fn stream(
        &mut self,
        path: &'static str,
        request: &impl Message,
        patience: Duration,
        each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut answer = Answer { each, status: None };
        let mut message = Vec::new();
        framed(&mut message, |out| request.encode(out).expect("a vector grows"));
        let id = self.connection.session.open(path, 0, usize::MAX / 2);
        self.connection.session.send(id, &message, true);
        let mut ready = Vec::new();
        while answer.status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{path}: no answer within {patience:?}");
            crate::stop::check()?;
            self.connection.flush()?;
            wait(std::slice::from_ref(&self.connection), left.min(Duration::from_millis(200)), &mut ready)?;
            self.connection.pull(&mut answer).with_context(|| path)?;
        }
        answer.status.expect("the loop ends with it").map_err(|error| anyhow!("{path}: {error}"))
    }
}
