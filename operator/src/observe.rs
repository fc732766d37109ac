//! All reads: objects out of watched caches, and the members' own answers.

pub mod auth;
pub mod certificates;
mod recovery;
pub mod source;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use futures::future::{join, join_all, join3, select_ok};
use futures::{FutureExt, try_join};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PersistentVolumeClaim, Pod as KubePod, Secret, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::runtime::reflector::Store as Cache;
use kube::{Client, Resource, ResourceExt};
use serde_json::Value;

use self::auth::Root;
use self::certificates::Identities;
use crate::build;
use crate::crd::{EtcdCluster, Transport};
use crate::member::{self, Credentials, MemberClient, MemberList, Sessions, StatusResponse};
use crate::names::{
    APPLIED_HASH, CERTIFICATES, CLUSTER_LABEL, CONFIG_HASH, DATA_GATE, DATA_POD, IMAGE, INITIAL_CLUSTER, Names,
    SERVER_CONTAINER, TRANSPORT, UID_LABEL, VOLUME_SIZE,
};
use crate::plan::{Alarm, Answer, Child, Member, Observed, Pod, Store, Volume};

/// Characters of a member's last words that a status tells.
const LAST_WORDS: usize = 300;

/// The watched objects of all clusters. Of most only the metadata is kept, and of pods also the state.
#[derive(Clone)]
pub struct Caches {
    /// StatefulSets of members.
    pub statefulsets: Cache<PartialObjectMeta<StatefulSet>>,
    /// Pods of members.
    pub pods: Cache<KubePod>,
    /// Claims of members, as a whole.
    pub claims: Cache<PersistentVolumeClaim>,
    /// Headless and client Services.
    pub services: Cache<PartialObjectMeta<Service>>,
    /// PodDisruptionBudgets.
    pub budgets: Cache<PartialObjectMeta<PodDisruptionBudget>>,
    /// Secrets with certificates, as a whole.
    pub secrets: Cache<Secret>,
}

#[cfg(test)]
impl Caches {
    /// Caches that never show anything.
    pub fn empty() -> Self {
        use kube::runtime::reflector::store;
        Self {
            statefulsets: store().0,
            pods: store().0,
            claims: store().0,
            services: store().0,
            budgets: store().0,
            secrets: store().0,
        }
    }
}

/// What matters of an existing child before it is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The hash of what was rendered when it was last applied.
    pub hash: Option<String>,
    /// Whether its controlling owner is this EtcdCluster.
    pub ours: bool,
    /// What changes with each edit.
    pub edition: String,
    /// Of a StatefulSet: the size in its claim template.
    pub volume_size: Option<String>,
}

impl Applied {
    /// Of an object as the API server has it.
    pub fn of(object: &impl Resource, names: &Names) -> Self {
        let annotations = object.meta().annotations.as_ref();
        Self {
            hash: annotations.and_then(|it| it.get(APPLIED_HASH)).cloned(),
            ours: owned(object, names),
            edition: edition(object),
            volume_size: annotations.and_then(|it| it.get(VOLUME_SIZE)).cloned(),
        }
    }
}

/// The object's uid and generation, which counts edits of its spec; of a kind without generations (Service, on some versions) its
/// resourceVersion, which counts every write.
pub fn edition(object: &impl Resource) -> String {
    let meta = object.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    match (meta.generation, &meta.resource_version) {
        (Some(generation), _) => format!("{uid}/{generation}"),
        (None, version) => format!("{uid}/v{}", version.as_deref().unwrap_or_default()),
    }
}

/// What the cache knows of the child `name`.
pub fn applied<K>(cache: &Cache<PartialObjectMeta<K>>, names: &Names, name: &str) -> Option<Applied>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found =
        cache.find(|object| object.namespace().as_deref() == Some(&names.namespace) && object.name_any() == name)?;
    Some(Applied::of(found.as_ref(), names))
}

/// Sees everything about one cluster at this time (Unix), and with what its members are to be talked to.
pub async fn observe<'a>(
    client: &Client,
    caches: &Caches,
    cluster: &EtcdCluster,
    sessions: &'a Sessions,
    now: i64,
) -> (Observed, Identities, Root<'a>) {
    let names = Names::of(cluster);
    let (tls, identities) = certificates::certificates(client, &caches.secrets, cluster, &names, now).await;
    let mut observed = Observed {
        now,
        statefulsets: children::<PartialObjectMeta<StatefulSet>, _>(caches.statefulsets.state(), &names, owned),
        pods: pods(caches.pods.state(), &names),
        claims: children::<PersistentVolumeClaim, _>(caches.claims.state(), &names, labelled),
        volumes: volumes(caches.claims.state(), &names),
        tls,
        recovery: recovery::recovery(client, cluster).await,
        ..Default::default()
    };
    let root_secret = caches.secrets.find(|secret| auth::is_root_secret(secret, &names));
    let (seen, root) = auth::read(client, cluster, &names, root_secret.as_deref(), sessions).await;
    observed.auth = seen;
    let door = Door { names: &names, pods: &observed.pods, credentials: identities.current.as_ref(), root: &root };
    let next = &identities.next;
    let trusting = who_trusts(&names, &observed.pods, next.as_ref(), &root);
    let asked = ask_members(cluster, &door, &observed.pods);
    let (asked, trusting, (enabled, refused)) = join3(asked, trusting, door.auth(cluster, &observed.pods)).await;
    (observed.auth.enabled, observed.auth.refused) = (enabled, refused);
    (observed.store, observed.alarms, observed.silence, observed.tls.served) = asked;
    observed.tls.trusting = trusting;
    (observed, identities, root)
}

/// Sees what is left of a cluster in Kubernetes, by asking the API server itself; members are not asked.
pub async fn list(client: &Client, cluster: &EtcdCluster) -> Result<Observed, kube::Error> {
    let names = Names::of(cluster);
    let namespace = &names.namespace;
    let statefulsets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let kube_pods = Api::<KubePod>::namespaced(client.clone(), namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", names.cluster));
    let (statefulsets, kube_pods, claims) =
        try_join!(statefulsets.list_metadata(&ours), kube_pods.list(&ours), claims.list_metadata(&ours),)?;
    Ok(Observed {
        statefulsets: children::<PartialObjectMeta<StatefulSet>, _>(statefulsets.items, &names, owned),
        pods: pods(kube_pods.items, &names),
        claims: children::<PartialObjectMeta<PersistentVolumeClaim>, _>(claims.items, &names, labelled),
        ..Default::default()
    })
}

/// Whether the EtcdCluster is the object's controlling owner.
pub fn owned(object: &impl Resource, names: &Names) -> bool {
    controller(object).is_some_and(|uid| uid == names.uid)
}

/// The uid of the object's controlling owner.
pub fn controller(object: &impl Resource) -> Option<String> {
    let mut owners = object.meta().owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// Whether the object carries the uid of the EtcdCluster, as pods and claims do.
pub fn labelled(object: &impl Resource, names: &Names) -> bool {
    let labels = object.meta().labels.as_ref();
    labels.and_then(|labels| labels.get(UID_LABEL)) == Some(&names.uid)
}

fn of_cluster(object: &impl Resource, names: &Names) -> Option<u32> {
    let meta = object.meta();
    let labels = meta.labels.as_ref()?;
    let here = meta.namespace.as_ref() == Some(&names.namespace) && labels.get(CLUSTER_LABEL) == Some(&names.cluster);
    here.then(|| names.ordinal_of(meta.name.as_deref()?))?
}

fn children<K: Resource, O: Borrow<K>>(
    objects: impl IntoIterator<Item = O>,
    names: &Names,
    ours: impl Fn(&K, &Names) -> bool,
) -> BTreeMap<u32, Child> {
    let objects = objects.into_iter();
    objects
        .filter_map(|object| {
            let object = object.borrow();
            let child = Child {
                uid: object.meta().uid.clone().unwrap_or_default(),
                ours: ours(object, names),
                deleting: object.meta().deletion_timestamp.is_some(),
                data_pod: object.meta().annotations.as_ref().and_then(|it| it.get(DATA_POD)).cloned(),
            };
            Some((of_cluster(object, names)?, child))
        })
        .collect()
}

fn volumes(
    claims: impl IntoIterator<Item = impl Borrow<PersistentVolumeClaim>>,
    names: &Names,
) -> BTreeMap<u32, Volume> {
    let claims = claims.into_iter();
    claims
        .filter_map(|claim| {
            let claim = claim.borrow();
            let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
            let status = claim.status.clone().unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            let pending = conditions.find(|it| it.type_ == "FileSystemResizePending" && it.status == "True");
            let volume = Volume {
                requested: requests.get("storage")?.0.clone(),
                capacity: status.capacity.as_ref().and_then(|capacity| Some(capacity.get("storage")?.0.clone())),
                file_system_pending: pending.and_then(|it| Some(it.last_transition_time.as_ref()?.0.as_second())),
            };
            Some((of_cluster(claim, names)?, volume))
        })
        .collect()
}

fn pods(objects: impl IntoIterator<Item = impl Borrow<KubePod>>, names: &Names) -> BTreeMap<u32, Pod> {
    let objects = objects.into_iter();
    objects
        .filter_map(|pod| {
            let pod = pod.borrow();
            Some((of_cluster(pod, names)?, pod_view(pod, names)))
        })
        .collect()
}

fn pod_view(pod: &KubePod, names: &Names) -> Pod {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    // By its name: a sidecar may stand before it.
    let server = |statuses: &'_ Vec<ContainerStatus>| {
        let mut statuses = statuses.iter();
        statuses.find(|status| status.name == SERVER_CONTAINER).cloned()
    };
    let server = statuses.and_then(server);
    let state = server.as_ref().and_then(|status| status.state.as_ref());
    Pod {
        uid: pod.uid().unwrap_or_default(),
        version: pod.resource_version().unwrap_or_default(),
        ours: labelled(pod, names),
        deleting: pod.meta().deletion_timestamp.is_some(),
        gone_by: pod.meta().deletion_timestamp.as_ref().map(|time| time.0.as_second()),
        ready: is_ready(pod),
        running: state.is_some_and(|state| state.running.is_some()),
        config_hash: pod.annotations().get(CONFIG_HASH).cloned(),
        image: pod.annotations().get(IMAGE).cloned(),
        transport: pod.annotations().get(TRANSPORT).and_then(|word| Transport::parse(word)),
        labels: pod.labels().clone(),
        certificates: pod.annotations().get(CERTIFICATES).cloned(),
        trouble: trouble(pod, server.as_ref()),
        restarts: server.as_ref().map_or(0, |status| status.restart_count),
        created: pod.meta().creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        owner: controller(pod),
        gated: pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten()).any(|it| it.name == DATA_GATE),
        settled: pod.annotations().get(INITIAL_CLUSTER).is_some_and(|founding| founding == build::SETTLED),
    }
}

fn is_ready(pod: &KubePod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod does not run, in Kubernetes' own word and the member's last ones; `None` while it starts as usual.
fn trouble(pod: &KubePod, server: Option<&ContainerStatus>) -> Option<String> {
    let state = server.and_then(|status| status.state.as_ref());
    let ended = |state: Option<&ContainerState>| state?.terminated.clone();
    let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.clone());
    let usual = ["ContainerCreating", "PodInitializing"];
    if let Some(reason) = waiting.filter(|reason| !usual.contains(&reason.as_str())) {
        let last = server.filter(|_| reason == "CrashLoopBackOff").and_then(|status| status.last_state.as_ref());
        return Some(with_last_words(reason, ended(last).as_ref()));
    }
    let before = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    // While it waits for its next attempt, the last one tells why.
    let mut failed = before.filter_map(|status| status.last_state.as_ref()?.terminated.as_ref()?.message.as_deref());
    if let Some(message) = failed.next_back() {
        return message.lines().next().map(str::to_string);
    }
    if let Some(terminated) = ended(state) {
        return Some(with_last_words(format!("exited with {}", terminated.exit_code), Some(&terminated)));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unscheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    unscheduled.reason.clone()
}

fn with_last_words(reason: String, ended: Option<&ContainerStateTerminated>) -> String {
    match ended.and_then(|ended| last_words(ended.message.as_deref()?)) {
        Some(words) => format!("{reason}: {words}"),
        None => reason,
    }
}

/// Why a process ended, out of the end of its log: the last error in it, or the first line of what is no log.
fn last_words(log: &str) -> Option<String> {
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?.get("error")?.as_str()?.to_owned());
    // The first line of a log may be cut off.
    let is_log = lines.clone().any(|line| line.starts_with('{'));
    let words = match is_log {
        true => lines.rev().find_map(error)?,
        false => lines.next()?.to_owned(),
    };
    Some(words.chars().take(LAST_WORDS).collect())
}

/// A member's Status, by the number of its pod.
type Answers = BTreeMap<u32, StatusResponse>;
/// Why a member is not healthy, by the number of its pod.
type Silence = BTreeMap<u32, String>;

async fn ask_members(
    cluster: &EtcdCluster,
    door: &Door<'_>,
    pods: &BTreeMap<u32, Pod>,
) -> (Store, Vec<Alarm>, Silence, BTreeMap<u32, String>) {
    let recorded = cluster.status.as_ref();
    let recorded = recorded.and_then(|status| status.cluster_id.clone());
    let serving = pods.iter().filter(|(_, pod)| pod.serves());
    let asked = join_all(serving.map(|(ordinal, _)| door.ask(*ordinal))).await;
    let (mut answers, mut silence, mut served) = (Answers::new(), Silence::new(), BTreeMap::new());
    for (ordinal, answer) in asked {
        match answer {
            Ok((answer, shown)) => {
                served.extend(shown.map(|shown| (ordinal, shown)));
                if answer.leader == 0 {
                    silence.insert(ordinal, "it sees no leader".into());
                }
                answers.insert(ordinal, answer);
            }
            Err(error) => {
                silence.insert(ordinal, error.cause());
            }
        }
    }
    let (store, alarms) = join(member_list(recorded, door, &answers), alarms(door, &answers)).await;
    let alarms = if matches!(store, Store::Listed { .. }) { alarms } else { Vec::new() };
    (store, alarms, silence, served)
}

/// The alarms of the store: asked for only when a member's Status mentions one.
async fn alarms(door: &Door<'_>, answers: &Answers) -> Vec<Alarm> {
    let troubled = answers.iter().filter(|(_, answer)| answer.errors.iter().any(|error| error.contains("alarm:")));
    for (ordinal, _) in troubled {
        let asked = async { door.client(*ordinal)?.alarms().await };
        match asked.await {
            Ok(alarms) => return alarms,
            Err(error) => tracing::debug!(%error, member = door.names.member(*ordinal), "no list of alarms"),
        }
    }
    Vec::new()
}

/// The confirmed list of the right cluster, from the first member that gives it; the leader is asked first.
async fn member_list(recorded: Option<String>, door: &Door<'_>, answers: &Answers) -> Store {
    let names = door.names;
    let ids: BTreeMap<u32, u64> =
        answers.iter().filter_map(|(ordinal, answer)| Some((*ordinal, answer.header?.cluster_id))).collect();
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
        match door.list_of(ordinal).await {
            Ok(list) if right(&list.cluster_id) => return assemble(names, &list, answers),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, member = names.member(ordinal), "no member list"),
        }
    }
    Store::Silent
}

fn leads(answer: &StatusResponse) -> bool {
    answer.header.is_some_and(|header| header.member_id == answer.leader)
}

/// Where the operator talks to the member: in what it speaks, in TLS rather than in plaintext.
pub fn url(names: &Names, pods: &BTreeMap<u32, Pod>, ordinal: u32, credentials: Option<&Credentials>) -> String {
    let secure = match pods.get(&ordinal).and_then(|pod| pod.transport) {
        Some(Transport::Plain) => false,
        Some(Transport::Both) => credentials.is_some(),
        Some(Transport::Tls) => true,
        None => names.tls,
    };
    names.client_url_by(ordinal, secure)
}

/// The way to the members of a cluster.
struct Door<'a> {
    names: &'a Names,
    pods: &'a BTreeMap<u32, Pod>,
    credentials: Option<&'a Credentials>,
    root: &'a Root<'a>,
}

impl Door<'_> {
    fn client(&self, ordinal: u32) -> Result<MemberClient, member::Error> {
        let url = url(self.names, self.pods, ordinal, self.credentials);
        Ok(MemberClient::new(&url, self.credentials)?.with_token(self.root.token()))
    }

    /// Whether authentication is on, by the first member that tells; and why root is not let in, if it is not.
    async fn auth(&self, cluster: &EtcdCluster, pods: &BTreeMap<u32, Pod>) -> (Option<bool>, Option<String>) {
        if cluster.spec.auth.is_none() {
            return (None, None);
        }
        let asked = pods.iter().filter(|(_, pod)| pod.serves()).map(|(ordinal, _)| {
            let enabled = async {
                let mut client = self.client(*ordinal)?.with_token(None);
                Ok::<_, member::Error>((client.auth_enabled().await?, client))
            };
            enabled.boxed()
        });
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            return (None, None);
        }
        let Ok(((enabled, mut client), _)) = select_ok(asked).await else {
            return (None, None);
        };
        if !enabled || self.root.token().is_some() {
            return (Some(enabled), None);
        }
        let refused = self.root.login(&mut client).await.err();
        (Some(true), refused.map(|error| error.cause()))
    }

    /// The member's Status, and the certificate that it showed.
    async fn ask(&self, ordinal: u32) -> (u32, Result<(StatusResponse, Option<String>), member::Error>) {
        let answer = async {
            let mut client = self.client(ordinal)?;
            let mut answer = client.status().await;
            if answer.as_ref().is_err_and(member::Error::wants_login) {
                // A member that was started again does not know the tokens of before.
                self.root.login(&mut client).await?;
                answer = client.status().await;
            }
            Ok((answer?, client.shown()))
        };
        (ordinal, answer.await)
    }

    async fn list_of(&self, ordinal: u32) -> Result<MemberList, member::Error> {
        self.client(ordinal)?.member_list().await
    }
}

/// Members that answer to a certificate of the next authority. All files of a member's Secret change at once, so one that trusts
/// it as its clients' authority also trusts it as its peers'.
async fn who_trusts(
    names: &Names,
    pods: &BTreeMap<u32, Pod>,
    next: Option<&Credentials>,
    root: &Root<'_>,
) -> BTreeSet<u32> {
    if next.is_none() {
        return BTreeSet::new();
    }
    let door = Door { names, pods, credentials: next, root };
    let serving = pods.iter().filter(|(_, pod)| pod.serves());
    let asked = join_all(serving.map(|(ordinal, _)| door.ask(*ordinal))).await;
    asked.into_iter().filter(|(_, answer)| answer.is_ok()).map(|(ordinal, _)| ordinal).collect()
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
            revision: found.header.unwrap_or_default().revision,
            db_size: found.db_size,
            db_quota: found.db_size_quota,
            version: found.version.clone(),
        })
    };
    let mut members: Vec<Member> = list
        .members
        .iter()
        .map(|member| {
            let answer = answer_of(member.id);
            let mut urls = member.peer_ur_ls.iter();
            let known = urls.find_map(|url| Some((names.ordinal_of_peer_url(url)?, url.starts_with("https://"))));
            Member {
                id: member.id,
                ordinal: known.map(|(ordinal, _)| ordinal),
                secure: known.is_some_and(|(_, secure)| secure),
                started: !member.name.is_empty() || answer.is_some(),
                learner: member.is_learner,
                answer,
            }
        })
        .collect();
    members.sort_by_key(|member| (member.ordinal, member.id));
    Store::Listed { cluster_id: list.cluster_id, members }
}

#[cfg(test)]
mod tests;
