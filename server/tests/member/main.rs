//! Running members, alone and in clusters, as their clients and their administrators see them.

#[path = "../common/mod.rs"]
mod common;

mod archive;
mod auth;
mod backup;
mod broken_files;
mod cluster;
mod flags;
mod gateway;
mod http;
mod kv;
mod lock_election;
mod maintenance;
mod snapshot;
mod start;
mod tls;
