//! Probes, versions and who may ask over HTTP. The expected answers were recorded from etcd.

mod common;

use std::process::Command;

use common::{Member, eventually, single};
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
