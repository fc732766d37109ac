//! Leader election: one operator works, others stand by. The leader renews a Lease; a stand-by takes it over when it saw no
//! renewal for the lease's duration by its own clock, so that clocks need not agree.

mod election;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, timeout, timeout_at};

use crate::pass::is_conflict;

pub use election::Election;

/// How long after its last renewal a leader may be replaced.
const DURATION: Duration = Duration::from_secs(15);
/// How often the leader renews, and how long it tries before it gives up its work; less than [`DURATION`].
const RENEW_EVERY: Duration = Duration::from_secs(3);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a stand-by looks, and a leader tries again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long one request may take, so that one that hangs does not use up the time of the others. On a machine with too much to do,
/// a connection that is made anew takes most of that.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// A lock that is a Lease.
pub struct Lock {
    api: Api<Lease>,
    name: String,
    /// Unique among running operators. A container that restarts in its pod keeps it, and so goes on at once.
    identity: String,
}

/// What a stand-by last saw, and when.
struct Sighting {
    resource_version: Option<String>,
    since: Instant,
}

impl Lock {
    /// A lock on the Lease `name`.
    pub fn new(api: Api<Lease>, name: &str, identity: String) -> Self {
        Self { api, name: name.into(), identity }
    }

    /// Waits until this operator is the leader; returns the time since which it is, at the latest.
    async fn acquire(&self) -> Instant {
        let mut sighting = Sighting { resource_version: None, since: Instant::now() };
        loop {
            let asked = Instant::now();
            match timeout(REQUEST_TIMEOUT, self.attempt(&mut sighting)).await {
                Ok(Ok(true)) => return asked,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot take the lease"),
                Err(_) => tracing::warn!(lease = self.name, "taking the lease takes too long"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Renews a lease that was last renewed at `renewed`; returns when it was lost. The caller must stop working then.
    ///
    /// A renewal counts from before its request: the API server may have stored it at any time since, and a stand-by counts from
    /// what was stored. Whatever goes on at the deadline is given up.
    async fn hold(&self, mut renewed: Instant) {
        let mut known = None;
        loop {
            match timeout_at(renewed + RENEW_DEADLINE, self.next_renewal(&mut known)).await {
                Ok(Some(asked)) => renewed = asked,
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!("the lease could not be renewed in time");
                    return;
                }
            }
        }
    }

    /// The time before the request that renewed the lease; `None` when another holds it. Tries for as long as it takes.
    async fn next_renewal(&self, known: &mut Option<Lease>) -> Option<Instant> {
        tokio::time::sleep(RENEW_EVERY).await;
        loop {
            let asked = Instant::now();
            match timeout(REQUEST_TIMEOUT, self.renew(known)).await {
                Ok(Ok(renewed)) => return renewed.then_some(asked),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("renewing the lease takes too long"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Lets a stand-by take over at once.
    async fn release(&self) {
        let release = async {
            loop {
                let mut lease = self.api.get(&self.name).await?;
                let spec = lease.spec.get_or_insert_default();
                if spec.holder_identity.as_deref() != Some(&self.identity) {
                    return Ok::<(), kube::Error>(());
                }
                spec.holder_identity = None;
                // A renewal that was under way may have come in between.
                if self.replace(&lease).await?.is_some() {
                    return Ok(());
                }
            }
        };
        match timeout(REQUEST_TIMEOUT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot release the lease; it expires by itself"),
            Err(_) => tracing::warn!("releasing the lease takes too long; it expires by itself"),
        }
    }

    /// Takes the lease if it is free, expired, or this operator's own.
    async fn attempt(&self, sighting: &mut Sighting) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            return self.create().await;
        };
        let version = lease.metadata.resource_version.clone();
        if sighting.resource_version != version {
            sighting.resource_version = version;
            sighting.since = Instant::now();
        }
        if !may_take(lease.spec.as_ref(), &self.identity, sighting.since.elapsed()) {
            return Ok(false);
        }
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
            spec.acquire_time = Some(MicroTime(Timestamp::now()));
        }
        self.claim(spec);
        Ok(self.replace(&lease).await?.is_some())
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let mut spec = LeaseSpec {
            acquire_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(0),
            ..Default::default()
        };
        self.claim(&mut spec);
        let lease =
            Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() }, spec: Some(spec) };
        Ok(won(self.api.create(&PostParams::default(), &lease).await)?.is_some())
    }

    /// Whether the lease is still this operator's, renewed. One request, if it is as it was `known`.
    async fn renew(&self, known: &mut Option<Lease>) -> Result<bool, kube::Error> {
        loop {
            // Whatever becomes of the request, what was known may not be so any more.
            let mut lease = match known.take() {
                Some(lease) => lease,
                None => self.api.get(&self.name).await?,
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(false);
            }
            self.claim(spec);
            if let Some(renewed) = self.replace(&lease).await? {
                *known = Some(renewed);
                return Ok(true);
            }
        }
    }

    /// With the resourceVersion that was read: of two that try, one succeeds.
    async fn replace(&self, lease: &Lease) -> Result<Option<Lease>, kube::Error> {
        let parameters = PostParams::default();
        won(self.api.replace(&self.name, &parameters, lease).await)
    }

    fn claim(&self, spec: &mut LeaseSpec) {
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(MicroTime(Timestamp::now()));
    }
}

/// A conflict means that somebody else was faster.
fn won(result: Result<Lease, kube::Error>) -> Result<Option<Lease>, kube::Error> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn may_take(spec: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration) -> bool {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let duration = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
    match holder {
        None | Some("") => true,
        Some(holder) => holder == identity || unchanged_for > duration,
    }
}

#[cfg(test)]
mod tests;
