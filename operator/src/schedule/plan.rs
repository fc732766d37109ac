//! PURE: which backup is due, and which ones are not kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::clock::Clock;
use crate::crd::{
    BackupPhase, ConcurrencyPolicy, EtcdBackup, EtcdBackupSchedule, EtcdBackupScheduleStatus, MAX_SCHEDULE_NAME_LENGTH,
    seconds,
};
use crate::status::dated;

/// How long after its time a backup may succeed before it is missed; the chart's alert gives it as much.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// What is done, and then reported.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Backups to delete, by name and uid.
    pub delete: Vec<(String, String)>,
    /// The name of the backup to make. By its name it is made once only, however often it is planned.
    pub create: Option<String>,
    /// Stored after that.
    pub status: EtcdBackupScheduleStatus,
    /// The first time after the newest success: by then, or soon after, there should be another one. None while suspended.
    pub due: Option<Timestamp>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

/// Plans one pass. `backups` are those of this schedule.
pub fn plan(schedule: &EtcdBackupSchedule, backups: &[EtcdBackup], now: Timestamp) -> Plan {
    let spec = &schedule.spec;
    let mut mine: Vec<&EtcdBackup> =
        backups.iter().filter(|backup| backup.metadata.deletion_timestamp.is_none()).collect();
    // The newest first.
    mine.sort_by_key(|backup| std::cmp::Reverse((backup.creation_timestamp().map(|time| time.0), backup.name_any())));
    let active: Vec<&EtcdBackup> = mine.iter().filter(|backup| !is_over(backup)).copied().collect();
    let mut plan = Plan { status: schedule.status.clone().unwrap_or_default(), ..Plan::default() };
    forget(schedule, &mine, now, &mut plan);
    let problem = match Clock::new(&spec.schedule, &spec.time_zone) {
        Err(problem) => Some(problem),
        Ok(_) if schedule.name_any().len() > MAX_SCHEDULE_NAME_LENGTH => {
            Some(format!("metadata.name: it has more than {MAX_SCHEDULE_NAME_LENGTH} characters"))
        }
        Ok(clock) => {
            begin(schedule, &clock, &active, now, &mut plan);
            plan.due = due(schedule, &clock, &mine);
            let missed = plan.due.and_then(missed);
            plan.wake = earlier(plan.wake, missed.filter(|missed| *missed > now));
            None
        }
    };
    report(schedule, &mine, &active, problem, now, &mut plan);
    plan
}

fn is_over(backup: &EtcdBackup) -> bool {
    matches!(backup.phase(), BackupPhase::Succeeded | BackupPhase::Failed)
}

/// Makes the backup that is due.
fn begin(schedule: &EtcdBackupSchedule, clock: &Clock, active: &[&EtcdBackup], now: Timestamp, plan: &mut Plan) {
    let spec = &schedule.spec;
    plan.status.next_time = None;
    if spec.suspend {
        return;
    }
    let next = clock.next(now);
    plan.status.next_time = next.map(Time);
    plan.wake = earlier(plan.wake, next);
    let since = plan.status.last_time.clone().or(schedule.creation_timestamp());
    let Some(due) = clock.last(since.map_or(now, |time| time.0), now) else {
        return;
    };
    let late = now.duration_since(due).as_secs();
    if spec.starting_deadline_seconds.is_some_and(|deadline| late > deadline) {
        plan.status.last_time = Some(Time(due));
        return;
    }
    match spec.concurrency_policy {
        // Its end is seen, and then this one is made up for.
        ConcurrencyPolicy::Forbid if !active.is_empty() => return,
        ConcurrencyPolicy::Replace => plan.delete.extend(active.iter().map(|backup| identity(backup))),
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => {}
    }
    plan.create = Some(format!("{}-{}", schedule.name_any(), due.strftime("%Y%m%d%H%M")));
    plan.status.last_time = Some(Time(due));
}

fn due(schedule: &EtcdBackupSchedule, clock: &Clock, mine: &[&EtcdBackup]) -> Option<Timestamp> {
    let since = newest(mine).and_then(completed).or(schedule.creation_timestamp().map(|time| time.0))?;
    clock.next(since).filter(|_| !schedule.spec.suspend)
}

/// From when on a backup that is due then is missed.
fn missed(due: Timestamp) -> Option<Timestamp> {
    due.checked_add(GRACE).ok()
}

fn newest<'a>(mine: &[&'a EtcdBackup]) -> Option<&'a EtcdBackup> {
    mine.iter().find(|backup| backup.phase() == BackupPhase::Succeeded).copied()
}

/// Deletes what is not kept. The newest backup that succeeded is, whatever its age.
fn forget(schedule: &EtcdBackupSchedule, mine: &[&EtcdBackup], now: Timestamp, plan: &mut Plan) {
    let retention = &schedule.spec.retention;
    let of = |phase| mine.iter().filter(move |backup| backup.phase() == phase);
    let limit = retention.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or_default().max(1));
    let age = retention.age.as_deref().and_then(seconds).map(SignedDuration::from_secs);
    for (place, backup) in of(BackupPhase::Succeeded).enumerate().skip(1) {
        let expires = age.and_then(|age| completed(backup)?.checked_add(age).ok());
        match expires {
            _ if place >= limit => plan.delete.push(identity(backup)),
            Some(expires) if expires <= now => plan.delete.push(identity(backup)),
            expires => plan.wake = earlier(plan.wake, expires),
        }
    }
    let failed = usize::try_from(retention.failed).unwrap_or_default();
    plan.delete.extend(of(BackupPhase::Failed).skip(failed).map(|backup| identity(backup)));
}

fn report(
    schedule: &EtcdBackupSchedule,
    mine: &[&EtcdBackup],
    active: &[&EtcdBackup],
    problem: Option<String>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let newest = newest(mine);
    let ended = mine.iter().find(|backup| is_over(backup));
    let failed = ended.filter(|backup| backup.phase() == BackupPhase::Failed);
    let status = &mut plan.status;
    status.observed_generation = schedule.metadata.generation;
    if let Some(newest) = newest {
        status.last_successful_backup = Some(newest.name_any());
        status.last_successful_time = completed(newest).map(Time);
    }
    status.active = active.iter().map(|backup| backup.name_any()).collect();
    let word = match (&problem, failed) {
        (Some(_), _) => "Invalid",
        (None, Some(_)) => "BackupFailed",
        (None, None) if schedule.spec.suspend => "Suspended",
        (None, None) => "Scheduled",
    };
    status.reason = match (&problem, failed, newest) {
        (Some(problem), ..) => problem.clone(),
        (_, Some(failed), _) => format!("the last backup, {}, has failed", failed.name_any()),
        (.., Some(newest)) => format!("the last backup, {}, has succeeded", newest.name_any()),
        (_, _, None) => "there was no backup yet".into(),
    };
    let overdue = plan.due.filter(|due| missed(*due).is_some_and(|missed| missed <= now));
    let age = match (&problem, overdue, &status.last_successful_time) {
        (Some(problem), ..) => problem.clone(),
        (_, Some(due), _) => format!("no backup has succeeded since {due}, when one was due"),
        (.., Some(time)) => format!("the newest backup that succeeded was complete at {}", time.0),
        (.., None) => "no backup is missed yet".into(),
    };
    let list = [
        ("Ready", problem.is_none() && failed.is_none(), status.reason.as_str()),
        ("UpToDate", problem.is_none() && overdue.is_none(), age.as_str()),
        ("Reconciling", false, status.reason.as_str()),
        ("Stalled", problem.is_some(), status.reason.as_str()),
    ];
    let recorded = schedule.status.as_ref().map_or(&[][..], |status| &status.conditions);
    status.conditions = dated(recorded, &list, word, schedule.metadata.generation, now);
}

fn identity(backup: &EtcdBackup) -> (String, String) {
    (backup.name_any(), backup.uid().unwrap_or_default())
}

fn completed(backup: &EtcdBackup) -> Option<Timestamp> {
    let time = backup.status.as_ref().and_then(|status| status.completion_time.clone());
    time.or(backup.creation_timestamp()).map(|time| time.0)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests;
