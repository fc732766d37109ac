//! The wire API, generated from `proto/` at build time.
#![allow(missing_docs, clippy::all)]

/// All of it as a set of file descriptors, for those who know messages by their descriptors only.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Stored keys and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users and roles.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The etcd v3 services and their messages.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// etcd's election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The standard health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Our own messages, nested as their packages are, for the generated paths between them.
pub mod keelson {
    /// What the archive of a cluster's changes is made of.
    pub mod archive {
        tonic::include_proto!("keelson.archive");
    }
    /// Log entries and what applying them answers.
    pub mod command {
        tonic::include_proto!("keelson.command");
    }
    /// What members say to each other, and the records of the Raft log.
    pub mod peer {
        tonic::include_proto!("keelson.peer");
    }
}
pub use keelson::{archive, command, peer};
