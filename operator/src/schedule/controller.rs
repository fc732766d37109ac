//! Passes over EtcdBackupSchedules: all their reads and writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::controller::{Action as Requeue, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};

use super::plan::{Plan, plan};
use crate::crd::{EtcdBackup, EtcdBackupSchedule, EtcdBackupScheduleStatus};
use crate::events;
use crate::metrics::Metrics;
use crate::names::SCHEDULE_LABEL;
use crate::pass::{Error, Passes, attend, failed};
use crate::watches::{Queue, scoped};

struct Context {
    client: Client,
    recorder: Recorder,
    passes: Passes,
}

/// Runs passes over the EtcdBackupSchedules of one namespace, or of all, until `stop` resolves.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let made = watcher::Config::default().labels(SCHEDULE_LABEL);
    let queue = Queue::of(scoped::<EtcdBackupSchedule>(&client, namespace));
    let queue = queue.woken_by(scoped::<EtcdBackup>(&client, namespace), made, |backup| {
        let schedule = backup.labels().get(SCHEDULE_LABEL).map(|name| ObjectRef::new(name));
        schedule.map(|it| it.within(&backup.namespace().unwrap_or_default())).into_iter().collect()
    });
    let context = Arc::new(Context { client, recorder, passes: Passes::new("schedule", metrics.clone()) });
    let changes = queue.changes.take_until(stop);
    let pass = |object, context| reconcile(object, context).boxed();
    let passes = applier(pass, error_policy, context, queue.cache, changes, Config::default());
    attend(passes, &metrics, |namespace, name| metrics.backups.set_due(namespace, name, "", None)).await;
}

fn error_policy(schedule: Arc<EtcdBackupSchedule>, error: &Error, context: Arc<Context>) -> Requeue {
    context.passes.again(&*schedule, error)
}

async fn reconcile(cached: Arc<EtcdBackupSchedule>, context: Arc<Context>) -> Result<Requeue, Error> {
    let cluster = &cached.spec.backup.cluster;
    context.passes.measured(&*cached, cluster, pass(&cached, &context)).await
}

async fn pass(cached: &EtcdBackupSchedule, context: &Context) -> Result<Requeue, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<EtcdBackupSchedule> = Api::namespaced(context.client.clone(), &namespace);
    let backups: Api<EtcdBackup> = Api::namespaced(context.client.clone(), &namespace);
    let read = api.get_opt(&cached.name_any()).await.map_err(failed("reading the EtcdBackupSchedule"))?;
    let found = read.filter(|it| it.uid() == cached.uid() && it.metadata.deletion_timestamp.is_none());
    let due = |due: Option<Timestamp>| {
        let (name, cluster) = (cached.name_any(), &cached.spec.backup.cluster);
        context.passes.metrics.backups.set_due(&namespace, &name, cluster, due.map(|due| due.as_second()));
    };
    let Some(schedule) = found else {
        due(None);
        return Ok(Requeue::await_change());
    };
    let made = ListParams::default().labels(&format!("{SCHEDULE_LABEL}={}", schedule.name_any()));
    let made = backups.list(&made).await.map_err(failed("listing the backups of a schedule"))?;
    let now = Timestamp::now();
    let plan = plan(&schedule, &made.items, now);
    due(plan.due);
    act(&schedule, &backups, &plan, &context.recorder).await?;
    if schedule.status.as_ref() != Some(&plan.status) {
        let mut object = schedule.clone();
        object.status = Some(plan.status.clone());
        let written = api.replace_status(&schedule.name_any(), &PostParams::default(), &object).await;
        written.map_err(failed("storing the status"))?;
        tell(&context.recorder, &schedule, &plan.status).await;
    }
    Ok(plan.wake.map_or_else(Requeue::await_change, |wake| Requeue::requeue(until(wake, now))))
}

/// Tells that the schedule stands in another way than before, and of each backup that failed.
async fn tell(recorder: &Recorder, schedule: &EtcdBackupSchedule, status: &EtcdBackupScheduleStatus) {
    let is_bad = matches!(status.word(), "Invalid" | "BackupFailed");
    let is_known = |before: &EtcdBackupScheduleStatus| {
        before.word() == status.word() && (!is_bad || before.reason == status.reason)
    };
    if schedule.status.as_ref().is_some_and(is_known) {
        return;
    }
    tracing::info!(word = status.word(), reason = status.reason, "status");
    let event = Event {
        type_: if is_bad { EventType::Warning } else { EventType::Normal },
        reason: status.word().into(),
        note: Some(status.reason.clone()),
        action: "Reconcile".into(),
        secondary: None,
    };
    events::publish(recorder, &schedule.object_ref(&()), event).await;
}

async fn act(
    schedule: &EtcdBackupSchedule,
    backups: &Api<EtcdBackup>,
    plan: &Plan,
    recorder: &Recorder,
) -> Result<(), Error> {
    for (name, uid) in &plan.delete {
        tracing::info!(backup = name, "a backup is not kept any longer");
        let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
        match backups.delete(name, &DeleteParams::default().preconditions(preconditions)).await {
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {}
            other => drop(other.map_err(failed("deleting a backup"))?),
        }
    }
    let Some(name) = &plan.create else {
        return Ok(());
    };
    let labels = BTreeMap::from([(SCHEDULE_LABEL.to_string(), schedule.name_any())]);
    // Without an owner: backups outlive their schedule.
    let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
    let backup = EtcdBackup { metadata, spec: schedule.spec.backup.clone(), status: None };
    let made = match backups.create(&PostParams::default(), &backup).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => return Ok(()),
        other => other.map_err(failed("making a backup"))?,
    };
    let event = Event {
        type_: EventType::Normal,
        reason: "BackupCreated".into(),
        note: Some(format!("made EtcdBackup {name}")),
        action: "Act".into(),
        // Those that differ in nothing else than their note are counted as one.
        secondary: Some(made.object_ref(&())),
    };
    events::publish(recorder, &schedule.object_ref(&()), event).await;
    Ok(())
}

/// A little behind the time, so that it has come.
fn until(wake: Timestamp, now: Timestamp) -> Duration {
    let wait = wake.duration_since(now) + SignedDuration::from_millis(10);
    Duration::try_from(wait).unwrap_or_default()
}
