//! Against etcd itself: the program that `KEELSON_REFERENCE_ETCD` names, or `etcd` on the PATH.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd; it ends with the test.
pub(crate) struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

struct Urls {
    client: String,
    peer: String,
}

impl Urls {
    fn new() -> Self {
        Self { client: free_url(), peer: free_url() }
    }
}

fn start(folder: &Path, name: &str, urls: &Urls, cluster: &str, state: &str) -> Etcd {
    let program = std::env::var("KEELSON_REFERENCE_ETCD").unwrap_or_else(|_| "etcd".into());
    let child = Command::new(program)
        .arg(format!("--name={name}"))
        .arg(format!("--data-dir={}", folder.join(name).display()))
        .arg(format!("--listen-client-urls={}", urls.client))
        .arg(format!("--advertise-client-urls={}", urls.client))
        .arg(format!("--listen-peer-urls={}", urls.peer))
        .arg(format!("--initial-advertise-peer-urls={}", urls.peer))
        .arg(format!("--initial-cluster={cluster}"))
        .arg(format!("--initial-cluster-state={state}"))
        .arg("--initial-cluster-token=operator-test")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd must be installed for this test");
    Etcd(child)
}

/// Waits until `probe` gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn leader_of(url: &str) -> Option<(u64, u64)> {
    let status = MemberClient::new(url, None).unwrap().status().await.ok()?;
    let own = status.header?.member_id;
    (status.leader != 0).then_some((own, status.leader))
}

/// One that wants to know who asks, with this password of root's; and its URL.
pub(crate) async fn guarded(folder: &Path, password: &str) -> (Etcd, String) {
    let urls = Urls::new();
    let member = start(folder, "a", &urls, &format!("a={}", urls.peer), "new");
    eventually("the member", || leader_of(&urls.client)).await;
    let mut client = MemberClient::new(&urls.client, None).unwrap();
    client.add_role(ROOT).await.unwrap();
    client.add_user(ROOT, Some(password)).await.unwrap();
    client.grant_role(ROOT, ROOT).await.unwrap();
    client.enable_auth().await.unwrap();
    (member, urls.client)
}

/// Founding, joining as a learner, promotion, a move of leadership and removal, as the operator does them; and each request that
/// is repeated because its answer was lost is a success.
#[tokio::test]
async fn the_life_of_a_member_in_a_real_etcd() {
    let folder = std::env::temp_dir().join(format!("keelson-operator-{}", std::process::id()));
    let (first, second) = (Urls::new(), Urls::new());
    let alone = format!("a={}", first.peer);
    let _a = start(&folder, "a", &first, &alone, "new");
    let (a, _) = eventually("the first member", || leader_of(&first.client)).await;

    let mut client = MemberClient::new(&first.client, None).unwrap();
    let list = client.member_list().await.unwrap();
    assert_ne!(list.cluster_id, 0);
    assert_eq!((list.members.len(), list.members[0].name.as_str()), (1, "a"));

    client.add_learner(second.peer.clone()).await.unwrap();
    client.add_learner(second.peer.clone()).await.unwrap();
    let list = client.member_list().await.unwrap();
    let learner = list.members.iter().find(|member| member.is_learner).unwrap();
    assert_eq!((list.members.len(), learner.name.as_str()), (2, ""), "not started yet");
    let b = learner.id;
    assert_eq!(client.promote(b).await.unwrap(), Change::NotYet);

    let both = format!("{alone},b={}", second.peer);
    let _b = start(&folder, "b", &second, &both, "existing");
    eventually("the second member", || leader_of(&second.client)).await;
    eventually("promotion", || {
        let mut client = client.clone();
        async move { (client.promote(b).await.ok()? == Change::Done).then_some(()) }
    })
    .await;

    client.move_leader(b).await.unwrap();
    eventually("leadership of the second", || async {
        leader_of(&first.client).await.filter(|(_, leader)| *leader == b)
    })
    .await;

    let mut client = MemberClient::new(&second.client, None).unwrap();
    // etcd refuses until it has seen the other member for a while.
    eventually("removal", || {
        let mut client = client.clone();
        async move { (client.remove(a).await.ok()? == Change::Done).then_some(()) }
    })
    .await;
    client.remove(a).await.unwrap();
    assert_eq!(client.member_list().await.unwrap().members.len(), 1);
    let _ = std::fs::remove_dir_all(&folder);
}

/// Users, roles and permissions in etcd itself, on it and as root; what is repeated because its answer was lost is a success.
#[tokio::test]
async fn authentication_in_a_real_etcd() {
    let folder = std::env::temp_dir().join(format!("keelson-operator-auth-{}", std::process::id()));
    let urls = Urls::new();
    let cluster = format!("a={}", urls.peer);
    let first = start(&folder, "a", &urls, &cluster, "new");
    eventually("the member", || leader_of(&urls.client)).await;
    let sessions = Sessions::default();
    let client = || MemberClient::new(&urls.client, None).unwrap().with_token(sessions.token("u"));
    for _ in 0..2 {
        client().add_role(ROOT).await.unwrap();
        client().add_user(ROOT, Some("one")).await.unwrap();
        client().grant_role(ROOT, ROOT).await.unwrap();
    }
    assert!(!client().auth_enabled().await.unwrap());
    client().enable_auth().await.unwrap();
    assert!(client().auth_enabled().await.unwrap());
    let nobody = client().user_roles(ROOT).await.unwrap_err();
    assert!(nobody.wants_login(), "{nobody}");

    let passwords = ["wrong", "one"].map(str::to_string);
    assert_eq!(sessions.login("u", &mut client(), &passwords).await.unwrap(), 1);
    let range = KeyRange { key: b"/app/".into(), end: b"/app0".into() };
    client().add_role("app").await.unwrap();
    client().grant_permission("app", &range, AccessKind::Read).await.unwrap();
    client().grant_permission("app", &range, AccessKind::ReadWrite).await.unwrap();
    assert_eq!(client().permissions("app").await.unwrap().unwrap(), [(range.clone(), AccessKind::ReadWrite)]);
    client().add_user("app", Some("secret")).await.unwrap();
    client().grant_role("app", "app").await.unwrap();
    assert_eq!(client().user_roles("app").await.unwrap().unwrap(), ["app"]);
    assert!(client().is_password("app", "secret").await.unwrap());
    assert!(!client().is_password("app", "other").await.unwrap());
    for _ in 0..2 {
        client().revoke_permission("app", &range).await.unwrap();
        client().revoke_role("app", "app").await.unwrap();
    }
    let missing = client().grant_role("app", "nothing").await.unwrap_err();
    assert!(missing.cause().contains("role name not found"), "{missing}");
    for _ in 0..2 {
        client().delete_user("app").await.unwrap();
        client().delete_role("app").await.unwrap();
    }
    assert_eq!(client().user_roles("app").await.unwrap(), None);
    assert_eq!(client().permissions("app").await.unwrap(), None);

    // A member that was started again does not know the tokens of before.
    drop(first);
    let _again = start(&folder, "a", &urls, &cluster, "existing");
    let stale = eventually("the member's word on an old token", || async {
        client().user_roles(ROOT).await.err().filter(Error::wants_login)
    });
    stale.await;
    sessions.login("u", &mut client(), &passwords).await.unwrap();
    client().disable_auth().await.unwrap();
    assert!(!client().auth_enabled().await.unwrap());
    let _ = std::fs::remove_dir_all(&folder);
}

/// The cause is shown in the status of the EtcdCluster, so it must not change from one pass to the next.
#[tokio::test]
async fn the_cause_of_silence_is_told_in_the_same_words_each_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = format!("http://{}", listener.local_addr().unwrap());
    for (url, cause) in [
        (free_url(), "connection refused"),
        (deaf, NO_ANSWER),
        ("http://127.0.0.1.invalid:1".into(), "failed to lookup address information"),
    ] {
        for _ in 0..2 {
            let error = MemberClient::new(&url, None).unwrap().status().await.unwrap_err();
            assert!(error.cause().starts_with(cause), "{url}: {}", error.cause());
        }
    }
}

#[tokio::test]
async fn a_member_that_is_not_there_is_an_error_in_time() {
    let started = Instant::now();
    let nobody = free_url();
    let error = MemberClient::new(&nobody, None).unwrap().status().await;
    assert_eq!(error.unwrap_err().cause(), "connection refused");
    assert!(started.elapsed() < STATUS_TIMEOUT + CONNECT_TIMEOUT);
    assert!(MemberClient::new("no url", None).is_err());
}
