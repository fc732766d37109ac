//! Places of which there are so many: the oldest holder makes room for a new one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::sync::{Notify, oneshot};

/// Clones share the places.
#[derive(Clone)]
pub struct Crowd {
    most: usize,
    holders: Arc<Mutex<VecDeque<oneshot::Sender<Lost>>>>,
    entered: Arc<Notify>,
}

/// Why a holder has lost its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// There were too many. It may stay where that is not asked of it any more.
    Crowded,
    /// Somebody waits for what this one has.
    Needed,
}

/// Of one that has entered, until it is dropped.
pub struct Place {
    lost: oneshot::Receiver<Lost>,
    /// What was heard of that: it is told once.
    heard: Option<Lost>,
    crowd: Crowd,
}

impl Crowd {
    /// At least one place.
    pub fn new(most: usize) -> Self {
        Crowd { most: most.max(1), holders: Arc::default(), entered: Arc::default() }
    }

    /// Takes a place, the oldest holder's if there is no other.
    pub fn enter(&self) -> Place {
        let (place, lost) = oneshot::channel();
        let mut holders = self.holders();
        if holders.len() >= self.most {
            holders.retain(|place| !place.is_closed());
        }
        if holders.len() >= self.most {
            evict_oldest(&mut holders, Lost::Crowded);
        }
        holders.push_back(place);
        self.entered.notify_waiters();
        Place { lost, heard: None, crowd: self.clone() }
    }

    /// The oldest holder leaves; if there is none now, the next one does.
    pub async fn make_room(&self) {
        loop {
            let entered = self.entered.notified();
            if evict_oldest(&mut self.holders(), Lost::Needed) {
                return;
            }
            entered.await;
        }
    }

    fn holders(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Lost>>> {
        self.holders.lock().expect("no holder of this lock panics")
    }
}

/// Whether there was one.
fn evict_oldest(holders: &mut VecDeque<oneshot::Sender<Lost>>, why: Lost) -> bool {
    while let Some(place) = holders.pop_front() {
        if place.send(why).is_ok() {
            return true;
        }
    }
    false
}

impl Place {
    /// How many there are with this one at most.
    pub fn most(&self) -> usize {
        self.crowd.most
    }

    /// Ready when the place is lost, and from then on.
    pub fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<Lost> {
        if self.heard.is_none() {
            self.heard = ready!(self.lost.poll_unpin(context)).ok();
        }
        // The crowd, which this place holds, has the other end of it.
        self.heard.map_or(Poll::Pending, Poll::Ready)
    }

    /// Gives the place up; why it was lost, if it was.
    pub fn leave(mut self) -> Option<Lost> {
        self.lost.close();
        self.heard.or_else(|| self.lost.try_recv().ok())
    }
}
