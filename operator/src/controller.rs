//! From watch events to passes, and the pass itself: observe, validate, plan, check, record the status, act.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::controller::{Action as Requeue, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};

use crate::act::{self, Actor};
use crate::crd::{EtcdCluster, EtcdClusterStatus, Phase};
use crate::member::Change;
use crate::metrics::Metrics;
use crate::names::{FINALIZER, Names};
use crate::observe::{Caches, observe};
use crate::plan::{self, Action, Plan, Violation, check, plan};
use crate::status::{self, describe};
use crate::validate::validate;
use crate::watches::Watches;

/// A pass after a step, and while members start: their progress is not announced by watch events.
const SOON: Duration = Duration::from_millis(700);
/// A pass while something else is waited for.
const LATER: Duration = Duration::from_secs(3);
/// A pass over a cluster at rest, to notice members that stopped answering.
const AT_REST: Duration = Duration::from_secs(15);
/// The longest pause after failures in a row.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Events within this time make one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Why a pass ended early. The next one starts from what it then sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("{0}: {1}")]
    Kube(&'static str, Box<kube::Error>),
    /// A step failed.
    #[error(transparent)]
    Act(#[from] act::Error),
    /// The planner made a plan that breaks a safety rule.
    #[error("unsafe plan refused: {0}")]
    Unsafe(#[from] Violation),
}

impl Error {
    /// The stored object changed since it was read: not a failure, only a reason to look again.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(_, error) if matches!(&**error, kube::Error::Api(it) if it.code == 409))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Kube(..) => "api",
            Self::Act(_) => "act",
            Self::Unsafe(_) => "unsafe",
        }
    }
}

/// Failures of a cluster, one after the other.
#[derive(Debug, Clone, Default)]
struct Failures {
    count: u32,
    last: String,
}

/// What all passes share.
pub struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    failures: Mutex<BTreeMap<String, Failures>>,
}

impl Context {
    fn failures_of(&self, uid: &str) -> Option<Failures> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(uid).cloned()
    }

    fn succeeded(&self, uid: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(uid);
    }

    fn failed(&self, uid: &str, error: &Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.entry(uid.to_string()).or_default();
        entry.count += 1;
        entry.last = error.to_string();
    }
}

/// Runs passes until `stop` resolves; those under way are finished.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    concurrency: u16,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let watches = Watches::start(client.clone(), namespace);
    let (clusters, caches) = (watches.clusters.clone(), watches.caches.clone());
    let ready = watches.ready();
    let gauge = metrics.clone();
    let context = Arc::new(Context {
        client,
        caches,
        recorder,
        metrics,
        failures: Mutex::default(),
    });
    // Nothing is reconciled before every cache has its first list.
    let gate = ready.shared();
    let queue = watches.changes.take_until(stop);
    let passes = applier(
        move |cluster, context| {
            let gate = gate.clone();
            async move {
                gate.await;
                reconcile(cluster, context).await
            }
            .boxed()
        },
        error_policy,
        context,
        clusters.clone(),
        queue,
        Config::default()
            .debounce(DEBOUNCE)
            .concurrency(concurrency),
    );
    passes
        .for_each(|_| {
            gauge.set_clusters(clusters.len());
            std::future::ready(())
        })
        .await;
}

fn error_policy(cluster: Arc<EtcdCluster>, error: &Error, context: Arc<Context>) -> Requeue {
    if error.is_conflict() {
        return Requeue::requeue(SOON);
    }
    let uid = cluster.uid().unwrap_or_default();
    let count = context
        .failures_of(&uid)
        .map_or(1, |failures| failures.count);
    let pause = SOON.saturating_mul(1 << count.min(6));
    Requeue::requeue(pause.min(LONGEST_BACKOFF))
}

/// One pass over one cluster, measured; a failure is logged and remembered for the status of the next pass.
async fn reconcile(cluster: Arc<EtcdCluster>, context: Arc<Context>) -> Result<Requeue, Error> {
    let started = Instant::now();
    let uid = cluster.uid().unwrap_or_default();
    let result = pass(&cluster, &context).await;
    context.metrics.pass(started.elapsed().as_secs_f64());
    match &result {
        Ok(_) => context.succeeded(&uid),
        Err(error) if error.is_conflict() => {}
        Err(error) => {
            tracing::warn!(%error, cluster = cluster.name_any(), "the pass failed");
            context.metrics.failure(error.kind());
            context.failed(&uid, error);
        }
    }
    result
}

async fn pass(cached: &EtcdCluster, context: &Context) -> Result<Requeue, Error> {
    let names = Names::of(cached);
    let api: Api<EtcdCluster> = Api::namespaced(context.client.clone(), &names.namespace);
    // Read anew: whether a cluster id was recorded must not come from a cache that lags behind.
    let read = api.get_opt(&names.cluster).await;
    let read = read.map_err(|error| Error::Kube("reading the EtcdCluster", Box::new(error)))?;
    let Some(cluster) = read.filter(|cluster| cluster.uid() == cached.uid()) else {
        return Ok(Requeue::await_change());
    };
    let problems = validate(&cluster);
    let leaving = cluster.metadata.deletion_timestamp.is_some();
    if leaving
        && !cluster
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER)
    {
        // The operator's part is done; somebody else still holds it.
        return Ok(Requeue::await_change());
    }
    let observed = observe(&context.caches, &cluster).await;
    let plan = match problems.is_empty() || leaving {
        true => plan(&cluster, &observed),
        false => plan::refuse(&cluster, &observed, &problems.join("; ")),
    };
    check(&cluster, &observed, &plan)?;
    let failures = context
        .failures_of(&names.uid)
        .map(|failures| failures.last);
    let status = status::render(
        &cluster,
        &observed,
        &plan,
        failures.as_deref(),
        Timestamp::now(),
    );
    let mut actor = Actor {
        client: &context.client,
        caches: &context.caches,
        cluster: &cluster,
        names,
    };
    // The status goes first, so that whoever continues knows what was begun; except that a cluster exists by its status only
    // when nothing can found it again.
    if plan.cluster_id.is_some() {
        actor.apply_children(&plan, &observed).await?;
        record(context, &api, &cluster, status).await?;
        return Ok(Requeue::requeue(SOON));
    }
    let written = record(context, &api, &cluster, status).await?;
    actor.cluster = written.as_ref().unwrap_or(&cluster);
    if plan.apply_children {
        actor.apply_children(&plan, &observed).await?;
    }
    if let Some(action) = &plan.action {
        let outcome = actor.take(action, &observed).await?;
        announce(context, &cluster, &actor.names, action, outcome, &plan).await;
        return Ok(Requeue::requeue(SOON));
    }
    Ok(Requeue::requeue(pause(&plan)))
}

fn pause(plan: &Plan) -> Duration {
    match plan.phase {
        Phase::Running | Phase::Paused | Phase::Blocked => AT_REST,
        Phase::Degraded | Phase::Unavailable => LATER,
        _ => SOON,
    }
}

/// Stores the status before anything is done, if it says anything new. With the version that was read: if somebody changed the
/// resource meanwhile, the pass ends here and starts anew.
async fn record(
    context: &Context,
    api: &Api<EtcdCluster>,
    cluster: &EtcdCluster,
    status: EtcdClusterStatus,
) -> Result<Option<EtcdCluster>, Error> {
    if !status::worth_writing(cluster.status.as_ref(), &status) {
        return Ok(None);
    }
    let before = cluster.status.as_ref().map(|status| status.phase);
    let (phase, reason) = (status.phase, status.reason.clone());
    let mut wanted = cluster.clone();
    wanted.status = Some(status);
    let written = api
        .replace_status(&cluster.name_any(), &PostParams::default(), &wanted)
        .await
        .map_err(|error| Error::Kube("storing the status", Box::new(error)))?;
    context.metrics.status_written();
    if before != Some(phase) {
        tracing::info!(cluster = cluster.name_any(), ?phase, reason, "phase");
        let troubled = matches!(phase, Phase::Degraded | Phase::Unavailable | Phase::Blocked);
        let type_ = if troubled {
            EventType::Warning
        } else {
            EventType::Normal
        };
        publish(
            context,
            cluster,
            type_,
            &format!("{phase:?}"),
            "Observe",
            reason,
        )
        .await;
    }
    Ok(Some(written))
}

/// Tells what was done, in the log, in a metric, and as an Event.
async fn announce(
    context: &Context,
    cluster: &EtcdCluster,
    names: &Names,
    action: &Action,
    outcome: Change,
    plan: &Plan,
) {
    let what = describe(names, action);
    if outcome == Change::NotYet {
        tracing::debug!(cluster = names.cluster, action = what, "not yet");
        return;
    }
    tracing::info!(
        cluster = names.cluster,
        action = what,
        reason = plan.reason,
        "done"
    );
    let word = word(action);
    context.metrics.action(word);
    let note = format!("{what}: {}", plan.reason);
    publish(context, cluster, EventType::Normal, word, "Act", note).await;
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::AddFinalizer => "Accepted",
        Action::Bootstrap => "Bootstrapped",
        Action::AddLearner { .. } => "LearnerAdded",
        Action::Promote { .. } => "MemberPromoted",
        Action::MoveLeader { .. } => "LeaderMoved",
        Action::RemoveMember { .. } => "MemberRemoved",
        Action::DeleteStatefulSet { .. } => "MemberStopped",
        Action::DeleteClaim { .. } => "ClaimDeleted",
        Action::RestartPod { .. } => "MemberRestarted",
        Action::RemoveFinalizer => "Deleted",
    }
}

/// An Event is a courtesy: that it cannot be published stops nothing.
async fn publish(
    context: &Context,
    cluster: &EtcdCluster,
    type_: EventType,
    reason: &str,
    action: &str,
    note: String,
) {
    let event = Event {
        type_,
        reason: reason.into(),
        note: Some(note),
        action: action.into(),
        secondary: None,
    };
    let about = cluster.object_ref(&());
    if let Err(error) = context.recorder.publish(&event, &about).await {
        tracing::debug!(%error, "cannot publish an event");
    }
}
