//! All reads: objects out of watched caches, and the members' own answers.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerState, PersistentVolumeClaim, Pod as KubePod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::Store as Cache;
use kube::{Resource, ResourceExt};

use crate::crd::EtcdCluster;
use crate::member::{MemberClient, MemberList, StatusResponse};
use crate::names::{APPLIED_HASH, CLUSTER_LABEL, CONFIG_HASH, Names, ROLE_LABEL, UID_LABEL};
use crate::plan::{Answer, Child, Member, Observed, Pod, Store};

/// The watched objects of all clusters. Of all but pods only the metadata is kept, and of pods the image and the state.
#[derive(Clone)]
pub struct Caches {
    /// StatefulSets of members.
    pub statefulsets: Cache<PartialObjectMeta<StatefulSet>>,
    /// Pods of members.
    pub pods: Cache<KubePod>,
    /// Claims of members.
    pub claims: Cache<PartialObjectMeta<PersistentVolumeClaim>>,
    /// Headless and client Services.
    pub services: Cache<PartialObjectMeta<Service>>,
    /// PodDisruptionBudgets.
    pub budgets: Cache<PartialObjectMeta<PodDisruptionBudget>>,
}

/// The hash that an existing child carries, and whether it is this cluster's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The hash of what was rendered when it was last applied.
    pub hash: Option<String>,
    /// Whether its controlling owner is this EtcdCluster.
    pub ours: bool,
}

/// What the cache knows of the child `name`.
pub fn applied<K>(cache: &Cache<PartialObjectMeta<K>>, names: &Names, name: &str) -> Option<Applied>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found = cache.find(|object| {
        object.namespace().as_deref() == Some(&names.namespace) && object.name_any() == name
    })?;
    Some(Applied {
        hash: found.annotations().get(APPLIED_HASH).cloned(),
        ours: owned(found.as_ref(), names),
    })
}

/// Sees everything about one cluster.
pub async fn observe(caches: &Caches, cluster: &EtcdCluster) -> Observed {
    let names = Names::of(cluster);
    let mut observed = Observed {
        statefulsets: children(&caches.statefulsets, &names, |object| owned(object, &names)),
        pods: pods(&caches.pods, &names),
        claims: children(&caches.claims, &names, |object| labelled(object, &names)),
        store: Store::Silent,
    };
    observed.store = ask_members(cluster, &names, &observed).await;
    observed
}

fn owned(object: &impl Resource, names: &Names) -> bool {
    let mut owners = object.meta().owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == names.uid)
}

fn labelled(object: &impl Resource, names: &Names) -> bool {
    let labels = object.meta().labels.as_ref();
    labels.and_then(|labels| labels.get(UID_LABEL)) == Some(&names.uid)
}

fn of_cluster(object: &impl Resource, names: &Names) -> Option<u32> {
    let meta = object.meta();
    let labels = meta.labels.as_ref()?;
    let here = meta.namespace.as_ref() == Some(&names.namespace)
        && labels.get(CLUSTER_LABEL) == Some(&names.cluster);
    here.then(|| names.ordinal_of(meta.name.as_deref()?))?
}

fn children<K>(
    cache: &Cache<PartialObjectMeta<K>>,
    names: &Names,
    ours: impl Fn(&PartialObjectMeta<K>) -> bool,
) -> BTreeMap<u32, Child>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let objects = cache.state().into_iter();
    objects
        .filter_map(|object| {
            let child = Child {
                uid: object.uid().unwrap_or_default(),
                ours: ours(object.as_ref()),
                deleting: object.meta().deletion_timestamp.is_some(),
            };
            Some((of_cluster(object.as_ref(), names)?, child))
        })
        .collect()
}

fn pods(cache: &Cache<KubePod>, names: &Names) -> BTreeMap<u32, Pod> {
    let objects = cache.state().into_iter();
    objects
        .filter_map(|pod| Some((of_cluster(pod.as_ref(), names)?, pod_view(&pod, names))))
        .collect()
}

fn pod_view(pod: &KubePod, names: &Names) -> Pod {
    let containers = pod.spec.as_ref().map(|spec| &spec.containers);
    let image = containers.and_then(|containers| containers.first()?.image.clone());
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let state = statuses.and_then(|statuses| statuses.first()?.state.as_ref());
    Pod {
        uid: pod.uid().unwrap_or_default(),
        ours: labelled(pod, names),
        deleting: pod.meta().deletion_timestamp.is_some(),
        running: state.is_some_and(|state| state.running.is_some()),
        config_hash: pod.annotations().get(CONFIG_HASH).cloned(),
        image: image.unwrap_or_default(),
        role: pod.labels().get(ROLE_LABEL).cloned(),
        trouble: trouble(pod, state),
    }
}

/// Why a pod does not run, in Kubernetes' own word; `None` while it starts as usual.
fn trouble(pod: &KubePod, state: Option<&ContainerState>) -> Option<String> {
    let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.clone());
    let usual = ["ContainerCreating", "PodInitializing"];
    if let Some(reason) = waiting.filter(|reason| !usual.contains(&reason.as_str())) {
        return Some(reason);
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        return Some(format!("exited with {}", terminated.exit_code));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unscheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    unscheduled.reason.clone()
}

/// A member's Status, by the number of its pod.
type Answers = BTreeMap<u32, StatusResponse>;

async fn ask_members(cluster: &EtcdCluster, names: &Names, observed: &Observed) -> Store {
    let recorded = cluster
        .status
        .as_ref()
        .and_then(|status| status.cluster_id.clone());
    let running = observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.running && pod.ours);
    let answers: Answers = join_all(running.map(|(ordinal, _)| ask(names, *ordinal)))
        .await
        .into_iter()
        .flatten()
        .collect();
    let ids: BTreeMap<u32, u64> = answers
        .iter()
        .filter_map(|(ordinal, answer)| Some((*ordinal, answer.header?.cluster_id)))
        .collect();
    let right = |id: &u64| recorded.as_ref().is_none_or(|it| *it == format!("{id:x}"));
    let mut candidates: Vec<u32> = ids
        .iter()
        .filter(|(ordinal, id)| right(id) && (recorded.is_some() || **ordinal == 0))
        .map(|(ordinal, _)| *ordinal)
        .collect();
    if candidates.is_empty() {
        let foreign = ids.values().find(|id| !right(id));
        return foreign.map_or(Store::Silent, |id| Store::Foreign(*id));
    }
    candidates.sort_by_key(|ordinal| !leads(&answers[ordinal]));
    for ordinal in candidates {
        match list(names, ordinal).await {
            Ok(list) if right(&list.cluster_id) => return assemble(names, &list, &answers),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, member = names.member(ordinal), "no member list"),
        }
    }
    Store::Silent
}

fn leads(answer: &StatusResponse) -> bool {
    answer
        .header
        .is_some_and(|header| header.member_id == answer.leader)
}

async fn ask(names: &Names, ordinal: u32) -> Option<(u32, StatusResponse)> {
    let url = names.client_url(ordinal);
    let answer = async { MemberClient::new(&url)?.status().await };
    match answer.await {
        Ok(status) => Some((ordinal, status)),
        Err(error) => {
            tracing::debug!(%error, member = names.member(ordinal), "no status");
            None
        }
    }
}

async fn list(names: &Names, ordinal: u32) -> Result<MemberList, crate::member::Error> {
    MemberClient::new(&names.client_url(ordinal))?
        .member_list()
        .await
}

/// The list, with each member's own answer beside its entry.
fn assemble(names: &Names, list: &MemberList, answers: &Answers) -> Store {
    let answer_of = |id: u64| {
        let mut answers = answers.values();
        let found = answers.find(|answer| {
            let header = answer.header.unwrap_or_default();
            header.member_id == id && header.cluster_id == list.cluster_id
        })?;
        Some(Answer {
            leader: found.leader,
            raft_index: found.raft_index,
            db_size: found.db_size,
            version: found.version.clone(),
        })
    };
    let mut members: Vec<Member> = list
        .members
        .iter()
        .map(|member| {
            let answer = answer_of(member.id);
            let mut urls = member.peer_ur_ls.iter();
            Member {
                id: member.id,
                ordinal: urls.find_map(|url| names.ordinal_of_peer_url(url)),
                started: !member.name.is_empty() || answer.is_some(),
                learner: member.is_learner,
                answer,
            }
        })
        .collect();
    members.sort_by_key(|member| (member.ordinal, member.id));
    Store::Listed {
        cluster_id: list.cluster_id,
        members,
    }
}
