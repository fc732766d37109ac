//! The PodDisruptionBudget: evictions leave a quorum.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::crd::{EtcdCluster, Role};
use crate::names::{Names, ROLE_LABEL};
use crate::plan::{PodRole, quorum};

/// Keeps a quorum of the larger of the voters there are (`listed`), those the status knows of, and those asked for. While the
/// members cannot be reached `listed` is 0, and that is no time to let more of them go. Learners carry nothing and do not count.
pub fn pod_disruption_budget(cluster: &EtcdCluster, listed: usize) -> PodDisruptionBudget {
    let names = Names::of(cluster);
    let target = usize::try_from(cluster.spec.size).unwrap_or(0);
    let recorded = cluster.status.iter().flat_map(|status| &status.members);
    let recorded = recorded.filter(|member| member.role != Role::Learner).count();
    let minimum = quorum(listed.max(recorded).max(target));
    let mut labels = names.selector();
    labels.insert(ROLE_LABEL.into(), PodRole::Voter.as_str().into());
    PodDisruptionBudget {
        metadata: metadata(&names, names.cluster.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::try_from(minimum).unwrap_or(i32::MAX))),
            selector: Some(LabelSelector { match_labels: Some(labels), ..Default::default() }),
            ..Default::default()
        }),
        status: None,
    }
}
