//! Bugs that the harness has to find in servers that have none of them: what clients and disks show is what a server with the
//! bug would show.

use clap::ValueEnum;
use rand::Rng;

use crate::fault::Kind;
use crate::history::{Request, WatchResponse};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// Writes are acknowledged before they are synced
    EarlyAck,
    /// A vote is given before it is synced
    LostVote,
    /// A linearizable read is answered by a member without asking the others
    StaleRead,
    /// A watch leaves an event out, one of fifty
    SkippedEvent,
}

impl Bug {
    /// What brings it to light.
    pub fn faults(self) -> Vec<Kind> {
        match self {
            Bug::EarlyAck => vec![Kind::PowerLoss],
            Bug::LostVote => vec![Kind::DeposedLeader],
            Bug::StaleRead => vec![Kind::Partition],
            Bug::SkippedEvent => Vec::new(),
        }
    }

    /// What the server is asked instead.
    pub fn asked(self, request: &Request) -> Request {
        let mut asked = request.clone();
        if let (Bug::StaleRead, Request::Range { serializable, .. }) = (self, &mut asked) {
            *serializable = true;
        }
        asked
    }

    /// What the server answers instead.
    pub fn told(self, mut response: WatchResponse, rng: &mut impl Rng) -> WatchResponse {
        if self == Bug::SkippedEvent && !response.events.is_empty() && rng.random_ratio(1, 50) {
            response.events.remove(rng.random_range(0..response.events.len()));
        }
        response
    }
}
