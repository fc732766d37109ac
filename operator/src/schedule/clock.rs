//! PURE: cron in a time zone.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;

/// Times by cron.
#[derive(Debug)]
pub struct Clock {
    cron: Cron,
    zone: TimeZone,
}

impl Clock {
    /// Of five fields, or a word such as `@daily`; what is wrong with them otherwise.
    pub fn new(schedule: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(schedule).map_err(|error| format!("spec.schedule: {schedule:?}: {error}"))?;
        let zone = TimeZone::get(zone).map_err(|_| format!("spec.timeZone: {zone:?} is not known"))?;
        Ok(Self { cron, zone })
    }

    /// The first time after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&now.to_zoned(self.zone.clone()), false);
        next.ok().map(|next| next.timestamp())
    }

    /// The last time up to `now`, if it is after `since`.
    pub fn last(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let last = self.cron.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true);
        last.ok().map(|last| last.timestamp()).filter(|last| *last > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_follow_the_zone_through_the_change_of_the_clocks() {
        let clock = Clock::new("0 3 * * *", "Europe/Berlin").unwrap();
        assert_eq!(clock.next(at("2026-03-28T02:00:00Z")), Some(at("2026-03-29T01:00:00Z")), "summer time begins");
        assert_eq!(clock.next(at("2026-10-24T01:00:00Z")), Some(at("2026-10-25T02:00:00Z")), "and ends");
        let daily = Clock::new("@daily", "Etc/UTC").unwrap();
        assert_eq!(daily.next(at("2026-01-01T00:00:00Z")), Some(at("2026-01-02T00:00:00Z")));
    }

    #[test]
    fn of_missed_times_only_the_last_one_counts() {
        let clock = Clock::new("*/10 * * * *", "Etc/UTC").unwrap();
        let since = at("2026-01-01T00:00:00Z");
        assert_eq!(clock.last(since, at("2026-01-01T00:09:59Z")), None);
        assert_eq!(clock.last(since, at("2026-01-01T00:10:00Z")), Some(at("2026-01-01T00:10:00Z")));
        assert_eq!(clock.last(since, at("2026-01-09T05:55:00Z")), Some(at("2026-01-09T05:50:00Z")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (schedule, zone, field) in [
            ("61 * * * *", "Etc/UTC", "spec.schedule"),
            ("0 0 * * * *", "Etc/UTC", "spec.schedule"),
            ("0 0 * * *", "Mars", "spec.timeZone"),
        ] {
            assert!(Clock::new(schedule, zone).unwrap_err().starts_with(field), "{schedule} {zone}");
        }
    }
}
