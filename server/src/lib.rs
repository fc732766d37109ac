//! keelson-server: an etcd-compatible replicated key-value store.
//!
//! The modules stand in the order in which a request meets them; ARCHITECTURE.md tells the way of a write.

pub mod api;

pub mod auth;

pub mod node;

pub mod raft;

pub mod mvcc;
pub mod state;
pub mod storage;
pub mod watch;

pub mod backup;
pub mod bbolt;
pub mod snapshot;

pub mod lease;

pub mod compaction;

pub mod telemetry;
pub mod tls;

pub mod config;
pub mod server;

mod budget;
mod codec;
pub mod error;
mod newcomers;
pub mod proto;
mod socket;
mod stream;

#[cfg(test)]
mod fuzz;
