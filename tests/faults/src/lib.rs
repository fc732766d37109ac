//! Whether an etcd-compatible store keeps etcd's promises under faults: `round` lets `client`s work on a `cluster` while the
//! `schedule` brings one `fault` after the other; the `history` of what they saw goes through `check`, which compares it
//! with the `model`. `crash` kills a member before each step that it takes on a `disk` of ours; a `bug` is what the harness must
//! find. This crate speaks etcd's API, and knows nothing of our server.

pub mod bug;
pub mod check;
pub mod client;
pub mod cluster;
pub mod crash;
pub mod disk;
pub mod expiry;
pub mod fault;
pub mod history;
pub mod model;
pub mod network;
pub mod options;
pub mod report;
pub mod round;
pub mod schedule;
pub mod wire;
pub mod workload;
