//! PURE: up to where a backup shall be brought forward, and what that takes.

use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};

use super::ArchiveError;
use super::segment::Name;
use crate::proto::archive::Change;

/// Whatever is that close to each other in time is known well enough.
const CLOSE_MS: i64 = 60_000;

/// A point in a cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// This revision is the last one.
    Revision(i64),
    /// What was written by this time (Unix, in milliseconds).
    Time(i64),
    /// Everything there is.
    Latest,
}

impl Until {
    /// Reads a revision, a time as RFC 3339 has it, or `latest`.
    pub fn read(text: &str) -> Result<Self, ArchiveError> {
        let revision = text.parse().ok().filter(|revision| *revision > 0);
        let found = match text {
            "latest" => Some(Self::Latest),
            _ => revision.map(Self::Revision).or_else(|| read_time(text).map(Self::Time)),
        };
        found.ok_or_else(|| ArchiveError::NoPoint(text.to_owned()))
    }

    /// Whether a change comes before the point.
    pub fn includes(self, change: &Change) -> Result<bool, ArchiveError> {
        match self {
            Self::Revision(last) => Ok(change.revision <= last),
            Self::Latest => Ok(true),
            Self::Time(time_ms) if change.received_ms <= time_ms => Ok(true),
            Self::Time(time_ms) if change.after_ms >= time_ms => Ok(false),
            Self::Time(_) if change.received_ms - change.after_ms <= CLOSE_MS => Ok(false),
            Self::Time(_) => Err(ArchiveError::Uncertain {
                revision: change.revision,
                after_ms: change.after_ms,
                received_ms: change.received_ms,
            }),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "revision {revision}"),
            Self::Time(time_ms) => f.write_str(&told_time(*time_ms)),
            Self::Latest => f.write_str("the latest revision"),
        }
    }
}

/// How far an archive goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// Nothing that was acknowledged before `time_ms` is behind this revision.
    pub revision: i64,
    /// Unix time, in milliseconds.
    pub time_ms: i64,
}

/// Whether a backup is not behind the point, and the point not behind the archive.
pub fn check(backup: Complete, names: &[Name], complete: Complete, until: Until) -> Result<(), ArchiveError> {
    let archived = names.iter().map(|name| name.last).fold(complete.revision, i64::max);
    let (later, beyond) = match until {
        Until::Revision(revision) => (backup.revision > revision, archived.max(backup.revision) < revision),
        Until::Time(time_ms) => (backup.time_ms > time_ms, complete.time_ms < time_ms),
        Until::Latest => (false, false),
    };
    if later {
        return Err(ArchiveError::Later { revision: backup.revision, time_ms: backup.time_ms, until });
    }
    if beyond {
        return Err(ArchiveError::Beyond { until, revision: archived, time_ms: complete.time_ms });
    }
    Ok(())
}

/// The segment that comes next where everything up to `reached` is there; nothing if that is all. Segments may overlap: two
/// programs may have archived the same for a while.
pub fn next(names: &[Name], complete: Complete, reached: i64, until: Until) -> Result<Option<Name>, ArchiveError> {
    if matches!(until, Until::Revision(revision) if revision <= reached) {
        return Ok(None);
    }
    let wanted = reached + 1;
    let fitting = names.iter().filter(|name| name.first <= wanted && wanted <= name.last);
    if let Some(name) = fitting.max_by_key(|name| name.last) {
        return Ok(Some(*name));
    }
    let behind = names.iter().map(|name| name.first - 1).filter(|last| *last > reached).min();
    match behind.unwrap_or(complete.revision) {
        last if last > reached => Err(ArchiveError::Gap { first: wanted, last }),
        _ => Ok(None),
    }
}

/// Unix time, in milliseconds.
pub fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// A time as RFC 3339 has it.
pub fn told_time(time_ms: i64) -> String {
    let time = Utc.timestamp_millis_opt(time_ms).single().unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads it; nothing if it is none.
pub fn read_time(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_revisions_and_times() {
        for (text, until) in [
            ("17", Some(Until::Revision(17))),
            ("latest", Some(Until::Latest)),
            ("2026-11-29T03:00:00Z", Some(Until::Time(1_795_921_200_000))),
            ("2026-11-29T04:00:00.5+01:00", Some(Until::Time(1_795_921_200_500))),
            ("0", None),
            ("-5", None),
            ("", None),
            ("2026-11-29", None),
            ("yesterday", None),
        ] {
            assert_eq!(Until::read(text).ok(), until, "{text}");
        }
        let told = "2026-11-29T03:00:00.500Z";
        assert_eq!(Until::read(told).expect("a time").to_string(), told);
    }

    #[test]
    fn a_time_takes_what_was_written_by_then() {
        let change = |after_ms, received_ms| Change { revision: 5, after_ms, received_ms, events: Vec::new() };
        let until = Until::Time(500_000);
        for (change, taken) in [
            (change(490_000, 500_000), Some(true)),
            (change(0, 500_000), Some(true)),
            (change(490_000, 500_001), Some(false)),
            (change(500_000, 900_000), Some(false)),
            // Nothing was archived for minutes, and the time is among them.
            (change(499_000, 900_000), None),
        ] {
            assert_eq!(until.includes(&change).ok(), taken, "{change:?}");
        }
        let revision = Until::Revision(5);
        assert!(revision.includes(&change(0, 900_000)).expect("known"));
        let next = Change { revision: 6, ..Default::default() };
        assert!(!revision.includes(&next).expect("known") && Until::Latest.includes(&next).expect("known"));
    }

    fn names(all: &[(i64, i64)]) -> Vec<Name> {
        all.iter().map(|(first, last)| Name { first: *first, last: *last }).collect()
    }

    /// The segments that are read, in order, and what then stands in the way.
    fn way(all: &[(i64, i64)], complete: i64, from: i64, until: Until) -> (Vec<i64>, Option<String>) {
        let (names, complete) = (names(all), Complete { revision: complete, time_ms: 0 });
        let (mut reached, mut read) = (from, Vec::new());
        loop {
            match next(&names, complete, reached, until) {
                Ok(Some(name)) => {
                    read.push(name.first);
                    reached = match until {
                        Until::Revision(revision) => name.last.min(revision),
                        _ => name.last,
                    };
                }
                Ok(None) => return (read, None),
                Err(ArchiveError::Gap { first, last }) => return (read, Some(format!("{first}-{last}"))),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn segments_follow_each_other_without_a_gap() {
        let gap = |text: &str| Some(text.to_owned());
        let whole = [(11, 20), (21, 30), (31, 31)];
        assert_eq!(way(&whole, 31, 10, Until::Latest), (vec![11, 21, 31], None));
        assert_eq!(way(&whole, 31, 25, Until::Latest), (vec![21, 31], None), "a backup within a segment");
        assert_eq!(way(&whole, 31, 10, Until::Revision(20)), (vec![11], None));
        assert_eq!(way(&whole, 31, 10, Until::Revision(21)), (vec![11, 21], None));
        assert_eq!(way(&whole, 31, 31, Until::Latest), (vec![], None));
        assert_eq!(way(&whole, 31, 10, Until::Revision(10)), (vec![], None), "the backup alone");
        assert_eq!(way(&whole, 31, 5, Until::Latest), (vec![], gap("6-10")), "older than the archive");
        let gone = [(11, 20), (31, 40)];
        assert_eq!(way(&gone, 40, 10, Until::Latest), (vec![11], gap("21-30")));
        assert_eq!(way(&gone, 40, 10, Until::Revision(20)), (vec![11], None), "before the gap");
        assert_eq!(way(&gone, 40, 30, Until::Latest), (vec![31], None), "behind the gap");
        assert_eq!(way(&whole[..2], 50, 10, Until::Latest), (vec![11, 21], gap("31-50")), "the last one is gone");
        let twice = [(11, 20), (11, 25), (15, 30), (21, 22)];
        assert_eq!(way(&twice, 30, 10, Until::Latest), (vec![11, 15], None), "two programs at once");
    }

    #[test]
    fn what_cannot_be_reached_is_told_before_anything_is_fetched() {
        let at = |revision, time_ms| Complete { revision, time_ms };
        let checked =
            |until| check(at(10, 1000), &names(&[(11, 25)]), at(20, 5000), until).map_err(|it| it.to_string());
        for until in [Until::Revision(10), Until::Revision(25), Until::Time(1000), Until::Time(5000), Until::Latest] {
            assert_eq!(checked(until), Ok(()), "{until}");
        }
        for (until, says) in [
            (Until::Revision(9), "behind revision 9"),
            (Until::Time(999), "name an older one"),
            (Until::Revision(26), "goes up to revision 25"),
            (Until::Time(5001), "complete up to 1970-01-01T00:00:05.000Z"),
        ] {
            assert!(checked(until).is_err_and(|error| error.contains(says)), "{until}");
        }
    }
}
