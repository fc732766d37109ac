//! How old backups are, and when there should be another one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Cluster {
    namespace: String,
    cluster: String,
}

/// A schedule, and the cluster that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Schedule {
    namespace: String,
    schedule: String,
    cluster: String,
}

/// Times of backups, in Unix time.
#[derive(Default)]
pub struct Backups {
    newest: Family<Cluster, Gauge<i64, AtomicI64>>,
    due: Family<Schedule, Gauge<i64, AtomicI64>>,
    /// When the backups of each cluster were complete, by their names.
    complete: Mutex<BTreeMap<Cluster, BTreeMap<String, i64>>>,
    /// The schedules that are shown, by namespace and name.
    schedules: Mutex<BTreeMap<(String, String), Schedule>>,
}

impl Backups {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "When the newest backup of a cluster that succeeded was complete, in Unix time";
        registry.register("backup_timestamp_seconds", help, self.newest.clone());
        let help = "The first time of a schedule after its newest backup that succeeded, in Unix time";
        registry.register("backup_due_timestamp_seconds", help, self.due.clone());
    }

    /// A backup of a cluster was complete at this time; none when the backup is gone, or its cluster.
    pub fn set_complete(&self, namespace: &str, cluster: &str, backup: &str, time: Option<i64>) {
        let cluster = Cluster { namespace: namespace.into(), cluster: cluster.into() };
        let mut all = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(cluster.clone()).or_default();
        match time {
            Some(time) => drop(known.insert(backup.into(), time)),
            None => drop(known.remove(backup)),
        }
        if !self.show(&cluster, known) {
            all.remove(&cluster);
        }
    }

    /// A backup is gone.
    pub fn forget_backup(&self, namespace: &str, backup: &str) {
        let mut all = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|cluster, known| {
            cluster.namespace != namespace || known.remove(backup).is_none() || self.show(cluster, known)
        });
    }

    /// Shows the newest of these, if there is any.
    fn show(&self, cluster: &Cluster, known: &BTreeMap<String, i64>) -> bool {
        match known.values().max() {
            Some(newest) => drop(self.newest.get_or_create(cluster).set(*newest)),
            None => drop(self.newest.remove(cluster)),
        }
        !known.is_empty()
    }

    /// A cluster is gone: what is left of its backups is not looked after any more.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let cluster = Cluster { namespace: namespace.into(), cluster: cluster.into() };
        self.complete.lock().unwrap_or_else(PoisonError::into_inner).remove(&cluster);
        self.newest.remove(&cluster);
    }

    /// When a schedule's next success is due; none when it is suspended or gone.
    pub fn set_due(&self, namespace: &str, schedule: &str, cluster: &str, due: Option<i64>) {
        let key = (namespace.to_string(), schedule.to_string());
        let shown = due.map(|due| {
            let schedule = Schedule { namespace: key.0.clone(), schedule: key.1.clone(), cluster: cluster.into() };
            (schedule, due)
        });
        let mut known = self.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = known.remove(&key).filter(|before| shown.as_ref().is_none_or(|(it, _)| it != before)) {
            self.due.remove(&before);
        }
        if let Some((schedule, due)) = shown {
            self.due.get_or_create(&schedule).set(due);
            known.insert(key, schedule);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn shown(backups: &Backups) -> Vec<String> {
        let mut registry = Registry::default();
        backups.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect()
    }

    /// An alert on an age must end with the backup, and with the cluster.
    #[test]
    fn the_newest_backup_that_is_there_counts_as_long_as_its_cluster_is_there() {
        let backups = Backups::default();
        let line = |time| [format!("backup_timestamp_seconds{{namespace=\"ns\",cluster=\"c\"}} {time}")];
        backups.set_complete("ns", "c", "old", Some(10));
        backups.set_complete("ns", "c", "new", Some(20));
        backups.set_complete("ns", "c", "old", Some(10));
        assert_eq!(shown(&backups), line(20));
        backups.forget_backup("other", "new");
        assert_eq!(shown(&backups), line(20));
        backups.forget_backup("ns", "new");
        assert_eq!(shown(&backups), line(10));
        backups.forget("ns", "c");
        assert_eq!(shown(&backups), [""; 0]);
        backups.forget_backup("ns", "old");
        assert_eq!(shown(&backups), [""; 0]);
    }

    #[test]
    fn a_schedule_is_shown_for_one_cluster_and_not_when_nothing_is_due() {
        let backups = Backups::default();
        let line = |cluster, due| {
            let labels = format!("namespace=\"ns\",schedule=\"s\",cluster=\"{cluster}\"");
            [format!("backup_due_timestamp_seconds{{{labels}}} {due}")]
        };
        backups.set_due("ns", "s", "c", Some(1));
        backups.set_due("ns", "s", "c", Some(2));
        assert_eq!(shown(&backups), line("c", 2));
        backups.set_due("ns", "s", "d", Some(3));
        assert_eq!(shown(&backups), line("d", 3));
        backups.set_due("ns", "s", "d", None);
        assert_eq!(shown(&backups), [""; 0]);
    }
}
