//! What clients do wrong or too slowly takes bounded memory and holds up nobody else: members as processes, whose peak of
//! resident memory is asked of the kernel.

#[path = "../common/mod.rs"]
mod common;

mod readers;
mod requests;

use std::future::Future;

use common::{DEADLINE, Member};
use etcd_client::Client;
use futures::StreamExt;
use keelson_server::proto::etcdserverpb::RangeRequest;
use tonic::transport::{Channel, Endpoint};

/// A connection whose windows of flow control are soon full when its streams are not read.
async fn narrow(member: &Member) -> Channel {
    let endpoint = Endpoint::from_shared(member.client_url()).expect("a URL");
    let narrow = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    narrow.connect().await.expect("a connection")
}

/// What must not be held up by others.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Keys with values of so many bytes, under a prefix.
async fn fill(client: &Client, prefix: &str, count: usize, bytes: usize) {
    let value = vec![7; bytes];
    let puts = (0..count).map(|n| {
        let (mut client, key, value) = (client.clone(), format!("{prefix}{n:04}"), value.clone());
        async move { client.put(key, value, None).await.expect("put") }
    });
    futures::stream::iter(puts).buffer_unordered(8).for_each(|_| std::future::ready(())).await;
}

/// All keys.
fn everything() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() }
}

/// Memory of a member from a moment on.
struct Memory {
    status: String,
    before: u64,
}

impl Memory {
    /// Begins to measure: the peak is what is resident now.
    fn of(member: &Member) -> Self {
        let process = format!("/proc/{}", member.pid());
        std::fs::write(format!("{process}/clear_refs"), "5").expect("a process of our own");
        let status = format!("{process}/status");
        Memory { before: kib(&status, "VmRSS:") >> 10, status }
    }

    /// By how much the peak was above what was resident at first, in MiB.
    fn grown_mib(&self) -> u64 {
        (kib(&self.status, "VmHWM:") >> 10).saturating_sub(self.before)
    }
}

fn kib(status: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(status).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The value of a sample, by its name and labels as they stand in the text.
async fn sample(member: &Member, name: &str) -> Option<f64> {
    let (_, metrics) = member.get("/metrics").await?;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
