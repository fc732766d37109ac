//! Clients of etcd's API: each of its calls, and each answer to its watch, goes into the one history.

mod call;
mod execute;
mod outcome;
mod recorder;
mod watcher;
mod worker;

use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

pub use call::call;
pub use execute::{execute, execute_as};
pub use recorder::Recorder;
pub use watcher::Watcher;
pub use worker::Worker;

/// A client waits so long for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// What all clients of a round are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Work,
    /// No more operations; watches go on.
    Rest,
    /// Watches go on until they have told everything up to this revision.
    Finish {
        revision: i64,
    },
    Stop,
}

/// # Errors
/// Nobody listens there, or nobody answers: nothing was sent.
pub async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_WITHIN);
    endpoint.connect().await
}
