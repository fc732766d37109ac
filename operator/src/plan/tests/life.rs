//! A cluster over many passes.

use super::*;
use crate::status::render;

/// The steps of a rollout over three members.
pub const ALL: [&str; 5] =
    ["restart member 1", "restart member 2", "move leadership from 100 to 101", "restart member 0", "Running"];

/// What passes over a cluster do, one after the other, with pods that come back at once.
pub struct Life(pub Scene);

impl Life {
    /// Of three members which all run what the spec asks for.
    pub fn settled(line: &str) -> Self {
        Self(Scene::new(3, line).with(|scene| {
            let template = MemberTemplate::of(&scene.cluster.spec);
            scene.status().template = Some(template);
        }))
    }

    pub fn option(&mut self, value: &str) {
        self.0.cluster.spec.options.insert("snapshot-count".into(), value.into());
    }

    pub fn version(&mut self, version: &str) {
        self.0.cluster.spec.version = Some(version.into());
    }

    /// One pass; answers its step.
    pub fn pass(&mut self) -> String {
        let (plan, step) = (self.0.plan(), self.0.step());
        let now = Timestamp::from_second(self.0.observed.now).unwrap();
        self.0.cluster.status = Some(render(&self.0.cluster, &self.0.observed, &plan, None, now));
        self.0.observed.now += 1;
        let leader = self.0.observed.store.leader().unwrap_or_default();
        let Store::Listed { members, .. } = &mut self.0.observed.store else { return step };
        match &plan.action {
            Some(Action::RestartPod { ordinal, .. }) => {
                let template = &plan.templates[ordinal];
                let pod = self.0.observed.pods.get_mut(ordinal).unwrap();
                pod.config_hash = Some(build::config_hash(&build::with_template(&self.0.cluster, template)));
                pod.image = Some(template.image.clone());
                pod.transport = Some(template.transport);
                (pod.running, pod.ready, pod.uid) = (true, true, format!("{}+", pod.uid));
                members[*ordinal as usize].answer = Some(Answer { leader, raft_index: 5000, ..Default::default() });
            }
            Some(Action::MovePeer { ordinal, secure, .. }) => members[*ordinal as usize].secure = *secure,
            Some(Action::MoveLeader { to, .. }) => {
                for answer in members.iter_mut().filter_map(|member| member.answer.as_mut()) {
                    answer.leader = *to;
                }
            }
            _ => {}
        }
        step
    }

    /// Passes until nothing is to be done, or a person is waited for.
    pub fn steps(&mut self) -> Vec<String> {
        let steps: Vec<String> = std::iter::repeat_with(|| self.pass()).take(20).collect();
        let last = steps.iter().position(|step| step == steps.last().unwrap()).unwrap();
        steps[..=last].to_vec()
    }

    /// The member's process dies each time that it starts.
    pub fn crash(&mut self, ordinal: u32) {
        let pod = self.0.observed.pods.get_mut(&ordinal).unwrap();
        (pod.running, pod.ready, pod.trouble) = (false, false, Some("CrashLoopBackOff".into()));
        let Store::Listed { members, .. } = &mut self.0.observed.store else { panic!() };
        members[ordinal as usize].answer = None;
    }

    /// The option that each member's pod has after a pod was made anew.
    pub fn options(&self) -> Vec<Option<String>> {
        let plan = self.0.plan();
        plan.templates.values().map(|template| template.options.get("snapshot-count").cloned()).collect()
    }

    pub fn stage(&self) -> Option<RolloutStage> {
        self.0.cluster.status.as_ref()?.rollout.as_ref().map(|rollout| rollout.stage)
    }

    /// A rollout of option 2 with which member 1 does not start, after the deadline.
    pub fn failed() -> Self {
        let mut life = Self::settled("0L 1 2");
        life.option("2");
        assert_eq!(life.pass(), "restart member 1");
        life.crash(1);
        assert_eq!(life.pass(), "wait: c-1 (CrashLoopBackOff) to be healthy");
        life.0.observed.now += 600;
        life
    }
}
