//! From committed changes to the watchers' streams.
//!
//! - [`index`]: which watchers look at a key;
//! - [`mailbox`]: what the hub leaves for one stream, bounded;
//! - [`hub`]: where committed changes are published; keeps the latest for those who come a little late;
//! - [`watcher`]: one watcher, and the responses made for it;
//! - [`stream`]: one client's stream: ids, requests, responses in order;
//! - [`catch_up`]: the history read from the store for watchers that are behind.
//!
//! A watcher is either synced, then the hub puts its events into the stream's mailbox as they are published, or behind
//! from some revision on, then the stream reads the history until the hub can take over. A watcher whose mailbox is
//! full falls behind: nobody waits for a slow client, and no client takes more than its mailbox.

mod catch_up;
mod hub;
mod index;
mod mailbox;
mod stream;
mod watcher;

#[cfg(test)]
mod tests;

pub use hub::{Hub, HubOptions};
pub use stream::{Asked, Responses, WatchStream};
pub use watcher::{Interest, Outgoing};
