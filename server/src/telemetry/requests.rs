//! What is counted of clients' requests, under etcd's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::metrics::{Histograms, Method, add, put};

/// Labels of a client's request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClientRequest {
    /// unary or stream.
    pub r#type: &'static str,
    /// What the client says of itself, or `unknown`.
    pub client_api_version: String,
}

/// Labels of a request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// Such as `Put` or `ReadonlyTxn`.
    pub r#type: &'static str,
    /// true or false.
    pub success: &'static str,
}

/// Label of a range that was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Success {
    /// true or false.
    pub success: &'static str,
}

/// Labels of a probe's check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Check {
    /// livez or readyz.
    pub r#type: &'static str,
    /// Such as `linearizable_read`.
    pub name: &'static str,
}

/// Labels of a check's result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Checked {
    /// livez or readyz.
    pub r#type: &'static str,
    /// Such as `linearizable_read`.
    pub name: &'static str,
    /// success or error.
    pub status: &'static str,
}

/// Label of a failed promotion.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
pub struct Refused {
    /// The error's text.
    pub Reason: String,
}

/// Label of an answered scrape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Scraped {
    /// The HTTP status.
    pub code: &'static str,
}

/// Requests of one member's clients.
#[derive(Debug)]
pub struct RequestMetrics {
    /// Calls by what their clients say of themselves.
    pub clients: Family<ClientRequest, Counter>,
    /// Messages received, by method.
    pub messages_received: Family<Method, Counter>,
    /// Messages sent, by method.
    pub messages_sent: Family<Method, Counter>,
    /// Time until requests were answered.
    pub seconds: Histograms<Answered>,
    /// Time of ranges, without waiting for Raft.
    pub range_seconds: Histograms<Success>,
    /// `/health` that were well.
    pub health_success: Counter,
    /// `/health` that were not.
    pub health_failures: Counter,
    /// Last results of checks: 1 is well.
    pub check: Family<Check, Gauge>,
    /// Results of checks.
    pub checks: Family<Checked, Counter>,
    /// Learners that were made voters.
    pub promotions: Counter,
    /// Learners that could not be made voters.
    pub refused_promotions: Family<Refused, Counter>,
    /// Time of defragmentations.
    pub defrag_seconds: Histogram,
    /// Defragmentations under way.
    pub defrags: Gauge,
    /// Time of hashing everything.
    pub hash_seconds: Histogram,
    /// Time of hashing up to a revision.
    pub hash_rev_seconds: Histogram,
    /// Scrapes under way.
    pub scrapes: Gauge,
    /// Scrapes answered.
    pub scraped: Family<Scraped, Counter>,
}

impl RequestMetrics {
    /// Counts that `registry` tells of.
    pub fn registered(registry: &mut Registry) -> Self {
        let to = registry;
        let slow_seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 15));
        let seconds: Histograms<Answered> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14)));
        let range_seconds: Histograms<Success> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 20)));
        let scraped: Family<Scraped, Counter> = Family::default();
        for code in ["200", "500", "503"] {
            // As etcd's, they are there before the first.
            drop(scraped.get_or_create(&Scraped { code }));
        }
        RequestMetrics {
            clients: add(to, "etcd_server_client_requests", "Calls by the clients' versions"),
            messages_received: add(to, "grpc_server_msg_received", "gRPC messages received"),
            messages_sent: add(to, "grpc_server_msg_sent", "gRPC messages sent"),
            seconds: put(to, "etcd_server_request_duration_seconds", "Time until requests were answered", seconds),
            range_seconds: put(to, "etcd_server_range_duration_seconds", "Time of ranges", range_seconds),
            health_success: add(to, "etcd_server_health_success", "/health that were well"),
            health_failures: add(to, "etcd_server_health_failures", "/health that were not"),
            check: add(to, "etcd_server_healthcheck", "Last results of checks: 1 is well"),
            checks: add(to, "etcd_server_healthchecks", "Results of checks"),
            promotions: add(to, "etcd_server_learner_promote_successes", "Learners that were made voters"),
            refused_promotions: add(
                to,
                "etcd_server_learner_promote_failures",
                "Learners that could not be made voters",
            ),
            defrag_seconds: put(
                to,
                "etcd_disk_backend_defrag_duration_seconds",
                "Time of defragmentations",
                Histogram::new(exponential_buckets(0.1, 2.0, 13)),
            ),
            defrags: add(to, "etcd_disk_defrag_inflight", "Defragmentations under way"),
            hash_seconds: put(to, "etcd_mvcc_hash_duration_seconds", "Time of hashing everything", slow_seconds()),
            hash_rev_seconds: put(
                to,
                "etcd_mvcc_hash_rev_duration_seconds",
                "Time of hashing up to a revision",
                slow_seconds(),
            ),
            scrapes: add(to, "promhttp_metric_handler_requests_in_flight", "Scrapes under way"),
            scraped: put(to, "promhttp_metric_handler_requests", "Scrapes answered", scraped),
        }
    }
}
