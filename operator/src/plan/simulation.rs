//! A cluster under random faults and edits, the API server's included, with plan, check and act as the only hand that mends it. The model of members and of
//! Kubernetes is small and does what the real ones would do with what they are told, dangerous things included.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;

use super::*;
use crate::build;
use crate::crd::{EtcdClusterSpec, RepairSpec, RolloutStage, StorageMedium, TlsSpec, Transport};
use crate::names::{DEFRAGMENT, DISARM, MOVE_LEADER, RECOVER_FROM, REPLACE_MEMBER};
use crate::status::render;

const CLUSTER_ID: u64 = 0xc1;

#[derive(Debug, Clone)]
enum Event {
    /// A pass of the operator, killed at a point if it is not [`Crash::Never`].
    Pass(Crash),
    /// Kubernetes and the members go on by one step.
    Tick,
    /// The n-th pod's process is killed.
    Kill(usize),
    /// The n-th pod is deleted.
    Evict(usize),
    /// The n-th pod's node starts again, with the pod: what was in memory is gone.
    Reboot(usize),
    /// The n-th member loses pod and volume.
    LoseVolume(usize),
    /// The n-th member cannot start from its volume any more.
    Break(usize),
    /// The n-th member's data is found to be wrong.
    Corrupt(usize),
    /// All members reach their quota, and the n-th says so.
    Fill(usize),
    /// The n-th pod's node is lost: the pod never ends.
    LoseNode(usize),
    /// A person names the n-th member as the one to go on with.
    Recover(usize),
    /// A person asks for something once: that the n-th member leads, that it and the next one are defragmented, that alarms end.
    Ask(&'static str, usize),
    /// The spec asks for this size.
    Resize(i32),
    /// The spec gets another option; with [`BAD`] no member starts.
    Configure(u8),
    /// The spec asks for plaintext, TLS, or both.
    Speak(Transport),
    /// The spec asks again for what all members ran.
    PutBack,
    /// Whether the spec accepts that a cluster of one or two is interrupted by restarts.
    Interrupt(bool),
    /// The API server's watches stop: what the operator knows of Kubernetes' objects stays as it is, until they go on.
    Watch(bool),
}

/// A value with which no member starts.
const BAD: u8 = 13;
const OPTION: &str = "snapshot-count";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Crash {
    Never,
    BeforeStatus,
    BeforeChildren,
    /// After the first of several children: the API server refuses the others.
    AmidChildren,
    BeforeAction,
}

#[derive(Debug, Clone)]
struct Listed {
    ordinal: u32,
    learner: bool,
    started: bool,
    caught_up: bool,
    /// Others reach it by TLS.
    secure: bool,
}

#[derive(Debug, Clone)]
struct Template {
    /// Of its StatefulSet.
    uid: String,
    start: Start,
    config_hash: String,
    bad: bool,
    transport: Transport,
    /// In memory: the pod that is on record.
    data_pod: Option<String>,
}

#[derive(Debug, Clone)]
struct RunningPod {
    uid: String,
    template: Template,
    running: bool,
    /// It was deleted and still runs, until the next tick.
    deleting: bool,
    /// Its deletion never ends.
    stuck: bool,
    /// It may not start.
    gated: bool,
    /// Its member does not start with an empty directory any more.
    settled: bool,
}

#[derive(Debug, Clone)]
struct Volume {
    uid: String,
    /// The id of the member whose data is on it.
    data: Option<u64>,
    broken: bool,
}

/// What the operator's watches show.
#[derive(Debug, Clone)]
struct Cached {
    statefulsets: BTreeMap<u32, Child>,
    pods: BTreeMap<u32, Pod>,
    claims: BTreeMap<u32, Child>,
}

#[derive(Debug)]
struct World {
    cluster: EtcdCluster,
    members: BTreeMap<u64, Listed>,
    statefulsets: BTreeMap<u32, Template>,
    pods: BTreeMap<u32, RunningPod>,
    /// In memory a volume is the pod's.
    claims: BTreeMap<u32, Volume>,
    /// Members whose data is wrong, as the store's alarms say.
    corrupt: BTreeSet<u64>,
    /// Members that said that they are full, as the store's alarms say.
    no_space: BTreeSet<u64>,
    /// Members whose store is as large as it may be.
    full: BTreeSet<u64>,
    leader: u64,
    next: u64,
    now: i64,
    /// What watches showed when they stopped.
    stale: Option<Cached>,
}

impl World {
    fn new(size: i32, medium: StorageMedium) -> Self {
        let repair = RepairSpec { limit: 16, window: "1m".into(), ..Default::default() };
        let mut cluster = EtcdCluster::new("c", EtcdClusterSpec { size, repair, ..Default::default() });
        cluster.spec.storage.medium = medium;
        cluster.metadata.namespace = Some("ns".into());
        cluster.metadata.uid = Some("uid".into());
        Self {
            cluster,
            members: BTreeMap::new(),
            statefulsets: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            corrupt: BTreeSet::new(),
            no_space: BTreeSet::new(),
            full: BTreeSet::new(),
            leader: 0,
            next: 1,
            now: 0,
            stale: None,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn in_memory(&self) -> bool {
        self.cluster.spec.in_memory()
    }

    fn recorded(&self) -> bool {
        self.cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some())
    }

    /// Whether the member can be counted on: one whose pod is on its way out cannot.
    fn up(&self, id: u64) -> bool {
        let Some(member) = self.members.get(&id) else {
            return false;
        };
        let pod = self.pods.get(&member.ordinal);
        let running = pod.is_some_and(|pod| pod.running && !pod.deleting);
        running && self.has_data(id)
    }

    fn has_data(&self, id: u64) -> bool {
        let volume = self.members.get(&id).and_then(|member| self.claims.get(&member.ordinal));
        volume.is_some_and(|volume| volume.data == Some(id) && !volume.broken)
    }

    fn damaged(&self) -> Vec<u64> {
        let damaged = |id: &&u64| self.claims.get(&self.members[*id].ordinal).is_some_and(|volume| volume.broken);
        self.members.keys().filter(damaged).copied().collect()
    }

    fn voters(&self) -> Vec<u64> {
        let voters = self.members.iter().filter(|(_, member)| !member.learner);
        voters.map(|(id, _)| *id).collect()
    }

    fn has_quorum(&self) -> bool {
        let voters = self.voters();
        let up = voters.iter().filter(|id| self.up(**id)).count();
        up * 2 > voters.len()
    }

    /// Whether a quorum of the voters still has its data and a node, so that the cluster can come back.
    fn recoverable(&self) -> bool {
        let voters = self.voters();
        let intact = voters.iter().filter(|id| {
            let ordinal = self.members[*id].ordinal;
            let is_stuck = self.pods.get(&ordinal).is_some_and(|pod| pod.stuck);
            self.has_data(**id) && !is_stuck && !self.corrupt.contains(id)
        });
        intact.count() * 2 > voters.len()
    }

    fn elect(&mut self) {
        if !self.has_quorum() {
            self.leader = 0;
        } else if !self.up(self.leader) || !self.voters().contains(&self.leader) {
            let able = self.voters().into_iter().find(|id| self.up(*id));
            self.leader = able.unwrap_or(0);
        }
    }

    fn cached(&self) -> Cached {
        let child = |uid: &String| Child { uid: uid.clone(), ours: true, ..Default::default() };
        let statefulsets = self.statefulsets.iter().map(|(ordinal, set)| {
            let data_pod = set.data_pod.clone();
            (*ordinal, Child { data_pod, ..child(&set.uid) })
        });
        let claims = self.claims.iter().filter(|_| !self.in_memory());
        let image = Some(self.cluster.spec.server_image());
        let pods = self.pods.iter().map(|(ordinal, pod)| {
            let pod = Pod {
                uid: pod.uid.clone(),
                ours: true,
                running: pod.running,
                deleting: pod.deleting,
                gone_by: pod.deleting.then_some(0),
                ready: pod.running,
                config_hash: Some(pod.template.config_hash.clone()),
                image: image.clone(),
                transport: Some(pod.template.transport),
                trouble: (!pod.running).then(|| "CrashLoopBackOff".into()),
                owner: Some(pod.template.uid.clone()),
                gated: pod.gated,
                settled: pod.settled,
                ..Default::default()
            };
            (*ordinal, pod)
        });
        Cached {
            statefulsets: statefulsets.collect(),
            pods: pods.collect(),
            claims: claims.map(|(ordinal, volume)| (*ordinal, child(&volume.uid))).collect(),
        }
    }

    fn observe(&mut self) -> Observed {
        self.elect();
        let cached = self.stale.clone().unwrap_or_else(|| self.cached());
        // Only those are asked that are seen to serve.
        let asked = |member: &Listed| cached.pods.get(&member.ordinal).is_some_and(Pod::serves);
        let members = self.members.iter().map(|(id, member)| Member {
            id: *id,
            ordinal: Some(member.ordinal),
            started: member.started,
            learner: member.learner,
            secure: member.secure,
            answer: (asked(member) && self.up(*id)).then(|| Answer {
                leader: self.leader,
                raft_index: if member.learner && !member.caught_up { 1 } else { 5000 },
                db_size: if self.full.contains(id) { 100 } else { 10 },
                db_quota: 100,
                ..Default::default()
            }),
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by_key(|member| member.ordinal);
        let silent = self.leader == 0 || members.iter().all(|member| member.answer.is_none());
        let alarms = self.corrupt.iter().map(|id| Alarm { member: *id, kind: AlarmKind::Corrupt });
        let alarms = alarms.chain(self.no_space.iter().map(|id| Alarm { member: *id, kind: AlarmKind::NoSpace }));
        Observed {
            now: self.now,
            statefulsets: cached.statefulsets,
            pods: cached.pods,
            claims: cached.claims,
            tls: self.certificates(),
            alarms: if silent { Vec::new() } else { alarms.collect() },
            store: if silent { Store::Silent } else { Store::Listed { cluster_id: CLUSTER_ID, members } },
            ..Default::default()
        }
    }

    /// All that there could be: how they come about is not of interest here.
    fn certificates(&self) -> tls::Tls {
        use tls::{Authority, Held, Holder, Leaf};
        let members = self.statefulsets.keys().map(|ordinal| Holder::Member(*ordinal));
        let held = || Held { leaves: vec![Leaf::default()], ..Default::default() };
        let held = members.chain([Holder::Operator, Holder::Client]).map(|holder| (holder, held()));
        tls::Tls { authority: Some(Authority::default()), held: held.collect(), ..Default::default() }
    }

    /// Every member that runs can reach every other one.
    fn all_reach_each_other(&self) {
        let running = self.members.values().filter_map(|member| {
            let pod = self.pods.get(&member.ordinal).filter(|pod| pod.running && !pod.deleting)?;
            Some((member, pod.template.transport))
        });
        let running: Vec<_> = running.collect();
        for (to, speaks) in &running {
            let serves = *speaks != if to.secure { Transport::Plain } else { Transport::Tls };
            let can_all = running.iter().all(|(_, from)| !to.secure || *from != Transport::Plain);
            assert!(serves && can_all, "c-{} cannot be reached: {self:#?}", to.ordinal);
        }
    }

    /// One pass of the operator, as the controller does it.
    fn pass(&mut self, crash: Crash) -> Plan {
        let observed = self.observe();
        let plan = plan(&self.cluster, &observed);
        assert_eq!(check(&self.cluster, &observed, &plan), Ok(()), "{plan:#?}");
        let status = render(&self.cluster, &observed, &plan, None, Timestamp::from_second(self.now).unwrap());
        if plan.action.is_none() {
            let applied = !plan.apply_children || self.apply(&plan, &observed, crash);
            if applied && crash == Crash::Never {
                self.cluster.status = Some(status);
            }
            return plan;
        }
        if crash == Crash::BeforeStatus {
            return plan;
        }
        self.cluster.status = Some(status);
        if plan.apply_children && !self.apply(&plan, &observed, crash) {
            return plan;
        }
        if let (Some(Action::LetStart { ordinal, uid }), Crash::BeforeAction) = (&plan.action, crash) {
            self.record_pod(*ordinal, uid);
        }
        if let Some(action) = plan.action.as_ref().filter(|_| crash == Crash::Never) {
            // A member that went on alone is restarted once, before others join it.
            let alone =
                |ordinal: &u32| self.pods.get(ordinal).is_some_and(|pod| build::is_alone(&pod.template.config_hash));
            let ends_solitude = matches!(action, Action::RestartPod { ordinal, .. } if alone(ordinal));
            self.does_not_spread(&plan, action);
            let is_accepted = matches!(action, Action::RestartPod { .. })
                && self.cluster.spec.rollout.allow_interruption
                && self.voters().len() < 3;
            let before = self.has_quorum() && !ends_solitude && !is_accepted;
            self.act(action);
            assert!(!before || self.has_quorum(), "{action} cost the quorum");
        }
        plan
    }

    /// Whether all children were applied.
    fn apply(&mut self, plan: &Plan, observed: &Observed, crash: Crash) -> bool {
        let count = match crash {
            Crash::BeforeChildren => 0,
            Crash::AmidChildren => 1,
            _ => usize::MAX,
        };
        for (ordinal, start) in plan.members.iter().take(count) {
            let others = self.pods.keys().chain(self.statefulsets.keys()).any(|other| other != ordinal);
            if *start == Start::Alone && others {
                // The API server itself is asked for them.
                return false;
            }
            let template = &plan.templates[ordinal];
            let bad = template.options.get(OPTION) == Some(&BAD.to_string());
            let config_hash = build::pod_hash(&build::with_template(&self.cluster, template), start);
            let (uid, data_pod) = match self.statefulsets.get(ordinal) {
                Some(there) => (there.uid.clone(), there.data_pod.clone()),
                None => (format!("set{}", self.fresh()), None),
            };
            let (start, transport) = (start.clone(), template.transport);
            self.statefulsets.insert(*ordinal, Template { uid, start, config_hash, bad, transport, data_pod });
        }
        let is_applied = count > plan.members.len();
        // Then pods are marked.
        let started = observed.store.members().iter().filter(|member| member.started && is_applied && self.in_memory());
        for ordinal in started.filter_map(|member| member.ordinal).collect::<Vec<_>>() {
            if let Some(pod) = self.pods.get_mut(&ordinal).filter(|_| observed.pods.contains_key(&ordinal)) {
                pod.settled = true;
            }
        }
        is_applied
    }

    /// Whether the pod is on record as the one with the data of its member.
    fn record_pod(&mut self, ordinal: u32, uid: &str) -> bool {
        let Some(set) = self.statefulsets.get_mut(&ordinal) else {
            return false;
        };
        let is_its_pod = self.pods.get(&ordinal).is_some_and(|pod| pod.uid == uid && pod.template.uid == set.uid);
        if is_its_pod && set.data_pod.is_none() {
            set.data_pod = Some(uid.to_string());
        }
        is_its_pod && set.data_pod.as_deref() == Some(uid)
    }

    /// What a rollout brings does not spread from a member that does not start with it.
    fn does_not_spread(&self, plan: &Plan, action: &Action) {
        let (Action::RestartPod { ordinal, .. }, Some(rollout)) = (action, &plan.rollout) else {
            return;
        };
        let is_bad = |ordinal: &u32| self.statefulsets.get(ordinal).is_some_and(|template| template.bad);
        let failing = self.pods.iter().filter(|(other, pod)| {
            let named = rollout.members.contains(&format!("c-{other}"));
            *other != ordinal && named && pod.template.bad && !pod.running && is_bad(other)
        });
        assert!(!is_bad(ordinal) || failing.count() == 0, "{action} spreads what does not start: {plan:#?}");
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::AddFinalizer => {
                self.cluster.metadata.finalizers = Some(vec![FINALIZER.into()]);
            }
            Action::Bootstrap | Action::Park | Action::RemoveFinalizer => {}
            Action::ForgetRequest { annotation, .. } => drop(self.cluster.annotations_mut().remove(*annotation)),
            Action::Defragment { left, .. } => {
                self.cluster.annotations_mut().insert(DEFRAGMENT.into(), left.join(","));
            }
            Action::AddLearner { ordinal } => {
                // The API server itself is asked whether the number is free.
                if self.statefulsets.contains_key(ordinal) || self.claims.contains_key(ordinal) {
                    return;
                }
                // And whether the only member goes on alone.
                if self.voters().len() == 1 && self.pods.values().any(|pod| build::is_alone(&pod.template.config_hash))
                {
                    return;
                }
                let id = self.fresh();
                let secure = self.cluster.is_joined_by_tls();
                let member = Listed { ordinal: *ordinal, learner: true, started: false, caught_up: false, secure };
                self.members.insert(id, member);
                let learners = self.members.values().filter(|member| member.learner);
                assert!(learners.count() <= 1, "a second learner");
            }
            Action::LetStart { ordinal, uid } => {
                if self.record_pod(*ordinal, uid)
                    && let Some(pod) = self.pods.get_mut(ordinal)
                {
                    pod.gated = false;
                }
            }
            Action::Promote { id, .. } => {
                let member = self.members.get_mut(id).unwrap();
                member.learner = !member.caught_up;
            }
            Action::MovePeer { id, secure, .. } => self.members.get_mut(id).unwrap().secure = *secure,
            Action::ExpandClaim { .. } => {}
            Action::MoveLeader { to, .. } => self.leader = *to,
            Action::RemoveMember { id, .. } => {
                self.members.remove(id);
            }
            // What is deleted has the uid that was seen, or it stays.
            Action::DeleteStatefulSet { ordinal, uid } => {
                self.statefulsets.retain(|other, set| other != ordinal || set.uid != *uid);
            }
            Action::DeleteClaim { ordinal, uid } => {
                // The API server itself is asked for the pod.
                if self.stale.is_some() && self.pods.contains_key(ordinal) {
                    return;
                }
                assert!(!self.pods.contains_key(ordinal), "the pod uses the claim");
                self.claims.retain(|other, claim| other != ordinal || claim.uid != *uid);
            }
            Action::RestartPod { ordinal, uid } => {
                // One that was seen stopped must be as it was seen.
                let seen = self.stale.as_ref().and_then(|cached| cached.pods.get(ordinal));
                let runs_by_now = |pod: &RunningPod| pod.running && seen.is_some_and(|seen| !seen.running);
                if self.pods.get(ordinal).is_some_and(|pod| pod.uid == *uid && !runs_by_now(pod)) {
                    self.delete_pod(*ordinal);
                }
            }
            Action::FreeSpace { id, .. } => drop(self.full.remove(id)),
            Action::Disarm { member, kind: AlarmKind::Corrupt } => drop(self.corrupt.remove(member)),
            Action::Disarm { member, kind: AlarmKind::NoSpace } => drop(self.no_space.remove(member)),
        }
    }

    /// The pod goes on its way out; whether it is gone shows the next tick.
    fn delete_pod(&mut self, ordinal: u32) {
        if let Some(pod) = self.pods.get_mut(&ordinal) {
            pod.deleting = true;
        }
    }

    /// StatefulSets make claims and pods, pods start processes, processes read their directory.
    fn tick(&mut self) {
        self.now += 10;
        let statefulsets = self.statefulsets.clone();
        self.pods.retain(|_, pod| !pod.deleting || pod.stuck);
        for (ordinal, pod) in &mut self.pods {
            let is_wanted = |set: &Template| set.start != Start::Parked && set.uid == pod.template.uid;
            pod.deleting = pod.stuck || !statefulsets.get(ordinal).is_some_and(is_wanted);
        }
        let in_memory = self.in_memory();
        if in_memory {
            let pods = &self.pods;
            self.claims.retain(|ordinal, volume| pods.get(ordinal).is_some_and(|pod| pod.uid == volume.uid));
        }
        for (ordinal, template) in statefulsets {
            if !in_memory && !self.claims.contains_key(&ordinal) {
                let uid = format!("claim{}", self.fresh());
                self.claims.insert(ordinal, Volume { uid, data: None, broken: false });
            }
            if template.start == Start::Parked && !self.pods.contains_key(&ordinal) {
                continue;
            }
            let uid = format!("pod{}", self.fresh());
            let pod = self.pods.entry(ordinal).or_insert(RunningPod {
                uid,
                settled: template.start == Start::Settled,
                template,
                running: false,
                deleting: false,
                stuck: false,
                gated: in_memory,
            });
            let (start, held_back) = (pod.template.start.clone(), pod.template.bad || pod.gated);
            if in_memory {
                let uid = pod.uid.clone();
                self.claims.entry(ordinal).or_insert(Volume { uid, data: None, broken: false });
            }
            let runs = !held_back && self.start(ordinal, &start);
            if let Some(pod) = self.pods.get_mut(&ordinal) {
                pod.running = runs;
            }
        }
        self.all_reach_each_other();
        self.elect();
        for member in self.members.values_mut() {
            member.caught_up = member.started;
        }
    }

    /// Whether the process of member `ordinal` runs.
    fn start(&mut self, ordinal: u32, start: &Start) -> bool {
        if let Some(Volume { data: Some(data), broken, .. }) = self.claims.get(&ordinal) {
            let (data, broken) = (*data, *broken);
            if *start == Start::Alone && !broken && self.members.contains_key(&data) {
                assert!(self.pods.keys().all(|other| *other == ordinal), "others may still run");
                self.members.retain(|id, _| *id == data);
                self.members.values_mut().for_each(|member| member.learner = false);
            }
            return !broken && self.members.contains_key(&data);
        }
        let (pod, in_memory) = (&self.pods[&ordinal], self.in_memory());
        if in_memory && (pod.settled || pod.deleting) {
            return false;
        }
        let on_record = self.statefulsets[&ordinal].data_pod.as_ref() == Some(&pod.uid);
        assert!(!in_memory || on_record, "a pod that is not on record started: {self:#?}");
        let id = match start {
            Start::Settled | Start::Parked | Start::Alone => return false,
            Start::Seed | Start::Recover(_) => {
                assert!(!self.recorded(), "a cluster was founded although there is one");
                self.members.clear();
                let id = self.fresh();
                let secure = self.statefulsets[&ordinal].transport != Transport::Plain;
                let member = Listed { ordinal, learner: false, started: true, caught_up: true, secure };
                self.members.insert(id, member);
                id
            }
            Start::Join(_) => {
                let own = self.members.iter_mut().find(|(_, it)| it.ordinal == ordinal);
                let Some((id, member)) = own else {
                    return false;
                };
                assert!(member.learner, "a voter started without its data");
                // The others tell it.
                if in_memory && member.started {
                    return false;
                }
                member.started = true;
                *id
            }
        };
        if let Some(volume) = self.claims.get_mut(&ordinal) {
            volume.data = Some(id);
        }
        true
    }

    fn nth_pod(&self, n: usize) -> Option<u32> {
        self.pods.keys().nth(n % self.pods.len().max(1)).copied()
    }

    /// Nothing happens for long but what must; answers the last plan.
    fn rest(&mut self) -> Plan {
        let mut last = None;
        self.stale = None;
        for _ in 0..250 {
            self.tick();
            last = Some(self.pass(Crash::Never));
        }
        last.unwrap()
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Pass(crash) => {
                self.pass(*crash);
            }
            Event::Tick => self.tick(),
            Event::Kill(n) => {
                if let Some(ordinal) = self.nth_pod(*n) {
                    self.pods.get_mut(&ordinal).unwrap().running = false;
                }
            }
            Event::Evict(n) => {
                if let Some(ordinal) = self.nth_pod(*n) {
                    self.delete_pod(ordinal);
                }
            }
            Event::Reboot(n) => {
                let in_memory = self.in_memory();
                if let Some(ordinal) = self.nth_pod(*n) {
                    self.pods.get_mut(&ordinal).unwrap().running = false;
                    if let Some(volume) = self.claims.get_mut(&ordinal).filter(|_| in_memory) {
                        volume.data = None;
                    }
                }
            }
            Event::LoseVolume(n) => {
                if let Some(ordinal) = self.nth_pod(*n) {
                    self.pods.remove(&ordinal);
                    self.claims.remove(&ordinal);
                }
            }
            Event::Break(n) => {
                let nth = self.nth_pod(*n).filter(|_| self.recorded());
                if let Some(volume) = nth.and_then(|ordinal| self.claims.get_mut(&ordinal)) {
                    volume.broken = volume.data.is_some();
                }
            }
            Event::Corrupt(n) => {
                let nth = self.members.keys().nth(n % self.members.len().max(1));
                self.corrupt.extend(nth.filter(|_| self.recorded()));
            }
            Event::Fill(n) => {
                let nth = self.members.keys().nth(n % self.members.len().max(1)).filter(|_| self.recorded());
                if let Some(id) = nth {
                    self.no_space.insert(*id);
                    self.full.extend(self.members.keys());
                }
            }
            Event::LoseNode(n) => {
                if let Some(pod) = self.nth_pod(*n).and_then(|ordinal| self.pods.get_mut(&ordinal)) {
                    (pod.stuck, pod.deleting) = (true, true);
                }
            }
            Event::Recover(n) => {
                let recorded = self.cluster.status.clone().unwrap_or_default().members;
                if let Some(member) = recorded.get(n % recorded.len().max(1)) {
                    self.cluster.annotations_mut().insert(RECOVER_FROM.into(), member.name.clone());
                }
            }
            Event::Ask(annotation, n) => {
                let value = match *annotation {
                    DEFRAGMENT => format!("c-{n},c-{}", n + 1),
                    DISARM => ["NOSPACE", "CORRUPT"][n % 2].into(),
                    _ => format!("c-{n}"),
                };
                self.cluster.annotations_mut().insert((*annotation).into(), value);
            }
            Event::Watch(true) => self.stale = None,
            Event::Watch(false) => self.stale = Some(self.stale.take().unwrap_or_else(|| self.cached())),
            // The definition refuses that.
            Event::Resize(0) if self.in_memory() => {}
            Event::Resize(size) => self.cluster.spec.size = *size,
            Event::Configure(value) => {
                self.cluster.spec.options.insert(OPTION.into(), value.to_string());
            }
            Event::Interrupt(accepted) => self.cluster.spec.rollout.allow_interruption = *accepted,
            Event::Speak(transport) => {
                let tls = TlsSpec { plaintext: *transport == Transport::Both, ..Default::default() };
                self.cluster.spec.tls = (*transport != Transport::Plain).then_some(tls);
            }
            Event::PutBack => {
                let template = self.cluster.status.as_ref().and_then(|status| status.template.clone());
                self.cluster.spec.options = template.unwrap_or_default().options;
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let crash = prop_oneof![
        6 => Just(Crash::Never),
        1 => Just(Crash::BeforeStatus),
        1 => Just(Crash::BeforeChildren),
        1 => Just(Crash::AmidChildren),
        1 => Just(Crash::BeforeAction),
    ];
    prop_oneof![
        20 => crash.prop_map(Event::Pass),
        20 => Just(Event::Tick),
        3 => (0..9usize).prop_map(Event::Kill),
        2 => (0..9usize).prop_map(Event::Evict),
        1 => (0..9usize).prop_map(Event::Reboot),
        1 => (0..9usize).prop_map(Event::LoseVolume),
        1 => (0..9usize).prop_map(Event::Break),
        1 => (0..9usize).prop_map(Event::Corrupt),
        1 => (0..9usize).prop_map(Event::Fill),
        1 => (0..9usize).prop_map(Event::LoseNode),
        1 => (0..9usize).prop_map(Event::Recover),
        2 => (prop::sample::select(vec![MOVE_LEADER, DEFRAGMENT, DISARM]), 0..5usize).prop_map(|(what, n)| Event::Ask(what, n)),
        2 => (0..=7i32).prop_map(Event::Resize),
        2 => prop_oneof![0..3u8, Just(BAD)].prop_map(Event::Configure),
        1 => Just(Event::PutBack),
        2 => prop_oneof![Just(Transport::Plain), Just(Transport::Both), Just(Transport::Tls)].prop_map(Event::Speak),
        1 => any::<bool>().prop_map(Event::Interrupt),
    ]
}

/// The same, with watches that stop and go on.
fn event_or_watch() -> impl Strategy<Value = Event> {
    prop_oneof![30 => event(), 1 => Just(Event::Watch(false)), 1 => Just(Event::Watch(true))]
}

/// As many cases as a run of all tests can afford, or as `PROPTEST_CASES` says.
pub(super) fn cases(usual: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = usual;
    }
    config
}

proptest! {
    #![proptest_config(cases(256))]

    /// Whatever happens: no step costs the quorum, no second learner, no second founding, no voter without its data (all asserted
    /// inside). And once the faults end, a cluster that can come back is complete.
    #[test]
    fn a_cluster_survives_faults_and_edits(size in 1..=5i32, events in prop::collection::vec(event(), 0..120)) {
        survive(size, StorageMedium::Volume, &events)?;
    }

    /// The same while the API server's watches stop and go on.
    #[test]
    fn a_cluster_survives_old_views(size in 1..=5i32, events in prop::collection::vec(event_or_watch(), 0..120)) {
        survive(size, StorageMedium::Volume, &events)?;
    }

    /// The same with data in memory: no member starts again without them, and none is restarted by the operator.
    #[test]
    fn a_cluster_in_memory_survives_faults_and_edits(size in 1..=5i32, events in prop::collection::vec(event(), 0..120)) {
        survive(size, StorageMedium::Memory, &events)?;
    }

    /// And with old views.
    #[test]
    fn a_cluster_in_memory_survives_old_views(size in 1..=5i32, events in prop::collection::vec(event_or_watch(), 0..120)) {
        survive(size, StorageMedium::Memory, &events)?;
    }
}

/// What a person does about a rollout that was stopped as members were away for longer than its deadline.
fn end_stop(world: &mut World, last: Plan) -> Plan {
    if last.rollout.as_ref().is_none_or(|rollout| rollout.stage != RolloutStage::Stopped) {
        return last;
    }
    world.cluster.spec.rollout.progress_deadline = "999h".into();
    let mut last = world.rest();
    // A member that does not start as its volume is damaged looks like one that cannot with its template.
    for id in world.damaged() {
        world.cluster.annotations_mut().insert(REPLACE_MEMBER.into(), format!("{id:x}"));
        last = world.rest();
    }
    last
}

fn survive(size: i32, medium: StorageMedium, events: &[Event]) -> Result<(), TestCaseError> {
    let mut world = World::new(size, medium);
    for event in events {
        world.happen(event);
    }
    let mut last = world.rest();
    if world.cluster.spec.options.get(OPTION) == Some(&BAD.to_string()) {
        let past = last.phase != Phase::RollingOut || world.voters().len() < 3;
        prop_assert!(past, "a rollout without progress goes on: {last:#?}");
        world.happen(&Event::Configure(1));
        last = world.rest();
    }
    last = end_stop(&mut world, last);
    if world.cluster.spec.size == 0 {
        let is_stuck = world.pods.values().any(|pod| pod.stuck);
        prop_assert!(last.phase == Phase::Parked || is_stuck, "{last:#?}");
        prop_assert!(world.pods.values().all(|pod| pod.stuck), "pods are left over");
        world.happen(&Event::Resize(3));
        last = world.rest();
        last = end_stop(&mut world, last);
    }
    if !world.recorded() {
        // The first member lost its volume just before the cluster id was recorded, in a pod that must not found a
        // cluster any more: a person has to delete the pod.
        prop_assert_eq!(last.phase, Phase::Bootstrapping);
        world.happen(&Event::Evict(0));
        last = world.rest();
        if !world.recorded() {
            // It is on a node that is lost.
            prop_assert!(world.pods.values().any(|pod| pod.stuck), "{last:#?}\n{world:#?}");
            return Ok(());
        }
    }
    let asked_for = usize::try_from(world.cluster.spec.size).unwrap();
    let complete = world.voters().len() == asked_for
        && world.members.len() == asked_for
        && world.members.keys().all(|id| world.up(*id));
    // A recovery that a person asked for waits until that person is sure of a node that is lost.
    let waits_for_node = last.phase == Phase::Recovering && world.pods.values().any(|pod| pod.stuck);
    if world.recoverable() && !waits_for_node {
        let too_small =
            asked_for < 3 && last.phase == Phase::RollingOut && !world.cluster.spec.rollout.allow_interruption;
        prop_assert!(complete, "not complete: {last:#?}\n{world:#?}");
        prop_assert!(last.phase == Phase::Running || too_small, "{last:#?}");
        if last.phase == Phase::Running {
            let speaks = world.cluster.spec.transport();
            let odd = world.pods.values().find(|pod| !pod.stuck && pod.template.transport != speaks);
            prop_assert!(odd.is_none(), "{odd:#?} does not speak {speaks:?}: {world:#?}");
        }
        let ending = world.pods.values().filter(|pod| !pod.stuck);
        prop_assert_eq!(ending.count(), asked_for, "pods are left over");
    } else {
        prop_assert_eq!(&last.action, &None);
        let expected = matches!(last.phase, Phase::Unavailable | Phase::Degraded | Phase::Recovering);
        prop_assert!(expected, "{last:#?}\n{world:#?}");
    }
    Ok(())
}
