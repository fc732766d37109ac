use serde_json::json;

use super::*;
use crate::plan::{Answer, Child, plan, refuse};

/// A cluster of `size` of which `members` are there, with the log at `index`.
fn scene(size: i32, members: u32, index: u64) -> (EtcdCluster, Observed) {
    let cluster: EtcdCluster = serde_json::from_value(json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "EtcdCluster",
        "metadata": {
            "name": "demo", "namespace": "ns", "uid": "u", "generation": 7,
            "finalizers": [crate::names::FINALIZER],
        },
        "spec": {"size": size},
        "status": {"clusterID": "c1"},
    }))
    .unwrap();
    let member = |ordinal: u32| Member {
        id: 0x10 + u64::from(ordinal),
        ordinal: Some(ordinal),
        started: true,
        learner: false,
        secure: false,
        answer: Some(Answer {
            leader: 0x10,
            raft_index: index,
            db_size: 1_000_000 + i64::try_from(index).unwrap(),
            version: if ordinal == 1 { "3.10.0".into() } else { "3.9.1".into() },
            ..Default::default()
        }),
    };
    let claim = |ordinal: u32| Child { uid: format!("claim-{ordinal}"), ours: true, ..Default::default() };
    let observed = Observed {
        claims: (0..members).map(|n| (n, claim(n))).collect(),
        store: Store::Listed { cluster_id: 0xc1, members: (0..members).map(member).collect() },
        ..Default::default()
    };
    (cluster, observed)
}

fn rendered(cluster: &EtcdCluster, observed: &Observed, second: i64) -> EtcdClusterStatus {
    let now = Timestamp::from_second(second).unwrap();
    render(cluster, observed, &plan(cluster, observed), None, now)
}

fn is_true(status: &EtcdClusterStatus, type_: &str) -> bool {
    holds(status).contains(&type_)
}

fn holds(status: &EtcdClusterStatus) -> Vec<&str> {
    let conditions = status.conditions.iter();
    let held = conditions.filter(|condition| condition.status == "True");
    held.map(|condition| condition.type_.as_str()).collect()
}

#[test]
fn a_complete_cluster_is_available_and_ready() {
    let (cluster, observed) = scene(3, 3, 10);
    let status = rendered(&cluster, &observed, 1);
    assert_eq!(holds(&status), ["Available", "Ready"]);
    assert_eq!(status.phase, Phase::Running);
    assert_eq!((status.size, status.ready_members), (3, 3));
    assert_eq!(status.observed_generation, Some(7));
    assert_eq!(status.leader.as_deref(), Some("demo-0"));
    assert_eq!(status.version.as_deref(), Some("3.9.1"));
    assert_eq!(status.next_action, None);
    assert!(status.selector.contains("keelson.dev/cluster=demo"));
    let member = &status.members[1];
    assert_eq!((member.name.as_str(), member.id.as_str()), ("demo-1", "11"));
    assert_eq!(member.role, Role::Follower);
    assert_eq!(member.endpoint, "http://demo-1-0.demo-members.ns.svc:2379");
    assert_eq!(member.claim_uid.as_deref(), Some("claim-1"));
}

#[test]
fn a_cluster_is_available_once_all_members_joined_and_stays_so_while_it_grows() {
    let (mut cluster, observed) = scene(3, 2, 10);
    let forming = rendered(&cluster, &observed, 1);
    assert_eq!(holds(&forming), ["Progressing", "Reconciling"]);
    let next = forming.next_action.unwrap();
    assert_eq!(next.action.as_deref(), Some("add demo-2 as a learner"));

    cluster.spec.size = 2;
    cluster.status = Some(rendered(&cluster, &observed, 2));
    cluster.spec.size = 3;
    let growing = rendered(&cluster, &observed, 3);
    assert_eq!(holds(&growing), ["Available", "Progressing", "Reconciling"]);

    // An outage meanwhile changes nothing about that.
    let silent = Observed::default();
    cluster.status = Some(rendered(&cluster, &silent, 4));
    assert_eq!(cluster.status.as_ref().unwrap().leader, None);
    let growing = rendered(&cluster, &observed, 5);
    assert_eq!(holds(&growing), ["Available", "Progressing", "Reconciling"]);
}

#[test]
fn a_cluster_without_quorum_says_so_and_keeps_what_it_knew() {
    let (mut cluster, mut observed) = scene(3, 3, 10);
    cluster.status = Some(rendered(&cluster, &observed, 1));
    observed.store = Store::Silent;
    let status = rendered(&cluster, &observed, 2);
    assert_eq!(holds(&status), ["Degraded"]);
    assert_eq!(status.phase, Phase::Unavailable);
    assert_eq!(status.cluster_id.as_deref(), Some("c1"));
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| !member.healthy));
}

#[test]
fn a_parked_cluster_is_as_asked_for_and_not_available() {
    let (mut cluster, mut observed) = scene(3, 3, 10);
    cluster.status = Some(rendered(&cluster, &observed, 1));
    cluster.spec.size = 0;
    let parking = rendered(&cluster, &observed, 2);
    assert_eq!(holds(&parking), ["Progressing", "Reconciling"]);
    cluster.status = Some(parking);
    observed.store = Store::Silent;
    let parked = rendered(&cluster, &observed, 3);
    assert_eq!(holds(&parked), ["Ready"]);
    assert_eq!((parked.members.len(), parked.ready_members), (3, 0), "those that will start again");
    cluster.status = Some(parked);
    cluster.spec.size = 3;
    assert_eq!(holds(&rendered(&cluster, &observed, 4)), ["Progressing", "Reconciling"]);
}

#[test]
fn values_that_move_all_the_time_are_no_reason_to_write() {
    let (mut cluster, observed) = scene(3, 3, 10);
    let first = rendered(&cluster, &observed, 1);
    assert!(worth_writing(None, &first));
    cluster.status = Some(first.clone());
    let (_, busy) = scene(3, 3, 500_000);
    let later = rendered(&cluster, &busy, 2);
    assert!(!worth_writing(Some(&first), &later), "log index and size moved a little");
    let (_, grown) = scene(3, 3, 5_000_000);
    let later = rendered(&cluster, &grown, 3);
    assert!(worth_writing(Some(&first), &later), "the size more than doubled");
    cluster.spec.paused = true;
    assert!(worth_writing(Some(&first), &rendered(&cluster, &observed, 4)));
}

#[test]
fn a_condition_keeps_the_time_since_which_it_holds() {
    let (mut cluster, observed) = scene(3, 3, 10);
    cluster.status = Some(rendered(&cluster, &observed, 1));
    let (_, fewer) = scene(3, 2, 10);
    let later = rendered(&cluster, &fewer, 99);
    let since = |type_: &str| {
        let condition = later.conditions.iter().find(|it| it.type_ == type_).unwrap();
        condition.last_transition_time.0.as_second()
    };
    assert_eq!(since("Available"), 1);
    assert_eq!(since("Progressing"), 99);
}

#[test]
fn a_failure_is_reported_until_it_is_over() {
    let (cluster, observed) = scene(3, 2, 10);
    let plan = plan(&cluster, &observed);
    let status = render(&cluster, &observed, &plan, Some("no such host"), Timestamp::UNIX_EPOCH);
    assert!(is_true(&status, "Degraded"));
    assert_eq!(status.next_action.unwrap().waiting_for.as_deref(), Some("no such host"));
}

/// What waits for Ready must not go on while children are not as asked for.
#[test]
fn a_cluster_at_rest_whose_children_cannot_be_applied_is_not_ready() {
    let (cluster, observed) = scene(3, 3, 10);
    let plan = plan(&cluster, &observed);
    let error = Some("applying Service demo-client: quota");
    let status = render(&cluster, &observed, &plan, error, Timestamp::UNIX_EPOCH);
    assert_eq!(holds(&status), ["Available", "Degraded", "Reconciling"]);
    let why = status.conditions.iter().find(|it| it.type_ == "Ready");
    assert_eq!(why.unwrap().message, "applying Service demo-client: quota");
}

#[test]
fn the_version_is_that_of_the_image() {
    for (image, version) in [
        ("keelson/keelson-server:v0.1.0", "v0.1.0"),
        ("registry:5000/keelson-server", "latest"),
        ("registry:5000/keelson-server:1", "1"),
        ("registry:5000/a:1@sha256:abc", "1"),
        ("a@sha256:abc", "sha256:abc"),
    ] {
        assert_eq!(tag(image), version, "{image}");
    }
    let (cluster, mut observed) = scene(3, 3, 10);
    for (ordinal, tag) in ["v1", "v2", "v1"].into_iter().enumerate() {
        let pod = crate::plan::Pod { image: Some(format!("keelson/keelson-server:{tag}")), ..Default::default() };
        observed.pods.insert(u32::try_from(ordinal).unwrap(), pod);
    }
    let status = rendered(&cluster, &observed, 1);
    assert_eq!(status.server_version.as_deref(), Some("v1, v2"));
    let image = status.members[1].image.as_deref();
    assert_eq!(image, Some("keelson/keelson-server:v2"));
}

#[test]
fn a_refused_spec_stalls_and_loses_nothing() {
    let (mut cluster, observed) = scene(3, 3, 10);
    cluster.status = Some(rendered(&cluster, &observed, 1));
    let plan = refuse(&cluster, &observed, "a valid spec", "spec.size: 99 is too many");
    let status = render(&cluster, &observed, &plan, None, Timestamp::UNIX_EPOCH);
    assert_eq!(holds(&status), ["Available", "Degraded", "Stalled"]);
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.cluster_id.as_deref(), Some("c1"));
    assert!(status.reason.contains("spec.size"));
}

/// Counted from when the others have a quorum: after an outage of all, those that come back last are not late.
#[test]
fn the_time_that_a_member_is_down_begins_when_it_stops_and_ends_with_the_quorum() {
    let (mut cluster, mut observed) = scene(3, 3, 10);
    let since = |cluster: &mut EtcdCluster, observed: &Observed, second| {
        let status = rendered(cluster, observed, second);
        let since = status.members[2].down_since.as_ref().map(|time| time.0.as_second());
        cluster.status = Some(status);
        since
    };
    assert_eq!(since(&mut cluster, &observed, 1), None);
    let Store::Listed { members, .. } = &mut observed.store else { panic!() };
    members[2].answer = None;
    assert_eq!(since(&mut cluster, &observed, 2), Some(2));
    assert_eq!(since(&mut cluster, &observed, 9), Some(2));
    assert_eq!(since(&mut cluster, &Observed::default(), 10), None);
    assert_eq!(since(&mut cluster, &observed, 11), Some(11));
}

#[test]
fn a_replacement_is_written_down_once_before_it_is_begun() {
    let (mut cluster, mut observed) = scene(3, 3, 10);
    cluster.status = Some(rendered(&cluster, &observed, 1));
    observed.alarms.push(crate::plan::Alarm { member: 0x12, kind: crate::plan::AlarmKind::Corrupt });
    for second in [2, 3] {
        let status = rendered(&cluster, &observed, second);
        assert_eq!(status.alarms, ["CORRUPT of demo-2"]);
        let [replacement] = status.replacements.as_slice() else { panic!("{:?}", status.replacements) };
        assert_eq!((replacement.time.0.as_second(), replacement.member.as_str()), (2, "demo-2"));
        assert_eq!((replacement.member_id.as_str(), replacement.reason.contains("corrupt")), ("12", true));
        cluster.status = Some(status);
    }
}

#[test]
fn a_secret_that_is_awaited_is_named_while_there_are_no_certificates() {
    let (mut cluster, mut observed) = scene(3, 0, 0);
    cluster.spec.tls = serde_json::from_value(json!({"secrets": {"server": "s", "peer": "p", "client": "c"}})).unwrap();
    observed.tls.source = Some(crate::plan::tls::Source::lacking("Secret s to be there".into()));
    let status = rendered(&cluster, &observed, 1);
    let told = status.conditions.iter().find(|condition| condition.type_ == "TLSReady").unwrap();
    assert_eq!(
        (&*told.status, &*told.message),
        ("False", "no certificates were made yet; waiting for Secret s to be there")
    );
}
