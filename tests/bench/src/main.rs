//! `make bench`: ours and etcd under the same load, in turn.
//!
//! `selection` says what is measured; `run` starts a `cluster` of one server, then of the other, and lets the
//! `workloads` drive them: a table of clients whose operations `load` sends over `wire` and times; `report` tells the
//! medians. It knows etcd's API, and nothing of our server.

mod case;
mod clock;
mod cluster;
mod histogram;
mod load;
mod options;
mod progress;
mod report;
mod run;
mod selection;
mod stop;
mod wire;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use cluster::{Kind, Server};
use options::Options;

fn main() -> ExitCode {
    bench(&Options::parse()).unwrap_or_else(|error| {
        eprintln!("keelson-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn bench(options: &Options) -> Result<ExitCode> {
    if options.list {
        for workload in workloads::WORKLOADS {
            println!("{:28} {}", workload.name, workload.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let folder = options.output.clone().unwrap_or_else(default_output);
    if !options.merge.is_empty() {
        let merged = report::merge::read(&options.merge)?;
        println!("{}", merged.markdown());
        tell(&merged.write(&folder)?);
        return Ok(ExitCode::SUCCESS);
    }
    stop::listen()?;
    let groups = selection::groups(options)?;
    let find = |kind: &Kind| match kind {
        Kind::Keelson => Server::find(*kind, options.keelson.as_deref(), &options.keelson_flags),
        Kind::Etcd => Server::find(*kind, options.etcd.as_deref(), &options.etcd_flags),
    };
    let servers: Result<Vec<_>> = options.servers.iter().map(find).collect();
    let data_dir = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
    let report = run::run(options, &groups, servers?, &data_dir)?;
    println!("{}", report::table::markdown(&report));
    tell(&report::write(&report, &folder)?);
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(written: &[PathBuf]) {
    written.iter().for_each(|file| eprintln!("wrote {}", file.display()));
}

fn default_output() -> PathBuf {
    std::env::var_os("KEELSON_CACHE").map_or_else(|| "bench".into(), |cache| PathBuf::from(cache).join("bench"))
}
