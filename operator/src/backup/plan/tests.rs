//! The whole life of a backup, pass by pass, and what goes wrong in it.

use serde_json::json;

use super::*;

const CREATED: &str = r#"{"revision":42,"hash":7,"compactRevision":-1,"snapshotBytes":1000,"storedBytes":300,"sha256":"ab",
    "milliseconds":1300}"#;
const VERIFIED: &str = r#"{"revision":43,"keys":5,"hash":7,"hashCompared":true}"#;

fn backup(spec: serde_json::Value) -> EtcdBackup {
    let mut full = json!({"cluster": "demo", "store": {"s3": {"bucket": "b", "prefix": "k8s"}}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdBackup",
        "metadata": {"name": "one", "namespace": "ns", "uid": "12345678-9", "generation": 1},
        "spec": full,
    }))
    .unwrap()
}

fn cluster(ready: i32) -> Option<EtcdCluster> {
    Some(
        serde_json::from_value(json!({
            "apiVersion": "keelson.dev/v1alpha1",
            "kind": "EtcdCluster",
            "metadata": {"name": "demo", "namespace": "ns", "uid": "u"},
            "spec": {"version": "v9"},
            "status": {"clusterID": "1", "readyMembers": ready},
        }))
        .unwrap(),
    )
}

/// A resource with what is recorded of it, and its surroundings.
struct World {
    backup: EtcdBackup,
    seen: Seen,
}

impl World {
    fn new(spec: serde_json::Value) -> Self {
        Self { backup: backup(spec), seen: Seen { cluster: cluster(3), jobs: BTreeMap::new() } }
    }

    /// One pass: stores the status, and does what was planned.
    fn pass(&mut self) -> Option<Action> {
        let plan = plan(&self.backup, &self.seen, Timestamp::UNIX_EPOCH);
        self.backup.status = Some(plan.status);
        match &plan.action {
            Some(Action::SetFinalizer(present)) => {
                self.backup.metadata.finalizers =
                    Some(present.then(|| BACKUP_FINALIZER.to_string()).into_iter().collect());
            }
            Some(Action::Start(task)) => self.job(*task, None),
            Some(Action::Stop { task, .. }) => drop(self.seen.jobs.remove(task)),
            None => {}
        }
        plan.action
    }

    fn job(&mut self, task: Task, outcome: Option<Outcome>) {
        self.seen.jobs.insert(task, Job { uid: task.to_string(), ours: true, deleting: false, outcome });
    }

    fn ends(&mut self, task: Task, report: &str) {
        self.job(task, Some(Outcome::Succeeded(report.into())));
    }

    fn fails(&mut self, task: Task, why: &str) {
        self.job(task, Some(Outcome::Failed(why.into())));
    }

    fn delete(&mut self) {
        self.backup.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    }

    fn status(&self) -> &EtcdBackupStatus {
        self.backup.status.as_ref().unwrap()
    }

    fn holds(&self, condition: &str) -> bool {
        self.status().conditions.iter().any(|it| it.type_ == condition && it.status == "True")
    }
}

fn stop(task: Task) -> Option<Action> {
    Some(Action::Stop { task, uid: task.to_string() })
}

#[test]
fn a_backup_is_taken_verified_and_left_in_peace() {
    let mut world = World::new(json!({"verify": true}));
    assert_eq!(world.pass(), Some(Action::Start(Task::Create)));
    assert_eq!(world.status().location.as_deref(), Some("s3://b/k8s/ns/demo/one-12345678.db.zst"));
    assert_eq!(world.status().image.as_deref(), Some("keelson/keelson-server:v9"));
    assert_eq!(world.pass(), None);
    assert!(world.holds("Reconciling") && !world.holds("Ready"));

    world.ends(Task::Create, CREATED);
    assert_eq!(world.pass(), None, "what was told is stored before anything else");
    let status = world.status();
    assert_eq!(
        (status.phase, status.revision, status.duration.as_deref()),
        (BackupPhase::Verifying, Some(42), Some("1.3s"))
    );
    assert_eq!(world.pass(), Some(Action::Start(Task::Verify)));
    assert_eq!(world.pass(), None);
    assert!(!world.holds("Verified"));
    world.ends(Task::Verify, VERIFIED);
    assert_eq!(world.pass(), None);
    assert!(world.holds("Ready") && world.holds("Verified") && !world.holds("Reconciling"));
    assert_eq!(world.status().verification.as_ref().unwrap().revision, 43);

    assert_eq!(world.pass(), stop(Task::Create));
    assert_eq!(world.pass(), stop(Task::Verify));
    let before = world.status().clone();
    world.seen.cluster = None;
    assert_eq!(world.pass(), None, "it is never taken again, whatever becomes of the cluster");
    assert_eq!(*world.status(), before);
}

/// An operator that was killed between storing the status and making the Job, or between a Job's end and the status.
#[test]
fn nothing_is_lost_when_the_operator_is_killed() {
    let mut world = World::new(json!({}));
    world.pass();
    world.seen.jobs.clear();
    assert_eq!(world.pass(), Some(Action::Start(Task::Create)));
    world.ends(Task::Create, CREATED);
    world.pass();
    assert!(world.backup.succeeded());
}

#[test]
fn it_waits_for_a_cluster_that_answers() {
    let mut world = World::new(json!({}));
    for (found, reason) in [
        (None, "waiting for EtcdCluster demo to be there"),
        (cluster(0), "waiting for members of EtcdCluster demo to answer"),
    ] {
        world.seen.cluster = found;
        assert_eq!(world.pass(), None);
        assert_eq!((world.status().phase, world.status().reason.as_str()), (BackupPhase::Pending, reason));
    }
    world.seen.cluster = cluster(1);
    assert_eq!(world.pass(), Some(Action::Start(Task::Create)));
}

#[test]
fn a_job_that_failed_is_told_and_kept() {
    let mut world = World::new(json!({"verify": true}));
    world.pass();
    world.fails(Task::Create, "the bucket is not there");
    assert_eq!(world.pass(), None);
    assert_eq!(world.status().reason, "no backup was taken: the bucket is not there");
    assert!(world.holds("Stalled") && !world.holds("Ready"));
    assert_eq!(world.pass(), None, "its log is still wanted, and it is not tried again");

    let mut world = World::new(json!({"verify": true}));
    world.pass();
    world.ends(Task::Create, CREATED);
    world.pass();
    world.fails(Task::Verify, "its hash differs");
    world.pass();
    assert_eq!(world.status().phase, BackupPhase::Failed, "a backup that cannot be restored is none");

    let mut world = World::new(json!({}));
    world.pass();
    world.ends(Task::Create, "");
    world.pass();
    assert_eq!(world.status().phase, BackupPhase::Failed, "without a report nothing is known of it");
}

#[test]
fn a_job_of_somebody_else_is_not_believed() {
    let mut world = World::new(json!({}));
    world.ends(Task::Create, CREATED);
    world.seen.jobs.get_mut(&Task::Create).unwrap().ours = false;
    assert_eq!(world.pass(), None);
    assert_eq!(world.status().reason, "Job one-create belongs to somebody else");
}

#[test]
fn the_data_is_deleted_only_where_that_is_asked_for_and_after_whoever_writes_it() {
    let mut world = World::new(json!({"deletionPolicy": "Delete"}));
    assert_eq!(world.pass(), Some(Action::SetFinalizer(true)));
    assert_eq!(world.pass(), Some(Action::Start(Task::Create)));
    world.delete();
    let running = world.seen.jobs[&Task::Create].clone();
    assert_eq!(world.pass(), stop(Task::Create));
    world.seen.jobs.insert(Task::Create, Job { deleting: true, ..running });
    assert_eq!(world.pass(), None, "its pods are still there");
    world.seen.jobs.clear();
    assert_eq!(world.pass(), Some(Action::Start(Task::Delete)));
    assert_eq!(world.pass(), None);
    world.fails(Task::Delete, "no access");
    assert_eq!(world.pass(), None);
    assert!(world.holds("Stalled") && world.status().reason.contains("no access"));
    world.seen.jobs.clear();
    assert_eq!(world.pass(), Some(Action::Start(Task::Delete)), "the Job was deleted: once more");
    world.ends(Task::Delete, "");
    assert_eq!(world.pass(), Some(Action::SetFinalizer(false)));
    assert_eq!(world.pass(), None);

    let mut kept = World::new(json!({}));
    kept.pass();
    kept.delete();
    assert_eq!(kept.pass(), None, "nothing holds it");
    let mut changed = World::new(json!({"deletionPolicy": "Delete"}));
    changed.pass();
    changed.pass();
    changed.backup.spec.deletion_policy = RetentionPolicy::Retain;
    changed.delete();
    assert_eq!(changed.pass(), Some(Action::SetFinalizer(false)));
}
