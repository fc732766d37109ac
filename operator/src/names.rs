//! Names, labels and addresses that every part agrees on. A member is number `n` of cluster `C`: StatefulSet `C-n`, pod `C-n-0`,
//! claim `data-C-n-0`, peer URL `http://C-n-0.C-members.NS.svc:2380`.

use std::collections::BTreeMap;

use crate::crd::EtcdCluster;

/// Clients connect here.
pub const CLIENT_PORT: i32 = 2379;
/// Members talk to each other here.
pub const PEER_PORT: i32 = 2380;
/// Metrics and probes, always without TLS.
pub const METRICS_PORT: i32 = 2381;
/// Owner of the fields that the operator applies.
pub const FIELD_MANAGER: &str = "keelson-operator";
/// Keeps a deleted EtcdCluster until its pods are gone and its claims are dealt with.
pub const FINALIZER: &str = "keelson.dev/members";
/// Label: the name of the cluster.
pub const CLUSTER_LABEL: &str = "keelson.dev/cluster";
/// Label: the name of the member.
pub const MEMBER_LABEL: &str = "keelson.dev/member";
/// Label: the uid of the EtcdCluster, by which the claims and pods of an earlier one of the same name are told apart.
pub const UID_LABEL: &str = "keelson.dev/cluster-uid";
/// Label of pods: `voter` or `learner`. The client Service and the PodDisruptionBudget select voters.
pub const ROLE_LABEL: &str = "keelson.dev/role";
/// Label of Jobs and their pods: the name of the EtcdBackup.
pub const BACKUP_LABEL: &str = "keelson.dev/backup";
/// Label of EtcdBackups: the name of the EtcdBackupSchedule that made them.
pub const SCHEDULE_LABEL: &str = "keelson.dev/backup-schedule";
/// Keeps a deleted EtcdBackup until its data is deleted, if that is asked for.
pub const BACKUP_FINALIZER: &str = "keelson.dev/backup-data";
/// Keeps a deleted EtcdUser or EtcdRole until it is deleted from the store, if that is asked for.
pub const ACCESS_FINALIZER: &str = "keelson.dev/access";
/// Annotation of each child: the hash of what the operator rendered.
pub const APPLIED_HASH: &str = "keelson.dev/applied-hash";
/// Annotation of each pod: the hash of the part of its template whose change needs a restart.
pub const CONFIG_HASH: &str = "keelson.dev/config-hash";
/// Annotation of an EtcdCluster: the id of a member that a person wants replaced, in hexadecimal.
pub const REPLACE_MEMBER: &str = "keelson.dev/replace-member";
/// Annotation of an EtcdCluster whose quorum is lost for good: the name of the member to go on with.
pub const RECOVER_FROM: &str = "keelson.dev/recover-from";
/// Annotation of an EtcdCluster: the name of the member that is to lead.
pub const MOVE_LEADER: &str = "keelson.dev/move-leader";
/// Annotation of an EtcdCluster: the names of members that are to be defragmented, with commas. Each is taken off when it was tried.
pub const DEFRAGMENT: &str = "keelson.dev/defragment";
/// Annotation of an EtcdCluster: the kind of alarm that is to end, `NOSPACE` or `CORRUPT`.
pub const DISARM: &str = "keelson.dev/disarm";
/// Annotation of a Secret with certificates: when the operator last wrote it, in Unix time.
pub const WRITTEN: &str = "keelson.dev/written";
/// Annotation of each pod: the image that its template asked for. Admission may rewrite the image itself, or put containers
/// of its own first.
pub const IMAGE: &str = "keelson.dev/image";
/// Annotation of each StatefulSet: the size of the volume in its claim template, which cannot be changed.
pub const VOLUME_SIZE: &str = "keelson.dev/volume-size";
/// Scheduling gate of pods whose data are in memory: it is lifted for the first pod of a StatefulSet, and for no other.
pub const DATA_GATE: &str = "keelson.dev/data";
/// Annotation of a StatefulSet whose member's data are in memory: the uid of the pod that has them.
pub const DATA_POD: &str = "keelson.dev/data-pod";
/// Annotation of a pod whose data are in memory: what its member takes as `--initial-cluster` when its directory is empty.
pub const INITIAL_CLUSTER: &str = "keelson.dev/initial-cluster";
/// Annotation of each pod: what its member speaks.
pub const TRANSPORT: &str = "keelson.dev/transport";
/// Annotation of a pod: the version of the Secret with its member's certificates that its node was last pointed to.
pub const CERTIFICATES: &str = "keelson.dev/certificates";
/// The container of the member's process.
pub const SERVER_CONTAINER: &str = "server";

/// The names of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The EtcdCluster's name.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Whether its members speak TLS.
    pub tls: bool,
}

impl Names {
    /// The names of `cluster`.
    pub fn of(cluster: &EtcdCluster) -> Self {
        Self {
            cluster: cluster.metadata.name.clone().unwrap_or_default(),
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
            uid: cluster.metadata.uid.clone().unwrap_or_default(),
            tls: cluster.speaks_tls(),
        }
    }

    /// The member's name, which is also that of its StatefulSet.
    pub fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.cluster)
    }

    /// The member's only pod.
    pub fn pod(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}-0", self.cluster)
    }

    /// The claim of the member's volume.
    pub fn claim(&self, ordinal: u32) -> String {
        format!("data-{}-{ordinal}-0", self.cluster)
    }

    /// The headless Service.
    pub fn members_service(&self) -> String {
        format!("{}-members", self.cluster)
    }

    /// The Service for clients.
    pub fn client_service(&self) -> String {
        format!("{}-client", self.cluster)
    }

    /// The DNS name of the headless Service, whose addresses are those of all members.
    pub fn members_host(&self) -> String {
        format!("{}.{}.svc", self.members_service(), self.namespace)
    }

    /// The DNS name of the member's pod.
    pub fn host(&self, ordinal: u32) -> String {
        format!("{}.{}", self.pod(ordinal), self.members_host())
    }

    /// By which the store knows the member.
    pub fn peer_url(&self, ordinal: u32) -> String {
        self.peer_url_by(ordinal, self.tls)
    }

    /// By which the store knows a member that others reach by TLS (`secure`) or by plaintext.
    pub fn peer_url_by(&self, ordinal: u32, secure: bool) -> String {
        format!("{}://{}:{PEER_PORT}", scheme(secure), self.host(ordinal))
    }

    /// Where the member serves clients.
    pub fn client_url(&self, ordinal: u32) -> String {
        self.client_url_by(ordinal, self.tls)
    }

    /// Where the member serves clients by TLS (`secure`) or by plaintext.
    pub fn client_url_by(&self, ordinal: u32, secure: bool) -> String {
        format!("{}://{}:{CLIENT_PORT}", scheme(secure), self.host(ordinal))
    }

    /// Of the URLs of clients and members.
    pub fn scheme(&self) -> &'static str {
        scheme(self.tls)
    }

    /// The Secret of the authority, with its key.
    pub fn authority_secret(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// The Secret that applications mount.
    pub fn client_secret(&self) -> String {
        format!("{}-client-tls", self.cluster)
    }

    /// The Secret with which the operator is a client.
    pub fn operator_secret(&self) -> String {
        format!("{}-operator-tls", self.cluster)
    }

    /// The Secret and the Certificate of cert-manager: `server`, `peer` or `client`.
    pub fn issued_secret(&self, kind: &str) -> String {
        format!("{}-{kind}-issued", self.cluster)
    }

    /// The Secret with root's password.
    pub fn root_secret(&self) -> String {
        format!("{}-root", self.cluster)
    }

    /// The Secret that the member mounts.
    pub fn member_secret(&self, ordinal: u32) -> String {
        format!("{}-tls", self.member(ordinal))
    }

    /// Unique for each EtcdCluster object, so that members of two objects of the same name never mistake each other.
    pub fn cluster_token(&self) -> String {
        format!("{}-{}-{}", self.namespace, self.cluster, self.uid)
    }

    /// The number in the name of a StatefulSet, a pod or a claim of this cluster.
    pub fn ordinal_of(&self, name: &str) -> Option<u32> {
        let name = name.strip_prefix("data-").unwrap_or(name);
        let rest = name.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        let rest = rest.strip_suffix("-0").unwrap_or(rest);
        let ordinal: u32 = rest.parse().ok()?;
        (ordinal.to_string() == rest).then_some(ordinal)
    }

    /// The number of the member with this peer URL.
    pub fn ordinal_of_peer_url(&self, url: &str) -> Option<u32> {
        let host = url.split("://").nth(1)?.split(':').next()?;
        let ordinal = self.ordinal_of(host.split('.').next()?)?;
        [false, true].iter().any(|secure| self.peer_url_by(ordinal, *secure) == url).then_some(ordinal)
    }

    /// Labels by which all children of this cluster are selected; they never change.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".into(), "keelson".into()),
            ("app.kubernetes.io/instance".into(), self.cluster.clone()),
            (CLUSTER_LABEL.into(), self.cluster.clone()),
        ])
    }

    /// Labels of every child.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert("app.kubernetes.io/component".into(), "member".into());
        labels.insert("app.kubernetes.io/managed-by".into(), FIELD_MANAGER.to_string());
        labels.insert(UID_LABEL.into(), self.uid.clone());
        labels
    }

    /// Labels of what belongs to one member.
    pub fn member_labels(&self, ordinal: u32) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(MEMBER_LABEL.into(), self.member(ordinal));
        labels
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { cluster: "demo-1".into(), namespace: "ns".into(), uid: "u".into(), tls: false }
    }

    #[test]
    fn ordinals_are_read_back_from_every_name() {
        let names = names();
        for ordinal in [0, 1, 10] {
            for secure in [false, true] {
                assert_eq!(names.ordinal_of_peer_url(&names.peer_url_by(ordinal, secure)), Some(ordinal));
            }
            assert_eq!(names.ordinal_of(&names.claim(ordinal)), Some(ordinal));
            assert_eq!(names.ordinal_of(&names.pod(ordinal)), Some(ordinal));
        }
    }

    #[test]
    fn names_of_others_have_no_ordinal() {
        let names = names();
        for other in ["demo-1", "demo-1-x", "demo-1-01-0", "other-0-0", "demo-1-members"] {
            assert_eq!(names.ordinal_of(other), None, "{other}");
        }
        assert_eq!(names.ordinal_of_peer_url("http://10.0.0.1:2380"), None);
        assert_eq!(names.ordinal_of_peer_url("http://demo-1-0-0.demo-1-members.other.svc:2380"), None);
    }
}
