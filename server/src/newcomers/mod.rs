//! Connections that begin: bounded in time and number until they have said something, so that silent ones cannot keep
//! others out.

mod crowd;
mod greeting;

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use crowd::Lost;
pub use crowd::{Crowd, Place};
pub use greeting::Greeted;

/// Time for one step: a handshake and the check of addresses behind it, or the first words.
const LIMIT: Duration = Duration::from_secs(10);
/// As many at a time. The oldest makes room for a new one.
const MOST: usize = 512;

/// Why a connection is given up that has not said enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Late {
    /// In Go's words.
    #[error("i/o timeout")]
    TimeIsOver,
    /// Others came.
    #[error("more than {0} connections begin at once")]
    Crowded(usize),
}

impl From<Late> for io::Error {
    fn from(late: Late) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, late)
    }
}

/// Newcomers that share a bound, as clones do.
#[derive(Clone)]
pub struct Newcomers {
    limit: Duration,
    crowd: Crowd,
}

/// A connection from when it is accepted until it has said enough.
pub struct Newcomer {
    limit: Duration,
    place: Place,
}

impl Newcomers {
    /// As many at once, and no more than the usual number.
    pub fn new(most: usize) -> Self {
        Newcomers { limit: LIMIT, crowd: Crowd::new(most.min(MOST)) }
    }

    /// With another limit.
    #[cfg(test)]
    pub(crate) fn within(self, limit: Duration) -> Self {
        Newcomers { limit, ..self }
    }

    /// One more; to be called as soon as it is accepted.
    pub fn enter(&self) -> Newcomer {
        Newcomer { limit: self.limit, place: self.crowd.enter() }
    }

    /// The oldest gives its place to one that could not be accepted yet; if there is none now, the next one does.
    pub async fn make_room(&self) {
        self.crowd.make_room().await;
    }
}

impl Newcomer {
    /// Does one step of a connection's begin. One that takes no time is done in any crowd: many who come at once and speak
    /// at once are all heard.
    pub async fn during<T>(&mut self, step: impl Future<Output = T>) -> Result<T, Late> {
        let most = self.place.most();
        tokio::select! {
            biased;
            done = tokio::time::timeout(self.limit, step) => done.map_err(|_| Late::TimeIsOver),
            _ = poll_fn(|context| self.place.poll_lost(context)) => Err(Late::Crowded(most)),
        }
    }

    /// Has said enough. Whoever was made to leave leaves even so: somebody waits for its place.
    fn stay(self) -> Result<(), Late> {
        let most = self.place.most();
        match self.place.leave() {
            Some(Lost::Needed) => Err(Late::Crowded(most)),
            Some(Lost::Crowded) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let newcomers = Newcomers::new(3).within(Duration::from_secs(1));
        let silent = || {
            let mut newcomer = newcomers.enter();
            tokio::spawn(async move { newcomer.during(std::future::pending::<()>()).await })
        };
        let mut waiting: Vec<_> = (0..5).map(|_| silent()).collect();
        // One that is done is no newcomer any more.
        let mut done = newcomers.enter();
        assert_eq!(done.during(std::future::ready(7)).await, Ok(7));
        assert_eq!(done.stay(), Ok(()));
        newcomers.make_room().await;
        let last = waiting.split_off(4);
        for evicted in waiting {
            assert_eq!(evicted.await.expect("no panic"), Err(Late::Crowded(3)));
        }
        for late in last {
            assert_eq!(late.await.expect("no panic"), Err(Late::TimeIsOver));
        }
    }
    #[tokio::test]
    async fn those_who_speak_at_once_are_heard_in_any_crowd() {
        let newcomers = Newcomers::new(1);
        let mut crowd: Vec<_> = (0..3).map(|_| newcomers.enter()).collect();
        for newcomer in &mut crowd {
            assert_eq!(newcomer.during(std::future::ready(7)).await, Ok(7));
        }
        let (mut first, last) = (crowd.remove(0), crowd.pop().expect("three"));
        assert_eq!(first.during(std::future::pending::<()>()).await, Err(Late::Crowded(1)), "it is one too many");
        assert_eq!(crowd.remove(0).stay(), Ok(()));
        // Whose place is needed has none, whatever it has said.
        newcomers.make_room().await;
        assert_eq!(last.stay(), Err(Late::Crowded(1)));
    }
}
