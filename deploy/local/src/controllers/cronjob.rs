//! CronJobs: Jobs by the clock.

use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use kube::ResourceExt;
use kube::core::ObjectMeta;

use super::{Plan, World, controlled_by, is_controlled_by};
use crate::objects::Action;

/// Decides for all CronJobs.
pub fn plan(world: &World, now: Timestamp, plan: &mut Plan) {
    for cron in world.cron_jobs.iter().filter(|cron| cron.metadata.deletion_timestamp.is_none()) {
        let uid = cron.uid();
        let mut mine: Vec<_> = world.jobs.iter().filter(|job| is_controlled_by(job.as_ref(), uid.as_deref())).collect();
        mine.sort_by_key(|job| job.creation_timestamp().map(|time| time.0));
        plan_one(cron, &mine, now, plan);
    }
}

fn plan_one(cron: &CronJob, mine: &[&Arc<Job>], now: Timestamp, plan: &mut Plan) {
    let spec = &cron.spec;
    let (running, over): (Vec<&Job>, Vec<&Job>) =
        mine.iter().map(|job| job.as_ref()).partition(|job| end(job).is_none());
    forget_old(spec, &over, plan);
    let old = cron.status.clone().unwrap_or_default();
    let mut status = CronJobStatus {
        active: Some(running.iter().map(|job| reference(job)).collect::<Vec<_>>()).filter(|all| !all.is_empty()),
        last_schedule_time: old.last_schedule_time.clone(),
        last_successful_time: over
            .iter()
            .filter(|job| end(job) == Some("Complete"))
            .filter_map(|job| job.status.as_ref()?.completion_time.clone())
            .max()
            .or(old.last_successful_time.clone()),
    };
    if spec.suspend != Some(true)
        && let Ok(schedule) = parser().parse(&spec.schedule)
        && let Some(zone) = zone(spec.time_zone.as_deref())
    {
        let since = old.last_schedule_time.clone().or(cron.creation_timestamp());
        let since = since.map_or(now, |time| time.0);
        let (due, next) = due(&schedule, since, now, &zone);
        if let Some(next) = next {
            plan.wake_at(next);
        }
        if let Some(due) = due {
            start(cron, spec, &running, due, now, &mut status, plan);
        }
    }
    plan.actions.extend(Action::status(cron, cron.status.as_ref(), &status));
}

/// Creates the Job of the time `due`, as far as concurrency and deadline allow.
fn start(
    cron: &CronJob,
    spec: &CronJobSpec,
    running: &[&Job],
    due: Timestamp,
    now: Timestamp,
    status: &mut CronJobStatus,
    plan: &mut Plan,
) {
    let late = now.duration_since(due).as_secs();
    let too_late = spec.starting_deadline_seconds.is_some_and(|deadline| late > deadline);
    let policy = spec.concurrency_policy.as_deref();
    if policy == Some("Forbid") && !running.is_empty() {
        return;
    }
    status.last_schedule_time = Some(Time(due));
    if too_late {
        return;
    }
    if policy == Some("Replace") {
        running.iter().for_each(|job| plan.add(Action::delete(*job)));
    }
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    plan.add(Action::create(&Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.name_any(), due.as_second() / 60)),
            namespace: cron.namespace(),
            labels: template.labels,
            annotations: template.annotations,
            owner_references: controlled_by(cron),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }));
}

/// How a job ended, if it did.
fn end(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"));
    ended.map(|condition| condition.type_.as_str())
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        namespace: job.namespace(),
        name: Some(job.name_any()),
        uid: job.uid(),
        ..ObjectReference::default()
    }
}

fn forget_old(spec: &CronJobSpec, over: &[&Job], plan: &mut Plan) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (kind, limit) in limits {
        let ended: Vec<_> = over.iter().filter(|job| end(job) == Some(kind)).collect();
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        ended.iter().take(surplus).for_each(|job| plan.add(Action::delete(**job)));
    }
}

/// Lines of five fields, as Kubernetes takes them.
fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build()
}

fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZone::get(name).ok(),
    }
}

/// The latest time of the schedule in (since, now], and the first one after now.
fn due(schedule: &Cron, since: Timestamp, now: Timestamp, zone: &TimeZone) -> (Option<Timestamp>, Option<Timestamp>) {
    let now = now.to_zoned(zone.clone());
    let last = schedule.find_previous_occurrence(&now, true).ok().map(|time| time.timestamp());
    let next = schedule.find_next_occurrence(&now, false).ok().map(|time| time.timestamp());
    (last.filter(|last| *last > since), next)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, summary};
    use super::*;
    use serde_json::json;

    #[test]
    fn schedules_find_the_next_time() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("30 4 * * *", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 12 * * mon-fri", "2026-01-02T13:00:00Z", "2026-01-05T12:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z"),
            ("5,10 22-23/1 31 dec *", "2026-01-01T00:00:00Z", "2026-12-31T22:05:00Z"),
        ] {
            let after = after.parse::<Timestamp>().unwrap();
            let found = due(&parser().parse(schedule).unwrap(), after, after, &TimeZone::UTC).1;
            assert_eq!(found.unwrap().to_string(), expected, "{schedule}");
        }
        for wrong in ["", "* * * *", "0 * * * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *"] {
            assert!(parser().parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_due_job_is_started_once_as_the_policy_says() {
        let running = object::<Job>(json!({"metadata": {"name": "c-1", "namespace": "ns", "uid": "j",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c", "controller": true}]},
            "spec": {"template": {}}}));
        for (spec, jobs, last, expected) in [
            (json!({}), vec![], "2026-01-01T00:00:00Z", "create Job c-29453763, status CronJob c"),
            (json!({}), vec![], "2026-01-01T00:03:00Z", ""),
            (json!({"concurrencyPolicy": "Forbid"}), vec![running.clone()], "2026-01-01T00:00:00Z", "status CronJob c"),
            (
                json!({"concurrencyPolicy": "Replace"}),
                vec![running],
                "2026-01-01T00:00:00Z",
                "delete Job c-1, create Job c-29453763, status CronJob c",
            ),
            (json!({"suspend": true}), vec![], "2026-01-01T00:00:00Z", ""),
        ] {
            let mut full = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {}}}});
            full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let world = World {
                jobs,
                cron_jobs: vec![object(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c"}, "spec": full,
                    "status": {"lastScheduleTime": last}}))],
                ..World::default()
            };
            let mut result = Plan::default();
            plan(&world, "2026-01-01T00:03:00.5Z".parse().unwrap(), &mut result);
            assert_eq!(summary(&result).join(", "), expected, "{spec}");
        }
    }
}
