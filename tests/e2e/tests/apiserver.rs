//! A real kube-apiserver behind which three of our members keep the objects. `make apiserver` runs this.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use keelson_e2e::apiserver::{ControlPlane, program};
use keelson_e2e::wait_for;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

const OBJECTS: usize = 10_000;
const PAGE: u32 = 500;
/// Connections of the API server's clients that create objects.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubernetes_api_server_does_not_notice() -> Result<()> {
    let server = program("KEELSON_SERVER")?;
    let kube_apiserver = program("KUBE_APISERVER")?;
    let start = Instant::now();
    let mut plane = ControlPlane::start(&server, &kube_apiserver).await?;
    println!("ready after {:.1} s", start.elapsed().as_secs_f64());

    let maps: Api<ConfigMap> = Api::namespaced(plane.client.clone(), "default");
    wait_for("the default namespace", PATIENCE, || async {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(plane.client.clone());
        Ok(namespaces.get_opt("default").await?)
    })
    .await?;
    let seen = Seen::start(&plane.client);
    create(&maps, OBJECTS).await?;
    lists_agree(&maps).await?;
    seen.all("every creation is watched", |names| names.len() >= OBJECTS).await?;
    conflicts_are_conflicts(&maps).await?;
    old_pages_expire(&plane, &maps).await?;
    each_member_may_die(&mut plane, &maps, &seen).await?;
    delete(&maps, &seen).await
}

fn object(name: &str) -> ConfigMap {
    let value = json!({"metadata": {"name": name, "labels": {"e2e": "keelson"}}, "data": {"text": "x".repeat(400)}});
    serde_json::from_value(value).expect("a ConfigMap")
}

async fn create(maps: &Api<ConfigMap>, count: usize) -> Result<()> {
    let start = Instant::now();
    let parameters = &PostParams::default();
    stream::iter((0..count).map(|n| object(&format!("m-{n:05}"))).map(Ok::<_, anyhow::Error>))
        .try_for_each_concurrent(AT_ONCE, |object| async move {
            maps.create(parameters, &object).await?;
            Ok(())
        })
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} objects created in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    Ok(())
}

fn ours() -> ListParams {
    ListParams::default().labels("e2e=keelson")
}

/// By pages from the store, in one list from the API server's cache, and as a stream: the same objects.
async fn lists_agree(maps: &Api<ConfigMap>) -> Result<()> {
    let start = Instant::now();
    let mut pages = 0;
    let mut paged = BTreeSet::new();
    let mut token = None;
    loop {
        let page = maps.list(&ListParams { continue_token: token.take(), ..ours().limit(PAGE) }).await?;
        pages += 1;
        paged.extend(page.items.iter().map(|map| map.name_any()));
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    println!("{} objects in {pages} pages in {:.1} s", paged.len(), start.elapsed().as_secs_f64());
    ensure!(paged.len() == OBJECTS, "{} objects by pages", paged.len());
    ensure!(pages >= OBJECTS / PAGE as usize, "only {pages} pages");

    let whole: BTreeSet<String> = maps.list(&ours()).await?.items.iter().map(|map| map.name_any()).collect();
    ensure!(whole == paged, "{} objects in one list", whole.len());

    let start = Instant::now();
    let mut streamed = BTreeSet::new();
    let mut events =
        watcher::watcher(maps.clone(), watcher::Config::default().labels("e2e=keelson").streaming_lists()).boxed();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.context("the streamed list stops")?;
        match event.context("the streamed list ends")?? {
            watcher::Event::InitApply(map) => {
                streamed.insert(map.name_any());
            }
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    println!("{} objects as a stream in {:.1} s", streamed.len(), start.elapsed().as_secs_f64());
    ensure!(streamed == paged, "{} objects as a stream", streamed.len());
    Ok(())
}

/// An update of what was read before somebody else's update is refused.
async fn conflicts_are_conflicts(maps: &Api<ConfigMap>) -> Result<()> {
    let mut mine = maps.get("m-00000").await?;
    let patch = Patch::Merge(json!({"data": {"other": "1"}}));
    maps.patch("m-00000", &PatchParams::default(), &patch).await?;
    mine.data.get_or_insert_default().insert("mine".into(), "1".into());
    match maps.replace("m-00000", &PostParams::default(), &mine).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => bail!("a stale update gave {other:?}"),
    }
}

/// The API server compacts: a list that was begun before expires, and says so.
async fn old_pages_expire(plane: &ControlPlane, maps: &Api<ConfigMap>) -> Result<()> {
    let page = maps.list(&ours().limit(PAGE)).await?;
    let token = page.metadata.continue_.context("a second page")?;
    let revision: i64 = page.metadata.resource_version.context("a resource version")?.parse()?;
    let mut etcd = plane.etcd().await?;
    let start = Instant::now();
    wait_for("a compaction by the API server", PATIENCE, || {
        let mut etcd = etcd.clone();
        async move {
            let old = etcd_client::GetOptions::new().with_revision(revision);
            match etcd.get("/registry/", Some(old)).await {
                Err(error) if error.to_string().contains("required revision has been compacted") => Ok(Some(())),
                Err(error) => Err(error.into()),
                Ok(_) => {
                    // Only what was overtaken is compacted.
                    let patch = Patch::Merge(json!({"data": {"tick": start.elapsed().as_millis().to_string()}}));
                    maps.patch("m-00001", &PatchParams::default(), &patch).await?;
                    Ok(None)
                }
            }
        }
    })
    .await?;
    println!("compacted after {:.0} s", start.elapsed().as_secs_f64());
    match maps.list(&ListParams { continue_token: Some(token), ..ours().limit(PAGE) }).await {
        // 410 Gone; or the page, if the API server could answer it from its cache.
        Err(kube::Error::Api(status)) if status.code == 410 => println!("the old page has expired"),
        Ok(page) => println!("the old page came from the cache, {} objects", page.items.len()),
        Err(error) => return Err(error.into()),
    }
    let status = etcd.status().await?;
    ensure!(status.errors().is_empty(), "alarms: {:?}", status.errors());
    Ok(())
}

/// With one member down at a time the API server goes on, and nothing that it acknowledged is lost.
async fn each_member_may_die(plane: &mut ControlPlane, maps: &Api<ConfigMap>, seen: &Seen) -> Result<()> {
    for n in 0..plane.members.len() {
        let writer = Writer::start(maps.clone(), n);
        writer.progress(20).await?;
        let killed = Instant::now();
        plane.members[n].kill()?;
        writer.progress(50).await?;
        println!(
            "member {n} killed: 50 writes in {:.1} s, slowest {:.1} s",
            killed.elapsed().as_secs_f64(),
            writer.slowest()
        );
        plane.members[n].restart()?;
        writer.progress(50).await?;
        let names = writer.stop().await?;
        for name in &names {
            maps.get(name).await.with_context(|| format!("{name} was acknowledged"))?;
        }
        seen.all("writes during the kill are watched", |seen| names.iter().all(|name| seen.contains(name))).await?;
        // The next kill takes the quorum away unless this one is back.
        plane.members_answer().await?;
        println!("{} objects written around the kill of member {n}, none lost", names.len());
    }
    plane.ready().await
}

async fn delete(maps: &Api<ConfigMap>, seen: &Seen) -> Result<()> {
    let start = Instant::now();
    // It is paged inside the API server, and a compaction may overtake its pages.
    wait_for("the deletion of all", PATIENCE, || async {
        match maps.delete_collection(&DeleteParams::default(), &ours()).await {
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(None),
            answer => Ok(Some(answer?)),
        }
    })
    .await?;
    println!("all deleted in {:.1} s", start.elapsed().as_secs_f64());
    seen.all("every deletion is watched", |names| names.is_empty()).await
}

/// Names of the objects that a watch through the API server has shown and that still exist.
struct Seen {
    names: Arc<std::sync::Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Seen {
    fn start(client: &Client) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let names = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let shared = names.clone();
        let task = tokio::spawn(async move {
            let mut events = watcher::watcher(maps, watcher::Config::default().labels("e2e=keelson")).boxed();
            while let Some(event) = events.next().await {
                let mut names = shared.lock().expect("the names");
                match event {
                    Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                        names.insert(map.name_any());
                    }
                    Ok(watcher::Event::Delete(map)) => {
                        names.remove(&map.name_any());
                    }
                    Ok(watcher::Event::Init) => names.clear(),
                    Ok(watcher::Event::InitDone) => {}
                    Err(error) => println!("the watch begins anew: {error}"),
                }
            }
        });
        Self { names, task }
    }

    async fn all(&self, what: &str, enough: impl Fn(&BTreeSet<String>) -> bool) -> Result<()> {
        wait_for(what, PATIENCE, || async { Ok(enough(&self.names.lock().expect("the names")).then_some(())) }).await
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Creates one object after the other and remembers those that were acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    slowest_ms: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(maps: Api<ConfigMap>, round: usize) -> Self {
        let (stop, count, slowest_ms) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted, slowest) = (stop.clone(), count.clone(), slowest_ms.clone());
        let task = tokio::spawn(async move {
            let mut names = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("kill-{round}-{n:05}");
                let begun = Instant::now();
                match maps.create(&PostParams::default(), &object(&name)).await {
                    Ok(_) => {
                        names.push(name);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        println!("{name}: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                slowest.fetch_max(begun.elapsed().as_millis() as usize, Ordering::Relaxed);
            }
            names
        });
        Self { stop, count, slowest_ms, task }
    }

    fn slowest(&self) -> f64 {
        self.slowest_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }

    async fn progress(&self, more: usize) -> Result<()> {
        let goal = self.count.load(Ordering::Relaxed) + more;
        wait_for("writes", PATIENCE, || async { Ok((self.count.load(Ordering::Relaxed) >= goal).then_some(())) }).await
    }

    async fn stop(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}
