//! A pod's status as a pure function of its containers, and the rules for what happens when one ends.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::network::GATEWAY;

/// The longest pause between restarts, as the kubelet's.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// The present, with the precision that the API keeps.
pub fn now() -> Time {
    let second = Timestamp::from_second(Timestamp::now().as_second());
    Time(second.unwrap_or_default())
}

/// Pauses between restarts: none, then the base, doubling; forgotten after a long good run.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts without a pause.
    pub fn new(base: Duration) -> Self {
        Self { base, next: Duration::ZERO }
    }

    /// The pause after a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran > LONGEST_BACKOFF * 2 {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(self.base, LONGEST_BACKOFF.max(self.base));
        pause
    }
}

/// Whether a container of this restart policy is done for good after such an exit.
pub fn is_final(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => true,
        "OnFailure" => exit_code == 0,
        _ => false,
    }
}

/// The pod's restart policy.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// A state in which the container is not running.
pub fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// Running since now.
pub fn running() -> ContainerState {
    let running = ContainerStateRunning { started_at: Some(now()) };
    ContainerState { running: Some(running), ..ContainerState::default() }
}

/// Ended now with this code; `reason` where there is a better one than the code's.
pub fn terminated(exit_code: i32, reason: Option<&str>, started_at: Option<Time>) -> ContainerState {
    let plain = if exit_code == 0 { "Completed" } else { "Error" };
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(reason.unwrap_or(plain).to_owned()),
        signal: (exit_code > 128 && exit_code < 160).then_some(exit_code - 128),
        started_at,
        finished_at: Some(now()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// A container that has never run.
pub fn never_ran(container: &Container, reason: &str) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, None)),
        started: Some(false),
        ..ContainerStatus::default()
    }
}

/// What the status is computed from.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Statuses of init and other containers by name.
    pub containers: BTreeMap<String, ContainerStatus>,
    /// The pod's address once it has a network.
    pub address: Option<Ipv4Addr>,
    /// When the node first saw the pod.
    pub start_time: Option<Time>,
    /// No container will be started any more: the pod is over.
    pub finished: bool,
}

/// The whole status, keeping conditions that others own.
pub fn pod_status(pod: &Pod, observed: &Observed) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let old = pod.status.clone().unwrap_or_default();
    let statuses = |containers: &[Container]| -> Vec<ContainerStatus> {
        containers.iter().filter_map(|c| observed.containers.get(&c.name).cloned()).collect()
    };
    let init = statuses(spec.init_containers.as_deref().unwrap_or_default());
    let main = statuses(&spec.containers);
    let initialized = init.iter().all(|status| exit(status) == Some(0));
    let ready = main.len() == spec.containers.len() && main.iter().all(|status| status.ready);
    let phase = phase(&init, &main, observed.finished);
    let over = observed.finished;
    let gates = spec.readiness_gates.iter().flatten().all(|gate| {
        let conditions = old.conditions.iter().flatten();
        conditions.clone().any(|c| c.type_ == gate.condition_type && c.status == "True")
    });
    let unready = if over { "PodCompleted" } else { "ContainersNotReady" };
    let uninitialized = (!initialized).then_some("ContainersNotInitialized");
    let conditions = [
        ("PodScheduled", true, None),
        ("Initialized", initialized, uninitialized),
        ("ContainersReady", ready, Some(unready)),
        ("Ready", ready && gates, Some(if ready { "ReadinessGatesNotReady" } else { unready })),
    ];
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(merge_conditions(old.conditions.as_deref().unwrap_or_default(), &conditions)),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: Some(GATEWAY.to_string()),
        host_ips: Some(vec![HostIP { ip: GATEWAY.to_string() }]),
        pod_ip: observed.address.map(|address| address.to_string()),
        pod_ips: observed.address.map(|address| vec![PodIP { ip: address.to_string() }]),
        start_time: observed.start_time.clone(),
        ..old
    }
}

fn exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn phase(init: &[ContainerStatus], main: &[ContainerStatus], finished: bool) -> &'static str {
    let failed = |status: &ContainerStatus| exit(status).is_some_and(|code| code != 0);
    let begun = |s: &ContainerStatus| {
        s.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    if finished {
        return if init.iter().chain(main).any(failed) { "Failed" } else { "Succeeded" };
    }
    if init.iter().all(|status| exit(status) == Some(0)) && main.iter().any(begun) {
        return "Running";
    }
    "Pending"
}

/// Sets the given conditions (type, truth, reason when false); the time changes only with the status.
fn merge_conditions(old: &[PodCondition], new: &[(&str, bool, Option<&str>)]) -> Vec<PodCondition> {
    let mut merged: Vec<PodCondition> =
        old.iter().filter(|c| !new.iter().any(|(type_, ..)| *type_ == c.type_)).cloned().collect();
    for (type_, truth, reason) in new {
        let status = if *truth { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == *type_ && c.status == status);
        merged.push(PodCondition {
            type_: (*type_).to_owned(),
            status: status.to_owned(),
            reason: reason.filter(|_| !truth).map(str::to_owned),
            last_transition_time: before.map_or_else(|| Some(now()), |c| c.last_transition_time.clone()),
            ..PodCondition::default()
        });
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn restarts_wait_longer_each_time() {
        let second = Duration::from_secs;
        let mut backoff = Backoff::new(second(10));
        let pauses: Vec<_> = (0..8).map(|_| backoff.after(second(1)).as_secs()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(second(700)), second(0), "a long run is forgiven");
    }

    fn observed(containers: serde_json::Value, finished: bool) -> Observed {
        let all: Vec<ContainerStatus> = serde_json::from_value(containers).unwrap();
        Observed {
            containers: all.into_iter().map(|status| (status.name.clone(), status)).collect(),
            finished,
            ..Observed::default()
        }
    }

    #[test]
    fn phases_follow_the_containers() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}}))
        .unwrap();
        let status = |name: &str, state: serde_json::Value, ready: bool| json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state});
        let done = |code: i32| json!({"terminated": {"exitCode": code}});
        let run = json!({"running": {}});
        for (init, main, finished, expected) in [
            (run.clone(), json!({"waiting": {}}), false, "Pending False False"),
            (done(0), json!({"waiting": {}}), false, "Pending True False"),
            (done(0), run.clone(), false, "Running True True"),
            (done(0), done(0), true, "Succeeded True False"),
            (done(0), done(1), true, "Failed True False"),
            (done(1), json!({"waiting": {}}), true, "Failed False False"),
            (done(0), done(1), false, "Running True False"),
        ] {
            let ready = main.get("running").is_some();
            let containers = json!([status("i", init, true), status("a", main, ready)]);
            let result = pod_status(&pod, &observed(containers, finished));
            let condition = |name: &str| {
                let found = result.conditions.iter().flatten().find(|c| c.type_ == name);
                found.map(|c| c.status.clone()).unwrap_or_default()
            };
            let phase = result.phase.clone().unwrap_or_default();
            let seen = format!("{phase} {} {}", condition("Initialized"), condition("Ready"));
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn conditions_of_others_and_old_times_stay() {
        let old: Vec<PodCondition> = serde_json::from_value(json!([
            {"type": "DisruptionTarget", "status": "True"},
            {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}]))
        .unwrap();
        let merged = merge_conditions(&old, &[("Ready", false, Some("ContainersNotReady"))]);
        assert_eq!(merged[0], old[0]);
        assert_eq!(merged[1].last_transition_time, old[1].last_transition_time);
        assert_ne!(
            merge_conditions(&old, &[("Ready", true, None)])[1].last_transition_time,
            old[1].last_transition_time
        );
    }
}
