//! Server flags that a person cannot set under `spec.options`, because the operator derives them.

/// A flag of the server which the operator sets, and where a person says instead what it follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedFlag {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// What decides it, as the end of a sentence: "it follows from ...".
    pub source: &'static str,
}

const fn owned(flag: &'static str, source: &'static str) -> OwnedFlag {
    OwnedFlag { flag, source }
}

/// Every flag that `spec.options` refuses.
pub const OWNED_FLAGS: &[OwnedFlag] = &[
    owned("name", "the member's name"),
    owned("data-dir", "spec.storage"),
    owned("wal-dir", "spec.storage"),
    owned("initial-cluster", "the live member list"),
    owned("initial-cluster-state", "the live member list"),
    owned("initial-cluster-token", "the namespace, name and uid"),
    owned("initial-advertise-peer-urls", "the member's name"),
    owned("advertise-client-urls", "the member's name"),
    owned("listen-client-urls", "the fixed port 2379"),
    owned("listen-client-http-urls", "the fixed port 2379"),
    owned("listen-peer-urls", "the fixed port 2380"),
    owned("listen-metrics-urls", "the fixed port 2381"),
    owned("force-new-cluster", "nothing: it discards members"),
    owned("force-new-cluster-bump", "nothing: it discards revisions"),
    owned("config-file", "this resource"),
    owned("max-learners", "the operator: one learner at a time"),
    owned("strict-reconfig-check", "the operator: always on, as quorum depends on it"),
    owned("discovery", "the live member list"),
    owned("discovery-srv", "the live member list"),
    owned("discovery-endpoints", "the live member list"),
    owned("discovery-token", "the live member list"),
    owned("auto-tls", "spec.tls"),
    owned("cert-file", "spec.tls"),
    owned("key-file", "spec.tls"),
    owned("trusted-ca-file", "spec.tls"),
    owned("client-cert-auth", "spec.tls"),
    owned("client-cert-file", "spec.tls"),
    owned("client-key-file", "spec.tls"),
    owned("peer-auto-tls", "spec.tls"),
    owned("peer-cert-file", "spec.tls"),
    owned("peer-key-file", "spec.tls"),
    owned("peer-trusted-ca-file", "spec.tls"),
    owned("peer-client-cert-auth", "spec.tls"),
    owned("peer-client-cert-file", "spec.tls"),
    owned("peer-client-key-file", "spec.tls"),
    owned("peer-cert-allowed-cn", "spec.tls"),
    owned("peer-cert-allowed-hostname", "spec.tls"),
];

/// The CEL rule for `spec.options`: one test of presence for each owned flag, which stays cheap however many options there are.
pub(super) fn owned_flags_rule() -> String {
    let flags: Vec<String> = OWNED_FLAGS.iter().map(|owned| format!("'{}'", owned.flag)).collect();
    format!("[{}].all(flag, !(flag in self))", flags.join(", "))
}

/// What a person reads when [`owned_flags_rule`] refuses.
pub(super) fn owned_flags_message() -> String {
    let flags: Vec<&str> = OWNED_FLAGS.iter().map(|owned| owned.flag).collect();
    format!("spec.options must not contain a flag that the operator sets itself: {}", flags.join(", "))
}
