//! EtcdUsers and EtcdRoles: the store has them as they are declared.
//!
//! - [`controller`]: sees the resource, its cluster, the password's Secret and what the store has, and does what is planned;
//! - [`declared`]: PURE: what the two kinds have in common, and what makes the store's entry equal to one of them;
//! - [`plan`]: PURE: the requests to the store, and the status after them;
//! - [`door`]: the way to the store, as root.

pub mod controller;
pub mod declared;
mod door;
pub mod plan;
