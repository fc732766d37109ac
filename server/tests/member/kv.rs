//! One member, with the `etcd-client` library as users have it.

use crate::common::{self, eventually, refusal, single, watch};
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};

const INVALID_ARGUMENT: i32 = 3;
const OUT_OF_RANGE: i32 = 11;
const NOT_FOUND: i32 = 5;

async fn fill(client: &mut Client, count: usize) {
    for n in 0..count {
        client.put(format!("k{n:02}"), format!("v{n}"), None).await.expect("put");
    }
}

fn keys(response: &etcd_client::GetResponse) -> Vec<&str> {
    response.kvs().iter().map(|kv| kv.key_str().expect("UTF-8")).collect()
}

#[tokio::test]
async fn puts_ranges_and_deletes() {
    let (_member, mut client) = single().await;
    fill(&mut client, 5).await;

    let put = client.put("k00", "new", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(put.prev_key().expect("a previous value").value(), b"v0");
    let header = put.header().expect("a header");
    assert_eq!(header.revision(), 7);
    assert!(header.raft_term() > 0 && header.member_id() != 0 && header.cluster_id() != 0);

    let one = client.get("k00", None).await.expect("get");
    let kv = &one.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (2, 7, 2));

    let limited = GetOptions::new().with_prefix().with_limit(2);
    let range = client.get("k", Some(limited)).await.expect("get");
    assert_eq!(keys(&range), ["k00", "k01"]);
    assert_eq!((range.count(), range.more()), (5, true));

    let old = GetOptions::new().with_revision(2);
    assert_eq!(client.get("k00", Some(old)).await.expect("get").kvs()[0].value(), b"v0");

    let sorted = GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend);
    let range = client.get("k", Some(sorted)).await.expect("get");
    assert_eq!(keys(&range), ["k00", "k04", "k03", "k02", "k01"]);

    let count = GetOptions::new().with_all_keys().with_count_only();
    assert_eq!(client.get("", Some(count)).await.expect("get").count(), 5);

    let prefix = GetOptions::new().with_prefix();
    let mut stream = client.kv_client().get_stream("k", Some(prefix)).await.expect("a stream");
    let (mut streamed, mut count) = (0, 0);
    while let Some(chunk) = stream.message().await.expect("a chunk") {
        streamed += chunk.kvs().len();
        count = chunk.count();
    }
    assert_eq!((streamed, count), (5, 5));

    let options = DeleteOptions::new().with_range("k02").with_prev_key();
    let deleted = client.delete("k00", Some(options)).await.expect("delete");
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (2, 2));
    let nothing = client.delete("k00", None).await.expect("delete");
    assert_eq!(nothing.header().expect("a header").revision(), 8);
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_words_that_clients_know() {
    let (_member, mut client) = single().await;
    fill(&mut client, 3).await;
    assert_eq!(
        refusal(client.put("", "v", None).await),
        (INVALID_ARGUMENT, "etcdserver: key is not provided".to_owned())
    );
    let future = GetOptions::new().with_revision(99);
    assert_eq!(
        refusal(client.get("k00", Some(future)).await),
        (OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision".to_owned())
    );
    assert_eq!(
        refusal(client.put("k", "v", Some(PutOptions::new().with_lease(7))).await),
        (NOT_FOUND, "etcdserver: requested lease not found".to_owned())
    );
    let twice = Txn::new().and_then([TxnOp::put("a", "1", None), TxnOp::put("a", "2", None)]);
    assert_eq!(
        refusal(client.txn(twice).await),
        (INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request".to_owned())
    );
    let many: Vec<_> = (0..129).map(|n| TxnOp::put(format!("a{n}"), "", None)).collect();
    assert_eq!(
        refusal(client.txn(Txn::new().and_then(many)).await),
        (INVALID_ARGUMENT, "etcdserver: too many operations in txn request".to_owned())
    );
    assert_eq!(
        refusal(client.put("big", vec![0; 1536 * 1024], None).await),
        (INVALID_ARGUMENT, "etcdserver: request is too large".to_owned())
    );
    // Above that the message is not even received; Go's servers have a code of their own for it.
    assert_eq!(refusal(client.put("big", vec![0; 3 << 20], None).await).0, 8);
    let mut watching = watch(&mut client, "big", WatchOptions::new()).await;
    watching.watch(vec![0; 3 << 20], None).await.expect("sent");
    let refused = refusal(watching.message().await);
    assert_eq!(refused.0, 8, "{refused:?}");

    client.compact(3, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
    assert_eq!(
        refusal(client.compact(3, None).await),
        (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted".to_owned())
    );
    let old = GetOptions::new().with_revision(2);
    assert_eq!(refusal(client.get("k00", Some(old)).await).0, OUT_OF_RANGE);
    let at = GetOptions::new().with_revision(3);
    assert_eq!(client.get("k00", Some(at)).await.expect("get").count(), 1);
}

#[tokio::test]
async fn txns_compare_and_swap() {
    let (_member, mut client) = single().await;
    fill(&mut client, 1).await;
    let swap = |expected: i64| {
        Txn::new()
            .when([Compare::mod_revision("k00", CompareOp::Equal, expected)])
            .and_then([TxnOp::put("k00", "swapped", None), TxnOp::get("k00", None)])
            .or_else([TxnOp::get("k00", None)])
    };
    let done = client.txn(swap(2)).await.expect("txn");
    assert!(done.succeeded());
    let responses = done.op_responses();
    let TxnOpResponse::Get(got) = &responses[1] else { panic!("a range: {responses:?}") };
    assert_eq!(got.kvs()[0].value(), b"swapped");

    let stale = client.txn(swap(2)).await.expect("txn");
    assert!(!stale.succeeded());
    assert_eq!(stale.header().expect("a header").revision(), 3);

    let nested = Txn::new().and_then([TxnOp::txn(
        Txn::new().when([Compare::version("none", CompareOp::Equal, 0)]).and_then([TxnOp::put("none", "1", None)]),
    )]);
    assert!(client.txn(nested).await.expect("txn").succeeded());
    assert_eq!(client.get("none", None).await.expect("get").count(), 1);
}

#[tokio::test]
async fn watches_see_history_and_changes_in_order() {
    let (_member, mut client) = single().await;
    fill(&mut client, 3).await;
    let options = WatchOptions::new().with_prefix().with_start_revision(3).with_prev_key();
    let mut stream = watch(&mut client, "k", options).await;
    client.put("k01", "later", None).await.expect("put");
    client.delete("k02", None).await.expect("delete");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let response = stream.message().await.expect("a response").expect("an open stream");
        for event in response.events() {
            let kv = event.kv().expect("a key");
            let previous = event.prev_kv().map(|kv| kv.value_str().expect("UTF-8").to_owned());
            seen.push((kv.mod_revision(), event.event_type(), kv.key_str().expect("UTF-8").to_owned(), previous));
        }
    }
    let expected = [
        (3, EventType::Put, "k01", None),
        (4, EventType::Put, "k02", None),
        (5, EventType::Put, "k01", Some("v1")),
        (6, EventType::Delete, "k02", Some("v2")),
    ];
    let expected =
        expected.map(|(revision, kind, key, previous)| (revision, kind, key.to_owned(), previous.map(str::to_owned)));
    assert_eq!(seen, expected);

    client.compact(5, None).await.expect("compacted");
    let options = WatchOptions::new().with_start_revision(2);
    let mut stream = watch(&mut client, "k", options).await;
    let canceled = stream.message().await.expect("a response").expect("an open stream");
    assert!(canceled.canceled());
    assert_eq!(canceled.compact_revision(), 5);
}

#[tokio::test]
async fn leases_are_kept_alive_expire_and_are_revoked() {
    let (_member, mut client) = single().await;
    let short = client.lease_grant(1, None).await.expect("granted");
    assert_eq!(short.ttl(), 2, "raised to the minimum");
    let long = client.lease_grant(100, None).await.expect("granted").id();
    for (key, lease) in [("short", short.id()), ("long", long)] {
        let options = PutOptions::new().with_lease(lease);
        client.put(key, "v", Some(options)).await.expect("put");
    }
    let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
    let told = client.lease_time_to_live(long, Some(options)).await.expect("told");
    assert_eq!(told.keys(), [b"long".to_vec()]);
    assert!((90..=100).contains(&told.ttl()) && told.granted_ttl() == 100);
    assert_eq!(client.lease_time_to_live(7, None).await.expect("told").ttl(), -1);
    assert_eq!(client.leases().await.expect("told").leases().len(), 2);

    let (mut keeper, mut answers) = client.lease_keep_alive(long).await.expect("kept");
    keeper.keep_alive().await.expect("sent");
    assert_eq!(answers.message().await.expect("an answer").expect("open").ttl(), 100);

    eventually("the short lease's key is gone", || {
        let mut client = client.clone();
        async move { (client.get("short", None).await.expect("get").count() == 0).then_some(()) }
    })
    .await;
    client.lease_revoke(long).await.expect("revoked");
    assert_eq!(client.get("long", None).await.expect("get").count(), 0);
    assert_eq!(refusal(client.lease_revoke(long).await).0, NOT_FOUND);
}

#[tokio::test]
async fn probes_and_metrics() {
    let (member, mut client) = single().await;
    fill(&mut client, 1).await;
    let get = async |path: &str| member.get(path).await.expect("an answer");
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(get("/health").await, healthy);
    assert_eq!(get("/health?serializable=true").await, healthy);
    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    let (code, text) = get("/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(text.contains("[+]linearizable_read ok\n"), "{text}");
    assert_eq!(get("/readyz/non_learner").await, (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz/unknown").await.0, 404);
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("\netcd_server_has_leader 1\n"), "{metrics}");
    let fsyncs = "etcd_disk_wal_fsync_duration_seconds_count 0";
    let commits = "etcd_disk_backend_commit_duration_seconds_count 0";
    assert!(!metrics.contains(fsyncs) && !metrics.contains(commits), "{metrics}");
    let puts = r#"grpc_server_handled_total{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Put",grpc_code="OK"} 1"#;
    assert!(metrics.contains(puts), "{metrics}");
    // The port of clients serves them too, and what the other does not.
    let (_, version) = common::http_get(&member.client_url(), "/version").await.expect("an answer");
    assert!(version.contains(r#""etcdserver":"3.7.1""#), "{version}");
    assert_eq!(get("/version").await.0, 404);
}

#[tokio::test]
async fn a_full_store_takes_no_puts_until_disarmed() {
    let mut member = common::Member::new("small");
    let list = format!("--initial-cluster=small={}", member.peer_url());
    member.start(&[&list, "--quota-backend-bytes=100000"]);
    let mut client = member.client().await;
    let no_space = (8, "etcdserver: mvcc: database space exceeded".to_owned());
    let refused = loop {
        if let Err(error) = client.put("k", vec![b'v'; 10_000], None).await {
            break refusal::<()>(Err(error));
        }
    };
    assert_eq!(refused, no_space);
    assert_eq!(refusal(client.put("k", "v", None).await), no_space);
    assert_eq!(refusal(client.lease_grant(10, None).await), no_space);
    client.delete("k", None).await.expect("deletes work");
    let status = client.status().await.expect("status");
    assert!(status.errors()[0].contains("NOSPACE"), "{:?}", status.errors());
    let (code, text) = member.get("/health").await.expect("an answer");
    assert_eq!((code, text.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
}
