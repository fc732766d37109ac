//! What is rendered, as YAML beside this file. `KEELSON_BLESS=1 cargo test` writes it anew; the diff is then for review.

use serde_json::json;

use super::*;
use crate::backup::Task;
use crate::crd::{EtcdBackup, EtcdSource, StoredFile};
use crate::names::{CONFIG_HASH, IMAGE, INITIAL_CLUSTER, ROLE_LABEL};
use crate::pki::Pair;
use crate::plan::tls::Holder;
use crate::plan::{Origin, PodRole, Recovery};

fn cluster(spec: serde_json::Value) -> EtcdCluster {
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "1234"},
        "spec": spec,
    }))
    .unwrap()
}

/// A spec that sets everything.
fn everything() -> EtcdCluster {
    cluster(json!({
        "size": 5,
        "version": "v9.9.9",
        "imagePullPolicy": "IfNotPresent",
        "storage": {"size": "2Gi", "storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "options": {"snapshot-count": "5000", "auto-compaction-retention": "1h"},
        "service": {"type": "LoadBalancer", "annotations": {"example.org/lb": "internal"}},
        "podTemplate": {
            "labels": {"team": "storage", "keelson.dev/member": "not-yours"},
            "annotations": {"example.org/a": "b"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": {},
            "topologySpreadConstraints": [],
            "priorityClassName": "high",
            "securityContext": {"runAsUser": 1000},
            "serviceAccountName": "member",
            "imagePullSecrets": [{"name": "pull"}],
            "terminationGracePeriodSeconds": 5,
            "env": [{"name": "RUST_LOG", "value": "debug"}],
        },
    }))
}

fn golden(name: &str, rendered: String) {
    let path = format!("{}/src/build/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("KEELSON_BLESS").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(rendered, expected, "{path} differs; see build/tests.rs");
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml::to_string(object).unwrap()
}

#[test]
fn the_objects_of_a_plain_cluster() {
    let cluster = cluster(json!({"size": 3, "storage": {"size": "1Gi"}}));
    let documents = [
        yaml(&members_service(&cluster)),
        yaml(&client_service(&cluster)),
        yaml(&pod_disruption_budget(&cluster, 1)),
        yaml(&stateful_set(&cluster, 0, &Start::Seed, PodRole::Voter)),
    ];
    golden("plain.yaml", documents.join("---\n"));
}

#[test]
fn the_objects_of_a_cluster_that_sets_everything() {
    let cluster = everything();
    let among =
        vec![("demo-0".to_string(), "http://a:2380".to_string()), ("demo-3".to_string(), "http://b:2380".to_string())];
    let documents = [
        yaml(&client_service(&cluster)),
        yaml(&pod_disruption_budget(&cluster, 3)),
        yaml(&stateful_set(&cluster, 3, &Start::Join(among), PodRole::Learner)),
    ];
    golden("everything.yaml", documents.join("---\n"));
}

/// Placeholders stand for certificates and keys, which differ each time.
#[test]
fn the_objects_of_a_cluster_with_tls() {
    let cluster = cluster(json!({"size": 3, "tls": {"extraNames": ["DB.example.org", "2001:DB8::1"]}}));
    let pair = |name: &str| Pair { certificate: format!("{name} certificate"), key: format!("{name} key") };
    let (member, client) = (Holder::Member(0), Holder::Client);
    let documents = [
        yaml(&stateful_set(&cluster, 0, &Start::Seed, PodRole::Voter)),
        yaml(&certificates_secret(&cluster, member, &[pair("server"), pair("peer")], "authorities")),
        yaml(&certificates_secret(&cluster, client, &[pair("client")], "authorities")),
        yaml(&authority_secret(&cluster, [("ca.crt".to_string(), text("authority"))].into())),
    ];
    golden("tls.yaml", documents.join("---\n"));
    let mut issued = cluster.clone();
    let issuer = json!({"name": "ours", "kind": "ClusterIssuer"});
    issued.spec.tls.as_mut().unwrap().issuer_ref = Some(serde_json::from_value(issuer).unwrap());
    let asked: Vec<String> = certificates(&issued).iter().map(yaml).collect();
    golden("cert-manager.yaml", asked.join("---\n"));
    assert!(certificates(&cluster).is_empty());
    let mut asked = String::new();
    for holder in [member, client, Holder::Operator] {
        asked += &format!("{holder}: {:#?}\n", requests(&cluster, holder));
    }
    golden("tls-requests.txt", asked);
}

/// No claim, a gate, and a start with an empty directory that ends with an annotation.
#[test]
fn the_objects_of_a_cluster_in_memory() {
    let cluster = cluster(json!({"size": 3, "storage": {"size": "1Gi", "medium": "Memory"}}));
    let store = serde_json::from_value(json!({"volume": {"claimName": "kept"}})).unwrap();
    let file = StoredFile { store, path: "ns/old/first.db.zst".into() };
    let recovery = Recovery { origin: Origin::File(file.into()), revision_bump: 1_000_000_000, skip_hash_check: false };
    let documents = [
        yaml(&stateful_set(&cluster, 0, &Start::Seed, PodRole::Voter)),
        yaml(&stateful_set(&cluster, 0, &Start::Recover(recovery.into()), PodRole::Voter)),
    ];
    golden("memory.yaml", documents.join("---\n"));
    let founding = |start: &Start| {
        let pod = stateful_set(&cluster, 1, start, PodRole::Voter).spec.template.metadata.unwrap();
        pod.annotations.unwrap()[INITIAL_CLUSTER].clone()
    };
    let among = ["demo-0", "demo-1"].map(|name| (name.to_string(), format!("http://{name}:2380")));
    assert_eq!(founding(&Start::Join(among.to_vec())), "demo-0=http://demo-0:2380,demo-1=http://demo-1:2380");
    assert_eq!(founding(&Start::Settled), SETTLED);
}

#[test]
fn what_is_in_memory_is_asked_of_the_node_and_leaves_room_unless_a_person_says_how_much() {
    let rendered = |more: serde_json::Value| {
        let mut spec = json!({"storage": {"size": "1Gi", "medium": "Memory"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod = stateful_set(&cluster(spec), 0, &Start::Seed, PodRole::Voter).spec.template.spec.unwrap();
        let container = serde_json::to_value(&pod.containers[0]).unwrap();
        let quota =
            pod.containers[0].args.iter().flatten().filter(|it| it.starts_with("--quota-backend-bytes")).cloned();
        (container["resources"].clone(), quota.collect::<Vec<_>>().join(" "))
    };
    let half = "--quota-backend-bytes=536870912".to_string();
    assert_eq!(rendered(json!({})), (json!({"requests": {"memory": "1Gi"}}), half.clone()));
    let cpu = json!({"resources": {"requests": {"cpu": "1"}}});
    assert_eq!(rendered(cpu).0, json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
    let limited = json!({"limits": {"memory": "2Gi"}});
    assert_eq!(rendered(json!({"resources": limited})).0, limited, "it is the request, too");
    let given = json!({"requests": {"memory": "3Gi"}});
    assert_eq!(rendered(json!({"resources": given})).0, given);
    assert_eq!(rendered(json!({"options": {"quota-backend-bytes": "7"}})).1, "--quota-backend-bytes=7");
    let variable = json!({"podTemplate": {"env": [{"name": "ETCD_QUOTA_BACKEND_BYTES", "value": "7"}]}});
    assert_eq!(rendered(variable).1, "");
}

#[test]
fn the_secret_with_the_password_of_root() {
    let cluster = cluster(json!({"auth": {}}));
    golden("root.yaml", yaml(&root_secret(&cluster, "password")));
}

fn backup(store: serde_json::Value) -> EtcdBackup {
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdBackup",
        "metadata": {"name": "first", "namespace": "ns", "uid": "12345678-90"},
        "spec": {"cluster": "demo", "store": store},
        "status": {"image": "keelson/keelson-server:v9.9.9", "path": "k8s/ns/demo/first-12345678.db.zst", "revision": 42,
            "hash": 7, "compactRevision": -1},
    }))
    .unwrap()
}

#[test]
fn the_jobs_on_backups_in_every_store() {
    let cluster = cluster(json!({"tls": {}, "imagePullPolicy": "Never"}));
    let job = |store, task| {
        let backup = backup(store);
        let cluster = (task == Task::Create).then_some(&cluster);
        yaml(&backup_job(&backup, backup.status.as_ref().unwrap(), cluster, task))
    };
    let minio = json!({"bucket": "b", "prefix": "k8s", "region": "r", "endpoint": "http://minio.ns.svc:9000",
        "credentialsSecret": "keys", "caSecret": "ca"});
    let azure = json!({"account": "acc", "container": "con", "prefix": "k8s", "credentialsSecret": "keys"});
    let documents = [
        job(json!({"s3": minio}), Task::Create),
        job(json!({"volume": {"claimName": "kept", "prefix": "k8s"}}), Task::Verify),
        job(json!({"gcs": {"bucket": "b", "credentialsSecret": "keys"}}), Task::Delete),
        job(json!({"azure": azure}), Task::Delete),
    ];
    golden("backup-jobs.yaml", documents.join("---\n"));
}

/// Root's password is not on the command line, and the Job does not wait for it where authentication is not on yet.
#[test]
fn the_job_on_a_cluster_with_authentication_logs_in_as_root() {
    let backup = backup(json!({"volume": {"claimName": "kept"}}));
    let job = |spec, task| {
        let job = backup_job(&backup, backup.status.as_ref().unwrap(), Some(&cluster(spec)), task);
        yaml(&job.spec.unwrap().template.spec.unwrap().containers)
    };
    let guarded = job(json!({"auth": {}}), Task::Create);
    for part in ["--user=root", "name: KEELSON_PASSWORD", "key: applied-password", "name: demo-root", "optional: true"]
    {
        assert!(guarded.contains(part), "{part} is not in {guarded}");
    }
    assert!(!job(json!({"auth": {}}), Task::Verify).contains("PASSWORD"));
    assert!(!job(json!({}), Task::Create).contains("PASSWORD"));
}

/// Only until the cluster exists: what is rendered after that knows nothing of the backup.
#[test]
fn the_first_member_of_a_recovered_cluster() {
    let cluster = cluster(json!({"size": 3, "tls": {}, "resources": {"limits": {"memory": "1Gi"}}}));
    let store = serde_json::from_value(json!({"volume": {"claimName": "kept"}})).unwrap();
    let file = StoredFile { store, path: "ns/old/first.db.zst".into() };
    let recovered = |origin, skip_hash_check| {
        let recovery = Box::new(Recovery { origin, revision_bump: 1_000_000_000, skip_hash_check });
        yaml(&stateful_set(&cluster, 0, &Start::Recover(recovery), PodRole::Voter))
    };
    golden("recovered.yaml", recovered(Origin::File(file.into()), true));
    let (endpoint, secret) = ("https://old.db:2379".into(), |name: &str| Some(name.to_owned()));
    let (ca_secret, certificate_secret) = (secret("old-ca"), secret("old-client"));
    let source = EtcdSource { endpoint, ca_secret, certificate_secret, root_secret: secret("old-root") };
    golden("copied.yaml", recovered(Origin::Etcd(source), false));
}

#[test]
fn the_path_of_a_backup_begins_with_the_prefix_and_is_nobody_elses() {
    let mut one = backup(json!({"s3": {"bucket": "b", "prefix": "a/b"}}));
    assert_eq!(backup_path(&one), "a/b/ns/demo/first-12345678.db.zst");
    one.spec.store.s3.as_mut().unwrap().prefix.clear();
    one.metadata.uid = Some("x".into());
    assert_eq!(backup_path(&one), "ns/demo/first-x.db.zst");
}

fn arguments(cluster: &EtcdCluster, start: &Start) -> String {
    let rendered = stateful_set(cluster, 1, start, PodRole::Voter);
    let pod = rendered.spec.template.spec.unwrap();
    pod.containers[0].args.clone().unwrap().join(" ")
}

#[test]
fn only_the_seed_starts_as_new_and_a_settled_member_knows_nobody_else() {
    let cluster = everything();
    let seed = arguments(&cluster, &Start::Seed);
    assert!(seed.contains("--initial-cluster-state=new"), "{seed}");
    assert!(seed.contains("--initial-cluster-token=ns-demo-1234"), "{seed}");
    let settled = arguments(&cluster, &Start::Settled);
    assert!(settled.contains("--initial-cluster-state=existing"), "{settled}");
    let alone = "--initial-cluster=demo-1=http://demo-1-0.demo-members.ns.svc:2380 ";
    assert!(settled.contains(alone), "{settled}");
}

/// What calls for a restart, and what does not.
#[test]
fn the_configuration_hash_changes_with_what_needs_a_restart() {
    let before = config_hash(&everything());
    let changed = |change: fn(&mut EtcdCluster)| {
        let mut cluster = everything();
        change(&mut cluster);
        config_hash(&cluster) != before
    };
    assert!(changed(|it| it.spec.options.clear()));
    assert!(changed(|it| it.spec.resources = None));
    assert!(changed(|it| it.spec.pod_template.env.clear()));
    assert!(changed(|it| it.spec.pod_template.annotations.clear()));
    assert!(changed(|it| it.spec.tls = Some(Default::default())));
    assert!(!changed(|it| it.spec.pod_template.labels.clear()));
    assert!(!changed(|it| it.spec.pod_template.image_pull_secrets.clear()));
    assert!(!changed(|it| it.spec.pod_template.termination_grace_period_seconds = None));
    assert!(!changed(|it| it.spec.image_pull_policy = None));
    assert!(!changed(|it| it.spec.size = 1));
    assert!(!changed(|it| it.spec.version = None));
    assert!(!changed(|it| it.spec.service.annotations.clear()));
    assert!(!changed(|it| it.spec.storage.retention = Default::default()));
}

#[test]
fn a_member_that_goes_on_alone_is_told_so_and_its_pod_is_known_by_its_hash() {
    let cluster = everything();
    let alone = arguments(&cluster, &Start::Alone);
    assert!(alone.contains("--force-new-cluster=true --force-new-cluster-bump=1000000000"), "{alone}");
    assert!(!arguments(&cluster, &Start::Settled).contains("force-new-cluster"));
    let hash = pod_hash(&cluster, &Start::Alone);
    assert!(is_alone(&hash) && !is_alone(&config_hash(&cluster)));
}

/// While TLS is turned on or off: both are served at the ports that clients and members know.
#[test]
fn members_that_speak_both_listen_for_both_and_are_known_to_clients_by_plaintext() {
    let cluster = cluster(json!({"tls": {"plaintext": true}}));
    let peers = ["demo-0", "demo-1"].map(|name| (name.to_string(), format!("http://{name}:2380")));
    let joins = arguments(&cluster, &Start::Join(peers.to_vec()));
    for expected in [
        "--listen-client-urls=http://0.0.0.0:2379,https://0.0.0.0:2379 ",
        "--listen-peer-urls=http://0.0.0.0:2380,https://0.0.0.0:2380 ",
        "--advertise-client-urls=http://demo-1-0.demo-members.ns.svc:2379 ",
        "--initial-advertise-peer-urls=http://demo-1:2380 ",
        "--cert-file=",
    ] {
        assert!(joins.contains(expected), "{expected} is not in {joins}");
    }
}

/// Nothing but the number of replicas tells a parked member from one that runs, so that it comes back as it was.
#[test]
fn a_parked_member_has_no_replica() {
    let [parked, settled] =
        [Start::Parked, Start::Settled].map(|start| stateful_set(&everything(), 3, &start, PodRole::Voter));
    let mut spec = parked.spec;
    assert_eq!(spec.replicas, Some(0));
    spec.replicas = Some(1);
    assert_eq!(spec, settled.spec);
}

#[test]
fn pods_carry_the_hash_the_role_and_no_label_of_others() {
    let rendered = stateful_set(&everything(), 3, &Start::Settled, PodRole::Learner);
    let metadata = rendered.spec.template.metadata.unwrap();
    let labels = metadata.labels.unwrap();
    assert_eq!(labels["keelson.dev/member"], "demo-3");
    assert_eq!(labels["team"], "storage");
    assert_eq!(labels[ROLE_LABEL], "learner");
    let annotations = metadata.annotations.unwrap();
    assert_eq!(annotations[CONFIG_HASH], config_hash(&everything()));
    assert_eq!(annotations[IMAGE], everything().spec.server_image());
}

#[test]
fn the_budget_keeps_a_quorum_of_what_is_and_what_will_be() {
    for (size, voters, minimum) in [(3, 1, 2), (3, 5, 3), (5, 3, 3), (1, 1, 1), (1, 3, 2)] {
        let budget = pod_disruption_budget(&cluster(json!({"size": size})), voters);
        let available = budget.spec.unwrap().min_available;
        let expected = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(minimum);
        assert_eq!(available, Some(expected), "size {size}, {voters} voters");
    }
}

#[test]
fn the_budget_does_not_shrink_while_the_members_cannot_be_reached() {
    let mut cluster = cluster(json!({"size": 3}));
    let member = |role: &str| json!({"name": "demo-0", "id": "1", "role": role});
    let members: Vec<_> =
        ["Leader", "Follower", "Follower", "Follower", "Follower", "Learner"].into_iter().map(member).collect();
    cluster.status = Some(serde_json::from_value(json!({"members": members})).unwrap());
    let available = pod_disruption_budget(&cluster, 0).spec.unwrap().min_available;
    let expected = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(3);
    assert_eq!(available, Some(expected));
}

#[test]
fn a_stamped_object_has_the_hash_of_what_was_rendered() {
    let cluster = everything();
    let (stamped, hash) = stamp(client_service(&cluster));
    assert_eq!(stamped.metadata.annotations.unwrap()[APPLIED_HASH], hash);
    assert_eq!(stamp(client_service(&cluster)).1, hash);
    let mut other = cluster;
    other.spec.service.annotations.clear();
    assert_ne!(stamp(client_service(&other)).1, hash);
}
