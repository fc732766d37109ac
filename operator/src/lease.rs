//! Leader election: one operator works, others stand by. The leader renews a Lease; a stand-by takes it over when it saw no
//! renewal for the lease's duration by its own clock, so that clocks need not agree.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, timeout, timeout_at};

/// How long after its last renewal a leader may be replaced.
const DURATION: Duration = Duration::from_secs(10);
/// How often the leader renews, and how long it tries before it gives up its work; less than [`DURATION`].
const RENEW_EVERY: Duration = Duration::from_secs(3);
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// How often a stand-by looks, and a leader tries again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long one request may take, so that one that hangs does not use up the time of the others.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

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
    pub async fn acquire(&self) -> Instant {
        let mut sighting = Sighting { resource_version: None, since: Instant::now() };
        loop {
            let asked = Instant::now();
            match self.attempt(&mut sighting).await {
                Ok(true) => return asked,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "cannot take the lease"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Renews a lease that was last renewed at `renewed`; returns when it was lost. The caller must stop working then.
    ///
    /// A renewal counts from before its request: the API server may have stored it at any time since, and a stand-by counts from
    /// what was stored. Whatever goes on at the deadline is given up.
    pub async fn hold(&self, mut renewed: Instant) {
        loop {
            match timeout_at(renewed + RENEW_DEADLINE, self.next_renewal()).await {
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
    async fn next_renewal(&self) -> Option<Instant> {
        tokio::time::sleep(RENEW_EVERY).await;
        loop {
            let asked = Instant::now();
            match timeout(REQUEST_TIMEOUT, self.renew()).await {
                Ok(Ok(renewed)) => return renewed.then_some(asked),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("renewing the lease takes too long"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Lets a stand-by take over at once.
    pub async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = None;
                self.replace(&lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = release.await {
            tracing::warn!(%error, "cannot release the lease; it expires by itself");
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
        self.replace(&lease).await
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
        won(self.api.create(&PostParams::default(), &lease).await)
    }

    /// Whether the lease is still this operator's, renewed.
    async fn renew(&self) -> Result<bool, kube::Error> {
        loop {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(false);
            }
            self.claim(spec);
            if self.replace(&lease).await? {
                return Ok(true);
            }
        }
    }

    /// With the resourceVersion that was read: of two that try, one succeeds.
    async fn replace(&self, lease: &Lease) -> Result<bool, kube::Error> {
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
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(response)) if response.code == 409 => Ok(false),
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
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..Default::default() }
    }

    /// An API server that takes requests and never answers.
    async fn silent_lock() -> Lock {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
        let config = kube::Config::new(url.parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        Lock::new(Api::namespaced(client, "ns"), "lock", "me".into())
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_renewed_is_given_up_at_the_deadline_not_later() {
        let lock = silent_lock().await;
        for (age, left) in [(7, 0), (6, 1), (3, 4)] {
            let started = Instant::now();
            lock.hold(started - Duration::from_secs(age)).await;
            let held = started.elapsed();
            let left = Duration::from_secs(left);
            assert!(held >= left && held < left + Duration::from_millis(900), "{held:?}");
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_free_own_or_expired() {
        let fresh = Duration::from_secs(3);
        let stale = Duration::from_secs(16);
        assert!(may_take(None, "me", fresh));
        assert!(may_take(Some(&held_by("")), "me", fresh));
        assert!(may_take(Some(&held_by("me")), "me", fresh));
        assert!(!may_take(Some(&held_by("other")), "me", fresh));
        assert!(may_take(Some(&held_by("other")), "me", stale));
    }
}
