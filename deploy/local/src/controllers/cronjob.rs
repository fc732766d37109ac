//! CronJobs: Jobs by the clock.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::civil::Weekday;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use kube::ResourceExt;
use kube::core::ObjectMeta;

use super::{Plan, World, controlled_by, is_controlled_by};
use crate::objects::Action;

/// A start that was missed by more than this many times is not searched for further.
const MISSED_LIMIT: usize = 100;
/// No schedule has a gap of more than eight years (29 February around 2100).
const HORIZON_DAYS: i64 = 366 * 8;

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
        && let Some(schedule) = Schedule::parse(&spec.schedule)
        && let Some(zone) = zone(spec.time_zone.as_deref())
    {
        let since = old.last_schedule_time.clone().or(cron.creation_timestamp());
        let since = since.map_or(now, |time| time.0);
        let (due, next) = schedule.due(since, now, &zone);
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

fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZone::get(name).ok(),
    }
}

/// The five fields of a cron line, each as a set of allowed numbers.
#[derive(Debug, PartialEq)]
struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both day fields are restricted: then either may match, as in every cron.
    either_day: bool,
}

impl Schedule {
    fn parse(text: &str) -> Option<Self> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return None;
        };
        let sundays = field(weekdays, 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"])?;
        let month_names = ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        Some(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &month_names)?,
            weekdays: (sundays | (sundays >> 7)) & 0x7f,
            either_day: !days.starts_with(['*', '?']) && !weekdays.starts_with(['*', '?']),
        })
    }

    fn allows_day(&self, time: &Zoned) -> bool {
        let has = |set: u64, number: i8| set >> u32::try_from(number).unwrap_or(63) & 1 == 1;
        let weekday = match time.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset(),
        };
        let (day, weekday) = (has(self.days, time.day()), has(self.weekdays, weekday));
        has(self.months, time.month()) && if self.either_day { day || weekday } else { day && weekday }
    }

    /// The first time after `after`.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let has = |set: u64, number: i8| set >> u32::try_from(number).unwrap_or(63) & 1 == 1;
        let minute = Timestamp::from_second((after.as_second().div_euclid(60) + 1) * 60).ok()?;
        let mut time = minute.to_zoned(zone.clone());
        let end = after.saturating_add(SignedDuration::from_hours(24 * HORIZON_DAYS)).ok()?;
        while time.timestamp() <= end {
            if !self.allows_day(&time) {
                time = time.start_of_day().ok()?.checked_add(1.day()).ok()?;
            } else if !has(self.hours, time.hour()) {
                let past = i64::from(time.minute()) * 60;
                time = time.checked_add(SignedDuration::from_secs(3600 - past)).ok()?;
            } else if !has(self.minutes, time.minute()) {
                time = time.checked_add(SignedDuration::from_secs(60)).ok()?;
            } else {
                return Some(time.timestamp());
            }
        }
        None
    }

    /// The latest time in (since, now] and the first one after now.
    fn due(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> (Option<Timestamp>, Option<Timestamp>) {
        let mut due = None;
        let mut at = self.next(since, zone);
        for _ in 0..MISSED_LIMIT {
            match at {
                Some(time) if time <= now => {
                    due = Some(time);
                    at = self.next(time, zone);
                }
                _ => return (due, at),
            }
        }
        (due, self.next(now, zone))
    }
}

/// One field: lists of `*`, numbers, names and ranges, each with an optional step.
fn field(text: &str, lowest: u32, highest: u32, names: &[&str]) -> Option<u64> {
    let number = |word: &str| {
        let named = names.iter().position(|name| !name.is_empty() && name.eq_ignore_ascii_case(word));
        let value = named.and_then(|n| u32::try_from(n).ok()).or_else(|| word.parse().ok())?;
        (lowest..=highest).contains(&value).then_some(value)
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (lowest, highest),
            Some((first, last)) => (number(first)?, number(last)?),
            None if part.contains('/') => (number(range)?, highest),
            None => (number(range)?, number(range)?),
        };
        set |= (first..=last).step_by(step).fold(0, |set, value| set | 1 << value);
    }
    Some(set)
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
            let found = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(found.unwrap().to_string(), expected, "{schedule}");
        }
        for wrong in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "5-x * * * *"] {
            assert_eq!(Schedule::parse(wrong), None, "{wrong}");
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
            plan(&world, "2026-01-01T00:03:10Z".parse().unwrap(), &mut result);
            assert_eq!(summary(&result).join(", "), expected, "{spec}");
        }
    }
}
