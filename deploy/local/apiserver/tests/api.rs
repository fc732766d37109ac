//! Drives the server with kube-rs over a real etcd, the program that `KEELSON_REFERENCE_ETCD` names or `etcd` on the
//! PATH. Without either there is nothing to test against, and that is an error.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keelson_local_apiserver::{Config, serve, write_kubeconfig};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Error, ResourceExt};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Cluster {
    client: Client,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
    etcd: Child,
    etcd_endpoint: String,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.abort();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start_etcd(directory: &std::path::Path) -> (Child, String) {
    let url = format!("http://127.0.0.1:{}", free_port());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let program = std::env::var_os("KEELSON_REFERENCE_ETCD").unwrap_or_else(|| "etcd".into());
    let child = Command::new(program)
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("set KEELSON_REFERENCE_ETCD, or have etcd on the PATH");
    (child, url)
}

/// Calls until it answers, for at most thirty seconds.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(found) = check().await {
                return found;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} did not happen in thirty seconds"))
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let (etcd, etcd_endpoint) = start_etcd(directory.path());
    let config = Config {
        authorize: false,
        etcd_endpoint: etcd_endpoint.clone(),
        listen: format!("127.0.0.1:{}", free_port()).parse().unwrap(),
        unix_socket: directory.path().join("api.sock"),
        node_socket: directory.path().join("node.sock"),
        pki_dir: directory.path().join("pki"),
        token: "secret".into(),
    };
    let kubeconfig = directory.path().join("kubeconfig");
    write_kubeconfig(&config, &kubeconfig).unwrap();
    let kubeconfig = Kubeconfig::read_from(&kubeconfig).unwrap();
    let mut client_config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    // A refused eviction is an answer here.
    client_config.default_retry = false;
    let client = Client::try_from(client_config).unwrap();
    let server = tokio::spawn(async move {
        loop {
            // etcd may need a moment.
            let result = serve(config.clone()).await;
            if !matches!(&result, Err(error) if format!("{error:#}").contains("store") || format!("{error:#}").contains("CRDs"))
            {
                return result;
            }
            tokio::task::yield_now().await;
        }
    });
    eventually("the server", || async { client.apiserver_version().await.ok() }).await;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "default");
    eventually("the default ServiceAccount", || async { accounts.get("default").await.ok() }).await;
    Cluster { client, server, etcd, etcd_endpoint, _directory: directory }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn code(error: Error) -> (u16, String) {
    match error {
        Error::Api(status) => (status.code, status.message),
        other => panic!("not an answer of the API: {other}"),
    }
}

fn config_map(name: &str, data: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"app": data}}, "data": {"key": data}}))
}

#[tokio::test]
async fn objects_are_created_listed_in_pages_updated_and_deleted() {
    let cluster = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    for index in 0..5 {
        maps.create(&PostParams::default(), &config_map(&format!("m{index}"), "x")).await.unwrap();
    }
    assert_eq!(code(maps.create(&PostParams::default(), &config_map("m1", "x")).await.unwrap_err()).0, 409);
    let mut names = Vec::new();
    let mut params = ListParams::default().labels("app=x").limit(2);
    loop {
        let page = maps.list(&params).await.unwrap();
        assert!(page.items.len() <= 2);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
    let mut first = maps.get("m0").await.unwrap();
    let stale = first.clone();
    first.data.as_mut().unwrap().insert("more".into(), "y".into());
    let replaced = maps.replace("m0", &PostParams::default(), &first).await.unwrap();
    assert_ne!(replaced.resource_version(), stale.resource_version());
    let same = maps.replace("m0", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(same.resource_version(), replaced.resource_version(), "an update without a change writes nothing");
    assert_eq!(code(maps.replace("m0", &PostParams::default(), &stale).await.unwrap_err()).0, 409);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &config_map("dry", "x")).await.unwrap();
    assert_eq!(code(maps.get("dry").await.unwrap_err()), (404, "configmaps \"dry\" not found".into()));
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=x")).await.unwrap();
    assert!(maps.list(&ListParams::default().labels("app=x")).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn watches_show_every_change_and_expire_with_410() {
    let cluster = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let revision = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = maps.watch(&WatchParams::default().labels("app=x"), &revision).await.unwrap().boxed();
    maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    maps.create(&PostParams::default(), &config_map("other", "y")).await.unwrap();
    let merge = |patch: Value| Patch::Merge(patch);
    maps.patch("a", &PatchParams::default(), &merge(json!({"data": {"key": "2"}}))).await.unwrap();
    // To this watcher an object that no longer matches is deleted.
    maps.patch("a", &PatchParams::default(), &merge(json!({"metadata": {"labels": {"app": "y"}}}))).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match events.try_next().await.unwrap().expect("the watch goes on") {
            WatchEvent::Added(map) => seen.push(format!("added {}", map.name_any())),
            WatchEvent::Modified(map) => seen.push(format!("modified {}", map.name_any())),
            WatchEvent::Deleted(map) => seen.push(format!("deleted {}", map.name_any())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["added a", "modified a", "deleted a"]);
    let mut etcd = etcd_client::Client::connect([&cluster.etcd_endpoint], None).await.unwrap();
    let now = etcd.get("x", None).await.unwrap().header().unwrap().revision();
    etcd.compact(now, None).await.unwrap();
    let mut expired = maps.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    match expired.try_next().await.unwrap() {
        Some(WatchEvent::Error(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"))
        }
        other => panic!("{other:?}"),
    }
}

/// A watch that begins with the state and says when it has shown it.
#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let cluster = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    let params = WatchParams { send_initial_events: true, ..WatchParams::default().labels("app=x") };
    let mut events = maps.watch(&params, "").await.unwrap().boxed();
    assert!(matches!(events.try_next().await.unwrap(), Some(WatchEvent::Added(map)) if map.name_any() == "a"));
    match events.try_next().await.unwrap() {
        Some(WatchEvent::Bookmark(bookmark)) => {
            assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn server_side_apply_owns_fields() {
    let cluster = cluster().await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "default");
    let wanted = |replicas: Value, image: &str| {
        Patch::Apply(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": image, "ports": [{"containerPort": 80}]}]}}}}))
    };
    let me = PatchParams::apply("me");
    let created = deployments.patch("web", &me, &wanted(json!(2), "one")).await.unwrap();
    let again = deployments.patch("web", &me, &wanted(json!(2), "one")).await.unwrap();
    assert_eq!(created.resource_version(), again.resource_version(), "applying the same again writes nothing");
    let error = deployments.patch("web", &PatchParams::apply("you"), &wanted(json!(3), "one")).await.unwrap_err();
    assert_eq!(code(error), (409, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas".into()));
    let forced = deployments.patch("web", &PatchParams::apply("you").force(), &wanted(json!(3), "one")).await.unwrap();
    assert_eq!(forced.spec.replicas, Some(3));
    assert_eq!(forced.metadata.generation, Some(2));
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scaled = deployments.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(5));
    let status = Patch::Merge(json!({"status": {"replicas": 5}, "spec": {"replicas": 9}}));
    let status = deployments.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((status.spec.replicas, status.status.unwrap().replicas), (Some(5), Some(5)));
    assert_eq!(status.metadata.generation, Some(3));
}

#[tokio::test]
async fn owners_namespaces_and_finalizers_are_honoured() {
    let cluster = cluster().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "work"}}))).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "work");
    let owner = maps.create(&PostParams::default(), &config_map("owner", "x")).await.unwrap();
    let mut child = config_map("child", "x");
    child.metadata.owner_references =
        Some(vec![object(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.uid().unwrap(), "blockOwnerDeletion": true}))]);
    maps.create(&PostParams::default(), &child).await.unwrap();
    let mut held = config_map("held", "x");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    maps.delete("owner", &DeleteParams::foreground()).await.unwrap();
    eventually("the collection of both", || async {
        let left = maps.list(&ListParams::default().labels("app=x")).await.unwrap();
        (left.items.len() == 1).then_some(())
    })
    .await;
    namespaces.delete("work", &DeleteParams::default()).await.unwrap();
    eventually("the deletion of what the namespace holds", || async {
        maps.get("held").await.unwrap().metadata.deletion_timestamp.map(|_| ())
    })
    .await;
    assert_eq!(code(maps.create(&PostParams::default(), &config_map("late", "x")).await.unwrap_err()).0, 403);
    assert!(namespaces.get_opt("work").await.unwrap().is_some(), "a held object keeps its namespace");
    maps.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    eventually("the end of the namespace", || async {
        namespaces.get_opt("work").await.unwrap().is_none().then_some(())
    })
    .await;
}

fn crd() -> CustomResourceDefinition {
    object(json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "minimum": 1, "default": 3},
                    "mode": {"type": "string", "enum": ["a", "b"]},
                    "storage": {"type": "string"}},
                    "x-kubernetes-validations": [{"rule": "has(self.storage) == has(oldSelf.storage)", "message": "storage is fixed"}]},
                "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}}))
}

#[tokio::test]
async fn custom_resources_are_pruned_defaulted_validated_and_scaled() {
    let cluster = cluster().await;
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let mut held = crd();
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let held = crds.create(&dry_run, &held).await.unwrap();
    assert_eq!(held.finalizers(), ["example.com/hold", "customresourcecleanup.apiextensions.k8s.io"]);
    crds.create(&PostParams::default(), &crd()).await.unwrap();
    let established = await_condition(crds.clone(), "things.example.com", conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(10), established).await.unwrap().unwrap();
    let resource =
        ApiResource::from_gvk_with_plural(&kube::core::GroupVersionKind::gvk("example.com", "v1", "Thing"), "things");
    let things: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &resource);
    let thing = |spec: Value| {
        object::<DynamicObject>(
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec}),
        )
    };
    let created = things.create(&PostParams::default(), &thing(json!({"unknown": 1}))).await.unwrap();
    assert_eq!(created.data["spec"], json!({"size": 3}));
    let patch = |spec: Value| Patch::Merge(json!({"spec": spec}));
    for (spec, message) in [
        (json!({"size": 0}), "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (json!({"mode": "c"}), "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""),
        (json!({"storage": "1Gi"}), "spec: Invalid value: \"object\": storage is fixed"),
    ] {
        let error = things.patch("t", &PatchParams::default(), &patch(spec)).await.unwrap_err();
        assert_eq!(code(error), (422, format!("Thing.example.com \"t\" is invalid: {message}")));
    }
    let strict = PatchParams::apply("me").validation_strict();
    let error = things.patch("t", &strict, &Patch::Apply(&thing(json!({"sizee": 1})))).await.unwrap_err();
    assert_eq!(code(error).0, 400);
    let scaled =
        things.patch_scale("t", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 5}}))).await;
    assert_eq!(scaled.unwrap().spec.unwrap().replicas, Some(5));
    assert_eq!(things.get("t").await.unwrap().metadata.generation, Some(2));
    // Nobody is refused because others write at the same time.
    let labelled = async {
        for n in 0..40 {
            let labels = json!({"metadata": {"labels": {"n": n.to_string()}}});
            things.patch("t", &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
        }
    };
    let scaled = async {
        for n in 1..=40 {
            let replicas = json!({"spec": {"replicas": n % 2 * 2 + 5}});
            things.patch_scale("t", &PatchParams::default(), &Patch::Merge(replicas)).await.unwrap();
        }
    };
    tokio::join!(labelled, scaled);
    crds.delete("things.example.com", &DeleteParams::default()).await.unwrap();
    eventually("the end of the kind", || async {
        (code(things.list(&ListParams::default()).await.err()?).0 == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pods_stop_gracefully_and_budgets_refuse_evictions() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let pod: Pod = object(json!({"metadata": {"name": "p", "labels": {"app": "p"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}));
    let created = pods.create(&PostParams::default(), &pod).await.unwrap();
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    pods.patch_status("p", &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Running"}})))
        .await
        .unwrap();
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> =
        Api::namespaced(cluster.client.clone(), "default");
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}}});
    budgets.create(&PostParams::default(), &object(budget)).await.unwrap();
    let error = pods.evict("p", &EvictParams::default()).await.unwrap_err();
    assert_eq!(code(error), (429, "Cannot evict pod as it would violate the pod's disruption budget.".into()));
    for (method, path) in [
        ("DELETE", "pods/p/status"),
        ("DELETE", "pods/p/eviction"),
        ("PUT", "pods/p/binding"),
        ("PATCH", "pods/p/eviction"),
        ("GET", "pods/p/binding"),
        ("POST", "pods/p"),
    ] {
        let request = http::Request::builder().method(method).uri(format!("/api/v1/namespaces/default/{path}"));
        let request = request.header("Content-Type", "application/merge-patch+json").body(b"{}".to_vec()).unwrap();
        assert_eq!(code(cluster.client.request_text(request).await.unwrap_err()).0, 405, "{method} {path}");
    }
    let allowed =
        Patch::Merge(json!({"status": {"disruptionsAllowed": 1, "observedGeneration": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}}));
    budgets.patch_status("b", &PatchParams::default(), &allowed).await.unwrap();
    let left = async || budgets.get("b").await.unwrap().status.unwrap().disruptions_allowed;
    let dry_run =
        EvictParams { post_options: PostParams { dry_run: true, ..PostParams::default() }, ..EvictParams::default() };
    pods.evict("p", &dry_run).await.unwrap();
    assert_eq!(left().await, Some(1), "nothing was done");
    pods.evict("p", &EvictParams::default()).await.unwrap();
    let leaving = pods.get("p").await.unwrap();
    assert_eq!(leaving.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(left().await, Some(0));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
}

#[tokio::test]
async fn events_are_forgotten_after_an_hour() {
    let cluster = cluster().await;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(cluster.client.clone(), "default");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}});
    events.create(&PostParams::default(), &object(event)).await.unwrap();
    let mut etcd = etcd_client::Client::connect([&cluster.etcd_endpoint], None).await.unwrap();
    let stored = etcd.get("/registry/events/default/e", None).await.unwrap().take_kvs().remove(0);
    assert_eq!(etcd.lease_time_to_live(stored.lease(), None).await.unwrap().granted_ttl(), 3600);
}

#[tokio::test]
async fn services_get_addresses_and_keep_them() {
    let cluster = cluster().await;
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let api = services.get("kubernetes").await.unwrap();
    assert_eq!(api.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    let service: Service = object(json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let spec = services.create(&PostParams::default(), &service).await.unwrap().spec.unwrap();
    assert!(spec.cluster_ip.as_deref().unwrap().starts_with("10.96."));
    let replaced = services.replace("s", &PostParams::default(), &service).await.unwrap().spec.unwrap();
    assert_eq!(replaced.cluster_ip, spec.cluster_ip);
    let move_it = Patch::Merge(json!({"spec": {"clusterIP": "10.96.9.9"}}));
    assert_eq!(code(services.patch("s", &PatchParams::default(), &move_it).await.unwrap_err()).0, 422);
    let headless: Service =
        object(json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}));
    let headless = services.create(&PostParams::default(), &headless).await.unwrap().spec.unwrap();
    assert_eq!(headless.cluster_ip.as_deref(), Some("None"));
}

#[tokio::test]
async fn gated_pods_wait_and_of_their_spec_only_gates_go() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let gates = json!([{"name": "example.org/one"}, {"name": "example.org/two"}]);
    let pod = json!({"metadata": {"name": "g"},
        "spec": {"schedulingGates": gates, "containers": [{"name": "c", "image": "i"}]}});
    let created = pods.create(&PostParams::default(), &object(pod)).await.unwrap();
    let conditions = created.status.unwrap().conditions.unwrap();
    assert_eq!(
        (conditions[0].type_.as_str(), conditions[0].reason.as_deref()),
        ("PodScheduled", Some("SchedulingGated"))
    );
    let patch = async |patch: serde_json::Value| {
        let patched = pods.patch("g", &PatchParams::default(), &Patch::Strategic(patch)).await;
        patched.map(|pod| pod.spec.unwrap().scheduling_gates.unwrap_or_default().len()).map_err(|error| code(error).0)
    };
    let lift = |name: &str| json!({"spec": {"schedulingGates": [{"name": name, "$patch": "delete"}]}});
    assert_eq!(patch(json!({"spec": {"nodeName": "n"}})).await, Err(422), "it is gated");
    assert_eq!(patch(lift("example.org/one")).await, Ok(1));
    assert_eq!(patch(lift("example.org/one")).await, Ok(1), "it is gone already");
    assert_eq!(patch(json!({"spec": {"schedulingGates": [{"name": "example.org/one"}]}})).await, Err(422));
    assert_eq!(patch(json!({"spec": {"hostname": "other"}})).await, Err(422));
    assert_eq!(patch(json!({"spec": {"containers": [{"name": "c", "image": "j"}]}})).await, Ok(1));
    assert_eq!(patch(lift("example.org/two")).await, Ok(0));
    assert_eq!(patch(json!({"spec": {"nodeName": "n"}})).await, Ok(0));
    let of_another = json!({"metadata": {"uid": "another"}, "spec": {"schedulingGates": []}});
    assert_eq!(patch(of_another).await, Err(409));
}
