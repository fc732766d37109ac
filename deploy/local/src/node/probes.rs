//! Probes and lifecycle hooks: one attempt each, and the counting that turns attempts into started, ready and unhealthy.

use std::net::Ipv4Addr;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::container::{Bundle, exit_code, join};
use rustix::process::Pid;

/// Exec probes show at most this much of their output, in bytes.
const OUTPUT_LIMIT: usize = 1024;

/// What probes of one running container talk to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The container's first process.
    pub init: Option<Pid>,
    /// How it was started.
    pub bundle: Bundle,
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// The startup probe succeeded, or there is none.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// An attempt failed: which probe and why.
    Failed(&'static str, String),
}

/// Probes a container until it must be killed, and says why. Never returns for a healthy one.
pub async fn watch(container: &Container, endpoint: &Endpoint, report: &(impl Fn(Health) + Sync)) -> String {
    if let Some(probe) = &container.startup_probe
        && !Counter::new(probe).settle(container, endpoint, "Startup", report).await
    {
        return format!("Container {} failed startup probe, will be restarted", container.name);
    }
    report(Health::Started);
    let ready = async {
        let Some(probe) = &container.readiness_probe else {
            report(Health::Ready(true));
            return std::future::pending().await;
        };
        let mut counter = Counter::new(probe);
        loop {
            let verdict = counter.settle(container, endpoint, "Readiness", report).await;
            report(Health::Ready(verdict));
        }
    };
    let live = async {
        let Some(probe) = &container.liveness_probe else {
            return std::future::pending().await;
        };
        let mut counter = Counter::new(probe);
        while counter.settle(container, endpoint, "Liveness", report).await {}
    };
    tokio::select! {
        () = ready => {}
        () = live => {}
    }
    format!("Container {} failed liveness probe, will be restarted", container.name)
}

/// Counts successes and failures in a row against the probe's thresholds.
struct Counter<'a> {
    probe: &'a Probe,
    begun: bool,
    successes: i32,
    failures: i32,
}

impl<'a> Counter<'a> {
    fn new(probe: &'a Probe) -> Self {
        Self { probe, begun: false, successes: 0, failures: 0 }
    }

    /// Adds one attempt; a verdict once a threshold is reached.
    fn count(&mut self, success: bool) -> Option<bool> {
        if success {
            (self.successes, self.failures) = (self.successes + 1, 0);
            (self.successes >= self.probe.success_threshold.unwrap_or(1).max(1)).then_some(true)
        } else {
            (self.successes, self.failures) = (0, self.failures + 1);
            (self.failures >= self.probe.failure_threshold.unwrap_or(3).max(1)).then_some(false)
        }
    }

    /// Tries, with the probe's pauses, until there is a verdict.
    async fn settle(
        &mut self,
        container: &Container,
        endpoint: &Endpoint,
        name: &'static str,
        report: &(impl Fn(Health) + Sync),
    ) -> bool {
        loop {
            let pause = if self.begun {
                self.probe.period_seconds.unwrap_or(10).max(1)
            } else {
                self.probe.initial_delay_seconds.unwrap_or(0)
            };
            self.begun = true;
            tokio::time::sleep(seconds(pause)).await;
            let limit = seconds(self.probe.timeout_seconds.unwrap_or(1).max(1));
            let outcome = tokio::time::timeout(limit, attempt(self.probe, container, endpoint)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
            let success = outcome.is_ok();
            if let Err(reason) = outcome {
                report(Health::Failed(name, reason));
            }
            if let Some(verdict) = self.count(success) {
                return verdict;
            }
        }
    }
}

fn seconds(count: i32) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

async fn attempt(probe: &Probe, container: &Container, endpoint: &Endpoint) -> Result<(), String> {
    if let Some(GRPCAction { .. }) = &probe.grpc {
        return Err("gRPC probes are not supported by keelson-local".into());
    }
    act(probe.http_get.as_ref(), probe.tcp_socket.as_ref(), probe.exec.as_ref(), container, endpoint).await
}

/// Runs a lifecycle hook once.
pub async fn run_hook(hook: &LifecycleHandler, container: &Container, endpoint: &Endpoint) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    act(hook.http_get.as_ref(), hook.tcp_socket.as_ref(), hook.exec.as_ref(), container, endpoint).await
}

async fn act(
    http: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    exec: Option<&ExecAction>,
    container: &Container,
    endpoint: &Endpoint,
) -> Result<(), String> {
    if let Some(http) = http {
        return http_get(http, container, endpoint).await;
    }
    if let Some(tcp) = tcp {
        let host = tcp.host.clone().unwrap_or_else(|| endpoint.address.to_string());
        let port = port_number(&tcp.port, container)?;
        return TcpStream::connect((host, port)).await.map(drop).map_err(|error| error.to_string());
    }
    match exec {
        Some(exec) => run_exec(exec.command.as_deref().unwrap_or_default(), endpoint).await,
        None => Ok(()),
    }
}

async fn http_get(action: &HTTPGetAction, container: &Container, endpoint: &Endpoint) -> Result<(), String> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("HTTPS probes are not supported by keelson-local".into());
    }
    let host = action.host.clone().unwrap_or_else(|| endpoint.address.to_string());
    let port = port_number(&action.port, container)?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| text(&e))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| text(&e))?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut request = http::Request::get(path).header("User-Agent", "kube-probe/keelson-local");
    if !action.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case("host")) {
        request = request.header("Host", format!("{host}:{port}"));
    }
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| text(&e))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    connection.abort();
    let status = response.map_err(|e| text(&e))?.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
    }
}

async fn run_exec(command: &[String], endpoint: &Endpoint) -> Result<(), String> {
    let init = endpoint.init.ok_or("the container is not running")?;
    let output = join(init, &endpoint.bundle, command, false)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = [output.stdout, output.stderr].concat();
    text.truncate(OUTPUT_LIMIT);
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(format!("command exited with {}: {text}", exit_code(output.status)))
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("no port {port:?} in the container"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let verdicts: Vec<_> =
            [true, false, true, true, false, true, false, false].map(|ok| counter.count(ok)).to_vec();
        let expected = [None, None, None, Some(true), None, None, None, Some(false)];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn ports_may_be_names() {
        let container: Container = serde_json::from_value(serde_json::json!(
            {"name": "c", "ports": [{"name": "metrics", "containerPort": 2381}]}))
        .unwrap();
        assert_eq!(port_number(&IntOrString::String("metrics".into()), &container), Ok(2381));
        assert_eq!(port_number(&IntOrString::Int(80), &container), Ok(80));
        assert!(port_number(&IntOrString::String("no".into()), &container).is_err());
    }
}
