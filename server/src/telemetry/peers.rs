//! What is counted of the Raft messages between members, under etcd's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::metrics::{Histograms, put};

/// Label of the member at the other end of a peer connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
struct To {
    To: String,
}

/// Label of the member where bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
struct From {
    From: String,
}

/// Messages with all peers.
#[derive(Debug, Clone)]
pub struct PeerMetrics {
    sent_bytes: Family<To, Counter>,
    received_bytes: Family<From, Counter>,
    round_trip_seconds: Histograms<To>,
    /// Heartbeats that were not answered.
    pub heartbeat_failures: Counter,
}

/// Messages with one peer.
#[derive(Debug, Clone)]
pub struct PeerCounts {
    /// Bytes of messages sent to it.
    pub sent_bytes: Counter,
    /// Bytes of messages received from it.
    pub received_bytes: Counter,
    /// Time from a heartbeat to its answer.
    pub round_trip_seconds: Histogram,
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics {
            sent_bytes: Family::default(),
            received_bytes: Family::default(),
            round_trip_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 16))),
            heartbeat_failures: Counter::default(),
        }
    }
}

impl PeerMetrics {
    /// Lets `registry` tell of them.
    pub fn register(&self, registry: &mut Registry) {
        let it = self.clone();
        put(registry, "etcd_network_peer_sent_bytes", "Bytes of Raft messages sent to each peer", it.sent_bytes);
        put(
            registry,
            "etcd_network_peer_received_bytes",
            "Bytes of Raft messages received from each peer",
            it.received_bytes,
        );
        put(
            registry,
            "etcd_network_peer_round_trip_time_seconds",
            "Time of a round trip to each peer",
            it.round_trip_seconds,
        );
        put(
            registry,
            "etcd_server_heartbeat_send_failures",
            "Heartbeats that were not answered",
            it.heartbeat_failures,
        );
    }

    /// The counts of one peer, by its id.
    pub fn of(&self, id: u64) -> PeerCounts {
        let id = format!("{id:x}");
        PeerCounts {
            sent_bytes: self.sent_bytes.get_or_create_owned(&To { To: id.clone() }),
            round_trip_seconds: self.round_trip_seconds.get_or_create_owned(&To { To: id.clone() }),
            received_bytes: self.received_bytes.get_or_create_owned(&From { From: id }),
        }
    }
}
