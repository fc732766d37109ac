//! Requests to the operator by annotation, and the wait for its answer.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::Place;
use crate::crd::{EtcdCluster, MemberStatus};

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(500);

/// A merge patch that sets an annotation, or takes it off.
pub fn annotation(name: &str, value: Option<&str>) -> Value {
    json!({"metadata": {"annotations": {name: value}}})
}

/// How the cluster stands, for whoever waits.
pub fn stands(cluster: &EtcdCluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let awaited = status.next_action.and_then(|next| next.waiting_for);
    let awaited = awaited.map(|what| format!(" (waiting for {what})")).unwrap_or_default();
    format!("{:?}: {}{awaited}", status.phase, status.reason)
}

/// Whether the operator would answer a request about this cluster.
pub fn may_be_asked(cluster: &EtcdCluster) -> anyhow::Result<()> {
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    if cluster.spec.paused {
        bail!("etcdcluster/{name} is paused: kubectl keelson resume {name}");
    }
    if cluster.spec.size == 0 {
        bail!("etcdcluster/{name} is parked: kubectl scale etcdcluster/{name} --replicas=3");
    }
    Ok(())
}

/// The member of this name or id.
pub fn member(cluster: &EtcdCluster, named: &str) -> anyhow::Result<MemberStatus> {
    let members = cluster.status.iter().flat_map(|status| &status.members);
    let found = members.clone().find(|member| member.name == named || member.id == named);
    found.cloned().with_context(|| {
        let there: Vec<&str> = members.map(|member| member.name.as_str()).collect();
        format!(
            "there is no member {named}; there is {}",
            if there.is_empty() { "none".to_string() } else { there.join(", ") }
        )
    })
}

/// The names of these members, or of all.
pub fn members(cluster: &EtcdCluster, named: &[String]) -> anyhow::Result<Vec<String>> {
    if !named.is_empty() {
        return named.iter().map(|named| Ok(member(cluster, named)?.name)).collect();
    }
    let all: Vec<String> =
        cluster.status.iter().flat_map(|status| &status.members).map(|member| member.name.clone()).collect();
    anyhow::ensure!(!all.is_empty(), "the cluster has no members yet");
    Ok(all)
}

impl Place {
    /// Asks by the annotation, and waits until the operator has taken it off. If that takes too long, the request is taken back: it
    /// should not be carried out when nobody expects it any more.
    pub async fn ask(&self, cluster: &EtcdCluster, request: &str, value: &str) -> anyhow::Result<EtcdCluster> {
        may_be_asked(cluster)?;
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        self.patch(name, annotation(request, Some(value))).await?;
        let answered = self.wait("the operator to answer", || async {
            let cluster = self.cluster(name).await?;
            let asked = cluster.metadata.annotations.as_ref().is_some_and(|it| it.contains_key(request));
            Ok(if asked { Err(stands(&cluster)) } else { Ok(cluster) })
        });
        match answered.await {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                self.patch(name, annotation(request, None)).await?;
                Err(error.context("the request was taken back"))
            }
        }
    }

    /// Looks again until there is an answer; the other side of the result is how it stands meanwhile.
    pub async fn wait<T, F>(&self, what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<Result<T, String>>>,
    {
        let start = Instant::now();
        loop {
            match look().await? {
                Ok(answer) => return Ok(answer),
                Err(stands) if start.elapsed() > self.patience => {
                    bail!("waited {} s for {what}; {stands}", self.patience.as_secs())
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
