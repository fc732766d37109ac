//! Against a small API server that has the objects it is given, and writes down what is asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::{Json, Router};
use kube::runtime::reflector::store;
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::*;
use crate::build::{self, APPLIED};
use crate::crd::Phase;
use crate::member::tests::guarded;
use crate::member::{ROOT, Sessions};
use crate::observe::auth::passwords;
use crate::plan::tls::Held;
use crate::plan::{Member, Plan, Pod, Start, Store};

/// Objects by path, and the writes as "METHOD path".
#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
}

type Shared = Arc<Mutex<Stored>>;

async fn answer(State(stored): State<Shared>, method: Method, uri: Uri, body: Bytes) -> (StatusCode, Json<Value>) {
    let mut stored = stored.lock().unwrap();
    let path = uri.path().to_string();
    if method != Method::GET {
        stored.writes.push(format!("{method} {path}"));
        let mut object: Value = serde_json::from_slice(&body).unwrap();
        object["metadata"]["uid"] = json!("new");
        object["metadata"]["generation"] = json!(1);
        stored.objects.insert(path, object.clone());
        return (StatusCode::OK, Json(object));
    }
    if let Some(object) = stored.objects.get(&path) {
        return (StatusCode::OK, Json(object.clone()));
    }
    let inside = |key: &str| key.strip_prefix(&path).is_some_and(|rest| rest.starts_with('/'));
    let is_list = ["statefulsets", "pods", "persistentvolumeclaims", "secrets"].iter().any(|kind| path.ends_with(kind));
    if is_list {
        let items = stored.objects.iter().filter(|(key, _)| inside(key));
        let items: Vec<Value> = items.map(|(_, object)| object.clone()).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        return (StatusCode::OK, Json(list));
    }
    let missing = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "none", "reason": "NotFound", "code": 404});
    (StatusCode::NOT_FOUND, Json(missing))
}

struct World {
    stored: Shared,
    client: Client,
    memory: Memory,
    caches: Caches,
    cluster: EtcdCluster,
    observed: Observed,
    identities: Identities,
    root: Root<'static>,
}

impl World {
    async fn new() -> Self {
        let stored = Shared::default();
        let routes = Router::new().fallback(answer).with_state(stored.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let cluster = json!({
            "apiVersion": "keelson.dev/v1alpha1",
            "kind": "EtcdCluster",
            "metadata": {
                "name": "c", "namespace": "ns", "uid": "u", "finalizers": [FINALIZER],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {},
        });
        Self {
            stored,
            client: Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap(),
            memory: Memory::default(),
            caches: Caches::empty(),
            cluster: serde_json::from_value(cluster).unwrap(),
            observed: Observed::default(),
            identities: Identities::default(),
            root: Root::default(),
        }
    }

    /// Puts an object there that no cache shows.
    fn with(self, path: &str, metadata: Value) -> Self {
        let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        self.stored.lock().unwrap().objects.insert(path.into(), object);
        self
    }

    fn actor(&self) -> Actor<'_> {
        Actor {
            client: &self.client,
            caches: &self.caches,
            memory: &self.memory,
            cluster: &self.cluster,
            names: Names::of(&self.cluster),
            observed: &self.observed,
            identities: &self.identities,
            root: &self.root,
        }
    }

    async fn apply(&self) -> Result<(), Error> {
        let plan = Plan {
            apply_children: true,
            members: BTreeMap::from([(0, Start::Settled)]),
            templates: BTreeMap::new(),
            template: None,
            rollout: None,
            action: None,
            waiting_for: None,
            operation: None,
            space: None,
            tls: None,
            auth: None,
            cluster_id: None,
            phase: Phase::Running,
            reason: String::new(),
        };
        self.actor().apply_children(&plan).await
    }

    fn writes(&self) -> Vec<String> {
        self.stored.lock().unwrap().writes.clone()
    }
}

const SERVICE: &str = "/api/v1/namespaces/ns/services/c-members";
const BUDGET: &str = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/c";
const STATEFULSET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/c-0";
const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data-c-0-0";

fn owned_by(uid: &str) -> Value {
    json!([{"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdCluster", "name": "c", "uid": uid, "controller": true}])
}

#[tokio::test]
async fn what_no_cache_shows_is_never_taken_over() {
    for path in [SERVICE, BUDGET, STATEFULSET] {
        for owners in [json!(null), owned_by("other")] {
            let name = path.rsplit('/').next().unwrap();
            let metadata = json!({"name": name, "namespace": "ns", "uid": "x", "ownerReferences": owners});
            let world = World::new().await.with(path, metadata);
            let error = world.apply().await.unwrap_err();
            assert!(matches!(error, Error::Foreign(_)), "{path}: {error}");
            assert!(!world.writes().contains(&format!("PATCH {path}")), "{path}");
        }
    }
}

#[tokio::test]
async fn an_object_of_ours_that_lost_its_labels_is_repaired() {
    let metadata = json!({"name": "c-members", "namespace": "ns", "uid": "x", "ownerReferences": owned_by("u")});
    let world = World::new().await.with(SERVICE, metadata);
    world.apply().await.unwrap();
    assert!(world.writes().contains(&format!("PATCH {SERVICE}")));
}

#[tokio::test]
async fn a_member_never_starts_on_the_volume_of_somebody_else() {
    let claim = |uid: &str| json!({"name": "data-c-0-0", "namespace": "ns", "uid": "x", "labels": {"keelson.dev/cluster-uid": uid}});
    let world = World::new().await.with(CLAIM, claim("other"));
    let error = world.apply().await.unwrap_err();
    assert!(error.to_string().contains("data-c-0-0"), "{error}");
    assert!(!world.writes().contains(&format!("PATCH {STATEFULSET}")));
    let error = world.actor().take(&Action::AddLearner { ordinal: 0 }).await;
    assert!(matches!(error, Err(Error::StillThere(_))), "{error:?}");

    let world = World::new().await.with(CLAIM, claim("u"));
    world.apply().await.unwrap();
    assert!(world.writes().contains(&format!("PATCH {STATEFULSET}")));
}

#[tokio::test]
async fn a_child_is_applied_once_and_again_after_somebody_edited_it() {
    let world = World::new().await;
    world.apply().await.unwrap();
    let all = world.writes().len();
    assert_eq!(all, 4, "two Services, a budget, a member");
    world.apply().await.unwrap();
    assert_eq!(world.writes().len(), all, "nothing has changed");
    {
        let mut stored = world.stored.lock().unwrap();
        let statefulset = stored.objects.get_mut(STATEFULSET).unwrap();
        statefulset["spec"]["replicas"] = json!(0);
        statefulset["metadata"]["generation"] = json!(2);
    }
    world.apply().await.unwrap();
    assert_eq!(world.writes()[all..], [format!("PATCH {STATEFULSET}")]);
}

/// A kubelet brings a changed Secret to a pod at once when the pod changes, and else within minutes.
#[tokio::test]
async fn a_pod_is_marked_once_when_its_certificates_were_written_after_it_started() {
    const POD: &str = "/api/v1/namespaces/ns/pods/c-0-0";
    let mut world = World::new().await;
    let member = Member { id: 1, ordinal: Some(0), started: true, ..Default::default() };
    world.observed.store = Store::Listed { cluster_id: 1, members: vec![member] };
    let held = Held { version: "7".into(), written: 100, ..Default::default() };
    world.observed.tls.held.insert(Holder::Member(0), held);
    let mut labels = world.actor().names.member_labels(0);
    labels.insert(ROLE_LABEL.into(), "voter".into());
    let marked = async |world: &mut World, created: i64, certificates: Option<&str>| {
        world.stored.lock().unwrap().objects.remove(POD);
        let certificates = certificates.map(str::to_string);
        let pod = Pod { ours: true, created, certificates, labels: labels.clone(), ..Default::default() };
        world.observed.pods.insert(0, pod);
        world.apply().await.unwrap();
        world.stored.lock().unwrap().objects.get(POD).map(|pod| pod["metadata"]["annotations"].clone())
    };
    assert_eq!(marked(&mut world, 101, None).await, None, "it started with them");
    let told = Some(json!({"keelson.dev/certificates": "7"}));
    assert_eq!(marked(&mut world, 99, None).await, told);
    assert_eq!(marked(&mut world, 99, Some("6")).await, told);
    assert_eq!(marked(&mut world, 99, Some("7")).await, None);
}

/// The pod is on record before it can start, and no second one ever is, whatever the caches show.
#[tokio::test]
async fn only_one_pod_of_a_statefulset_is_let_start_in_memory() {
    const POD: &str = "/api/v1/namespaces/ns/pods/c-0-0";
    let owner = |kind: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": uid, "controller": true}]);
    let let_start = async |recorded: Option<&str>, pod_uid: &str, pod_owner: &str| {
        let annotations: BTreeMap<&str, &str> = recorded.map(|uid| ("keelson.dev/data-pod", uid)).into_iter().collect();
        let set = json!({"name": "c-0", "namespace": "ns", "uid": "s", "ownerReferences": owner("EtcdCluster", "u"),
            "annotations": annotations, "resourceVersion": "7"});
        let pod = json!({"name": "c-0-0", "namespace": "ns", "uid": pod_uid, "ownerReferences": owner("StatefulSet", pod_owner)});
        let world = World::new().await.with(STATEFULSET, set).with(POD, pod);
        let outcome = world.actor().take(&Action::LetStart { ordinal: 0, uid: "p".into() }).await;
        (outcome.map(drop), world.writes(), world)
    };
    let (lifted, writes, world) = let_start(None, "p", "s").await;
    lifted.unwrap();
    assert_eq!(writes, [format!("PATCH {STATEFULSET}"), format!("PATCH {POD}")], "the record goes first");
    {
        let stored = world.stored.lock().unwrap();
        let record = &stored.objects[STATEFULSET]["metadata"];
        assert_eq!(
            (&record["annotations"]["keelson.dev/data-pod"], &record["resourceVersion"]),
            (&json!("p"), &json!("7"))
        );
        let lift = json!([{"name": "keelson.dev/data", "$patch": "delete"}]);
        assert_eq!(stored.objects[POD]["spec"], json!({"schedulingGates": lift}));
    }

    // It was killed in between.
    let (lifted, writes, _) = let_start(Some("p"), "p", "s").await;
    lifted.unwrap();
    assert_eq!(writes, [format!("PATCH {POD}")]);
    for (recorded, pod_uid, pod_owner) in [(Some("q"), "p", "s"), (None, "q", "s"), (None, "p", "earlier")] {
        let (refused, writes, _) = let_start(recorded, pod_uid, pod_owner).await;
        assert!(matches!(refused, Err(Error::Changed(_))), "{recorded:?} {pod_uid} {pod_owner}: {refused:?}");
        assert_eq!(writes, [""; 0]);
    }
}

/// Should its memory be empty at a later start, it does not begin anew.
#[tokio::test]
async fn a_pod_in_memory_whose_member_has_started_is_told_so_once() {
    const POD: &str = "/api/v1/namespaces/ns/pods/c-0-0";
    let mut world = World::new().await;
    world.cluster.spec.storage.medium = crate::crd::StorageMedium::Memory;
    let mut labels = world.actor().names.member_labels(0);
    labels.insert(ROLE_LABEL.into(), "voter".into());
    for (started, settled, told) in [(false, false, false), (true, false, true), (true, true, false)] {
        let member = Member { id: 1, ordinal: Some(0), started, ..Default::default() };
        world.observed.store = Store::Listed { cluster_id: 1, members: vec![member] };
        let pod = Pod { ours: true, settled, labels: labels.clone(), ..Default::default() };
        world.observed.pods.insert(0, pod);
        world.stored.lock().unwrap().objects.remove(POD);
        world.apply().await.unwrap();
        let marked = world.stored.lock().unwrap().objects.get(POD).map(|pod| pod["metadata"]["annotations"].clone());
        assert_eq!(marked, told.then(|| json!({"keelson.dev/initial-cluster": build::SETTLED})));
    }
}

/// Watches may have stopped: the pod may run by now, and the others may not do without it.
#[tokio::test]
async fn a_pod_that_was_seen_stopped_is_deleted_only_as_it_was_seen() {
    const POD: &str = "/api/v1/namespaces/ns/pods/c-0-0";
    let mut world = World::new().await;
    for (running, version) in [(false, json!("7")), (true, json!(null))] {
        world.observed.pods.insert(0, Pod { ours: true, running, version: "7".into(), ..Default::default() });
        world.actor().take(&Action::RestartPod { ordinal: 0, uid: "x".into() }).await.unwrap();
        let asked = world.stored.lock().unwrap().objects[POD]["preconditions"].clone();
        assert_eq!((&asked["uid"], &asked["resourceVersion"]), (&json!("x"), &version), "{asked}");
    }
}

#[tokio::test]
async fn nobody_joins_a_member_whose_next_start_would_leave_others_behind() {
    let member = Member { id: 1, ordinal: Some(0), started: true, ..Default::default() };
    let store = Store::Listed { cluster_id: 1, members: vec![member] };
    for (hash, is_refused) in [("0123-alone", true), ("0123", false)] {
        let metadata = json!({
            "name": "c-0-0", "namespace": "ns", "uid": "x", "annotations": {"keelson.dev/config-hash": hash},
            "labels": {"keelson.dev/cluster": "c", "keelson.dev/cluster-uid": "u"},
        });
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        let mut world = World::new().await;
        world.stored.lock().unwrap().objects.insert("/api/v1/namespaces/ns/pods/c-0-0".into(), pod);
        world.observed.store = store.clone();
        let refused = world.actor().take(&Action::AddLearner { ordinal: 1 }).await;
        assert_eq!(matches!(refused, Err(Error::Changed(_))), is_refused, "{hash}: {refused:?}");
    }
}

#[tokio::test]
async fn the_finalizer_stays_while_the_api_server_knows_of_a_member() {
    let labels = json!({"keelson.dev/cluster": "c", "keelson.dev/cluster-uid": "u"});
    let statefulset =
        json!({"name": "c-0", "namespace": "ns", "uid": "x", "labels": labels, "ownerReferences": owned_by("u")});
    let world = World::new().await.with(STATEFULSET, statefulset);
    let error = world.actor().take(&Action::RemoveFinalizer).await.unwrap_err();
    assert!(matches!(error, Error::NotGone(_)), "{error}");
    assert_eq!(world.writes(), [""; 0]);

    let released = json!({"name": "c-0", "namespace": "ns", "uid": "x", "labels": labels});
    let world = World::new().await.with(STATEFULSET, released);
    world.actor().take(&Action::RemoveFinalizer).await.unwrap();
    assert_eq!(world.writes().len(), 1);
}

/// Whenever the operator is killed, one of the two passwords in the Secret is right. The member is an etcd.
#[tokio::test]
async fn roots_new_password_is_in_its_secret_before_the_store_has_it() {
    let folder = std::env::temp_dir().join(format!("keelson-operator-rotate-{}", std::process::id()));
    let (_etcd, url) = guarded(&folder, "one").await;
    let stranger = || MemberClient::new(&url, None).unwrap();
    let mut world = World::new().await;
    let mut secret = build::root_secret(&world.cluster, "one");
    secret.metadata.resource_version = Some("7".into());
    secret.data.get_or_insert_default().insert(APPLIED.into(), build::text("one"));
    let (secrets, mut watch) = store();
    watch.apply_watcher_event(&watcher::Event::Apply(secret));
    world.caches.secrets = secrets;
    world.observed.auth.secret = Some("7".into());
    world.root.wanted = "two".into();
    let kept = || {
        let stored = world.stored.lock().unwrap();
        let secret = stored.objects["/api/v1/namespaces/ns/secrets/c-root"].clone();
        passwords(&serde_json::from_value(secret).unwrap())
    };

    // It is killed before the store has it, as one that is not let in.
    let refused = world.actor().rotate(stranger()).await;
    assert!(matches!(refused, Err(Error::Member(_))), "{refused:?}");
    assert_eq!(kept(), ["one", "two"]);
    assert!(stranger().is_password(ROOT, "one").await.unwrap());

    let mut root = stranger();
    Sessions::default().login("u", &mut root, &kept()).await.unwrap();
    world.actor().rotate(root).await.unwrap();
    assert_eq!(kept(), ["two"]);
    assert!(stranger().is_password(ROOT, "two").await.unwrap());
    assert!(!stranger().is_password(ROOT, "one").await.unwrap());
    // It was killed before that was noted: nothing is left to be asked of the store.
    world.actor().rotate(stranger()).await.unwrap();
    assert_eq!(kept(), ["two"]);
    let _ = std::fs::remove_dir_all(&folder);
}

/// Kubernetes deletes what has an owner that is gone.
#[tokio::test]
async fn secrets_that_are_to_be_kept_lose_their_owner_before_the_finalizer_goes() {
    for (policy, released) in [("Retain", 1), ("Delete", 0)] {
        let secret = |name: &str, uid: &str| json!({"name": name, "namespace": "ns", "uid": "x", "ownerReferences": owned_by(uid)});
        let path = |name: &str| format!("/api/v1/namespaces/ns/secrets/{name}");
        let mut world = World::new().await.with(&path("c-ca"), secret("c-ca", "u"));
        world = world.with(&path("c-client-tls"), secret("c-client-tls", "other"));
        world.cluster.spec.tls = Some(serde_json::from_value(json!({"whenDeleted": policy})).unwrap());
        world.actor().take(&Action::RemoveFinalizer).await.unwrap();
        let writes = world.writes();
        assert_eq!(writes.len(), released + 1, "{writes:?}");
        assert!(writes.last().unwrap().contains("etcdclusters"), "{writes:?}");
        let kept = world.stored.lock().unwrap().objects[&path("c-ca")].clone();
        assert_eq!(kept["metadata"]["ownerReferences"] == json!([]), policy == "Retain", "{kept}");
    }
}
