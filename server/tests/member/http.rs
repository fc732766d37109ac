//! Probes, versions and who may ask over HTTP. The expected answers were recorded from etcd.

use std::process::Command;

use crate::common::{self, Member, eventually, single};
use etcd_client::{AlarmAction, AlarmType};

/// What curl says: status, headers in lower case, body.
fn curl(arguments: &[&str]) -> (u16, Vec<(String, String)>, String) {
    let output = Command::new("curl").args(["-s", "-i", "-m", "20"]).args(arguments).output().expect("curl runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    (status.expect("a status"), headers, body.to_owned())
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

const READY: &str = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";

#[tokio::test]
async fn paths() {
    let (member, _client) = single().await;
    let url = member.client_url();
    let version = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    let healthy = r#"{"health":"true","reason":""}"#;
    for (path, status, kind, body) in [
        ("/version", 200, "application/json", version),
        ("/health", 200, "text/plain; charset=utf-8", healthy),
        ("/health?serializable=true&exclude=NOSPACE", 200, "text/plain; charset=utf-8", healthy),
        ("/livez", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/livez?verbose", 200, "text/plain; charset=utf-8", "[+]serializable_read ok\nok\n"),
        ("/livez?verbose&exclude=serializable_read", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/readyz?verbose&exclude=nope", 200, "text/plain; charset=utf-8", READY),
        ("/readyz/non_learner?verbose", 200, "text/plain; charset=utf-8", "[+]non_learner ok\nok\n"),
        // Excluding is for the whole, not for one check.
        (
            "/readyz/non_learner?verbose&exclude=non_learner",
            200,
            "text/plain; charset=utf-8",
            "[+]non_learner ok\nok\n",
        ),
        ("/livez/non_learner", 404, "text/plain; charset=utf-8", "404 page not found\n"),
        ("/livez/", 404, "text/plain; charset=utf-8", "404 page not found\n"),
        ("/debug/pprof/", 404, "text/plain; charset=utf-8", "404 page not found\n"),
        ("/", 404, "text/plain; charset=utf-8", "404 page not found\n"),
    ] {
        let (got, headers, text) = curl(&[&format!("{url}{path}")]);
        assert_eq!((got, header(&headers, "content-type"), text.as_str()), (status, Some(kind), body), "{path}");
        assert_eq!(header(&headers, "access-control-allow-origin"), Some("*"), "{path}");
        if path.starts_with("/livez") || status == 404 {
            assert_eq!(header(&headers, "x-content-type-options"), Some("nosniff"), "{path}");
        }
    }
    for path in ["/version", "/health", "/livez", "/readyz", "/livez/serializable_read", "/debug/vars"] {
        let (status, headers, text) = curl(&[&format!("{url}{path}"), "-d", "x"]);
        assert_eq!((status, header(&headers, "allow"), text.as_str()), (405, Some("GET"), "Method Not Allowed\n"));
    }
    let (status, _, text) = curl(&[&format!("{url}/debug/vars")]);
    let variables: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &variables["raft.status"]["raftState"]), (200, &"StateLeader".into()));
    assert!(variables["cmdline"][0].as_str().expect("text").ends_with("keelson-server"));
}

#[tokio::test]
async fn alarms_show_in_probes() {
    let (member, mut client) = single().await;
    let url = member.client_url();
    let corrupt = client.alarm(AlarmAction::Activate, AlarmType::Corrupt, None).await;
    corrupt.expect("raised");
    let (status, headers, text) = curl(&[&format!("{url}/health")]);
    assert_eq!((status, text.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n"));
    assert_eq!(header(&headers, "x-content-type-options"), Some("nosniff"));
    assert_eq!(curl(&[&format!("{url}/health?exclude=CORRUPT")]).0, 200);
    let (status, _, text) = curl(&[&format!("{url}/readyz")]);
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n";
    assert!(status == 503 && text.starts_with(failed) && text.ends_with("[+]non_learner ok\n\n"), "{text}");
    assert_eq!(curl(&[&format!("{url}/readyz?exclude=data_corruption")]).0, 200);
    assert_eq!(curl(&[&format!("{url}/livez")]).0, 200);
}

#[tokio::test]
async fn hosts_and_origins() {
    let mut member = Member::new("single");
    let list = format!("--initial-cluster=single={}", member.peer_url());
    member.start(&[&list, "--host-whitelist=etcd.example,other", "--cors=http://page.example:80"]);
    eventually("it serves", || async { member.get("/readyz").await.filter(|(code, _)| *code == 200) }).await;
    let url = member.client_url();
    let range = format!("{url}/v3/kv/range");
    let (status, headers, text) = curl(&[&range, "-d", r#"{"key":"YQ=="}"#]);
    assert_eq!((status, header(&headers, "x-content-type-options")), (421, Some("nosniff")), "{text}");
    assert!(text.contains("--host-whitelist") && text.contains("CVE-2018-5702"), "{text}");
    let named = ["-H", "Host: etcd.example:2379"];
    let with_origin = |origin: &str| {
        let origin = format!("Origin: {origin}");
        curl(&[&range, "-d", r#"{"key":"YQ=="}"#, named[0], named[1], "-H", &origin])
    };
    let (status, headers, _) = with_origin("http://page.example:80");
    assert_eq!(status, 200);
    assert_eq!(header(&headers, "access-control-allow-origin"), Some("http://page.example:80"));
    assert_eq!(header(&headers, "access-control-allow-methods"), Some("POST, GET, OPTIONS, PUT, DELETE"));
    assert_eq!(header(&headers, "access-control-allow-headers"), Some("accept, content-type, authorization"));
    let (status, headers, _) = with_origin("http://evil.example:80");
    assert_eq!((status, header(&headers, "access-control-allow-origin")), (200, None));
    let (status, _, text) = curl(&[&range, "-X", "OPTIONS", named[0], named[1]]);
    assert_eq!((status, text.as_str()), (200, ""));
}

/// Sends a request with a body of 8 MiB, and only then reads: the status, if all could be sent.
async fn posted(address: &str, path: &str, host: &str, more: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let piece = vec![b' '; 64 << 10];
    let begun = r#"{"a":""#;
    let length = begun.len() + 128 * piece.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: {length}\r\n\r\n{begun}");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..128 {
        stream.write_all(&piece).await?;
        // So that the server is ahead of the client.
        tokio::task::yield_now().await;
    }
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_refusal_is_seen_by_a_client_that_still_sends() {
    let mut member = Member::new("single");
    let list = format!("--initial-cluster=single={}", member.peer_url());
    member.start(&[&list, "--host-whitelist=etcd.example"]);
    eventually("it serves", || async { member.get("/readyz").await.filter(|(code, _)| *code == 200) }).await;
    let clients = format!("{}:2379", member.address());
    let probes = format!("{}:2381", member.address());
    for (address, path, host, status) in [
        (&clients, "/v3/kv/range", "evil.example", "421"),
        (&clients, "/v3/kv/range", "etcd.example", "429"),
        (&clients, "/v3/none", "etcd.example", "404"),
        (&clients, "/none", "etcd.example", "404"),
        (&clients, "/health", "etcd.example", "405"),
        (&probes, "/none", "any.example", "404"),
    ] {
        let answer = posted(address, path, host, "").await;
        assert_eq!(answer.expect("no broken pipe"), status, "{path} {host}");
    }
    // Over HTTP/2 a stream that is reset may end before its answer is seen.
    let body = member.folder.path().join("body");
    std::fs::write(&body, vec![b' '; 4 << 20]).expect("written");
    let (body, url) = (format!("@{}", body.display()), format!("{}/v3/kv/range", member.client_url()));
    for _ in 0..20 {
        let arguments = ["--http2-prior-knowledge", "-H", "Host: evil.example", "--data-binary", &body, &url];
        let output = Command::new("curl").args(["-sS", "-i", "-m", "20"]).args(arguments).output().expect("curl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout.starts_with(b"HTTP/2 421"), "{said}");
    }
}

/// The value of a sample, by its name and labels as they stand in the text.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn metrics_count_what_happens() {
    use etcd_client::{
        Compare, CompareOp, DeleteOptions, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, WatchOptions,
    };
    let (member, mut client) = single().await;
    let lease = LeaseGrantOptions::new().with_id(7);
    client.lease_grant(60, Some(lease)).await.expect("granted");
    client.lease_keep_alive(7).await.expect("renewed");
    let mut watch = common::watch(&mut client, "a", WatchOptions::new()).await;
    client.put("a", "12345", Some(PutOptions::new().with_prev_key())).await.expect("put");
    watch.message().await.expect("told");
    client.get("a", Some(GetOptions::new())).await.expect("read");
    let txn = Txn::new().when([Compare::version("a", CompareOp::Greater, 0)]).and_then([
        TxnOp::put("b", "1", None),
        TxnOp::delete("zz", None),
        TxnOp::get("a", None),
    ]);
    client.txn(txn).await.expect("done");
    client.delete("b", Some(DeleteOptions::new())).await.expect("deleted");
    let revoke = client.lease_revoke(7).await;
    let revision = revoke.expect("revoked").header().expect("a header").revision();
    client.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await.expect("compacted");
    client.defragment().await.expect("done");
    client.hash_kv(0).await.expect("told");
    curl(&[&format!("{}/health", member.client_url())]);
    for (name, value) in [
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 1.0),
        ("etcd_debugging_lease_renewed_total", 1.0),
        ("etcd_debugging_lease_ttl_total_sum", 60.0),
        ("etcd_debugging_server_lease_expired_total", 0.0),
        ("etcd_debugging_mvcc_watch_stream_total", 1.0),
        ("etcd_debugging_mvcc_watcher_total", 1.0),
        ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
        ("etcd_debugging_mvcc_pending_events_total", 0.0),
        ("etcd_debugging_mvcc_events_total", 1.0),
        ("etcd_mvcc_put_total", 2.0),
        ("etcd_mvcc_delete_total", 2.0),
        // The previous version of a put, a get, a compare, a get in the txn.
        ("etcd_mvcc_range_total", 4.0),
        ("etcd_mvcc_txn_total", 2.0),
        ("etcd_debugging_mvcc_total_put_size_in_bytes", 8.0),
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0),
        ("etcd_disk_backend_defrag_duration_seconds_count", 1.0),
        ("etcd_disk_defrag_inflight", 0.0),
        ("etcd_mvcc_hash_rev_duration_seconds_count", 1.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_health_failures", 0.0),
        ("etcd_server_healthcheck{type=\"readyz\",name=\"non_learner\"}", 1.0),
        ("etcd_server_request_duration_seconds_count{type=\"Put\",success=\"true\"}", 1.0),
        ("etcd_server_apply_duration_seconds_count{version=\"v3\",op=\"Txn\",success=\"true\"}", 1.0),
        ("etcd_server_range_duration_seconds_count{success=\"true\"}", 1.0),
        ("etcd_cluster_version{cluster_version=\"3.7\"}", 1.0),
        (
            "grpc_server_msg_received_total{grpc_type=\"bidi_stream\",grpc_service=\"etcdserverpb.Watch\",grpc_method=\"Watch\"}",
            1.0,
        ),
        (
            "grpc_server_msg_sent_total{grpc_type=\"bidi_stream\",grpc_service=\"etcdserverpb.Watch\",grpc_method=\"Watch\"}",
            2.0,
        ),
    ] {
        eventually(name, || async {
            let (_, metrics) = member.get("/metrics").await?;
            let found = sample(&metrics, name);
            if found != Some(value) {
                println!("{name}: {found:?} is not {value}");
            }
            (found == Some(value)).then_some(())
        })
        .await;
    }
    let (_, metrics) = member.get("/metrics").await.expect("told");
    assert!(sample(&metrics, "etcd_debugging_mvcc_db_compaction_keys_total").is_some_and(|keys| keys > 0.0));
    assert!(sample(&metrics, "etcd_disk_wal_write_bytes_total").is_some_and(|bytes| bytes > 0.0));
    // Messages alone: far less than the connections carried.
    assert!(sample(&metrics, "etcd_network_client_grpc_received_bytes_total").is_some_and(|bytes| bytes < 300.0));
    drop(watch);
    eventually("the stream is gone", || async {
        let (_, metrics) = member.get("/metrics").await?;
        let names = ["etcd_debugging_mvcc_watch_stream_total", "etcd_debugging_mvcc_watcher_total"];
        names.iter().all(|name| sample(&metrics, name) == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn metrics_of_peers() {
    let cluster = common::Cluster::start(3);
    cluster.clients().await;
    let leader = cluster.leader().await;
    let ids = async |n: usize| {
        let mut client = cluster.members[n].client().await;
        client.status().await.expect("told").header().expect("a header").member_id()
    };
    let (first, other) = (ids(leader).await, ids((leader + 1) % 3).await);
    let known = format!("etcd_network_known_peers{{Local=\"{first:x}\",Remote=\"{other:x}\"}} 1");
    eventually("the leader tells of its peers", || async {
        let (_, metrics) = cluster.members[leader].get("/metrics").await?;
        let of = |name: &str, label: &str| sample(&metrics, &format!("{name}{{{label}=\"{other:x}\"}}"));
        assert!(metrics.lines().any(|line| line == known), "{metrics}");
        (of("etcd_network_peer_sent_bytes_total", "To")? > 0.0
            && of("etcd_network_peer_received_bytes_total", "From")? > 0.0
            && of("etcd_network_peer_round_trip_time_seconds_count", "To")? > 0.0)
            .then_some(())
    })
    .await;
    eventually("a follower tells what the leader sends", || async {
        let (_, metrics) = cluster.members[(leader + 1) % 3].get("/metrics").await?;
        let bytes = sample(&metrics, &format!("etcd_network_peer_received_bytes_total{{From=\"{first:x}\"}}"))?;
        (bytes > 0.0).then_some(())
    })
    .await;
}
