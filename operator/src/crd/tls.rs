//! `EtcdCluster.spec.tls` and `status.tls`: certificates of members and clients.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RetentionPolicy;

/// TLS of members and clients. Both sides always show certificates. `tls: {}` is enough: the operator then keeps an authority of
/// its own for the cluster.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.issuerRef) && has(self.secrets))").message("spec.tls.issuerRef and spec.tls.secrets exclude each other"),
    validation = Rule::new("self.validity != '1m' && !self.validity.matches('^([0-9]{1,2}|1[01][0-9])s$')").message("spec.tls.validity must be at least 2m"),
    validation = Rule::new("!has(self.issuerRef) || self.validity.endsWith('h')").message("spec.tls.validity is in hours with spec.tls.issuerRef: cert-manager makes no certificates for less than one"),
)]
pub struct TlsSpec {
    /// Certificates from an issuer of cert-manager, in place of an authority of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// Certificates from Secrets of your own, in place of an authority of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<GivenSecrets>,
    /// How long certificates are valid, at least `2m`, as they begin a minute before they are made. They are renewed when two
    /// thirds of that are over, and when this changes.
    #[serde(default = "default_validity")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]*(s|m|h)$"))]
    pub validity: String,
    /// The cluster's own authority.
    #[serde(default)]
    pub authority: AuthoritySpec,
    /// How long applications have to read the client Secret again before an old authority is given up: first until certificates
    /// of a new authority are used, then until the old one is no longer trusted.
    #[serde(default = "default_overlap")]
    #[schemars(length(max = 8), regex(pattern = r"^(0|[1-9][0-9]*)(s|m|h)$"))]
    pub overlap: String,
    /// Host names and addresses by which clients reach members beside the Services, a load balancer's for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9.:*-]+$")))]
    pub extra_names: Vec<String>,
    /// The DNS domain of the Kubernetes cluster. Certificates have names with and without it.
    #[serde(default = "default_domain")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub cluster_domain: String,
    /// Members serve plaintext as well, to clients that show no certificate. It is for the time in which clients are moved to TLS, or away
    /// from it.
    #[serde(default)]
    pub plaintext: bool,
    /// What becomes of the Secrets with certificates when the EtcdCluster is deleted. `Retain` keeps all of them, for members that
    /// are started by hand on volumes that were kept; they must be removed before a cluster of the same name.
    #[serde(default = "RetentionPolicy::delete")]
    pub when_deleted: RetentionPolicy,
}

/// The least validity of a certificate, in seconds.
pub const MIN_VALIDITY: i64 = 120;

fn default_validity() -> String {
    "2160h".into()
}

fn default_overlap() -> String {
    "10m".into()
}

fn default_domain() -> String {
    "cluster.local".into()
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self {
            issuer_ref: None,
            secrets: None,
            validity: default_validity(),
            authority: AuthoritySpec::default(),
            overlap: default_overlap(),
            extra_names: Vec::new(),
            cluster_domain: default_domain(),
            plaintext: false,
            when_deleted: RetentionPolicy::Delete,
        }
    }
}

impl TlsSpec {
    /// How long a certificate is valid, in seconds.
    pub fn validity_seconds(&self) -> i64 {
        seconds(&self.validity).unwrap_or(2160 * 3600)
    }

    /// How long an authority is valid, in seconds.
    pub fn authority_seconds(&self) -> i64 {
        seconds(&self.authority.validity).unwrap_or(87600 * 3600)
    }

    /// How long clients have to follow a change of authority, in seconds.
    pub fn overlap_seconds(&self) -> i64 {
        seconds(&self.overlap).unwrap_or(600)
    }
}

/// The seconds of a time such as `90s`, `10m` or `24h`.
pub fn seconds(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: i64 = text[..text.len() - 1].parse().ok().filter(|number| *number >= 0)?;
    number.checked_mul(unit)
}

/// An issuer of cert-manager.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name. It must put its own certificate into the Secrets (`ca.crt`), as the kinds CA and Vault do.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer`, in the namespace of the EtcdCluster, or `ClusterIssuer`, or the kind of an external issuer.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The API group of that kind.
    #[serde(default = "default_issuer_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn default_issuer_kind() -> String {
    "Issuer".into()
}

fn default_issuer_group() -> String {
    "cert-manager.io".into()
}

/// Secrets with `tls.crt`, `tls.key` and `ca.crt`, in the namespace of the EtcdCluster. Certificates of members need the usages of
/// servers and of clients.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GivenSecrets {
    /// What members show to clients. It names `*.NAME-members.NAMESPACE.svc`, and whatever clients use.
    #[schemars(length(min = 1, max = 253))]
    pub server: String,
    /// What members show each other. It names `*.NAME-members.NAMESPACE.svc` and `NAME-members.NAMESPACE.svc`.
    #[schemars(length(min = 1, max = 253))]
    pub peer: String,
    /// What clients show, the operator included. It names none of the above.
    #[schemars(length(min = 1, max = 253))]
    pub client: String,
}

/// The authority that the operator keeps for a cluster, in the Secret `NAME-ca`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.generation >= oldSelf.generation").message("spec.tls.authority.generation can only grow"),
)]
pub struct AuthoritySpec {
    /// Raise it to replace the authority. It is also replaced by itself when four fifths of its time are over.
    #[serde(default = "default_generation")]
    #[schemars(range(min = 1))]
    pub generation: i64,
    /// How long an authority is valid, in hours; longer than certificates are.
    #[serde(default = "default_authority_validity")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]*h$"))]
    pub validity: String,
}

fn default_generation() -> i64 {
    1
}

fn default_authority_validity() -> String {
    "87600h".into()
}

impl Default for AuthoritySpec {
    fn default() -> Self {
        Self { generation: default_generation(), validity: default_authority_validity() }
    }
}

/// The certificates of a cluster.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// How far the change to a new authority is.
    pub stage: TlsStage,
    /// Since when.
    pub since: Time,
    /// What must happen before the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The beginning of the SHA-256 of the authority that certificates come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The Secrets with certificates, the authority first.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
}

/// How far the change to a new authority is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsStage {
    /// One authority counts.
    #[default]
    Stable,
    /// A new authority is made known to members and clients; no certificate comes from it yet.
    Introducing,
    /// Certificates come from the new authority, the old one still counts.
    Reissuing,
}

/// A Secret with certificates.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The name of the Secret.
    pub secret: String,
    /// When the first certificate in it expires.
    pub not_after: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("10m"), Some(600));
        assert_eq!(seconds("24h"), Some(86400));
        assert_eq!(seconds("0s"), Some(0));
        for wrong in ["", "h", "10", "-1h", "1d", "1.5h"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
