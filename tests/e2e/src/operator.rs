//! An operator as a process of the test, for one namespace.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::faulty::Faulty;
use crate::wait_for;

/// An operator that runs. It is killed when this is dropped.
pub struct Operator {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Operator {
    /// Starts the program that KEELSON_OPERATOR names. It looks after the namespace, and its Lease is there, too.
    pub async fn start(namespace: &str, identity: &str) -> Result<Self> {
        Self::run(tempfile::tempdir()?, None, namespace, identity)
    }

    /// The same with `faulty` as its API server.
    pub async fn on(faulty: &Faulty, namespace: &str, identity: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "faulty",
            "clusters": [{"name": "faulty", "cluster": {"server": faulty.url}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "nobody"}}],
        });
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string())?;
        Self::run(folder, Some(path), namespace, identity)
    }

    fn run(folder: tempfile::TempDir, kubeconfig: Option<PathBuf>, namespace: &str, identity: &str) -> Result<Self> {
        let program = std::env::var_os("KEELSON_OPERATOR").context("KEELSON_OPERATOR names no program")?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let child = Command::new(program)
            .args(["run", "--watch-namespace", namespace, "--lease-namespace", namespace])
            .args(["--identity", identity, "--listen", &address])
            .envs(kubeconfig.map(|path| ("KUBECONFIG", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the operator")?;
        Ok(Self { child, address, folder })
    }

    /// Waits until the metrics say that it leads.
    pub async fn leads(&self) -> Result<()> {
        wait_for("the operator leads", Duration::from_secs(60), || async {
            Ok((self.metric("leader", "").await? == 1.0).then_some(()))
        })
        .await
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<String> {
        let config = kube::Config::new(format!("http://{}", self.address).parse()?);
        let request = http::Request::get("/metrics").body(Vec::new())?;
        Ok(kube::Client::try_from(config)?.request_text(request).await?)
    }

    /// The sum of the values of `keelson_operator_NAME` whose labels have this text in them.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let name = format!("keelson_operator_{name}");
        let text = self.metrics().await?;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let own = series.split('{').next() == Some(&name) && series.contains(labels);
            own.then(|| value.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    /// The seconds of processor time that it took so far.
    pub fn processor_seconds(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        // Behind the name, which may have spaces: state, and eleven more before these two.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields.get(11..13).context("no times")?.iter().filter_map(|it| it.parse::<f64>().ok()).sum();
        Ok(ticks / 100.0)
    }

    /// The memory that it has, in MiB, and the most that it had.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = self.proc("status")?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            let kib: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
            anyhow::Ok(kib / 1024)
        };
        Ok((value("VmRSS")?, value("VmHWM")?))
    }

    fn proc(&self, file: &str) -> Result<String> {
        let pid = self.child.id().context("the operator ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the operator's log ends:\n{}", last_lines(&self.log(), 40));
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
