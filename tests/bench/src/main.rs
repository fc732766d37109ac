//! Puts in a closed loop: each client sends its next put when the last one is answered.
//!
//! `keelson-bench [--seconds N] [--rounds N] [--clients N,N] [--connections N] [--value-bytes N] NAME=URL[,URL] ...`
//!
//! Targets take turns, so that what else the machine does hits all of them alike.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

#[allow(missing_docs, dead_code, clippy::all)]
mod proto {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
}
use proto::etcdserverpb::PutRequest;
use proto::etcdserverpb::kv_client::KvClient;

struct Settings {
    seconds: u64,
    rounds: usize,
    clients: Vec<usize>,
    connections: usize,
    value_bytes: usize,
    targets: Vec<Target>,
}

struct Target {
    name: String,
    urls: Vec<String>,
}

/// What one round of one target gave.
struct Measured {
    puts_per_second: f64,
    p50: Duration,
    p99: Duration,
    failed: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = settings(std::env::args().skip(1))?;
    println!("target\tclients\tround\tputs/s\tp50_ms\tp99_ms\tfailed");
    for clients in &settings.clients {
        for round in 1..=settings.rounds {
            for target in &settings.targets {
                let measured = measure(&settings, target, *clients).await?;
                println!(
                    "{}\t{clients}\t{round}\t{:.0}\t{:.2}\t{:.2}\t{}",
                    target.name,
                    measured.puts_per_second,
                    measured.p50.as_secs_f64() * 1e3,
                    measured.p99.as_secs_f64() * 1e3,
                    measured.failed
                );
            }
        }
    }
    Ok(())
}

fn settings(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Settings> {
    let mut settings =
        Settings { seconds: 5, rounds: 2, clients: vec![1, 64], connections: 4, value_bytes: 256, targets: Vec::new() };
    while let Some(argument) = arguments.next() {
        if let Some((name, urls)) = argument.split_once('=') {
            let urls = urls.split(',').map(str::to_owned).collect();
            let name = name.to_owned();
            settings.targets.push(Target { name, urls });
            continue;
        }
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--seconds" => settings.seconds = value.parse()?,
            "--rounds" => settings.rounds = value.parse()?,
            "--clients" => {
                let counts: Result<_, _> = value.split(',').map(str::parse).collect();
                settings.clients = counts?;
            }
            "--connections" => settings.connections = value.parse()?,
            "--value-bytes" => settings.value_bytes = value.parse()?,
            _ => bail!("{argument} is not known"),
        }
    }
    if settings.targets.is_empty() || settings.connections == 0 {
        bail!("NAME=URL[,URL] and at least one connection are needed");
    }
    Ok(settings)
}

async fn measure(settings: &Settings, target: &Target, clients: usize) -> anyhow::Result<Measured> {
    let mut connections = Vec::new();
    for url in target.urls.iter().cycle().take(settings.connections.max(target.urls.len())) {
        let endpoint = Endpoint::from_shared(url.clone())?.tcp_nodelay(true);
        connections.push(endpoint.connect().await.with_context(|| url.clone())?);
    }
    let value = Bytes::from(vec![b'v'; settings.value_bytes]);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(settings.seconds);
    let mut tasks = Vec::new();
    for client in 0..clients {
        let connection = connections[client % connections.len()].clone();
        tasks.push(tokio::spawn(put_until(connection, client, value.clone(), end)));
    }
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (of_client, failed_of_client) = task.await?;
        latencies.extend(of_client);
        failed += failed_of_client;
    }
    let took = begun.elapsed().as_secs_f64();
    if latencies.is_empty() {
        bail!("{}: no put was answered", target.name);
    }
    latencies.sort_unstable();
    let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    Ok(Measured { puts_per_second: latencies.len() as f64 / took, p50: quantile(0.50), p99: quantile(0.99), failed })
}

/// The latencies of acknowledged puts, and the number of others.
async fn put_until(connection: Channel, client: usize, value: Bytes, end: Instant) -> (Vec<Duration>, usize) {
    let mut kv = KvClient::new(connection);
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for sequence in 0u64.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let request = PutRequest {
            // A key of 32 bytes, again every 10,000 puts of a client.
            key: format!("bench/{client:010}/{:014}", sequence % 10_000).into(),
            value: value.clone(),
            ..PutRequest::default()
        };
        match kv.put(request).await {
            Ok(_) => latencies.push(sent.elapsed()),
            Err(_) => failed += 1,
        }
    }
    (latencies, failed)
}
