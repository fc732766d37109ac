//! `make faults`: rounds of clients and faults on clusters of an etcd-compatible server, each judged.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use keelson_faults::check::check;
use keelson_faults::history::History;
use keelson_faults::network::Network;
use keelson_faults::options::Options;
use keelson_faults::{report, round};

fn main() -> ExitCode {
    let done = faults(&Options::parse());
    done.unwrap_or_else(|error| {
        eprintln!("keelson-faults: {error:#}");
        ExitCode::FAILURE
    })
}

fn faults(options: &Options) -> Result<ExitCode> {
    if let Some(file) = &options.judge {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let history: History = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let report = check(&history);
        println!("{}", report::history(&history, &report));
        return Ok(report::exit(report.is_good()));
    }
    if !options.crash.is_empty() {
        let runtime = tokio::runtime::Runtime::new()?;
        return runtime.block_on(crashes(options));
    }
    let network = options.network()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = rounds(options, &network) => done,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped by a signal"),
        }
    })
}

async fn crashes(options: &Options) -> Result<ExitCode> {
    let (settings, begun, mut outcomes) = (options.crashes()?, Instant::now(), Vec::new());
    println!("{}", report::begin_crashes(&settings, &options.crash));
    let end = options.within.map(|seconds| begun + Duration::from_secs_f64(seconds));
    for (index, scenario) in options.crash.iter().enumerate() {
        // Each has its share of what is left.
        let others = (options.crash.len() - index) as u32;
        let end = end.map(|end| Instant::now() + end.saturating_duration_since(Instant::now()) / others);
        let outcome = settings.run(*scenario, end).await?;
        println!("{}", report::crashes(&settings, *scenario, &outcome));
        outcomes.push((*scenario, outcome));
    }
    println!("{}", report::all_crashes(&outcomes, begun.elapsed()));
    Ok(report::exit(outcomes.iter().all(|(_, outcome)| outcome.failures.is_empty())))
}

async fn rounds(options: &Options, network: &Network) -> Result<ExitCode> {
    let first = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut all_good = true;
    let mut index = 0;
    while index == 0 || Instant::now() < end {
        let settings = options.settings(first + index as u64, index, network)?;
        if index == 0
            && let Some(left_out) = report::left_out(options, &settings)
        {
            eprintln!("keelson-faults: {left_out}");
        }
        println!("{}", report::begin(options, &settings));
        let round = round::run(&settings, network.clone()).await?;
        all_good &= report::end(options, &settings, &round)?;
        index += 1;
    }
    Ok(report::exit(all_good))
}
