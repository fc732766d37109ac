use clap::CommandFactory;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::crd::{
    AuthSpec, AuthStatus, CertificateStatus, EtcdClusterSpec, EtcdClusterStatus, MemberStatus, NextAction, Phase,
    TlsSpec, TlsStage, TlsStatus,
};

const NOW: i64 = 1_800_000_000;

fn time(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap())
}

fn cluster() -> EtcdCluster {
    let mut cluster = EtcdCluster::new("demo", EtcdClusterSpec { size: 3, ..Default::default() });
    cluster.metadata.creation_timestamp = Some(time(NOW - 3 * 86400));
    let member = |name: &str, id: &str, role: Role, healthy: bool| MemberStatus {
        name: name.into(),
        id: id.into(),
        role,
        healthy,
        down_since: (!healthy).then(|| time(NOW - 90)),
        version: Some("3.7.0".into()),
        db_size: Some(4096),
        ..Default::default()
    };
    cluster.status = Some(EtcdClusterStatus {
        phase: Phase::Degraded,
        reason: "2 of 3 members are healthy".into(),
        ready_members: 2,
        leader: Some("demo-0".into()),
        next_action: Some(NextAction { action: None, waiting_for: Some("demo-2 to answer".into()) }),
        members: vec![
            member("demo-0", "a1", Role::Leader, true),
            member("demo-1", "b22", Role::Follower, true),
            member("demo-2", "c3", Role::Follower, false),
        ],
        ..Default::default()
    });
    cluster
}

fn parse(arguments: &str) -> Result<Command, String> {
    let arguments = std::iter::once(PLUGIN).chain(arguments.split_whitespace());
    Cli::try_parse_from(arguments).map(|cli| cli.command).map_err(|error| error.to_string())
}

/// The EtcdBackup that a command line makes, where the namespace has these schedules.
fn backed_up(arguments: &str, schedules: &[EtcdBackupSchedule]) -> anyhow::Result<EtcdBackup> {
    let Ok(Command::Backup(arguments)) = parse(arguments) else { panic!("{arguments}: not the command backup") };
    let spec = match &arguments {
        BackupArgs { claim: Some(claim), .. } => objects::backup_to_claim(claim),
        BackupArgs { store: Some(store), .. } => objects::backup_to_store(store)?,
        BackupArgs { schedule, .. } => objects::backup_by_schedule(schedules, &arguments.cluster, schedule.as_deref())?,
    };
    objects::backup(&arguments.cluster, arguments.name.as_deref(), spec, arguments.verify)
}

fn schedule(name: &str, cluster: &str, claim: &str) -> EtcdBackupSchedule {
    let spec = json!({"schedule": "@daily", "backup": {"cluster": cluster, "store": {"volume": {"claimName": claim}}}});
    EtcdBackupSchedule::new(name, serde_json::from_value(spec).unwrap())
}

#[test]
fn commands_take_what_they_need_and_say_what_is_missing() {
    Cli::command().debug_assert();
    for good in [
        "status",
        "status demo -o json -n db --context other",
        "-n db move-leader demo demo-1",
        "replace-member demo c3",
        "defrag demo",
        "defrag demo demo-0 demo-1 --timeout=5",
        "alarm demo --disarm=NOSPACE",
        "alarm demo --disarm=corrupt",
        "certs demo --new-authority",
        "restore other --backup=one --size=1 --dry-run",
        "pause demo",
        "resume demo",
        "report demo",
    ] {
        assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
    }
    for (bad, word) in [
        ("move-leader demo", "<MEMBER>"),
        ("restore other", "--backup"),
        ("alarm demo --disarm=fire", "NOSPACE"),
        ("backup demo --claim=a --like=b", "cannot be used with"),
    ] {
        let error = parse(bad).unwrap_err();
        assert!(error.contains(word), "{bad}: {error}");
    }
}

#[test]
fn a_backup_is_made_as_the_schedule_of_the_cluster_has_it_or_to_what_is_named() {
    let schedules = [schedule("nightly", "demo", "v1"), schedule("other", "others", "v2")];
    let backup = backed_up("backup demo", &schedules).unwrap();
    assert_eq!((backup.metadata.name, backup.metadata.generate_name.as_deref()), (None, Some("demo-")));
    assert_eq!((backup.spec.cluster.as_str(), backup.spec.verify), ("demo", false));
    assert_eq!(backup.spec, schedules[0].spec.backup);

    let named = backed_up("backup demo --name=one --claim=v3 --verify", &[]).unwrap();
    assert_eq!((named.metadata.name.as_deref(), named.spec.verify), (Some("one"), true));
    assert_eq!(named.spec.store.volume.unwrap().claim_name, "v3");
    assert_eq!(named.spec.timeout_seconds, 3600, "the default of the definition");
    let stored = backed_up("backup demo --store={\"s3\":{\"bucket\":\"b\"}}", &[]).unwrap();
    assert_eq!(stored.spec.store.s3.unwrap().bucket, "b");

    let two = [schedule("nightly", "demo", "v1"), schedule("hourly", "demo", "v2")];
    assert_eq!(backed_up("backup demo --schedule=hourly", &two).unwrap().spec, two[1].spec.backup);
    for (line, schedules, hint) in [
        ("backup demo", &two[..], "give --schedule=nightly or --schedule=hourly"),
        ("backup demo", &two[..0], "give --claim"),
        ("backup demo --schedule=weekly", &two[..], "no EtcdBackupSchedule weekly"),
    ] {
        let error = backed_up(line, schedules).unwrap_err().to_string();
        assert!(error.contains(hint), "{line}: {error}");
    }
    let other = objects::backup("demo", None, schedules[1].spec.backup.clone(), false);
    assert!(other.unwrap_err().to_string().contains("of cluster others"));
}

#[test]
fn a_restored_cluster_is_like_the_one_that_was_backed_up_and_begins_with_the_backup() {
    let mut model = cluster();
    model.spec.paused = true;
    model.spec.options.insert("snapshot-count".into(), "100".into());
    model.spec.auth = Some(AuthSpec::default());
    model.status.as_mut().unwrap().auth = Some(AuthStatus { root_secret: "demo-root".into(), ..Default::default() });
    let restored = objects::restored("again", "one", Some(&model), None);
    assert_eq!(restored.metadata.name.as_deref(), Some("again"));
    assert_eq!((restored.spec.size, restored.spec.paused), (3, false));
    assert_eq!(restored.spec.options, model.spec.options);
    assert_eq!(restored.spec.auth.unwrap().root_secret.as_deref(), Some("demo-root"), "users are those of the backup");
    let recovery = restored.spec.bootstrap.unwrap().recovery;
    assert_eq!((recovery.backup.as_deref(), recovery.revision_bump), (Some("one"), 1_000_000_000));
    model.spec.size = 0;
    assert_eq!(objects::restored("again", "one", Some(&model), None).spec.size, 3);
    assert_eq!(objects::restored("again", "one", None, Some(1)).spec.size, 1);
}

#[test]
fn requests_name_members_that_there_are_and_clusters_that_are_looked_after() {
    let mut cluster = cluster();
    assert_eq!(ask::member(&cluster, "demo-2").unwrap().id, "c3");
    assert_eq!(ask::member(&cluster, "b22").unwrap().name, "demo-1");
    let error = ask::member(&cluster, "demo-7").unwrap_err().to_string();
    assert_eq!(error, "there is no member demo-7; there is demo-0, demo-1, demo-2");
    assert_eq!(ask::members(&cluster, &[]).unwrap(), ["demo-0", "demo-1", "demo-2"]);
    assert_eq!(ask::members(&cluster, &["c3".into()]).unwrap(), ["demo-2"]);
    assert_eq!(
        ask::annotation(MOVE_LEADER, Some("demo-1")),
        json!({"metadata": {"annotations": {"keelson.dev/move-leader": "demo-1"}}})
    );
    assert!(ask::may_be_asked(&cluster).is_ok());
    cluster.spec.paused = true;
    assert!(ask::may_be_asked(&cluster).unwrap_err().to_string().contains("kubectl keelson resume demo"));
    cluster.spec.paused = false;
    cluster.spec.size = 0;
    assert!(ask::may_be_asked(&cluster).unwrap_err().to_string().contains("is parked"));

    assert!(objects::next_authority(&cluster).is_err());
    cluster.spec.tls = Some(TlsSpec::default());
    assert_eq!(objects::next_authority(&cluster).unwrap(), 2);
}

#[test]
fn tables_are_as_kubectl_prints_them() {
    let list = "\
NAME   SIZE   READY   PHASE      VERSION   LEADER   AGE
demo   3      2       Degraded   -         demo-0   3d
";
    assert_eq!(table::clusters(&[cluster()], NOW), list);
    let one = "\
Cluster:      demo
Phase:        Degraded
Reason:       2 of 3 members are healthy
Waiting for:  demo-2 to answer

MEMBER   ID    ROLE       HEALTH         API     BYTES   INDEX
demo-0   a1    Leader     healthy        3.7.0   4096    -
demo-1   b22   Follower   healthy        3.7.0   4096    -
demo-2   c3    Follower   down for 90s   3.7.0   4096    -
";
    assert_eq!(table::cluster(&cluster(), NOW), one);
    let certificate = |secret: &str, left| CertificateStatus { secret: secret.into(), not_after: time(NOW + left) };
    let tls = TlsStatus {
        stage: TlsStage::Stable,
        since: time(NOW),
        waiting_for: None,
        authority: Some("abcd".into()),
        certificates: vec![certificate("demo-ca", 86400 * 400), certificate("demo-client-tls", -5)],
    };
    let certificates = "\
Authority:    abcd (Stable)

SECRET            EXPIRES                LEFT
demo-ca           2028-02-19T08:00:00Z   400d
demo-client-tls   2027-01-15T07:59:55Z   expired
";
    assert_eq!(table::certificates(&tls, NOW), certificates);
}
