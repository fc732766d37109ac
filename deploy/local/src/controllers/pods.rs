//! What controllers of pods have in common: the state of a pod in one word, and pods made from templates.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::core::ObjectMeta;

/// The phase, `Pending` while there is none.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Succeeded or failed: no process will run in it again.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Being deleted.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither over nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_over(pod) && !is_terminating(pod)
}

/// Since when the pod is ready; none while it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Ready now.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Ready for at least so many seconds. When that is still to come, the time at which to look again.
pub fn is_available(pod: &Pod, min_ready_seconds: Option<i32>, now: Timestamp) -> Result<bool, Timestamp> {
    let Some(since) = ready_since(pod) else {
        return Ok(false);
    };
    let wait = SignedDuration::from_secs(min_ready_seconds.unwrap_or(0).into());
    let available = since.checked_add(wait).unwrap_or(Timestamp::MAX);
    if wait.is_zero() || available <= now { Ok(true) } else { Err(available) }
}

/// A pod from a template, with more labels. The name or its beginning is up to the caller.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: Option<String>,
    owner: Option<Vec<OwnerReference>>,
    labels: BTreeMap<String, String>,
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut all_labels = metadata.labels.unwrap_or_default();
    all_labels.extend(labels);
    Pod {
        metadata: ObjectMeta {
            namespace,
            labels: Some(all_labels),
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: owner,
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Those to delete first: not running, not ready, youngest.
pub fn rank(pod: &Pod) -> impl Ord + use<> {
    let created = pod.creation_timestamp().map(|Time(time)| time);
    (pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()), is_ready(pod), std::cmp::Reverse(created))
}
