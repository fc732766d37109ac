//! One life of a cluster, as a user sees it: workloads, names, logs, exec, restarts, and data that outlives all of it.

use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use kube::api::{Api, AttachParams, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// Generous: the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(120);

struct Cluster {
    child: Child,
    client: Client,
}

impl Cluster {
    async fn up(directory: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_keelson-local"))
            .arg("up")
            .arg("--data-dir")
            .arg(directory)
            .args(["--port", &port.to_string(), "--restart-backoff", "1"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
        assert!(line.is_some_and(|line| line.contains("is up")), "keelson-local did not come up");
        let kubeconfig = Kubeconfig::read_from(directory.join("kubeconfig")).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Self { child, client: Client::try_from(config).unwrap() }
    }

    async fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Runs a command in a pod: its exit status as Kubernetes reports it, and its output.
    async fn exec(&self, pod: &str, script: &str) -> (String, String) {
        let parameters = AttachParams::default().stderr(false);
        let mut process = self.pods().exec(pod, ["sh", "-c", script], &parameters).await.unwrap();
        let mut output = String::new();
        process.stdout().unwrap().read_to_string(&mut output).await.unwrap();
        let status = process.take_status().unwrap().await.unwrap();
        let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
        let code = causes.into_iter().find_map(|cause| cause.message).unwrap_or_default();
        (format!("{} {code}", status.status.unwrap_or_default()).trim().to_owned(), output.trim().to_owned())
    }

    async fn pod_when(&self, name: &str, what: &str, condition: impl Fn(&Pod) -> bool) -> Pod {
        eventually(what, async || self.pods().get(name).await.ok().filter(&condition)).await
    }
}

/// Tries until there is an answer, or fails after the deadline.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let tries = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, tries).await.unwrap_or_else(|_| panic!("never came true: {what}"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A set of two pods that write down each start on their claim, and end on SIGTERM with a code of their own.
fn stateful_set() -> StatefulSet {
    let script = "echo started $HOSTNAME as $ROLE; echo start >>/data/starts; \
                  trap 'exit 7' TERM; while :; do sleep 0.2; done";
    parse(json!({
        "metadata": {"name": "web"},
        "spec": {
            "serviceName": "web", "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script],
                        "env": [{"name": "ROLE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "role"}}}],
                        "readinessProbe": {"exec": {"command": ["test", "-f", "/data/starts"]}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "settings", "mountPath": "/settings"}],
                    }],
                    "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}],
        },
    }))
}

/// A pod that answers TCP connections with its host name, and the service before it.
fn echo_pod() -> Pod {
    let server = "use IO::Socket::INET; $| = 1; \
        my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1) or die; \
        while (my $c = $s->accept) { print $c \"hello from $ENV{HOSTNAME}\\n\"; close $c }";
    parse(json!({
        "metadata": {"name": "echo", "labels": {"app": "echo"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "busybox", "command": ["perl", "-e", server],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]},
    }))
}

async fn create_workloads(cluster: &Cluster) {
    let client = &cluster.client;
    let parameters = PostParams::default();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&parameters, &parse(json!({"metadata": {"name": "settings"}, "data": {"role": "first"}})))
        .await
        .unwrap();
    let services: Api<Service> = Api::default_namespaced(client.clone());
    for service in [
        json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "selector": {"app": "web"}}}),
        json!({"metadata": {"name": "echo"}, "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    ] {
        services.create(&parameters, &parse(service)).await.unwrap();
    }
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    sets.create(&parameters, &stateful_set()).await.unwrap();
    cluster.pods().create(&parameters, &echo_pod()).await.unwrap();
}

async fn check_network(cluster: &Cluster) {
    let web_1 = cluster.pod_when("web-1", "both pods of the set are ready", is_ready).await;
    let address = web_1.status.unwrap().pod_ip.unwrap();
    let resolved = async || {
        let (_, output) = cluster.exec("web-0", "getent hosts web-1.web").await;
        output.starts_with(&format!("{address} ")).then_some(())
    };
    eventually("the other pod's name resolves to its address", resolved).await;
    cluster.pod_when("echo", "the echo pod is ready", is_ready).await;
    let answered = async || {
        let script = "exec bash -c 'exec 3<>/dev/tcp/echo/80; cat <&3'";
        (cluster.exec("web-0", script).await.1 == "hello from echo").then_some(())
    };
    eventually("the service's name and address lead to its pod", answered).await;
    let (status, _) = cluster.exec("web-0", "exit 3").await;
    assert_eq!(status, "Failure 3");
}

/// More than all pipes on the way hold: it only comes back if output is read while input is written.
async fn check_long_input(cluster: &Cluster) {
    const LENGTH: usize = 4 << 20;
    let parameters = AttachParams::default().stdin(true).stderr(false);
    let script = format!("head -c {LENGTH}");
    let mut process = cluster.pods().exec("web-0", ["sh", "-c", &script], &parameters).await.unwrap();
    let (mut input, mut output) = (process.stdin().unwrap(), process.stdout().unwrap());
    let copied = async {
        let write = async { input.write_all(&vec![b'x'; LENGTH]).await.unwrap() };
        let mut back = Vec::new();
        let (_, read) = tokio::join!(write, output.read_to_end(&mut back));
        read.unwrap();
        back.len()
    };
    assert_eq!(tokio::time::timeout(DEADLINE, copied).await.expect("exec hangs"), LENGTH);
}

async fn check_restart_and_logs(cluster: &Cluster) {
    let logs = async |previous: bool| {
        let parameters = LogParams { previous, ..LogParams::default() };
        cluster.pods().logs("web-0", &parameters).await.unwrap_or_default()
    };
    assert_eq!(logs(false).await, "started web-0 as first\n");
    let (status, _) = cluster.exec("web-0", "kill 1").await;
    assert_eq!(status, "Success");
    let pod = cluster.pod_when("web-0", "started again", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    let last = pod.status.unwrap().container_statuses.unwrap().remove(0).last_state.unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 7);
    assert_eq!(logs(true).await, "started web-0 as first\n");
}

async fn check_live_update(cluster: &Cluster) {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let patch = Patch::Merge(json!({"data": {"role": "second"}}));
    maps.patch("settings", &PatchParams::default(), &patch).await.unwrap();
    let updated = async || (cluster.exec("web-1", "cat /settings/role").await.1 == "second").then_some(());
    eventually("the file of the ConfigMap follows it", updated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_and_lives_again() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::up(directory.path()).await;
    create_workloads(&cluster).await;
    check_network(&cluster).await;
    check_long_input(&cluster).await;
    check_restart_and_logs(&cluster).await;
    check_live_update(&cluster).await;

    cluster.pods().delete("echo", &DeleteParams::default()).await.unwrap();
    let gone = async || cluster.pods().get_opt("echo").await.unwrap().is_none().then_some(());
    eventually("a deleted pod goes", gone).await;
    let before = cluster.pods().get("web-0").await.unwrap();
    cluster.stop().await;

    let cluster = Cluster::up(directory.path()).await;
    let after = cluster.pod_when("web-0", "runs again", |pod| restarts(pod) == 2 && is_ready(pod)).await;
    assert_eq!((after.uid(), after.status.unwrap().pod_ip), (before.uid(), before.status.unwrap().pod_ip));
    assert_eq!(cluster.exec("web-0", "wc -l </data/starts").await.1, "3", "the claim's data is there");

    let sets: Api<StatefulSet> = Api::default_namespaced(cluster.client.clone());
    sets.delete("web", &DeleteParams::background()).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client.clone());
    claims.delete("data-web-0", &DeleteParams::default()).await.unwrap();
    let volumes = directory.path().join("volumes");
    let freed = async || {
        let left = std::fs::read_dir(&volumes).unwrap().count();
        (left == 1 && cluster.pods().get_opt("web-0").await.unwrap().is_none()).then_some(())
    };
    eventually("a claim's directory goes with it, and only its own", freed).await;
    cluster.stop().await;
}
