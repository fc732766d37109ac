//! Whether an etcd-compatible store keeps etcd's promises: a `history` of what clients saw goes through `check`, which
//! compares it with the `model`. This crate speaks etcd's API, and knows nothing of our server.

pub mod check;
pub mod history;
pub mod model;
pub mod workload;
