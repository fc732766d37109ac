//! PURE: what an EtcdBackup needs next. What happened is read off its Jobs; once it is in the status, the Jobs may go.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Task;
use crate::build::backup_path;
use crate::crd::{
    BackupPhase, EtcdBackup, EtcdBackupStatus, EtcdCluster, MAX_BACKUP_NAME_LENGTH, RetentionPolicy, VerificationStatus,
};
use crate::names::BACKUP_FINALIZER;
use crate::status::dated;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The cluster, if it is there.
    pub cluster: Option<EtcdCluster>,
    /// The Jobs that are there.
    pub jobs: BTreeMap<Task, Job>,
}

/// A Job, as far as the planner looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its uid.
    pub uid: String,
    /// Whether it belongs to this very EtcdBackup.
    pub ours: bool,
    /// Whether its deletion has begun.
    pub deleting: bool,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
}

/// How a Job ended, with the words of its last container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded(String),
    /// It gave up.
    Failed(String),
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the finalizer on, or take it off.
    SetFinalizer(bool),
    /// Make the Job of this task.
    Start(Task),
    /// Delete this Job and its pods.
    Stop {
        /// Whose Job.
        task: Task,
        /// Its uid.
        uid: String,
    },
}

/// What is reported, and what is then done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Stored before the action.
    pub status: EtcdBackupStatus,
    /// At most one; the next pass sees what became of it.
    pub action: Option<Action>,
    /// Something is waited for that no watch tells of.
    pub look_again: bool,
}

/// What `keelson-server backup create` tells.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    revision: i64,
    hash: i64,
    compact_revision: i64,
    snapshot_bytes: i64,
    stored_bytes: i64,
    sha256: String,
    milliseconds: u64,
}

/// What `keelson-server backup verify` tells.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    revision: i64,
    keys: i64,
    hash: i64,
    hash_compared: bool,
}

/// Plans one pass.
pub fn plan(backup: &EtcdBackup, seen: &Seen, now: Timestamp) -> Plan {
    let mut pass = Pass { backup, seen, now, status: backup.status.clone().unwrap_or_default(), look_again: false };
    pass.status.observed_generation = backup.metadata.generation;
    let action = pass.next();
    pass.status.conditions = pass.conditions();
    Plan { status: pass.status, action, look_again: pass.look_again }
}

struct Pass<'a> {
    backup: &'a EtcdBackup,
    seen: &'a Seen,
    now: Timestamp,
    status: EtcdBackupStatus,
    look_again: bool,
}

impl Pass<'_> {
    fn next(&mut self) -> Option<Action> {
        if self.backup.metadata.deletion_timestamp.is_some() {
            return self.leave();
        }
        let held = self.is_held();
        let wanted = self.backup.spec.deletion_policy == RetentionPolicy::Delete;
        if held != wanted {
            if self.status.reason.is_empty() {
                self.tell(BackupPhase::Pending, "it was seen, and its deletion policy is seen to");
            }
            return Some(Action::SetFinalizer(wanted));
        }
        match self.status.phase {
            BackupPhase::Pending | BackupPhase::Running | BackupPhase::Deleting => self.create(),
            BackupPhase::Verifying => self.verify(),
            BackupPhase::Succeeded => self.tidy(),
            // Its Jobs stay, for their logs.
            BackupPhase::Failed => None,
        }
    }

    fn create(&mut self) -> Option<Action> {
        match self.job(Task::Create) {
            Ok(Some(Outcome::Succeeded(told))) => self.created(&told),
            Ok(Some(Outcome::Failed(why))) => self.give_up(format!("no backup was taken: {why}")),
            Ok(None) => self.tell(BackupPhase::Running, "the data is on its way to the store"),
            Err(Missing::Foreign(name)) => self.wait(format!("Job {name} belongs to somebody else")),
            Err(Missing::Job) => return self.begin(),
        }
        None
    }

    fn begin(&mut self) -> Option<Action> {
        let name = self.backup.name_any();
        if name.len() > MAX_BACKUP_NAME_LENGTH {
            self.give_up(format!("metadata.name: {name:?} has more than {MAX_BACKUP_NAME_LENGTH} characters"));
            return None;
        }
        let cluster = &self.backup.spec.cluster;
        let Some(found) = &self.seen.cluster else {
            self.wait(format!("waiting for EtcdCluster {cluster} to be there"));
            return None;
        };
        if !found.status.as_ref().is_some_and(|status| status.cluster_id.is_some() && status.ready_members > 0) {
            self.wait(format!("waiting for members of EtcdCluster {cluster} to answer"));
            return None;
        }
        let path = backup_path(self.backup);
        self.status.image = Some(self.backup.spec.pod.image.clone().unwrap_or_else(|| found.settled_image()));
        self.status.location = Some(self.backup.spec.store.location(&path));
        self.status.path = Some(path);
        self.status.start_time.get_or_insert(Time(self.now));
        self.tell(BackupPhase::Running, "a Job is being started");
        Some(Action::Start(Task::Create))
    }

    fn created(&mut self, told: &str) {
        let Some(told) = read::<Created>(told) else {
            return self.give_up(format!("the Job left no report, but {told:?}"));
        };
        let status = &mut self.status;
        status.revision = Some(told.revision);
        status.hash = Some(told.hash);
        status.compact_revision = Some(told.compact_revision);
        status.snapshot_bytes = Some(told.snapshot_bytes);
        status.stored_bytes = Some(told.stored_bytes);
        status.sha256 = Some(told.sha256);
        status.duration = Some(format!("{:.1}s", told.milliseconds as f64 / 1000.0));
        status.completion_time = Some(Time(self.now));
        match self.backup.spec.verify {
            true => self.tell(BackupPhase::Verifying, "the data is in the store, and is tried out next"),
            false => self.tell(BackupPhase::Succeeded, "the data is in the store"),
        }
    }

    fn verify(&mut self) -> Option<Action> {
        match self.job(Task::Verify) {
            Ok(Some(Outcome::Succeeded(told))) => self.verified(&told),
            Ok(Some(Outcome::Failed(why))) => self.give_up(format!("the backup could not be verified: {why}")),
            Ok(None) => self.tell(BackupPhase::Verifying, "the data is in the store, and is being tried out"),
            Err(Missing::Foreign(name)) => {
                let reason = format!("Job {name} belongs to somebody else");
                self.look_again = true;
                self.tell(BackupPhase::Verifying, &reason);
            }
            Err(Missing::Job) => return Some(Action::Start(Task::Verify)),
        }
        None
    }

    fn verified(&mut self, told: &str) {
        let Some(told) = read::<Verified>(told) else {
            return self.give_up(format!("the verification left no report, but {told:?}"));
        };
        self.status.verification = Some(VerificationStatus {
            time: Some(Time(self.now)),
            revision: told.revision,
            keys: told.keys,
            hash: told.hash,
            hash_compared: told.hash_compared,
        });
        self.tell(BackupPhase::Succeeded, "the data is in the store, and was restored for a trial");
    }

    /// What its Jobs had to say is in the status.
    fn tidy(&self) -> Option<Action> {
        let (task, job) = self.seen.jobs.iter().find(|(_, job)| job.ours && !job.deleting)?;
        Some(Action::Stop { task: *task, uid: job.uid.clone() })
    }

    /// The resource is being deleted.
    fn leave(&mut self) -> Option<Action> {
        if !self.is_held() {
            return None;
        }
        if self.backup.spec.deletion_policy == RetentionPolicy::Retain || self.status.path.is_none() {
            return Some(Action::SetFinalizer(false));
        }
        // Whoever still writes to the store must have ended before what is there can be deleted.
        let mut others = self.seen.jobs.iter().filter(|(task, job)| **task != Task::Delete && job.ours);
        if let Some((task, job)) = others.next() {
            self.tell(BackupPhase::Deleting, &format!("Job {} is being stopped", task.job(&self.backup.name_any())));
            return (!job.deleting).then(|| Action::Stop { task: *task, uid: job.uid.clone() });
        }
        match self.job(Task::Delete) {
            Ok(Some(Outcome::Succeeded(_))) => Some(Action::SetFinalizer(false)),
            Ok(Some(Outcome::Failed(why))) => {
                let way = "set spec.deletionPolicy to Retain to leave it, or delete the Job to try again";
                self.tell(BackupPhase::Deleting, &format!("the data could not be deleted: {why}; {way}"));
                None
            }
            Ok(None) => {
                self.tell(BackupPhase::Deleting, "the data is being deleted from the store");
                None
            }
            Err(Missing::Foreign(name)) => {
                self.look_again = true;
                self.tell(BackupPhase::Deleting, &format!("Job {name} belongs to somebody else"));
                None
            }
            Err(Missing::Job) => {
                self.tell(BackupPhase::Deleting, "the data is being deleted from the store");
                Some(Action::Start(Task::Delete))
            }
        }
    }

    fn is_held(&self) -> bool {
        self.backup.finalizers().iter().any(|finalizer| finalizer == BACKUP_FINALIZER)
    }

    /// How the Job ended; `None` while it runs.
    fn job(&self, task: Task) -> Result<Option<Outcome>, Missing> {
        match self.seen.jobs.get(&task) {
            None => Err(Missing::Job),
            Some(job) if !job.ours => Err(Missing::Foreign(task.job(&self.backup.name_any()))),
            Some(job) => Ok(job.outcome.clone()),
        }
    }

    fn wait(&mut self, reason: String) {
        self.look_again = true;
        self.tell(BackupPhase::Pending, &reason);
    }

    fn give_up(&mut self, reason: String) {
        self.status.completion_time.get_or_insert(Time(self.now));
        self.tell(BackupPhase::Failed, &reason);
    }

    fn tell(&mut self, phase: BackupPhase, reason: &str) {
        self.status.phase = phase;
        self.status.reason = reason.into();
    }

    fn conditions(&self) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
        let phase = self.status.phase;
        let over = matches!(phase, BackupPhase::Succeeded | BackupPhase::Failed);
        let stuck = phase == BackupPhase::Failed || (phase == BackupPhase::Deleting && self.deletion_failed());
        let mut list = vec![
            ("Ready", phase == BackupPhase::Succeeded, self.status.reason.as_str()),
            ("Reconciling", !over && !stuck, self.status.reason.as_str()),
            ("Stalled", stuck, self.status.reason.as_str()),
        ];
        if self.backup.spec.verify {
            let verified = self.status.verification.is_some();
            let text = if verified { "a trial restore gave what was backed up" } else { "not yet, or without success" };
            list.push(("Verified", verified, text));
        }
        let recorded = self.backup.status.as_ref().map_or(&[][..], |status| &status.conditions);
        dated(recorded, &list, &format!("{phase:?}"), self.backup.metadata.generation, self.now)
    }

    fn deletion_failed(&self) -> bool {
        matches!(self.job(Task::Delete), Ok(Some(Outcome::Failed(_))))
    }
}

enum Missing {
    Job,
    Foreign(String),
}

fn read<T: DeserializeOwned>(report: &str) -> Option<T> {
    serde_json::from_str(report).ok()
}

#[cfg(test)]
mod tests;
