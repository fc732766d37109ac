//! Passes over EtcdBackups: all their reads and writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::batch::v1::Job as KubeJob;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::{Action as Requeue, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use super::Task;
use super::plan::{Action, Job, Outcome, Plan, Seen, plan};
use crate::build::{BACKUP_CONTAINER, backup_job};
use crate::crd::{BackupPhase, EtcdBackup, EtcdBackupStatus, EtcdCluster};
use crate::events;
use crate::metrics::Metrics;
use crate::names::{BACKUP_FINALIZER, BACKUP_LABEL};
use crate::pass::{Error, Passes, attend, failed};
use crate::watches::{Queue, scoped};

/// A pass while something is waited for that no watch tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

struct Context {
    client: Client,
    recorder: Recorder,
    passes: Passes,
}

/// Runs passes over the EtcdBackups of one namespace, or of all, until `stop` resolves.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let jobs = watcher::Config::default().labels(BACKUP_LABEL);
    let queue = Queue::of(scoped::<EtcdBackup>(&client, namespace));
    let queue = queue.woken_by(scoped::<PartialObjectMeta<KubeJob>>(&client, namespace), jobs, |job| {
        let backup = job.labels().get(BACKUP_LABEL).map(|name| ObjectRef::new(name));
        backup.map(|it| it.within(&job.namespace().unwrap_or_default())).into_iter().collect()
    });
    let context = Arc::new(Context { client, recorder, passes: Passes::new("backup", metrics.clone()) });
    let changes = queue.changes.take_until(stop);
    let pass = |object, context| reconcile(object, context).boxed();
    let passes = applier(pass, error_policy, context, queue.cache, changes, Config::default());
    attend(passes, &metrics, |namespace, name| metrics.backups.forget_backup(namespace, name)).await;
}

fn error_policy(backup: Arc<EtcdBackup>, error: &Error, context: Arc<Context>) -> Requeue {
    context.passes.again(&*backup, error)
}

async fn reconcile(cached: Arc<EtcdBackup>, context: Arc<Context>) -> Result<Requeue, Error> {
    let cluster = &cached.spec.cluster;
    context.passes.measured(&*cached, cluster, pass(&cached, &context)).await
}

async fn pass(cached: &EtcdBackup, context: &Context) -> Result<Requeue, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<EtcdBackup> = Api::namespaced(context.client.clone(), &namespace);
    // Read anew: a backup that is complete must not be taken again because a cache lags behind.
    let read = api.get_opt(&cached.name_any()).await.map_err(failed("reading the EtcdBackup"))?;
    let Some(backup) = read.filter(|backup| backup.uid() == cached.uid()) else {
        let backups = &context.passes.metrics.backups;
        backups.set_complete(&namespace, &cached.spec.cluster, &cached.name_any(), None);
        return Ok(Requeue::await_change());
    };
    let hands = Hands { context, namespace, api, backup };
    let seen = hands.observe().await?;
    let plan = plan(&hands.backup, &seen, Timestamp::now());
    hands.record(&plan, &seen).await?;
    if let Some(action) = &plan.action {
        hands.act(action, &plan, &seen).await?;
    }
    Ok(if plan.look_again { Requeue::requeue(LOOK_AGAIN) } else { Requeue::await_change() })
}

/// One pass over one EtcdBackup.
struct Hands<'a> {
    context: &'a Context,
    namespace: String,
    api: Api<EtcdBackup>,
    backup: EtcdBackup,
}

impl Hands<'_> {
    fn jobs(&self) -> Api<KubeJob> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    async fn observe(&self) -> Result<Seen, Error> {
        let clusters: Api<EtcdCluster> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let cluster = clusters.get_opt(&self.backup.spec.cluster).await.map_err(failed("reading the EtcdCluster"))?;
        let mut jobs = BTreeMap::new();
        for task in Task::ALL {
            let name = task.job(&self.backup.name_any());
            if let Some(job) = self.jobs().get_opt(&name).await.map_err(failed("reading a Job"))? {
                jobs.insert(task, self.look_at(&job).await?);
            }
        }
        Ok(Seen { cluster, jobs })
    }

    async fn look_at(&self, job: &KubeJob) -> Result<Job, Error> {
        let uid = self.backup.uid();
        let mut owners = job.owner_references().iter();
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let over = conditions.filter(|it| it.status == "True").find_map(|it| match it.type_.as_str() {
            "Complete" => Some((true, String::new())),
            "Failed" => Some((false, it.message.clone().or(it.reason.clone()).unwrap_or_default())),
            _ => None,
        });
        let outcome = match over {
            None => None,
            Some((success, why)) => {
                let last = self.last_words(&job.name_any()).await?;
                Some(match success {
                    true => Outcome::Succeeded(last.unwrap_or_default()),
                    false => Outcome::Failed(last.unwrap_or(why)),
                })
            }
        };
        Ok(Job {
            uid: job.uid().unwrap_or_default(),
            ours: owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid.as_ref()),
            deleting: job.metadata.deletion_timestamp.is_some(),
            outcome,
        })
    }

    /// The termination message of the Job's container that ended last.
    async fn last_words(&self, job: &str) -> Result<Option<String>, Error> {
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let of_job = ListParams::default().labels(&format!("job-name={job}"));
        let pods = pods.list(&of_job).await.map_err(failed("listing the pods of a Job"))?;
        let statuses = pods.items.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
        let ended = statuses.filter(|status| status.name == BACKUP_CONTAINER).filter_map(|it| it.state?.terminated);
        let last = ended.max_by_key(|end| end.finished_at.as_ref().map(|time| time.0));
        Ok(last.and_then(|end| end.message).map(|message| message.trim().to_string()))
    }

    async fn record(&self, plan: &Plan, seen: &Seen) -> Result<(), Error> {
        let before = self.backup.status.clone().unwrap_or_default();
        let (phase, name) = (plan.status.phase, self.backup.name_any());
        let counts = phase == BackupPhase::Succeeded && seen.cluster.is_some();
        let complete = plan.status.completion_time.as_ref().filter(|_| counts).map(|time| time.0.as_second());
        self.context.passes.metrics.backups.set_complete(&self.namespace, &self.backup.spec.cluster, &name, complete);
        if plan.status == before {
            return Ok(());
        }
        let mut object = self.backup.clone();
        object.status = Some(plan.status.clone());
        let written = self.api.replace_status(&name, &PostParams::default(), &object).await;
        written.map_err(failed("storing the status"))?;
        if before.phase != phase {
            tracing::info!(?phase, reason = plan.status.reason, "phase");
            self.tell(&plan.status).await;
        }
        Ok(())
    }

    async fn act(&self, action: &Action, plan: &Plan, seen: &Seen) -> Result<(), Error> {
        match action {
            Action::SetFinalizer(present) => self.set_finalizer(*present).await,
            Action::Start(task) => self.start(*task, &plan.status, seen.cluster.as_ref()).await,
            Action::Stop { task, uid } => {
                // Until its pods are gone, it is still there.
                let parameters = DeleteParams::foreground()
                    .preconditions(Preconditions { uid: Some(uid.clone()), resource_version: None });
                match self.jobs().delete(&task.job(&self.backup.name_any()), &parameters).await {
                    Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
                    other => other.map(drop).map_err(failed("deleting a Job")),
                }
            }
        }
    }

    async fn start(&self, task: Task, status: &EtcdBackupStatus, cluster: Option<&EtcdCluster>) -> Result<(), Error> {
        let job = backup_job(&self.backup, status, cluster, task);
        match self.jobs().create(&PostParams::default(), &job).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            // Nothing can be started there any more, and a namespace must not be held up by data in a store.
            Err(kube::Error::Api(answer)) if task == Task::Delete && answer.message.contains("being terminated") => {
                tracing::warn!("the namespace goes: the data stays in the store");
                self.set_finalizer(false).await
            }
            Err(error) => Err(failed("making a Job")(error)),
        }
    }

    async fn set_finalizer(&self, present: bool) -> Result<(), Error> {
        let mut finalizers = self.backup.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != BACKUP_FINALIZER);
        if present {
            finalizers.push(BACKUP_FINALIZER.into());
        }
        // With the uid: another one of this name is left alone.
        let patch = json!({"metadata": {"finalizers": finalizers, "uid": self.backup.uid()}});
        let name = self.backup.name_any();
        let changed = self.api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        changed.map(drop).map_err(failed("changing the finalizer"))
    }

    async fn tell(&self, status: &EtcdBackupStatus) {
        let type_ = if status.phase == BackupPhase::Failed { EventType::Warning } else { EventType::Normal };
        let event = Event {
            type_,
            reason: format!("Backup{:?}", status.phase),
            note: Some(status.reason.clone()),
            action: "Reconcile".into(),
            secondary: None,
        };
        events::publish(&self.context.recorder, &self.backup.object_ref(&()), event).await;
    }
}
