//! JSON under /v3: what etcd answers, to the byte, but for ids and terms. The expected texts were recorded from etcd.

use std::convert::Infallible;
use std::process::Command;

use crate::common::{self, Member, eventually, single};
use base64::Engine as _;
use bytes::Bytes;
use etcd_client::Client;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A request to a member and its answer, whose body is still to come.
async fn open<B>(request: Request<B>) -> Response<Incoming>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    client.request(request).await.expect("an answer")
}

fn post(member: &Member, path: &str) -> http::request::Builder {
    Request::post(format!("{}{path}", member.client_url()))
}

async fn whole(response: Response<Incoming>) -> (u16, HeaderMap, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.into()).expect("text"))
}

async fn ask(member: &Member, path: &str, json: &str) -> (u16, String) {
    let request = post(member, path).body(http_body_util::Full::from(json.to_owned())).expect("a request");
    let (status, headers, body) = whole(open(request).await).await;
    if !body.is_empty() {
        assert_eq!(headers["content-type"], "application/json", "{path}");
    }
    (status, body)
}

/// Puts letters in the place of what differs from cluster to cluster.
struct Ids(Vec<(String, &'static str)>);

impl Ids {
    async fn of(client: &mut Client, member: &Member) -> Self {
        let status = client.status().await.expect("told");
        let header = status.header().expect("a header");
        Ids(vec![
            (header.cluster_id().to_string(), "CLUSTER"),
            (header.member_id().to_string(), "MEMBER"),
            (format!("\"raft_term\":\"{}\"", header.raft_term()), "\"raft_term\":\"T\""),
            (member.client_url(), "CLIENT-URL"),
            (member.peer_url(), "PEER-URL"),
        ])
    }

    fn replaced(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, (id, letter)| text.replace(id, letter));
        text.replace("\"cluster_id\":\"CLUSTER\",\"member_id\":\"MEMBER\"", "IDS")
    }
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Sends requests in order. In them, `<text>` stands for that text in base64.
async fn golden(member: &Member, client: &mut Client, table: &[(&str, &str, u16, &str)]) {
    let ids = Ids::of(client, member).await;
    for (path, json, status, expected) in table {
        let mut request = String::new();
        for (n, part) in json.split(['<', '>']).enumerate() {
            request += &if n % 2 == 1 { base64(part) } else { part.to_owned() };
        }
        let (got, body) = ask(member, path, &request).await;
        assert_eq!((got, ids.replaced(&body).as_str()), (*status, *expected), "{path} {json}");
    }
}

#[tokio::test]
async fn keys() {
    let (member, mut client) = single().await;
    #[rustfmt::skip]
    golden(&member, &mut client, &[
        ("/v3/kv/range", "", 400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#),
        ("/v3/kv/range", r#"{"key":"<a>"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"}}"#),
        ("/v3/kv/put", r#"{"key":"<a>","value":"<1>"}"#, 200, r#"{"header":{IDS,"revision":"2","raft_term":"T"}}"#),
        ("/v3/kv/put", r#"{"key":"<a>","value":"<2>","prev_kv":true}"#, 200, r#"{"header":{IDS,"revision":"3","raft_term":"T"},"prev_kv":{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}}"#),
        ("/v3/kv/put", r#"{"key":"<a>","lease":"99"}"#, 404, r#"{"code":5,"message":"etcdserver: requested lease not found"}"#),
        ("/v3/kv/range", r#"{"key":"<a>"}"#, 200, r#"{"header":{IDS,"revision":"3","raft_term":"T"},"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"Mg=="}],"count":"1"}"#),
        ("/v3/kv/range", r#"{"key":"YQ","rangeEnd":"AA","countOnly":true} trailing"#, 200, r#"{"header":{IDS,"revision":"3","raft_term":"T"},"count":"1"}"#),
        ("/v3/kv/range", r#"{"key":"<a>","sort_order":"DESCEND","sort_target":"NOPE","limit":1e0,"zzz":{"a":[1]}}"#, 200, r#"{"header":{IDS,"revision":"3","raft_term":"T"},"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"Mg=="}],"count":"1"}"#),
        ("/v3/kv/range", r#"{"key":"<a>","revision":200}"#, 400, r#"{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#),
        ("/v3/kv/range", r#"{"key":"#, 400, r#"{"code":3,"message":"unexpected EOF"}"#),
        ("/v3/kv/txn", r#"{"compare":[{"result":"EQUAL","target":"VALUE","key":"<a>","value":"<2>"}],"success":[{"request_put":{"key":"<b>","value":"<x>"}},{"requestRange":{"key":"<a>"}}],"failure":[{"request_delete_range":{"key":"<a>"}}]}"#, 200, r#"{"header":{IDS,"revision":"4","raft_term":"T"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"4"}}},{"response_range":{"header":{"revision":"4"},"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"Mg=="}],"count":"1"}}]}"#),
        ("/v3/kv/txn", r#"{"compare":[{"target":"VERSION","key":"<a>","version":"0"}],"failure":[{"request_delete_range":{"key":"<a>"}},{"request_txn":{}}]}"#, 200, r#"{"header":{IDS,"revision":"5","raft_term":"T"},"responses":[{"response_delete_range":{"header":{"revision":"5"},"deleted":"1"}},{"response_txn":{"header":{},"succeeded":true}}]}"#),
        ("/v3/kv/deleterange", r#"{"key":"<b>","prev_kv":true}"#, 200, r#"{"header":{IDS,"revision":"6","raft_term":"T"},"deleted":"1","prev_kvs":[{"key":"Yg==","create_revision":"4","mod_revision":"4","version":"1","value":"eA=="}]}"#),
        ("/v3/kv/compaction", r#"{"revision":"3"}"#, 200, r#"{"header":{IDS,"revision":"6","raft_term":"T"}}"#),
        ("/v3/kv/compaction", r#"{"revision":3}"#, 400, r#"{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}"#),
        ("/v3beta/kv/range", r#"{"key":"<a>"}"#, 200, r#"{"header":{IDS,"revision":"6","raft_term":"T"}}"#),
    ]).await;
}

#[tokio::test]
async fn leases_members_and_maintenance() {
    let (member, mut client) = single().await;
    #[rustfmt::skip]
    golden(&member, &mut client, &[
        ("/v3/lease/grant", r#"{"TTL":"60","ID":"7"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"ID":"7","TTL":"60"}"#),
        ("/v3/lease/grant", r#"{"TTL":60,"ID":7}"#, 400, r#"{"code":9,"message":"etcdserver: lease already exists"}"#),
        ("/v3/lease/leases", "", 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"leases":[{"ID":"7"}]}"#),
        ("/v3/kv/lease/leases", "{}", 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"leases":[{"ID":"7"}]}"#),
        ("/v3/kv/lease/timetolive", r#"{"ID":"8"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"ID":"8","TTL":"-1"}"#),
        ("/v3/lease/keepalive", r#"{"ID":"7"}{"ID":"8"}"#, 200, "{\"result\":{\"header\":{IDS,\"revision\":\"1\",\"raft_term\":\"T\"},\"ID\":\"7\",\"TTL\":\"60\"}}\n{\"result\":{\"header\":{IDS,\"revision\":\"1\",\"raft_term\":\"T\"},\"ID\":\"8\"}}\n"),
        ("/v3/lease/keepalive", "", 200, ""),
        ("/v3/lease/keepalive", r#"{"ID":"#, 200, ""),
        ("/v3/kv/lease/revoke", r#"{"ID":"7"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"}}"#),
        ("/v3/lease/revoke", r#"{"ID":"7"}"#, 404, r#"{"code":5,"message":"etcdserver: requested lease not found"}"#),
        ("/v3/cluster/member/list", "{}", 200, r#"{"header":{IDS,"raft_term":"T"},"members":[{"ID":"MEMBER","name":"single","peerURLs":["PEER-URL"],"clientURLs":["CLIENT-URL"]}]}"#),
        ("/v3/cluster/member/add", r#"{"peerURLs":["nope"]}"#, 400, r#"{"code":3,"message":"etcdserver: given member URLs are invalid"}"#),
        ("/v3/cluster/member/remove", r#"{"ID":"5"}"#, 404, r#"{"code":5,"message":"etcdserver: member not found"}"#),
        ("/v3/cluster/member/update", r#"{"ID":"5","peerURLs":["http://127.0.0.1:1"]}"#, 404, r#"{"code":5,"message":"etcdserver: member not found"}"#),
        ("/v3/cluster/member/promote", r#"{"ID":"5"}"#, 404, r#"{"code":5,"message":"etcdserver: member not found"}"#),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"3","alarm":"NOSPACE"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"alarms":[{"memberID":"3","alarm":"NOSPACE"}]}"#),
        ("/v3/kv/put", r#"{"key":"<a>"}"#, 429, r#"{"code":8,"message":"etcdserver: mvcc: database space exceeded"}"#),
        ("/v3/maintenance/defragment", "{}", 200, "{}"),
        ("/v3/maintenance/transfer-leadership", r#"{"targetID":"5"}"#, 400, r#"{"code":9,"message":"etcdserver: bad leader transferee"}"#),
        ("/v3/nope", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/v3/kv/range/", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/v3/kv/rangestream", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
    ]).await;
    let (status, told) = ask(&member, "/v3/maintenance/status", "").await;
    assert_eq!(status, 200);
    assert!(told.contains("\"version\":\"3.7.1\"") && told.contains("\"downgradeInfo\":{}"), "{told}");
    let (_, hash) = ask(&member, "/v3/maintenance/hashkv", "{}").await;
    assert!(hash.contains("\"hash\":") && hash.contains("\"hash_revision\":\"1\""), "{hash}");
}

#[tokio::test]
async fn locks_and_elections() {
    let (member, mut client) = single().await;
    #[rustfmt::skip]
    golden(&member, &mut client, &[
        ("/v3/lock/lock", r#"{"name":"<l>","lease":"77"}"#, 500, r#"{"code":2,"message":"etcdserver: requested lease not found"}"#),
        ("/v3/lease/grant", r#"{"TTL":"60","ID":"77"}"#, 200, r#"{"header":{IDS,"revision":"1","raft_term":"T"},"ID":"77","TTL":"60"}"#),
        ("/v3/lock/lock", r#"{"name":"<l>","lease":"77"}"#, 200, r#"{"header":{IDS,"revision":"2","raft_term":"T"},"key":"bC80ZA=="}"#),
        ("/v3/lock/unlock", r#"{"key":"<l/4d>"}"#, 200, r#"{"header":{IDS,"revision":"3","raft_term":"T"}}"#),
        ("/v3/lock/unlock", "{}", 500, r#"{"code":2,"message":"etcdserver: key is not provided"}"#),
        ("/v3/election/leader", r#"{"name":"<e>"}"#, 500, r#"{"code":2,"message":"election: no leader"}"#),
        ("/v3/election/campaign", r#"{"name":"<e>","value":"<v>","lease":"77"}"#, 200, r#"{"header":{IDS,"revision":"4","raft_term":"T"},"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":"4","lease":"77"}}"#),
        ("/v3/election/leader", r#"{"name":"<e>"}"#, 200, r#"{"header":{IDS,"revision":"4","raft_term":"T"},"kv":{"key":"ZS80ZA==","create_revision":"4","mod_revision":"4","version":"1","value":"dg==","lease":"77"}}"#),
        ("/v3/election/proclaim", r#"{"value":"<w>"}"#, 500, r#"{"code":2,"message":"\"leader\" field must be provided"}"#),
        ("/v3/election/proclaim", r#"{"leader":{"name":"<e>","key":"<e/4d>","rev":"4","lease":"77"},"value":"<w>"}"#, 200, r#"{"header":{IDS,"revision":"5","raft_term":"T"}}"#),
        ("/v3/election/resign", r#"{"leader":{"name":"<e>","key":"<e/4d>","rev":"4","lease":"77"}}"#, 200, r#"{"header":{IDS,"revision":"6","raft_term":"T"}}"#),
    ]).await;
}

/// The lines of a stream, one at a time.
struct Lines {
    body: Incoming,
    buffered: String,
}

impl Lines {
    fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["grpc-metadata-content-type"], "application/grpc");
        Lines { body: response.into_body(), buffered: String::new() }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.buffered.split_once('\n') {
                let line = line.to_owned();
                self.buffered = rest.to_owned();
                return Some(line);
            }
            let frame = tokio::time::timeout(common::DEADLINE, self.body.frame()).await.expect("in time")?;
            let data = frame.expect("an open connection").into_data().expect("no trailers");
            self.buffered += std::str::from_utf8(&data).expect("text");
        }
    }
}

#[tokio::test]
async fn a_watch_takes_requests_and_gives_lines() {
    let (member, mut client) = single().await;
    let ids = Ids::of(&mut client, &member).await;
    let (requests, queue) = mpsc::channel::<&str>(4);
    let chunks = tokio_stream::wrappers::ReceiverStream::new(queue)
        .map(|json| Ok::<_, Infallible>(Frame::data(Bytes::from(json))));
    requests.send(r#"{"create_request":{"key":"YQ==","prev_"#).await.expect("open");
    requests.send(r#"kv":true}} {"create_request":{"key":"Yg==","watch_id":"5"}}"#).await.expect("open");
    let mut lines = Lines::of(open(post(&member, "/v3/watch").body(StreamBody::new(chunks)).expect("a request")).await);
    let mut next = async || ids.replaced(&lines.next().await.expect("a line"));
    let header = |revision: i64| format!("{{\"header\":{{IDS,\"revision\":\"{revision}\",\"raft_term\":\"T\"}}");
    assert_eq!(next().await, format!("{{\"result\":{},\"created\":true}}}}", header(1)));
    assert_eq!(next().await, format!("{{\"result\":{},\"watch_id\":\"5\",\"created\":true}}}}", header(1)));
    client.put("a", "<", None).await.expect("put");
    let put =
        r#""events":[{"kv":{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"PA=="}}]"#;
    assert_eq!(next().await, format!("{{\"result\":{},{put}}}}}", header(2)));
    requests.send(r#"{"cancel_request":{"watch_id":5}}"#).await.expect("open");
    assert_eq!(next().await, format!("{{\"result\":{},\"watch_id\":\"5\",\"canceled\":true}}}}", header(2)));
    // The end of the requests does not end the watch.
    drop(requests);
    client.delete("a", None).await.expect("deleted");
    let deleted = r#""events":[{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"3"},"prev_kv":{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"PA=="}}]"#;
    assert_eq!(next().await, format!("{{\"result\":{},{deleted}}}}}", header(3)));
}

type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn web_socket(member: &Member, path: &str, headers: &[(&'static str, String)]) -> (WebSocket, HeaderMap) {
    let url = member.client_url().replacen("http", "ws", 1) + path;
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a header's value"));
    }
    let (socket, response) = tokio_tungstenite::connect_async(request).await.expect("a websocket");
    (socket, response.headers().clone())
}

/// The next message; none if the server closes the websocket.
async fn told(socket: &mut WebSocket) -> Option<String> {
    match tokio::time::timeout(common::DEADLINE, socket.next()).await.expect("in time") {
        Some(Ok(Message::Text(text))) => Some(text.to_string()),
        None | Some(Ok(Message::Close(_))) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watch_on_a_websocket_ends_with_it() {
    let (member, mut client) = single().await;
    let ids = Ids::of(&mut client, &member).await;
    let (mut socket, _) = web_socket(&member, "/v3/watch", &[]).await;
    socket.send(r#"{"create_request":{"key":"#.into()).await.expect("open");
    socket.send(r#""YQ=="}}{"create_request":{"key":"Yg==","watch_id":"5"}}"#.into()).await.expect("open");
    let created = told(&mut socket).await.expect("a watcher");
    let header = |revision: i64| format!("{{\"header\":{{IDS,\"revision\":\"{revision}\",\"raft_term\":\"T\"}}");
    assert_eq!(ids.replaced(&created), format!("{{\"result\":{},\"created\":true}}}}", header(1)));
    let created = told(&mut socket).await.expect("a watcher");
    assert_eq!(ids.replaced(&created), format!("{{\"result\":{},\"watch_id\":\"5\",\"created\":true}}}}", header(1)));
    client.put("a", "<", None).await.expect("put");
    let event = told(&mut socket).await.expect("an event");
    assert!(event.contains(r#""kv":{"key":"YQ==","create_revision":"2""#), "{event}");
    socket.send(Message::binary(r#"{"cancel_request":{"watch_id":5}}"#)).await.expect("open");
    let canceled = told(&mut socket).await.expect("an answer");
    assert!(canceled.contains(r#""watch_id":"5","canceled":true"#), "{canceled}");
    let watchers = || async {
        let (_, metrics) = member.get("/metrics").await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "))?;
        line.parse::<u32>().ok()
    };
    assert_eq!(watchers().await, Some(1));
    socket.close(None).await.expect("closed");
    eventually("the watch ends", || async { (watchers().await? == 0).then_some(()) }).await;
}

#[tokio::test]
async fn an_rpc_on_a_websocket_is_its_callers() {
    let (member, mut client) = single().await;
    for [user, role] in [["root", "root"], ["reader", "nothing"]] {
        client.user_add(user, "secret", None).await.expect("a user");
        client.role_add(role).await.expect("a role");
        client.user_grant_role(user, role).await.expect("granted");
    }
    client.auth_enable().await.expect("enabled");
    let token = async |user: &str| {
        let (_, answer) =
            ask(&member, "/v3/auth/authenticate", &format!(r#"{{"name":"{user}","password":"secret"}}"#)).await;
        let (_, token) = answer.split_once(r#""token":""#).expect("a token");
        token.trim_end_matches(['"', '}']).to_owned()
    };
    let range = async |headers: &[(&'static str, String)]| {
        let (mut socket, answered) = web_socket(&member, "/v3/kv/range", headers).await;
        socket.send(r#"{"key":"YQ=="}"#.into()).await.expect("open");
        let told_first = told(&mut socket).await.expect("an answer");
        assert_eq!(told(&mut socket).await, None, "one request has one answer");
        (told_first, answered.get("sec-websocket-protocol").cloned())
    };
    let root = token("root").await;
    let (answer, protocol) = range(&[("sec-websocket-protocol", format!("Bearer, {root}"))]).await;
    assert!(answer.starts_with(r#"{"header":"#), "{answer}");
    assert_eq!(protocol, Some("Bearer".parse().expect("a value")));
    let (answer, _) = range(&[("cookie", format!("token={root}"))]).await;
    assert!(answer.starts_with(r#"{"header":"#), "{answer}");
    let (answer, _) = range(&[("cookie", format!("token={}", token("reader").await))]).await;
    assert_eq!(answer, r#"{"code":7,"message":"etcdserver: permission denied"}"#);
    let (answer, _) = range(&[]).await;
    assert_eq!(answer, r#"{"code":3,"message":"etcdserver: user name is empty"}"#);
}

#[tokio::test]
async fn an_observer_is_told_of_leaders_and_the_end_of_its_time() {
    let (member, mut client) = single().await;
    client.campaign("e", "v", 0).await.expect("leads");
    let request = post(&member, "/v3/election/observe").header("Grpc-Timeout", "500m");
    let request = request.body(http_body_util::Full::from(r#"{"name":"ZQ=="}"#)).expect("a request");
    let mut lines = Lines::of(open(request).await);
    let told = lines.next().await.expect("a leader");
    assert!(told.contains("\"value\":\"dg==\""), "{told}");
    let late = r#"{"error":{"code":4,"message":"context deadline exceeded"}}"#;
    assert_eq!(lines.next().await.as_deref(), Some(late));
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn streams_that_fail_at_once_have_the_errors_status() {
    let (member, _client) = single().await;
    let request = post(&member, "/v3/watch").header("Grpc-Timeout", "1n").body(Empty::new()).expect("a request");
    let (status, headers, body) = whole(open(request).await).await;
    assert_eq!((status, body.as_str()), (504, "{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n"));
    assert_eq!(headers["content-type"], "application/json");
}

#[tokio::test]
async fn only_post_is_an_rpc_and_requests_are_limited() {
    let (member, _client) = single().await;
    let request = Request::get(format!("{}/v3/kv/range", member.client_url())).body(Empty::new()).expect("a request");
    let (status, _, body) = whole(open(request).await).await;
    assert_eq!((status, body.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    let put = |bytes: usize| format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(bytes));
    let (status, body) = ask(&member, "/v3/kv/put", &put(4 << 19)).await;
    assert_eq!((status, body.as_str()), (400, r#"{"code":3,"message":"etcdserver: request is too large"}"#));
    for megabytes in [3, 16] {
        let (status, body) = ask(&member, "/v3/kv/put", &put(megabytes << 20)).await;
        assert_eq!(status, 429, "{body}");
        assert!(body.starts_with(r#"{"code":8,"message":"grpc: received message larger than max"#), "{body}");
    }
}

#[tokio::test]
async fn calls_count_as_grpc_calls_and_pass_their_checks() {
    let (member, _client) = single().await;
    assert_eq!(ask(&member, "/v3/kv/range", r#"{"key":"YQ=="}"#).await.0, 200);
    let handled = r#"grpc_server_handled_total{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Range",grpc_code="OK"}"#;
    eventually("the call is counted", || async {
        let (_, metrics) = member.get("/metrics").await?;
        metrics.lines().any(|line| line == format!("{handled} 1")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let mut member = Member::new("single");
    member.start(&[&format!("--initial-cluster=single={}", member.peer_url()), "--enable-grpc-gateway=false"]);
    member.client().await;
    let request = post(&member, "/v3/kv/range").body(Empty::new()).expect("a request");
    let (status, _, body) = whole(open(request).await).await;
    assert_eq!((status, body.as_str()), (404, "404 page not found\n"));
}

/// The very lines of docs/http.md. A stream that goes on is left after two seconds.
#[tokio::test]
async fn the_lines_of_the_page_are_answered() {
    let (member, _client) = single().await;
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let lines: String = page.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    let lines = lines.replace("http://localhost:2379", &member.client_url());
    let curl = r#"curl() { command curl -sS --fail-with-body --max-time 2 "$@" || [ $? = 28 ]; echo; }"#;
    let script = format!("{curl}\n{lines}");
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().expect("bash runs");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let expected = [
        r#""health":"true""#,
        "[+]linearizable_read ok",
        "etcd_server_has_leader 1",
        r#""value":"YmFy""#,
        r#""deleted":"1""#,
        r#""created":true"#,
        r#""TTL":"60""#,
        r#""dbSize""#,
    ];
    for part in expected {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}
