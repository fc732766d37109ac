//! The order of things: in each round, every group of cases on one server and then on the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::case::{Case, On};
use crate::cluster::{Cluster, Server};
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{Machine, Report};
use crate::selection::Group;
use crate::stop;
use crate::workloads::{Figures, Scene, Settings, Workload};

/// Measures all groups; what was measured before a signal or the time limit is in the report.
pub fn run(options: &Options, groups: &[Group], servers: Vec<Server>, data_dir: &Path) -> Result<Report> {
    let settings = options.settings();
    let limit = Duration::from_secs_f64(options.minutes * 60.0);
    let mut report = Report::new(Machine::look(data_dir)?, servers, settings.clone());
    let progress = Progress::new();
    let begun = Instant::now();
    let mut took = vec![Duration::ZERO; groups.len()];
    for round in 1..=settings.rounds {
        for (group, took) in groups.iter().zip(&mut took) {
            if begun.elapsed() + *took > limit {
                progress.line(&format!("round {round}: no time is left for {}", group.environment.title()));
                continue;
            }
            let begun = Instant::now();
            for server in report.servers.clone() {
                let progress =
                    progress.labelled(format!("round {round} of {}, {}", settings.rounds, server.kind.name()));
                let measured = measure(group, &server, &settings, data_dir, &progress, &mut report);
                if stop::check().is_err() {
                    report.fail("what a signal stopped".to_owned());
                    return Ok(report);
                }
                if let Err(error) = measured {
                    let failure = format!("{}: {}: {error:#}", server.kind.name(), group.environment.title());
                    progress.line(&failure);
                    report.fail(failure);
                }
            }
            *took = begun.elapsed();
        }
    }
    Ok(report)
}

/// One group on a cluster of its own.
fn measure(
    group: &Group,
    server: &Server,
    settings: &Settings,
    data_dir: &Path,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let environment = group.environment;
    progress.step(&format!("{}: {} cases", environment.title(), group.cases.len()));
    let mut cluster = Cluster::start(server, environment.members, environment.tls, data_dir)?;
    let workload = Workload::find("fill").expect("a line of the table");
    let fill = Case { workload, environment, clients: 0, on: On::Leader, rate: None };
    for case in std::iter::once(&fill).chain(group.cases.iter().filter(|case| !case.workload.is_fill())) {
        let progress = progress.labelled(format!("{}, {}: {}", progress.label(), environment.title(), case.title()));
        progress.show("");
        let mut scene = Scene { cluster: &mut cluster, case, settings, progress: progress.clone() };
        let figures = case.workload.run(&mut scene);
        stop::check()?;
        if case.workload.is_fill() {
            figures.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        }
        let figures = figures.unwrap_or_else(|error| {
            let failure = format!("{}: {}, {}: {error:#}", server.kind.name(), environment.title(), case.title());
            progress.line(&failure);
            report.fail(failure);
            Figures { failed: 1, error: Some(format!("{error:#}")), ..Figures::default() }
        });
        report.add(case, server.kind, figures);
        cluster.settle(settings.settle)?;
    }
    Ok(())
}
