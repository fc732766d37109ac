//! The table of flags: every one that etcd 3.7 knows, what becomes of it here, and three of our own.

/// How a flag's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Needs no value on the command line.
    Bool,
    /// A whole number.
    Number,
    /// A whole number, not below zero.
    Count,
    /// The same, of 32 bits.
    Uint32,
    /// A duration in Go's syntax.
    Duration,
    /// URLs, comma-separated.
    Urls,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Feature gates; several flags add up.
    Gates,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is a setting.
    Effective,
    /// Accepted and logged, because nothing depends on it here: why.
    Inert(&'static str),
    /// Only its default is accepted, because ignoring it would be wrong: why.
    Refused(&'static str),
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// As it would be written.
    pub default: &'static str,
    /// What becomes of it.
    pub usage: Use,
    /// For `--help`.
    pub help: &'static str,
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The flag whose name is nearest to a mistyped one, if any is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = |flag: &Flag| (distance(name, flag.name), flag.name);
    let (distance, nearest) = FLAGS.iter().map(near).min()?;
    (distance <= 2 + name.len() / 5).then_some(nearest)
}

/// Number of letters to insert, drop or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

use Kind::*;
use Use::*;

/// Why discovery is refused.
pub const NO_DISCOVERY: &str =
    "discovery is not supported: name the members in --initial-cluster, or let the operator do it";
const DISCOVERY: Use = Refused(NO_DISCOVERY);
const DISCOVERY_DETAIL: Use = Inert("discovery is not supported");
const TRACING: Use = Refused("distributed tracing is not supported yet");
const TRACING_DETAIL: Use = Inert("distributed tracing is not supported yet");
const BACKEND: Use = Inert("the storage engine decides this by itself");

const fn flag(name: &'static str, kind: Kind, default: &'static str, usage: Use, help: &'static str) -> Flag {
    Flag { name, kind, default, usage, help }
}

/// Flags of long ago that etcd still takes, and forgets.
pub static OBSOLETE: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
];

/// Every flag, sorted by name.
#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    flag("advertise-client-urls", Urls, "http://localhost:2379", Effective, "Client URLs that the other members and clients are told of."),
    flag("auth-token", Text, "simple", Effective, "Kind of token that authenticated clients get."),
    flag("auth-token-ttl", Count, "300", Effective, "Seconds that a simple token lives."),
    flag("auto-compaction-mode", Text, "periodic", Effective, "What --auto-compaction-retention counts: periodic (time) or revision."),
    flag("auto-compaction-retention", Text, "0", Effective, "History to keep: a duration (a bare number is hours) or a number of revisions; 0 turns it off."),
    flag("auto-tls", Bool, "false", Effective, "Make a certificate for clients at the start."),
    flag("backend-batch-interval", Duration, "0s", BACKEND, "Time between two commits of the backend."),
    flag("backend-batch-limit", Count, "0", BACKEND, "Operations between two commits of the backend."),
    flag("backend-bbolt-freelist-type", Text, "map", BACKEND, "How bbolt keeps its free list."),
    flag("bcrypt-cost", Count, "10", Effective, "Work spent on a password's hash."),
    flag("bootstrap-defrag-threshold-megabytes", Count, "0", BACKEND, "Free space above which a start defragments."),
    flag("cert-file", Text, "", Effective, "Certificate shown to clients."),
    flag("cipher-suites", Text, "", Effective, "Cipher suites of TLS 1.2 to offer, comma-separated, by Go's names."),
    flag("client-cert-allowed-hostname", Text, "", Effective, "Host names of which a client's certificate must have one, comma-separated."),
    flag("client-cert-auth", Bool, "false", Effective, "Ask clients for certificates."),
    flag("client-cert-file", Text, "", Effective, "Certificate with which etcd is a client of itself; only checked here."),
    flag("client-crl-file", Text, "", Effective, "Revoked client certificates, in DER or PEM."),
    flag("client-key-file", Text, "", Effective, "Key to --client-cert-file."),
    flag("compact-hash-check-time", Duration, "1m0s", Effective, "Time between two checks of compaction hashes."),
    flag("compaction-batch-limit", Count, "1000", BACKEND, "Revisions that one step of a compaction drops."),
    flag("compaction-sleep-interval", Duration, "10ms", BACKEND, "Pause between two steps of a compaction."),
    flag("config-file", Text, "", Effective, "YAML file with settings; other flags and variables are then ignored."),
    flag("corrupt-check-time", Duration, "0s", Effective, "Time between two comparisons of the members' data."),
    flag("cors", Text, "*", Effective, "Origins whose web pages may read answers; empty or * is all."),
    flag("data-dir", Text, "", Effective, "Folder that holds everything this member keeps; ${name}.etcd by default."),
    flag("discovery-cacert", Text, "", DISCOVERY, "CA of the discovery service."),
    flag("discovery-cert", Text, "", DISCOVERY, "Certificate for the discovery service."),
    flag("discovery-dial-timeout", Duration, "2s", DISCOVERY_DETAIL, "Time to reach the discovery service."),
    flag("discovery-endpoints", Text, "", DISCOVERY, "Endpoints of the discovery service."),
    flag("discovery-fallback", Choice(&["exit", "proxy"]), "exit", DISCOVERY_DETAIL, "What to do when discovery fails."),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY, "Trust any discovery service."),
    flag("discovery-insecure-transport", Bool, "true", DISCOVERY_DETAIL, "Speak plaintext to the discovery service."),
    flag("discovery-keepalive-time", Duration, "2s", DISCOVERY_DETAIL, "Keepalive of the discovery service."),
    flag("discovery-keepalive-timeout", Duration, "6s", DISCOVERY_DETAIL, "Keepalive timeout of the discovery service."),
    flag("discovery-key", Text, "", DISCOVERY, "Key to --discovery-cert."),
    flag("discovery-password", Text, "", DISCOVERY, "Password for the discovery service."),
    flag("discovery-request-timeout", Duration, "5s", DISCOVERY_DETAIL, "Time that discovery may take."),
    flag("discovery-srv", Text, "", DISCOVERY, "DNS domain whose SRV records name the members."),
    flag("discovery-srv-name", Text, "", DISCOVERY, "Suffix of the SRV records' names."),
    flag("discovery-token", Text, "", DISCOVERY, "Token of the cluster at the discovery service."),
    flag("discovery-user", Text, "", DISCOVERY, "User of the discovery service."),
    flag("distributed-tracing-address", Text, "localhost:4317", TRACING_DETAIL, "Collector of traces."),
    flag("distributed-tracing-instance-id", Text, "", TRACING_DETAIL, "Instance id in traces."),
    flag("distributed-tracing-sampling-rate", Count, "0", TRACING_DETAIL, "Traces taken out of a million."),
    flag("distributed-tracing-service-name", Text, "etcd", TRACING_DETAIL, "Service name in traces."),
    flag("downgrade-check-time", Duration, "5s", Inert("a downgrade takes effect at once"), "Time between two looks at a downgrade."),
    flag("election-timeout", Count, "1000", Effective, "Milliseconds of silence after which a follower stands for election."),
    flag("enable-distributed-tracing", Bool, "false", TRACING, "Send traces."),
    flag("enable-grpc-gateway", Bool, "true", Effective, "Serve JSON under /v3."),
    flag("enable-log-rotation", Bool, "false", Effective, "Rotate the one file of --log-outputs."),
    flag("enable-pprof", Bool, "false", Inert("there is no Go runtime to profile"), "Serve Go profiles under /debug/pprof."),
    flag("feature-gates", Gates, "", Effective, "Features to turn on or off: Name=true,Other=false."),
    flag("force-new-cluster", Bool, "false", Effective, "Remove all other members at the start: the way back from a quorum that is lost for good."),
    flag("force-new-cluster-bump", Count, "0", Effective, "With --force-new-cluster: raise the revision by this much and compact all before, as others may have gone further. Of our own."),
    flag("grpc-keepalive-interval", Duration, "2h0m0s", Effective, "Silence after which a client is pinged; 0s is never."),
    flag("grpc-keepalive-min-time", Duration, "5s", Inert("pings are answered however often they come"), "Clients that ping more often are sent away."),
    flag("grpc-keepalive-timeout", Duration, "20s", Effective, "Time that a client may take to answer a ping."),
    flag("heartbeat-interval", Count, "100", Effective, "Milliseconds between two heartbeats of the leader."),
    flag("host-whitelist", Text, "*", Effective, "Host names that HTTP requests without TLS may use; empty or * is all."),
    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Effective, "Peer URLs that the other members are told of."),
    flag("initial-cluster", Text, "default=http://localhost:2380", Effective, "Name and peer URL of each member: a=http://10.0.0.1:2380,b=http://10.0.0.2:2380."),
    flag("initial-cluster-state", Choice(&["new", "existing"]), "new", Effective, "new founds a cluster, existing joins one."),
    flag("initial-cluster-token", Text, "etcd-cluster", Effective, "Keeps clusters with the same members apart."),
    flag("initial-election-tick-advance", Bool, "true", Inert("a member that founds a cluster stands for election at once; one that comes back always waits for a leader first"), "Shorten the first election."),
    flag("key-file", Text, "", Effective, "Key to --cert-file."),
    flag("listen-client-http-urls", Urls, "", Effective, "URLs to serve HTTP alone; --listen-client-urls then serve gRPC alone."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Effective, "URLs to listen on for clients."),
    flag("listen-metrics-urls", Urls, "", Effective, "URLs to serve metrics and probes alone."),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Effective, "URLs to listen on for the other members."),
    flag("log-format", Text, "json", Effective, "json or console."),
    flag("log-level", Text, "info", Effective, "debug, info, warn, error, panic or fatal."),
    flag("log-outputs", Text, "default", Effective, "default (stderr), or stdout, stderr, systemd/journal and files, comma-separated."),
    flag("log-rotation-config-json", Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Effective, "How --enable-log-rotation works: size in MB, age in days, number of old files (0: no limit), local time in their names, gzip."),
    flag("logger", Text, "zap", Effective, "zap: structured lines."),
    flag("max-concurrent-streams", Uint32, "4294967295", Effective, "Streams that one connection may have open."),
    flag("max-inflight-bytes", Count, "0", Effective, "Memory for answers and events on their way to clients: half for each. Ranges above it get TooManyRequests. 0 is a quarter of what the process may use. Of our own."),
    flag("max-inflight-request-bytes", Count, "0", Effective, "Memory for requests from their first byte until they are applied; a quarter of it, 16 MiB at most, may keep the newest of the log for followers. Writes above it get TooManyRequests. 0 is an eighth of what the process may use; it is never less than eight times --max-request-bytes. Of our own."),
    flag("max-learners", Count, "1", Effective, "Learners that the cluster may have at a time."),
    flag("max-request-bytes", Count, "1572864", Effective, "Largest request that is accepted."),
    flag("max-snapshots", Count, "5", Inert("it is deprecated, and there are no snapshot files to keep"), "Snapshot files to keep."),
    flag("max-txn-ops", Count, "128", Effective, "Most operations in a txn."),
    flag("max-wals", Count, "5", Inert("log segments are reused as soon as they are not needed"), "Log files to keep."),
    flag("memory-mlock", Bool, "false", Effective, "Keep the process in memory."),
    flag("metrics", Text, "basic", Effective, "basic, or extensive for the histograms of gRPC calls."),
    flag("name", Text, "default", Effective, "This member's name."),
    flag("peer-auto-tls", Bool, "false", Effective, "Make a certificate for the other members at the start."),
    flag("peer-cert-allowed-cn", Text, "", Effective, "Common Names of which a peer's certificate must have one, comma-separated."),
    flag("peer-cert-allowed-hostname", Text, "", Effective, "Host names of which a peer's certificate must have one, comma-separated."),
    flag("peer-cert-file", Text, "", Effective, "Certificate shown to the other members."),
    flag("peer-client-cert-auth", Bool, "false", Effective, "Ask the other members for certificates."),
    flag("peer-client-cert-file", Text, "", Effective, "Certificate used towards the other members."),
    flag("peer-client-key-file", Text, "", Effective, "Key to --peer-client-cert-file."),
    flag("peer-crl-file", Text, "", Effective, "Revoked peer certificates, in DER or PEM."),
    flag("peer-key-file", Text, "", Effective, "Key to --peer-cert-file."),
    flag("peer-skip-client-san-verification", Bool, "false", Effective, "Do not compare a peer's address with its certificate."),
    flag("peer-trusted-ca-file", Text, "", Effective, "CA of the other members' certificates; naming it makes them required."),
    flag("pre-vote", Bool, "true", Effective, "Ask for votes without a new term first."),
    flag("quota-backend-bytes", Number, "0", Effective, "Stored bytes above which writes are refused; 0 is 2 GiB, negative no limit."),
    flag("raft-read-timeout", Duration, "5s", Inert("peer connections are watched by HTTP/2 pings"), "Silence after which a peer connection is closed."),
    flag("raft-write-timeout", Duration, "5s", Inert("peer connections are watched by HTTP/2 pings"), "Time that sending to a peer may take."),
    flag("self-signed-cert-validity", Count, "1", Effective, "Years that made certificates are valid."),
    flag("snapshot-catchup-entries", Count, "5000", Effective, "Log entries kept for members that lag."),
    flag("snapshot-count", Count, "10000", Inert("the log is cut by what the storage engine has flushed"), "Entries between two snapshots."),
    flag("socket-reuse-address", Bool, "false", Inert("listeners always allow addresses in TIME_WAIT"), "Listen on addresses in TIME_WAIT."),
    flag("socket-reuse-port", Bool, "false", Effective, "Let several processes listen on one port."),
    flag("strict-reconfig-check", Bool, "true", Effective, "Refuse membership changes that would lose quorum."),
    flag("tls-max-version", Text, "", Effective, "Newest TLS version: TLS1.2 or TLS1.3."),
    flag("tls-min-version", Text, "TLS1.2", Effective, "Oldest TLS version: TLS1.2 or TLS1.3."),
    flag("trusted-ca-file", Text, "", Effective, "CA of the clients' certificates; naming it makes them required."),
    flag("unsafe-no-fsync", Bool, "false", Effective, "Never wait for the disk: a crash of the machine loses data."),
    flag("v2-deprecation", Choice(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only-drop-data", Inert("it is deprecated, and there never was a v2 store here"), "Phase of the v2 store's removal."),
    flag("version", Bool, "false", Effective, "Print the version and exit."),
    flag("wal-dir", Text, "", Effective, "Folder of its own for the Raft log."),
    flag("warning-apply-duration", Duration, "100ms", Effective, "Time after which applying an entry is logged."),
    flag("warning-unary-request-duration", Duration, "300ms", Effective, "Time after which a request is logged."),
    flag("watch-progress-notify-interval", Duration, "10m0s", Effective, "Time between progress notifications to watchers, at least 100ms; 0 is the default."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_has_every_flag_of_etcd() {
        assert!(FLAGS.is_sorted_by_key(|flag| flag.name));
        // Those that etcd 3.7.1 lists, and two that it still takes without listing them; three of our own.
        assert_eq!(FLAGS.len(), 111 + 2 + 3);
    }

    #[test]
    fn mistyped_names_lead_to_flags() {
        assert_eq!(nearest("data_dir"), Some("data-dir"));
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("no-such-thing-at-all"), None);
    }
}
