//! What is due, and what is kept.

use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    format!("2026-01-{text}:00Z").parse().unwrap()
}

/// Of midnight each day, made on the first at noon.
fn schedule(spec: Value) -> EtcdBackupSchedule {
    let backup = json!({"cluster": "demo", "store": {"volume": {"claimName": "v"}}});
    let mut full = json!({"schedule": "0 0 * * *", "backup": backup});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdBackupSchedule",
        "metadata": {"name": "nightly", "creationTimestamp": at("01T12:00").to_string()},
        "spec": full,
    }))
    .unwrap()
}

fn backup(day: u32, phase: &str) -> EtcdBackup {
    let time = at(&format!("{day:02}T00:00")).to_string();
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdBackup",
        "metadata": {"name": format!("d{day}"), "uid": "u", "creationTimestamp": time},
        "spec": {"cluster": "demo", "store": {"volume": {"claimName": "v"}}},
        "status": {"phase": phase, "completionTime": time},
    }))
    .unwrap()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().map(|(name, _)| name.as_str()).collect()
}

fn holds(plan: &Plan, condition: &str) -> bool {
    plan.status.conditions.iter().any(|it| it.type_ == condition && it.status == "True")
}

#[test]
fn each_time_makes_one_backup() {
    let mut nightly = schedule(json!({}));
    let early = plan(&nightly, &[], at("01T23:59"));
    assert_eq!((early.create, early.wake), (None, Some(at("02T00:00"))));
    let due = plan(&nightly, &[], at("02T00:00"));
    assert_eq!(due.create.as_deref(), Some("nightly-202601020000"));
    let again = plan(&nightly, &[], at("02T00:03"));
    assert_eq!(again.create, due.create, "killed before the status was stored: under the same name");
    nightly.status = Some(due.status);
    let after = plan(&nightly, &[], at("02T00:04"));
    assert_eq!((after.create, after.wake), (None, Some(at("02T01:00"))), "when it is missed, if it has not succeeded");
    let succeeded = plan(&nightly, &[backup(2, "Succeeded")], at("02T00:04"));
    assert_eq!((succeeded.create, succeeded.wake), (None, Some(at("03T00:00"))));
}

#[test]
fn of_those_that_were_missed_the_last_is_made_up_for_unless_it_is_too_late() {
    let missed = plan(&schedule(json!({})), &[], at("09T05:00"));
    assert_eq!(missed.create.as_deref(), Some("nightly-202601090000"));
    let strict = schedule(json!({"startingDeadlineSeconds": 600}));
    let late = plan(&strict, &[], at("09T05:00"));
    assert_eq!((late.create, late.wake), (None, Some(at("10T00:00"))));
    assert!(plan(&strict, &[], at("09T00:10")).create.is_some());
}

#[test]
fn a_schedule_that_is_suspended_begins_nothing_and_forgets_all_the_same() {
    let nightly = schedule(json!({"suspend": true, "retention": {"count": 1}}));
    let plan = plan(&nightly, &[backup(2, "Succeeded"), backup(3, "Succeeded")], at("05T00:00"));
    assert_eq!((plan.create.as_deref(), deleted(&plan)), (None, vec!["d2"]));
    assert_eq!(plan.status.next_time, None);
}

#[test]
fn a_backup_that_still_runs_is_waited_for_replaced_or_left() {
    let running = [backup(2, "Running")];
    let made = |policy: &str| plan(&schedule(json!({"concurrencyPolicy": policy})), &running, at("03T00:00"));
    let forbid = made("Forbid");
    assert_eq!((forbid.create, forbid.status.last_time), (None, None), "it is made up for later");
    let replace = made("Replace");
    assert_eq!(deleted(&replace), ["d2"]);
    assert!(replace.create.is_some());
    let allow = made("Allow");
    assert!(allow.create.is_some() && allow.delete.is_empty());
    let over = plan(&schedule(json!({})), &[backup(2, "Succeeded")], at("03T00:07"));
    assert_eq!(over.create.as_deref(), Some("nightly-202601030000"));
}

#[test]
fn backups_are_kept_by_number_and_age_but_never_the_last_good_one_deleted() {
    let all: Vec<EtcdBackup> = (2..8).map(|day| backup(day, "Succeeded")).collect();
    let kept = |retention: Value, backups: &[EtcdBackup], now: &str| {
        let mut names: Vec<String> =
            plan(&schedule(json!({"suspend": true, "retention": retention})), backups, at(now))
                .delete
                .into_iter()
                .map(|it| it.0)
                .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(kept(json!({}), &all, "28T00:00"), "");
    assert_eq!(kept(json!({"count": 4}), &all, "28T00:00"), "d2 d3");
    assert_eq!(kept(json!({"age": "48h"}), &all, "07T12:00"), "d2 d3 d4 d5");
    assert_eq!(kept(json!({"age": "48h"}), &all, "28T00:00"), "d2 d3 d4 d5 d6", "the newest stays at any age");
    assert_eq!(kept(json!({"count": 5, "age": "72h"}), &all, "07T12:00"), "d2 d3 d4");
    let mixed =
        [backup(2, "Succeeded"), backup(3, "Failed"), backup(4, "Failed"), backup(5, "Failed"), backup(6, "Failed")];
    assert_eq!(kept(json!({"count": 1}), &mixed, "28T00:00"), "d3", "failures do not push a good one out");
    assert_eq!(kept(json!({"failed": 0}), &mixed, "28T00:00"), "d3 d4 d5 d6");
    let aging = plan(&schedule(json!({"suspend": true, "retention": {"age": "48h"}})), &all, at("07T12:00"));
    assert_eq!(aging.wake, Some(at("08T00:00")), "when the next one is too old");
}

#[test]
fn the_status_tells_of_the_last_good_backup_and_of_what_is_wrong() {
    let good = plan(&schedule(json!({})), &[backup(1, "Failed"), backup(2, "Succeeded")], at("02T01:00"));
    assert!(holds(&good, "Ready"));
    assert_eq!(good.status.last_successful_backup.as_deref(), Some("d2"));
    let bad = plan(&schedule(json!({})), &[backup(2, "Succeeded"), backup(3, "Failed")], at("03T01:00"));
    assert!(!holds(&bad, "Ready") && bad.status.reason.contains("d3"), "{}", bad.status.reason);
    assert_eq!(bad.status.last_successful_backup.as_deref(), Some("d2"));
    let wrong = plan(&schedule(json!({"timeZone": "Mars"})), &[], at("02T01:00"));
    assert!(holds(&wrong, "Stalled") && wrong.status.reason.contains("spec.timeZone"));
    assert_eq!(wrong.create, None);
}

#[test]
fn the_newest_good_backup_is_up_to_date_until_an_hour_after_the_next_one_was_due() {
    let told = |schedule: &EtcdBackupSchedule, backups: &[EtcdBackup], now| {
        let plan = plan(schedule, backups, at(now));
        let age = plan.status.conditions.iter().find(|it| it.type_ == "UpToDate").unwrap();
        (age.status == "True", age.message.clone(), plan.wake)
    };
    let nightly = schedule(json!({}));
    let good = [backup(2, "Succeeded"), backup(3, "Failed")];
    let (holds, message, wake) = told(&nightly, &good, "03T00:59");
    assert!(holds && message.ends_with("complete at 2026-01-02T00:00:00Z"), "{message}");
    assert_eq!(wake, Some(at("03T01:00")), "looked at again when it is missed");
    let (holds, message, wake) = told(&nightly, &good, "03T01:00");
    assert!(!holds && message.contains("since 2026-01-03T00:00:00Z"), "{message}");
    assert_eq!(wake, Some(at("04T00:00")));
    assert!(told(&nightly, &[backup(3, "Succeeded")], "03T01:00").0);
    assert_eq!(told(&nightly, &[], "01T23:00").1, "no backup is missed yet");
    assert!(!told(&nightly, &[], "02T01:00").0, "there never was one");
    assert!(told(&schedule(json!({"suspend": true})), &good, "09T00:00").0, "nothing is due");
    assert!(!told(&schedule(json!({"timeZone": "Mars"})), &good, "03T00:00").0);
}

/// By this an alert knows what is late, whatever the schedule.
#[test]
fn a_success_is_due_at_the_first_time_after_the_last_one() {
    let nightly = schedule(json!({}));
    let due = |backups: &[EtcdBackup]| plan(&nightly, backups, at("09T12:00")).due;
    assert_eq!(due(&[]), Some(at("02T00:00")), "the schedule was made at noon before");
    assert_eq!(due(&[backup(2, "Succeeded"), backup(3, "Failed"), backup(4, "Running")]), Some(at("03T00:00")));
    let suspended = schedule(json!({"suspend": true}));
    assert_eq!(plan(&suspended, &[], at("09T12:00")).due, None);
}
