//! Jobs: pods until enough of them have succeeded, or too many failed.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::{Plan, World, controlled_by, is_controlled_by, pods};
use crate::objects::Action;

/// The pause after the first failed pod, doubled with each further one up to the limit, in seconds.
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_LIMIT_SECONDS: i64 = 360;

/// Keeps a pod that has ended, although it is deleted, as long as its job counts it.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// Decides for all jobs.
pub fn plan(world: &World, now: Timestamp, plan: &mut Plan) {
    for pod in &world.pods {
        release(world, pod, plan);
    }
    for job in world.jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
        let uid = job.uid();
        let mine: Vec<&Pod> =
            world.pods.iter().map(AsRef::as_ref).filter(|pod| is_controlled_by(*pod, uid.as_deref())).collect();
        match finished_at(job) {
            Some(finished) => remove_after_ttl(job, finished, now, plan),
            None => run(job, &mine, now, plan),
        }
    }
}

/// Lets a pod go that its job need not count any more, or that was deleted before it came to an end.
fn release(world: &World, pod: &Pod, plan: &mut Plan) {
    if !pod.finalizers().iter().any(|finalizer| finalizer == TRACKING) {
        return;
    }
    let counting = world.jobs.iter().any(|job| {
        let running = job.metadata.deletion_timestamp.is_none() && finished_at(job).is_none();
        running && is_controlled_by(pod, job.uid().as_deref())
    });
    if !counting || (pods::is_terminating(pod) && !pods::is_over(pod)) {
        let rest: Vec<_> = pod.finalizers().iter().filter(|finalizer| *finalizer != TRACKING).collect();
        plan.add(Action::patch(pod, json!({ "metadata": { "finalizers": rest } })));
    }
}

fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let done = |c: &&JobCondition| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True";
    conditions.iter().find(done)?.last_transition_time.as_ref().map(|time| time.0)
}

fn remove_after_ttl(job: &Job, finished: Timestamp, now: Timestamp, plan: &mut Plan) {
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    if let Some(ttl) = ttl {
        let expires = finished.saturating_add(SignedDuration::from_secs(ttl.into())).unwrap_or(now);
        if expires <= now {
            plan.add(Action::delete(job));
        } else {
            plan.wake_at(expires);
        }
    }
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn run(job: &Job, mine: &[&Pod], now: Timestamp, plan: &mut Plan) {
    let spec = job.spec.clone().unwrap_or_default();
    let old = job.status.clone().unwrap_or_default();
    let in_phase = |phase: &str| count(mine.iter().filter(|pod| pods::phase(pod) == phase).count());
    let (succeeded, failed) = (in_phase("Succeeded"), in_phase("Failed"));
    let active: Vec<_> = mine.iter().filter(|pod| pods::is_active(pod)).collect();
    let suspended = spec.suspend == Some(true);
    let started = old.start_time.clone().filter(|_| !suspended);
    let started = started.or_else(|| (!suspended).then(|| Time(second(now))));
    let verdict = verdict(&spec, succeeded, failed, restarts(mine), started.as_ref(), now, plan);
    let mut active_after = count(active.len());
    if verdict.is_some() || suspended {
        active.iter().for_each(|pod| plan.add(Action::delete(**pod)));
        active_after = 0;
    } else {
        active_after += start(job, &spec, mine, succeeded, active_after, failed, now, plan);
    }
    let mut status = JobStatus {
        active: Some(active_after).filter(|active| *active > 0),
        ready: Some(count(active.iter().filter(|pod| pods::is_ready(pod)).count()).min(active_after)),
        succeeded: Some(succeeded).filter(|count| *count > 0),
        failed: Some(failed).filter(|count| *count > 0),
        terminating: Some(count(mine.iter().filter(|pod| pods::is_terminating(pod)).count())),
        start_time: started,
        conditions: old.conditions.clone(),
        ..JobStatus::default()
    };
    if let Some((types, reason)) = verdict {
        let conditions = status.conditions.get_or_insert_default();
        conditions.extend(types.iter().map(|type_| JobCondition {
            type_: (*type_).to_owned(),
            status: "True".into(),
            reason: Some(reason.to_owned()),
            last_transition_time: Some(Time(second(now))),
            last_probe_time: Some(Time(second(now))),
            message: None,
        }));
        if types.contains(&"Complete") {
            status.completion_time = Some(Time(second(now)));
        }
    }
    plan.actions.extend(Action::status(job, job.status.as_ref(), &status));
}

fn second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or_default()
}

/// Restarts of containers in pods that are restarted in place: they count against the limit like failed pods.
fn restarts(mine: &[&Pod]) -> i32 {
    let on_failure = mine.iter().filter(|pod| {
        pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure") && pods::is_active(pod)
    });
    let statuses = on_failure.filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
    statuses.flatten().map(|status| status.restart_count).sum()
}

type Verdict = (&'static [&'static str], &'static str);

/// Whether the job is over: the conditions that are then true, and why.
fn verdict(
    spec: &JobSpec,
    succeeded: i32,
    failed: i32,
    restarts: i32,
    started: Option<&Time>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Verdict> {
    if failed + restarts > spec.backoff_limit.unwrap_or(6) {
        return Some((&["FailureTarget", "Failed"], "BackoffLimitExceeded"));
    }
    if let (Some(seconds), Some(Time(started))) = (spec.active_deadline_seconds, started) {
        let deadline = started.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        if deadline <= now {
            return Some((&["FailureTarget", "Failed"], "DeadlineExceeded"));
        }
        plan.wake_at(deadline);
    }
    // Without a number of completions, one success is enough.
    let complete = succeeded >= spec.completions.unwrap_or(1);
    complete.then_some((&["SuccessCriteriaMet", "Complete"], "CompletionsReached"))
}

/// Starts pods up to the parallelism, after a pause if some failed. How many.
#[allow(clippy::too_many_arguments)]
fn start(
    job: &Job,
    spec: &JobSpec,
    mine: &[&Pod],
    succeeded: i32,
    active: i32,
    failed: i32,
    now: Timestamp,
    plan: &mut Plan,
) -> i32 {
    let remaining = spec.completions.map_or(i32::MAX, |completions| completions - succeeded);
    let missing = spec.parallelism.unwrap_or(1).min(remaining) - active;
    if missing <= 0 {
        return 0;
    }
    if let Some(ready) = retry_at(mine, failed)
        && ready > now
    {
        plan.wake_at(ready);
        return 0;
    }
    for _ in 0..missing {
        let labels = [("job-name", job.name_any()), ("batch.kubernetes.io/job-name", job.name_any())];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut pod = pods::from_template(&spec.template, job.namespace(), controlled_by(job), labels);
        pod.metadata.generate_name = Some(format!("{}-", job.name_any()));
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.into());
        plan.add(Action::create(&pod));
    }
    missing
}

/// When the next pod may start after failures.
fn retry_at(mine: &[&Pod], failed: i32) -> Option<Timestamp> {
    let ends = mine.iter().filter(|pod| pods::phase(pod) == "Failed").filter_map(|pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let ended = statuses.iter().filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.clone());
        ended.map(|time| time.0).max()
    });
    let doublings = u32::try_from(failed - 1).unwrap_or(0).min(10);
    let pause = (BACKOFF_SECONDS << doublings).min(BACKOFF_LIMIT_SECONDS);
    ends.max()?.saturating_add(SignedDuration::from_secs(pause)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, summary};
    use super::*;
    use crate::objects::json_of;

    fn acts(spec: serde_json::Value, phases: &[&str], now: i64) -> String {
        let pod = |(number, phase): (usize, &&str)| {
            object::<Pod>(json!({"metadata": {"name": format!("p{number}"), "namespace": "ns", "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]},
                "spec": {"containers": []},
                "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:00:00Z"}}}]}}))
        };
        let mut full = json!({"template": {"spec": {"containers": []}}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let world = World {
            jobs: vec![object(json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": full}))],
            pods: phases.iter().enumerate().map(pod).collect(),
            ..World::default()
        };
        let mut result = Plan::default();
        plan(&world, Timestamp::from_second(now).unwrap(), &mut result);
        let status = result.actions.iter().find_map(|action| match action {
            Action::Status(_, status) => status["conditions"][1]["type"].as_str().map(str::to_owned),
            _ => None,
        });
        let lines = summary(&result).into_iter().filter(|line| !line.starts_with("status"));
        lines.chain(status).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn jobs_run_to_their_number_of_completions() {
        for (spec, phases, now, expected) in [
            (json!({}), &[][..], 0, "create Pod j-"),
            (json!({}), &["Running"], 0, ""),
            (json!({}), &["Succeeded"], 0, "Complete"),
            (json!({"completions": 3, "parallelism": 2}), &["Succeeded"], 0, "create Pod j-, create Pod j-"),
            (json!({"completions": 2, "parallelism": 2}), &["Succeeded", "Running"], 0, ""),
            (json!({}), &["Failed"], 5, ""),
            (json!({}), &["Failed"], 10, "create Pod j-"),
            (json!({}), &["Failed", "Failed"], 19, ""),
            (json!({"backoffLimit": 1}), &["Failed", "Failed"], 20, "Failed"),
            (json!({"backoffLimit": 0}), &["Failed", "Running"], 20, "delete Pod p1, Failed"),
            (json!({"suspend": true}), &["Running"], 0, "delete Pod p0"),
        ] {
            assert_eq!(acts(spec.clone(), phases, now), expected, "{spec} {phases:?}");
        }
    }

    #[test]
    fn pods_that_ended_are_kept_while_they_are_counted() {
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]);
        for (phase, deleted, done, expected) in [
            ("Succeeded", true, false, "status Job j"),
            ("Succeeded", true, true, "patch Pod p"),
            ("Succeeded", false, true, "patch Pod p"),
            ("Running", false, false, "status Job j"),
            ("Running", true, false, "patch Pod p, create Pod j-, status Job j"),
        ] {
            let mut pod = json!({"metadata": {"name": "p", "finalizers": [TRACKING], "ownerReferences": owner},
                "status": {"phase": phase}});
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
            }
            let mut job = json!({"metadata": {"name": "j", "uid": "j"}, "spec": {"completions": 1, "template": {}}});
            if done {
                job["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
                job["status"]["conditions"][0]["lastTransitionTime"] = json!("1970-01-01T00:00:00Z");
            }
            let world = World { jobs: vec![object(job)], pods: vec![object(pod)], ..World::default() };
            let mut result = Plan::default();
            plan(&world, Timestamp::UNIX_EPOCH, &mut result);
            assert_eq!(summary(&result).join(", "), expected, "{phase} {deleted} {done}");
        }
    }

    #[test]
    fn finished_jobs_go_after_their_time() {
        let done = json!([{"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "j"},
            "spec": {"ttlSecondsAfterFinished": 60, "template": {}}, "status": {"conditions": done}}))
        .unwrap();
        let world = World { jobs: vec![object(json_of(&job))], ..World::default() };
        let mut early = Plan::default();
        plan(&world, Timestamp::from_second(59).unwrap(), &mut early);
        assert_eq!((summary(&early), early.wake), (vec![], Timestamp::from_second(60).ok()));
        let mut late = Plan::default();
        plan(&world, Timestamp::from_second(60).unwrap(), &mut late);
        assert_eq!(summary(&late), ["delete Job j"]);
    }
}
