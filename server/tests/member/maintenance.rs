//! What keeps a cluster well: the quota, comparisons of the members' data, and the way back to an older version.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::common::{Member, eventually, refusal, single};
use etcd_client::CompactionOptions;
use keelson_server::mvcc::{Effects, KeyValue, RevRecord, View};
use keelson_server::proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_server::proto::etcdserverpb::downgrade_request::DowngradeAction;
use keelson_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_server::proto::etcdserverpb::*;
use keelson_server::storage::{Store, StoreOptions};
use prost::Message;
use rand::{RngCore, SeedableRng};
use tonic::transport::Channel;

const RESOURCE_EXHAUSTED: i32 = 8;

async fn maintenance(member: &Member) -> MaintenanceClient<Channel> {
    MaintenanceClient::connect(member.client_url()).await.expect("a client")
}

async fn alarms(client: &mut MaintenanceClient<Channel>) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    client.alarm(request).await.expect("an answer").into_inner().alarms
}

#[tokio::test]
async fn a_full_store_takes_writes_again_after_compaction_and_defragmentation() {
    const QUOTA: i64 = 16 << 20;
    let mut member = Member::new("single");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url()), "--quota-backend-bytes=16777216"]);
    let mut client = member.client().await;
    let mut maintenance = maintenance(&member).await;
    // Nothing that a disk could make smaller.
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut value = vec![0; 200_000];
    let mut revision = 0;
    let refused = loop {
        random.fill_bytes(&mut value);
        match client.put(format!("key/{}", revision % 10), value.clone(), None).await {
            Ok(put) => revision = put.header().expect("a header").revision(),
            Err(error) => break refusal::<()>(Err(error)),
        }
        assert!(revision < 1000, "the quota is never met");
    };
    assert_eq!(refused, (RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded".to_owned()));
    let raised = alarms(&mut maintenance).await;
    let status = maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.db_size_quota, QUOTA);
    assert!(status.db_size > QUOTA / 2, "{status:?}");
    assert_eq!(raised.iter().map(AlarmMember::alarm).collect::<Vec<_>>(), [AlarmType::Nospace]);
    assert_eq!(raised[0].member_id, status.header.expect("a header").member_id);
    assert!(status.errors[0].contains("NOSPACE"), "{status:?}");
    // What makes room is allowed.
    client.delete("key/0", None).await.expect("deleted");
    let now = client.get("key/1", None).await.expect("read").header().expect("a header").revision();
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
    maintenance.defragment(DefragmentRequest {}).await.expect("defragmented");
    let smaller = maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
    assert!(smaller.db_size < QUOTA / 3, "{} after {}", smaller.db_size, status.db_size);
    assert!(smaller.db_size_in_use <= smaller.db_size);
    assert_eq!(refusal(client.put("a", "1", None).await).0, RESOURCE_EXHAUSTED, "the alarm stays until disarmed");
    let AlarmMember { member_id, alarm } = raised[0];
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
    maintenance.alarm(disarm).await.expect("disarmed");
    client.put("a", "1", None).await.expect("put");
    assert!(alarms(&mut maintenance).await.is_empty());
}

#[tokio::test]
async fn the_cluster_may_go_back_one_minor_version() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let (mut member, _client) = single().await;
    let mut maintenance = maintenance(&member).await;
    let wrong_format = "etcdserver: wrong downgrade target version format";
    let wrong_target = "etcdserver: invalid downgrade target version";
    let running = "etcdserver: cluster has a downgrade job in progress";
    for (action, version, answer, then) in [
        (Validate, "3.6.0", Ok("3.7"), "3.7.0"),
        (Validate, "three", Err(wrong_format), "3.7.0"),
        (Enable, "", Err(wrong_format), "3.7.0"),
        (Validate, "3.7.0", Err(wrong_target), "3.7.0"),
        (Enable, "3.5.0", Err(wrong_target), "3.7.0"),
        // Only logged, as in etcd.
        (Cancel, "", Ok("3.7"), "3.7.0"),
        (Enable, "3.6", Ok("3.7"), "3.6.0"),
        (Validate, "3.6.0", Err(wrong_target), "3.6.0"),
        (Validate, "3.5.0", Err(running), "3.6.0"),
        (Cancel, "", Ok("3.6"), "3.7.0"),
        (Enable, "3.6.0", Ok("3.7"), "3.6.0"),
    ] {
        let request = DowngradeRequest { action: action.into(), version: version.into() };
        let answered = maintenance.downgrade(request).await;
        let answered = answered.map(|answer| answer.into_inner().version).map_err(|status| status.message().to_owned());
        let expected = answer.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(answered, expected, "{action:?} {version}");
        let status = maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
        assert_eq!(status.storage_version, then, "{action:?} {version}");
        let enabled = then == "3.6.0";
        let target_version = if enabled { then.to_owned() } else { String::new() };
        assert_eq!(status.downgrade_info, Some(DowngradeInfo { enabled, target_version }));
    }
    // It is part of the replicated state.
    member.kill();
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url())]);
    member.client().await;
    let status = maintenance_status(&member).await;
    assert_eq!(status.storage_version, "3.6.0");
    let mut first = maintenance_snapshot(&member).await;
    let version = first.message().await.expect("a message").expect("a first one").version;
    assert_eq!(version, "3.6.0");
}

async fn maintenance_status(member: &Member) -> StatusResponse {
    maintenance(member).await.status(StatusRequest {}).await.expect("a status").into_inner()
}

async fn maintenance_snapshot(member: &Member) -> tonic::Streaming<SnapshotResponse> {
    maintenance(member).await.snapshot(SnapshotRequest {}).await.expect("a stream").into_inner()
}

/// Changes a value in the history of a member that does not run, as a broken disk would.
fn tamper(member: &Member) {
    let store = Store::open(&member.data_dir().join("store"), StoreOptions::default()).expect("a store");
    let mut first = None;
    let view = store.view();
    let visited = view.history(0, &mut |place, record| {
        first = Some((place, record));
        Ok(ControlFlow::Break(()))
    });
    visited.expect("a history");
    let (place, record) = first.expect("a version");
    let mut kv = KeyValue::decode(record.kv).expect("a key-value");
    kv.value = "something else".into();
    let changed = RevRecord { previous: record.previous, kv: kv.encode_to_vec().into() };
    let mut batch = store.begin();
    batch.stage(Effects { history: BTreeMap::from([(place, changed)]), ..Effects::default() });
    batch.commit().expect("committed");
    store.flush().expect("flushed");
}

/// Of what the member has up to this revision, once it has that.
async fn hash(member: &Member, revision: i64) -> Option<(u32, i64)> {
    let answer = maintenance(member).await.hash_kv(HashKvRequest { revision }).await.ok()?.into_inner();
    Some((answer.hash, answer.compact_revision))
}

#[tokio::test]
async fn a_member_whose_history_differs_is_found_and_replaced() {
    let newest = &["--corrupt-check-time=500ms"][..];
    let compacted = &["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=500ms"];
    for (n, (checks, leads)) in [(newest, false), (compacted, false), (newest, true)].into_iter().enumerate() {
        let mut members: Vec<_> = (0..3).map(|n| Member::new(format!("m{n}"))).collect();
        let list: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
        let flag = format!("--initial-cluster={}", list.join(","));
        let flags = [&[flag.as_str()], checks].concat();
        // Who leads checks: the one that is to be found, if only it does.
        members.iter_mut().for_each(|member| member.start(if leads { &flags[..1] } else { &flags }));
        let mut client = members[0].client().await;
        client.put("a", "1", None).await.expect("put");
        let put = client.put("b", "1", None).await.expect("put");
        client.compact(put.header().expect("a header").revision(), None).await.expect("compacted");
        client.put("c", "1", None).await.expect("put");
        // One that does not lead.
        let leader = maintenance_status(&members[0]).await.leader;
        let mut others = Vec::new();
        for (at, member) in members.iter().enumerate().skip(1) {
            member.client().await;
            let id = maintenance_status(member).await.header.expect("a header").member_id;
            others.extend((id != leader).then_some((at, id)));
        }
        let (broken, id) = others[0];
        members[broken].terminate().await;
        tamper(&members[broken]);
        if n == 0 {
            members[broken].start(&[flag.as_str(), "--feature-gates=InitialCorruptCheck=true"]);
            assert_eq!(members[broken].exit().await, Some(1));
            assert!(members[broken].log().contains("found data inconsistency with peers"));
        }
        members[broken].start(&flags);
        if leads {
            members[broken].client().await;
            let members = &members;
            eventually("it leads", || async move {
                for member in members {
                    // Those that do not lead refuse.
                    let _ = maintenance(member).await.move_leader(MoveLeaderRequest { target_id: id }).await;
                }
                (maintenance_status(&members[0]).await.leader == id).then_some(())
            })
            .await;
        }
        let maintenance = maintenance(&members[0]).await;
        let raised = eventually("the alarm is raised", || {
            let mut maintenance = maintenance.clone();
            async move { Some(alarms(&mut maintenance).await).filter(|raised| !raised.is_empty()) }
        })
        .await;
        assert_eq!(raised, [AlarmMember { member_id: id, alarm: AlarmType::Corrupt.into() }]);
        assert_eq!(refusal(client.put("d", "1", None).await).1, "etcdserver: corrupt cluster");

        // As docs/reliability.md tells: it comes back without data, and gets the others'.
        client.member_remove(id).await.expect("removed");
        members[broken].kill();
        std::fs::remove_dir_all(members[broken].data_dir()).expect("deleted");
        client.member_add([members[broken].peer_url()], None).await.expect("added");
        members[broken].start(&[&flags[..], &["--initial-cluster-state=existing"]].concat());
        members[broken].client().await;
        let mut disarming = maintenance.clone();
        for AlarmMember { member_id, alarm } in raised {
            let request = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
            disarming.alarm(request).await.expect("disarmed");
        }
        let put = client.put("d", "1", None).await.expect("put");
        let revision = put.header().expect("a header").revision();
        let mut sums = Vec::new();
        for member in &members {
            sums.push(eventually("the member has all", || hash(member, revision)).await);
        }
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        assert_eq!(alarms(&mut disarming).await, []);
    }
}
