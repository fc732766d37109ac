//! From watch events to passes, and the pass itself: observe, validate, plan, check, then apply and report, or report and act.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::controller::{Action as Requeue, Config, applier};
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt};
use tracing::Instrument;

use crate::act::{self, Actor};
use crate::client::retry_after;
use crate::crd::{EtcdCluster, EtcdClusterStatus, Phase};
use crate::events;
use crate::member::{Change, Sessions};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::names::{FINALIZER, Names};
use crate::observe::auth::Root;
use crate::observe::certificates::Identities;
use crate::observe::{Caches, observe};
use crate::pass::{attend, backoff, is_conflict};
use crate::plan::{self, Action, Observed, Plan, Violation, check, plan};
use crate::status::{self, describe};
use crate::validate::validate;
use crate::watches::Watches;

/// A pass after a step, and while members start: their progress is not announced by watch events.
const SOON: Duration = Duration::from_millis(700);
/// A pass while something else is waited for.
const LATER: Duration = Duration::from_secs(3);
/// A pass over a cluster at rest, to notice members that stopped answering.
const AT_REST: Duration = Duration::from_secs(15);
/// An observation older than this is no ground for a step. Long enough for a member that does not answer and a list that takes
/// all its time.
const MAX_AGE: Duration = Duration::from_secs(6);
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
    /// The cluster may be another by now, or another operator may lead.
    #[error("too much time went by between looking at the cluster and acting on it")]
    Stale,
}

impl Error {
    /// The stored object changed since it was read: not a failure, only a reason to look again.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Kube(_, error) => is_conflict(error),
            Self::Act(act::Error::Changed(_)) => true,
            _ => false,
        }
    }

    /// For how long the API server asks to be left alone.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Kube(_, error) | Self::Act(act::Error::Kube(_, error)) => retry_after(error),
            _ => Duration::ZERO,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Kube(..) => "api",
            Self::Act(_) => "act",
            Self::Unsafe(_) => "unsafe",
            Self::Stale => "stale",
        }
    }
}

/// What all passes share.
pub struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    memory: Memory,
    sessions: Arc<Sessions>,
}

/// Runs passes over the clusters of one namespace, or of all, until `stop` resolves; those under way are finished.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    concurrency: u16,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let watches = Watches::start(client.clone(), namespace);
    let (clusters, caches) = (watches.clusters.clone(), watches.caches.clone());
    let ready = watches.ready();
    let memory = Memory::default();
    let context = Arc::new(Context { client, caches, recorder, metrics: metrics.clone(), memory, sessions });
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
        context.clone(),
        clusters.clone(),
        queue,
        Config::default().debounce(DEBOUNCE).concurrency(concurrency),
    );
    let mut counted = 0;
    let passes = passes.inspect(|_| {
        let count = clusters.len();
        metrics.count_clusters(std::mem::replace(&mut counted, count), count);
    });
    attend(passes, &metrics, |namespace, name| {
        metrics.forget(namespace, name);
        let there: BTreeSet<String> = clusters.state().iter().filter_map(|cluster| cluster.uid()).collect();
        context.memory.keep(|uid| there.contains(uid));
    })
    .await;
}

fn error_policy(cluster: Arc<EtcdCluster>, error: &Error, context: Arc<Context>) -> Requeue {
    let failures = context.memory.failures(&cluster.uid().unwrap_or_default());
    Requeue::requeue(backoff(SOON, failures).max(error.retry_after()))
}

/// One pass over one cluster, measured; a failure is logged and remembered for the status of the next pass.
async fn reconcile(cluster: Arc<EtcdCluster>, context: Arc<Context>) -> Result<Requeue, Error> {
    let started = Instant::now();
    let (uid, name) = (cluster.uid().unwrap_or_default(), cluster.name_any());
    let span = crate::pass::span("cluster", &*cluster, &name);
    let result = pass(&cluster, &context).instrument(span.clone()).await;
    context.metrics.pass("cluster", started.elapsed().as_secs_f64());
    match &result {
        Ok(_) => context.memory.succeeded(&uid),
        Err(error) if error.is_conflict() => context.memory.was_late(&uid),
        Err(error) => {
            span.in_scope(|| tracing::warn!(%error, "the pass failed"));
            context.metrics.failure(error.kind());
            context.memory.failed(&uid, error.to_string());
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
    if leaving && !cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        // The operator's part is done; somebody else still holds it.
        return Ok(Requeue::await_change());
    }
    let seen = Instant::now();
    let now = Timestamp::now().as_second();
    let (observed, identities, root) =
        observe(&context.client, &context.caches, &cluster, &context.sessions, now).await;
    let plan = match problems.is_empty() || leaving {
        true => plan(&cluster, &observed),
        false => plan::refuse(&cluster, &observed, "a valid spec", &problems.join("; ")),
    };
    context.metrics.set_certificates(&names, &observed.tls);
    context.metrics.set_phase(&names, plan.phase);
    let pass = Pass { context, api, cluster, observed, identities, root, seen };
    if let Err(violation) = check(&pass.cluster, &pass.observed, &plan) {
        return pass.refuse(violation).await;
    }
    match &plan.action {
        Some(action) => pass.step(&plan, action).await,
        None => pass.settle(plan).await,
    }
}

/// A pass over one cluster after it was seen.
struct Pass<'a> {
    context: &'a Context,
    api: Api<EtcdCluster>,
    cluster: EtcdCluster,
    observed: Observed,
    /// How to talk to members, and what to hand out.
    identities: Identities,
    /// How the operator is root.
    root: Root<'a>,
    /// When the observation began.
    seen: Instant,
}

impl Pass<'_> {
    /// No step: the children come first, and then the status tells how that went. So a spec is not reported as reached before
    /// its children are, and a cluster exists by its status only when nothing can found it again.
    async fn settle(&self, mut plan: Plan) -> Result<Requeue, Error> {
        let applied = match plan.apply_children {
            true => self.actor(&self.cluster).apply_children(&plan).await,
            false => Ok(()),
        };
        if let Err(changed @ act::Error::Changed(_)) = applied {
            return Err(changed.into());
        }
        let error = applied.as_ref().err().map(ToString::to_string);
        if error.is_some() {
            plan.cluster_id = None;
        }
        let status = self.render(&plan, error.as_deref());
        record(self.context, &self.api, &self.cluster, status).await?;
        applied?;
        if plan.cluster_id.is_some() | self.announce_certificates(&plan).await | self.announce_auth(&plan).await {
            return Ok(Requeue::requeue(SOON));
        }
        let memory = &self.context.memory;
        let waited = memory.waited(&self.uid(), plan.waits().as_deref(), Instant::now());
        let rotating = plan.tls.as_ref().is_some_and(|tls| tls.waiting_for.is_some());
        let longest = if rotating { LATER } else { AT_REST };
        Ok(Requeue::requeue(pause(plan.phase, waited).min(longest)))
    }

    /// A step: the status goes first, so that whoever continues knows what was begun.
    async fn step(&self, plan: &Plan, action: &Action) -> Result<Requeue, Error> {
        let failure = self.context.memory.failure(&self.uid());
        let status = self.render(plan, failure.as_deref());
        let written = record(self.context, &self.api, &self.cluster, status).await?;
        let actor = self.actor(written.as_ref().unwrap_or(&self.cluster));
        if plan.apply_children {
            actor.apply_children(plan).await?;
            self.announce_certificates(plan).await;
            self.announce_auth(plan).await;
        }
        if self.seen.elapsed() > MAX_AGE {
            return Err(Error::Stale);
        }
        let outcome = actor.take(action).await?;
        self.announce(plan, action, outcome).await;
        let memory = &self.context.memory;
        match action {
            Action::RemoveFinalizer => self.context.sessions.forget(&self.uid()),
            _ => drop(memory.waited(&self.uid(), None, Instant::now())),
        }
        Ok(Requeue::requeue(SOON))
    }

    /// The planner is wrong: nothing is done, and the status says so.
    async fn refuse(&self, violation: Violation) -> Result<Requeue, Error> {
        let error = Error::from(violation);
        let text = error.to_string();
        let plan = plan::refuse(&self.cluster, &self.observed, &text, &text);
        let status = self.render(&plan, Some(&text));
        record(self.context, &self.api, &self.cluster, status).await?;
        Err(error)
    }

    fn render(&self, plan: &Plan, error: Option<&str>) -> EtcdClusterStatus {
        status::render(&self.cluster, &self.observed, plan, error, Timestamp::now())
    }

    fn actor<'b>(&'b self, cluster: &'b EtcdCluster) -> Actor<'b> {
        Actor {
            client: &self.context.client,
            caches: &self.context.caches,
            memory: &self.context.memory,
            cluster,
            names: Names::of(cluster),
            observed: &self.observed,
            identities: &self.identities,
            root: &self.root,
        }
    }

    fn uid(&self) -> String {
        self.cluster.uid().unwrap_or_default()
    }

    /// Tells which certificates were written, in a metric and as Events; whether there were any.
    async fn announce_certificates(&self, plan: &Plan) -> bool {
        let writes = plan.tls.iter().flat_map(|tls| &tls.writes);
        let mut any = false;
        for write in writes {
            any = true;
            self.context.metrics.action(events::certificate_word(write));
            events::certificate(&self.context.recorder, &self.cluster, write).await;
        }
        any
    }

    /// Tells what was done about authentication; whether there was anything.
    async fn announce_auth(&self, plan: &Plan) -> bool {
        let Some(write) = plan.auth.as_ref().and_then(|auth| auth.write) else {
            return false;
        };
        self.context.metrics.action(events::auth_word(write));
        events::auth(&self.context.recorder, &self.cluster, write).await;
        true
    }

    /// Tells what was done, in the log, in a metric, and as an Event.
    async fn announce(&self, plan: &Plan, action: &Action, outcome: Change) {
        let what = describe(&Names::of(&self.cluster), action);
        if outcome == Change::NotYet {
            tracing::debug!(action = what, "not yet");
            return;
        }
        tracing::info!(action = what, reason = plan.reason, "done");
        self.context.metrics.action(events::word(action));
        let note = format!("{what}: {}", plan.reason);
        let recorder = &self.context.recorder;
        events::step(recorder, &self.cluster, &self.observed, action, note).await;
    }
}

/// How long until the next pass when nothing happens. Whatever is waited for takes about as much longer again as it has taken
/// so far, so the pause grows with the wait: a quarter of it.
fn pause(phase: Phase, waited: Duration) -> Duration {
    let first = match phase {
        Phase::Running | Phase::Parked | Phase::Paused | Phase::Blocked => AT_REST,
        Phase::Degraded | Phase::Unavailable => LATER,
        _ => SOON,
    };
    (first + waited / 4).min(AT_REST)
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
        tracing::info!(?phase, reason, "phase");
        events::phase(&context.recorder, cluster, phase, reason).await;
    }
    Ok(Some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_wait_and_never_beyond_that_at_rest() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(Phase::ScalingOut, seconds(0)), SOON);
        assert_eq!(pause(Phase::ScalingOut, seconds(8)), SOON + seconds(2));
        assert_eq!(pause(Phase::ScalingOut, seconds(3600)), AT_REST);
        assert_eq!(pause(Phase::Degraded, seconds(0)), LATER);
        assert_eq!(pause(Phase::Running, seconds(0)), AT_REST);
    }
}
