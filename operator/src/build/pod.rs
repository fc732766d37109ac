//! The pod of a member: one container with the server's flags, probes and the volume, as the restricted pod security standard
//! allows it.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSchedulingGate, PodSecurityContext, PodSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::certificates::{BUNDLE, PEER, SERVER};
use super::etcd;
use super::statefulset::VOLUME;
use super::store::{self, Access};
use crate::crd::{EtcdCluster, PullPolicy, Transport, bytes};
use crate::names::{CLIENT_PORT, DATA_GATE, INITIAL_CLUSTER, METRICS_PORT, Names, PEER_PORT, SERVER_CONTAINER};
use crate::plan::{Origin, Recovery, Start};

/// Where the volume is mounted; the server keeps everything below it.
const DATA_DIR: &str = "/var/lib/keelson";
/// Where the member's certificates are mounted.
pub(super) const TLS_DIR: &str = "/etc/keelson/tls";
const TLS_VOLUME: &str = "tls";
/// The user and group of the server's image.
const SERVER_UID: i64 = 65532;
/// By how much the revision grows when a member goes on alone: more than others can have written since they were one cluster.
const REVISIONS_PASSED: u32 = 1_000_000_000;
/// The variable that [`INITIAL_CLUSTER`] comes in: what it is at this start of the container, not at that of the pod.
const FOUNDING: &str = "KEELSON_INITIAL_CLUSTER";
/// What stands in [`INITIAL_CLUSTER`] of a pod whose member has started, as it does not name that member: with an empty directory, as memory
/// is after a restart of the node, neither the member nor the restoration of its data begins anew.
pub const SETTLED: &str = "settled=http://settled.invalid:2380";
/// Without a quota of its own, a store in memory may take this part of it: the log and compactions need room, too.
const QUOTA_PART: f64 = 0.5;
const QUOTA: &str = "quota-backend-bytes";
/// Long enough to hand over leadership and to write what is buffered.
const GRACE_SECONDS: i64 = 30;

/// Renders the pod of member `ordinal`.
pub(super) fn spec(cluster: &EtcdCluster, names: &Names, ordinal: u32, start: &Start) -> PodSpec {
    let wanted = &cluster.spec.pod_template;
    let selector = LabelSelector { match_labels: Some(names.selector()), ..Default::default() };
    let secrets = wanted.image_pull_secrets.clone();
    let grace = wanted.termination_grace_period_seconds;
    let spread = wanted.topology_spread_constraints.clone();
    let mut volumes = Vec::new();
    if cluster.spec.in_memory() {
        volumes.push(memory(&cluster.spec.storage.size));
    }
    if cluster.spec.tls.is_some() {
        volumes.push(secret_volume(TLS_VOLUME, names.member_secret(ordinal)));
    }
    let mut before = None;
    if let Start::Recover(recovery) = start {
        let way = way(&recovery.origin);
        volumes.extend(way.access.volumes.clone());
        before = Some(vec![recover(cluster, names, ordinal, recovery, way)]);
    }
    PodSpec {
        init_containers: before,
        containers: vec![container(cluster, names, ordinal, start)],
        volumes: (!volumes.is_empty()).then_some(volumes),
        service_account_name: wanted.service_account_name.clone(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(grace.unwrap_or(GRACE_SECONDS)),
        security_context: Some(wanted.security_context.clone().unwrap_or_else(restricted)),
        node_selector: (!wanted.node_selector.is_empty()).then(|| wanted.node_selector.clone()),
        tolerations: (!wanted.tolerations.is_empty()).then(|| wanted.tolerations.clone()),
        affinity: Some(wanted.affinity.clone().unwrap_or_else(|| apart(selector.clone()))),
        topology_spread_constraints: Some(spread.unwrap_or_else(|| vec![over_zones(selector)])),
        priority_class_name: wanted.priority_class_name.clone(),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        scheduling_gates: cluster.spec.in_memory().then(|| vec![PodSchedulingGate { name: DATA_GATE.into() }]),
        ..Default::default()
    }
}

fn container(cluster: &EtcdCluster, names: &Names, ordinal: u32, start: &Start) -> Container {
    let mut env = cluster.spec.pod_template.env.clone();
    env.extend(cluster.spec.in_memory().then(founding));
    Container {
        name: SERVER_CONTAINER.into(),
        image: Some(cluster.spec.server_image()),
        image_pull_policy: cluster.spec.image_pull_policy.map(PullPolicy::name),
        args: Some(arguments(cluster, names, ordinal, start)),
        env: (!env.is_empty()).then_some(env),
        ports: Some(vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)]),
        resources: resources(cluster),
        startup_probe: Some(probe("/livez", 1, 300)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        security_context: Some(restricted_container()),
        volume_mounts: Some(mounts(cluster)),
        ..Default::default()
    }
}

/// Memory as a volume.
fn memory(size: &str) -> Volume {
    let empty_dir = EmptyDirVolumeSource {
        medium: Some("Memory".into()),
        size_limit: Some(Quantity(size.into())),
        ..Default::default()
    };
    Volume { name: VOLUME.into(), empty_dir: Some(empty_dir), ..Default::default() }
}

/// What is in memory counts as the container's, so nodes must have room for it.
fn resources(cluster: &EtcdCluster) -> Option<ResourceRequirements> {
    let wanted = cluster.spec.resources.clone();
    if !cluster.spec.in_memory() {
        return wanted;
    }
    let mut wanted = wanted.unwrap_or_default();
    // A limit without a request is the request.
    if !wanted.limits.iter().flatten().any(|(resource, _)| resource == "memory") {
        let requests = wanted.requests.get_or_insert_default();
        requests.entry("memory".into()).or_insert_with(|| Quantity(cluster.spec.storage.size.clone()));
    }
    Some(wanted)
}

fn founding() -> EnvVar {
    let field_ref =
        ObjectFieldSelector { field_path: format!("metadata.annotations['{INITIAL_CLUSTER}']"), ..Default::default() };
    let source = EnvVarSource { field_ref: Some(field_ref), ..Default::default() };
    EnvVar { name: FOUNDING.into(), value_from: Some(source), ..Default::default() }
}

/// How the data are reached.
struct Way {
    url: String,
    flags: Vec<String>,
    access: Access,
}

fn way(origin: &Origin) -> Way {
    match origin {
        Origin::File(file) => {
            Way { url: store::url(&file.store, &file.path), flags: Vec::new(), access: store::access(&file.store) }
        }
        Origin::Etcd(source) => {
            let (flags, access) = etcd::access(source);
            Way { url: source.endpoint.clone(), flags, access }
        }
    }
}

/// What fills the volume of the first member. It does nothing if there is a member already, so that it may run at each start.
fn recover(cluster: &EtcdCluster, names: &Names, ordinal: u32, recovery: &Recovery, way: Way) -> Container {
    let Recovery { revision_bump, skip_hash_check, .. } = recovery;
    let Way { url, flags, mut access } = way;
    access.env.extend(cluster.spec.in_memory().then(founding));
    let mut args = vec![
        "backup".into(),
        "restore".into(),
        url,
        format!("--name={}", names.member(ordinal)),
        format!("--data-dir={DATA_DIR}"),
        format!("--initial-cluster={}", initial_cluster(cluster, &[(names.member(ordinal), names.peer_url(ordinal))])),
        format!("--initial-advertise-peer-urls={}", names.peer_url(ordinal)),
        format!("--initial-cluster-token={}", names.cluster_token()),
        format!("--bump-revision={revision_bump}"),
        "--mark-compacted".into(),
    ];
    args.extend(flags);
    args.extend(skip_hash_check.then(|| "--skip-hash-check".into()));
    let mut mounts = vec![VolumeMount { name: VOLUME.into(), mount_path: DATA_DIR.into(), ..Default::default() }];
    mounts.extend(access.mounts);
    Container {
        name: "recover".into(),
        image: Some(cluster.spec.server_image()),
        image_pull_policy: cluster.spec.image_pull_policy.map(PullPolicy::name),
        args: Some(args),
        env: (!access.env.is_empty()).then_some(access.env),
        env_from: (!access.env_from.is_empty()).then_some(access.env_from),
        resources: cluster.spec.resources.clone(),
        security_context: Some(restricted_container()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

fn mounts(cluster: &EtcdCluster) -> Vec<VolumeMount> {
    let mut mounts = vec![VolumeMount { name: VOLUME.into(), mount_path: DATA_DIR.into(), ..Default::default() }];
    if cluster.spec.tls.is_some() {
        mounts.push(VolumeMount {
            name: TLS_VOLUME.into(),
            mount_path: TLS_DIR.into(),
            read_only: Some(true),
            ..Default::default()
        });
    }
    mounts
}

/// Kubernetes changes all files of a Secret at once, and the server reads them again. Readable by the pod's group only.
pub(super) fn secret_volume(volume: &str, secret: String) -> Volume {
    Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource { secret_name: Some(secret), default_mode: Some(0o440), ..Default::default() }),
        ..Default::default()
    }
}

/// Both sides show certificates. Members accept each other by the name of the headless Service, which no client has.
fn tls_flags(cluster: &EtcdCluster, names: &Names) -> Vec<(&'static str, String)> {
    if cluster.spec.tls.is_none() {
        return Vec::new();
    }
    let file = |name: &str| format!("{TLS_DIR}/{name}");
    vec![
        ("cert-file", file(SERVER[0])),
        ("key-file", file(SERVER[1])),
        ("trusted-ca-file", file(BUNDLE)),
        ("client-cert-auth", "true".into()),
        ("peer-cert-file", file(PEER[0])),
        ("peer-key-file", file(PEER[1])),
        ("peer-trusted-ca-file", file(BUNDLE)),
        ("peer-client-cert-auth", "true".into()),
        ("peer-cert-allowed-hostname", names.members_host()),
    ]
}

fn initial_cluster(cluster: &EtcdCluster, members: &[(String, String)]) -> String {
    match cluster.spec.in_memory() {
        true => format!("$({FOUNDING})"),
        false => listed(members),
    }
}

fn listed(members: &[(String, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
    members.join(",")
}

/// What stands in [`INITIAL_CLUSTER`] of a new pod.
pub(super) fn founding_members(names: &Names, ordinal: u32, start: &Start) -> String {
    match start {
        Start::Seed | Start::Recover(_) => listed(&[(names.member(ordinal), names.peer_url(ordinal))]),
        Start::Join(members) => listed(members),
        Start::Settled | Start::Parked | Start::Alone => SETTLED.into(),
    }
}

/// The part of the memory that the store may take, unless a quota is given.
fn quota(cluster: &EtcdCluster) -> Option<String> {
    let spec = &cluster.spec;
    let given = spec.options.contains_key(QUOTA)
        || spec.pod_template.env.iter().any(|it| it.name == "ETCD_QUOTA_BACKEND_BYTES");
    let size = bytes(&spec.storage.size).filter(|_| spec.in_memory() && !given)?;
    Some(format!("{:.0}", (size * QUOTA_PART).floor()))
}

/// The server's flags: those that the operator derives, then the options in the order of their names.
fn arguments(cluster: &EtcdCluster, names: &Names, ordinal: u32, start: &Start) -> Vec<String> {
    let alone = vec![(names.member(ordinal), names.peer_url(ordinal))];
    let (state, members) = match start {
        Start::Seed | Start::Recover(_) => ("new", &alone),
        Start::Join(members) => ("existing", members),
        Start::Settled | Start::Parked | Start::Alone => ("existing", &alone),
    };
    let own = members.iter().find(|(name, _)| *name == names.member(ordinal));
    let own = own.map_or_else(|| names.peer_url(ordinal), |(_, url)| url.clone());
    let transport = cluster.spec.transport();
    let schemes: &[&str] = match transport {
        Transport::Plain => &["http"],
        Transport::Both => &["http", "https"],
        Transport::Tls => &["https"],
    };
    let listen = |port: i32| {
        let urls: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://0.0.0.0:{port}")).collect();
        urls.join(",")
    };
    let mut flags = vec![
        ("name", names.member(ordinal)),
        ("data-dir", DATA_DIR.to_string()),
        ("listen-client-urls", listen(CLIENT_PORT)),
        ("listen-peer-urls", listen(PEER_PORT)),
        ("listen-metrics-urls", format!("http://0.0.0.0:{METRICS_PORT}")),
        // Clients that go by it need no certificate while plaintext is served.
        ("advertise-client-urls", names.client_url_by(ordinal, transport == Transport::Tls)),
        ("initial-advertise-peer-urls", own),
        ("initial-cluster", initial_cluster(cluster, members)),
        ("initial-cluster-state", state.to_string()),
        ("initial-cluster-token", names.cluster_token()),
    ];
    if *start == Start::Alone {
        flags.push(("force-new-cluster", "true".into()));
        flags.push(("force-new-cluster-bump", REVISIONS_PASSED.to_string()));
    }
    flags.extend(tls_flags(cluster, names));
    flags.extend(quota(cluster).map(|quota| (QUOTA, quota)));
    let options = cluster.spec.options.iter();
    flags.extend(options.map(|(flag, value)| (flag.as_str(), value.clone())));
    flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.into()), container_port: number, ..Default::default() }
}

/// Probes use the plaintext metrics listener. Liveness does not depend on quorum, leader or alarms: /livez says so.
fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(METRICS_PORT),
            ..Default::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// Neither root nor able to become it, and nothing to write to but volumes.
pub(super) fn restricted_container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        ..Default::default()
    }
}

/// As the restricted pod security standard wants it.
pub(super) fn restricted() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(SERVER_UID),
        run_as_group: Some(SERVER_UID),
        fs_group: Some(SERVER_UID),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..Default::default()
    }
}

/// Members prefer different nodes.
fn apart(selector: LabelSelector) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(selector),
        topology_key: "kubernetes.io/hostname".into(),
        ..Default::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Members are spread over zones, where nodes have them.
fn over_zones(selector: LabelSelector) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(selector),
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..Default::default()
    }
}
