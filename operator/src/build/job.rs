//! The Jobs on a backup: take it, try it out, delete it. One container each, with `keelson-server backup`; what it has to say is its
//! termination message.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::certificates::BUNDLE;
use super::pod::{TLS_DIR, restricted, restricted_container, secret_volume};
use super::root::{self, APPLIED};
use super::store;
use crate::backup::Task;
use crate::crd::{EtcdBackup, EtcdBackupStatus, EtcdCluster, PullPolicy};
use crate::member::ROOT;
use crate::names::{BACKUP_LABEL, CLIENT_PORT, Names};

/// The container of a Job.
pub const BACKUP_CONTAINER: &str = "backup";
/// A pod that failed is followed by another one so many times.
const RETRIES: i32 = 2;
const SCRATCH_DIR: &str = "/scratch";
const REPORT: &str = "/dev/termination-log";

/// The path of a backup in its store. Nobody else's has it: it carries the uid.
pub fn backup_path(backup: &EtcdBackup) -> String {
    let uid = backup.uid().unwrap_or_default();
    let (namespace, cluster, name) = (backup.namespace().unwrap_or_default(), &backup.spec.cluster, backup.name_any());
    let file = format!("{namespace}/{cluster}/{name}-{}.db.zst", uid.get(..8).unwrap_or(&uid));
    match backup.spec.store.prefix() {
        "" => file,
        prefix => format!("{prefix}/{file}"),
    }
}

/// The Job of a task, by what is recorded in `status`. The cluster is there for the first task only.
pub fn backup_job(backup: &EtcdBackup, status: &EtcdBackupStatus, cluster: Option<&EtcdCluster>, task: Task) -> Job {
    let labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_string(), "keelson-backup".to_string()),
        (BACKUP_LABEL.to_string(), backup.name_any()),
    ]);
    Job {
        metadata: ObjectMeta {
            name: Some(task.job(&backup.name_any())),
            namespace: backup.namespace(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner(backup)]),
            ..Default::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            active_deadline_seconds: Some(backup.spec.timeout_seconds),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..Default::default() }),
                spec: Some(pod(backup, status, cluster, task)),
            },
            ..Default::default()
        }),
        status: None,
    }
}

fn owner(backup: &EtcdBackup) -> OwnerReference {
    OwnerReference {
        api_version: EtcdBackup::api_version(&()).into_owned(),
        kind: EtcdBackup::kind(&()).into_owned(),
        name: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn pod(backup: &EtcdBackup, status: &EtcdBackupStatus, cluster: Option<&EtcdCluster>, task: Task) -> PodSpec {
    let wanted = backup.spec.pod.clone();
    let names = cluster.map(Names::of);
    let access = store::access(&backup.spec.store);
    let (mut volumes, mut mounts) = (access.volumes, access.mounts);
    if let (Task::Create, Some(names)) = (task, names.as_ref().filter(|names| names.tls)) {
        mounts.push(mount("tls", TLS_DIR, true));
        volumes.push(secret_volume("tls", names.client_secret()));
    }
    let mut env = access.env;
    if let (Task::Create, Some(names), true) = (task, &names, cluster.is_some_and(|it| it.spec.auth.is_some())) {
        env.push(root::variable(names.root_secret(), APPLIED, true));
    }
    if task == Task::Verify {
        mounts.push(mount("scratch", SCRATCH_DIR, false));
        let empty_dir = Some(EmptyDirVolumeSource::default());
        volumes.push(Volume { name: "scratch".into(), empty_dir, ..Default::default() });
    }
    PodSpec {
        containers: vec![Container {
            name: BACKUP_CONTAINER.into(),
            image: status.image.clone(),
            image_pull_policy: cluster.and_then(|cluster| cluster.spec.image_pull_policy).map(PullPolicy::name),
            args: Some(arguments(backup, status, cluster, task)),
            env: (!env.is_empty()).then_some(env),
            env_from: (!access.env_from.is_empty()).then_some(access.env_from),
            resources: wanted.resources,
            security_context: Some(restricted_container()),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            volume_mounts: (!mounts.is_empty()).then_some(mounts),
            ..Default::default()
        }],
        volumes: (!volumes.is_empty()).then_some(volumes),
        restart_policy: Some("Never".into()),
        service_account_name: wanted.service_account_name,
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(wanted.security_context.unwrap_or_else(restricted)),
        node_selector: (!wanted.node_selector.is_empty()).then_some(wanted.node_selector),
        tolerations: (!wanted.tolerations.is_empty()).then_some(wanted.tolerations),
        image_pull_secrets: (!wanted.image_pull_secrets.is_empty()).then_some(wanted.image_pull_secrets),
        ..Default::default()
    }
}

fn arguments(backup: &EtcdBackup, status: &EtcdBackupStatus, cluster: Option<&EtcdCluster>, task: Task) -> Vec<String> {
    let names = cluster.map(Names::of);
    let url = store::url(&backup.spec.store, status.path.as_deref().unwrap_or_default());
    let mut arguments = vec!["backup".into(), task.word().into(), url, format!("--report={REPORT}")];
    match (task, names) {
        (Task::Create, Some(names)) => {
            if cluster.is_some_and(|cluster| cluster.spec.auth.is_some()) {
                arguments.push(format!("--user={ROOT}"));
            }
            let service = names.client_service();
            let host = format!("{service}.{}.svc:{CLIENT_PORT}", names.namespace);
            arguments.push(format!("--endpoint={}://{host}", names.scheme()));
            if names.tls {
                let files = [("cacert", BUNDLE), ("cert", "tls.crt"), ("key", "tls.key")];
                arguments.extend(files.map(|(flag, file)| format!("--{flag}={TLS_DIR}/{file}")));
            }
        }
        (Task::Verify, _) => {
            let numbers =
                [("revision", status.revision), ("hash", status.hash), ("compact-revision", status.compact_revision)];
            arguments.push(format!("--scratch-dir={SCRATCH_DIR}"));
            arguments.extend(numbers.into_iter().filter_map(|(flag, number)| Some(format!("--{flag}={}", number?))));
        }
        _ => {}
    }
    arguments
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    let read_only = read_only.then_some(true);
    VolumeMount { name: volume.into(), mount_path: path.into(), read_only, ..Default::default() }
}
