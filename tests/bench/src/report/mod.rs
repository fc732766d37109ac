//! What was measured, and in which forms it is told.

mod json;
mod machine;
pub mod merge;
mod metric;
mod svg;
pub mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use crate::case::{Case, Environment, On};
use crate::cluster::{Kind, Server};
use crate::workloads::{Figures, Settings};
pub use machine::Machine;
use metric::{METRICS, Metric};

/// Of one run.
pub struct Report {
    pub started: DateTime<Utc>,
    pub machine: Machine,
    /// In the order in which they take turns.
    pub servers: Vec<Server>,
    pub settings: Settings,
    pub outcomes: Vec<Outcome>,
    /// Why something is missing.
    pub failures: Vec<String>,
}

/// Of one case: the figures of each round.
pub struct Outcome {
    pub case: Case,
    keelson: Vec<Figures>,
    etcd: Vec<Figures>,
}

impl Report {
    pub fn new(machine: Machine, servers: Vec<Server>, settings: Settings) -> Self {
        Self { started: Utc::now(), machine, servers, settings, outcomes: Vec::new(), failures: Vec::new() }
    }

    pub fn add(&mut self, case: &Case, server: Kind, figures: Figures) {
        add(&mut self.outcomes, case, server, figures);
    }

    /// Something is missing; it is told once, however many rounds it is missing in.
    pub fn fail(&mut self, failure: String) {
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}

/// Figures join those of the same case; a new case stands behind the others of its environment.
fn add(outcomes: &mut Vec<Outcome>, case: &Case, server: Kind, figures: Figures) {
    let is_same =
        |outcome: &Outcome| outcome.case.environment == case.environment && outcome.case.title() == case.title();
    let index = outcomes.iter().position(is_same).unwrap_or_else(|| {
        let of_environment = |outcome: &Outcome| outcome.case.environment == case.environment;
        let index = outcomes.iter().rposition(of_environment).map_or(outcomes.len(), |last| last + 1);
        outcomes.insert(index, Outcome { case: case.clone(), keelson: Vec::new(), etcd: Vec::new() });
        index
    });
    match server {
        Kind::Keelson => outcomes[index].keelson.push(figures),
        Kind::Etcd => outcomes[index].etcd.push(figures),
    }
}

/// Outcomes by environment, in the order in which they were measured.
fn groups(outcomes: &[Outcome]) -> impl Iterator<Item = (Environment, &[Outcome])> {
    let groups = outcomes.chunk_by(|one, other| one.case.environment == other.case.environment);
    groups.map(|outcomes| (outcomes[0].case.environment, outcomes))
}

impl Outcome {
    fn of(&self, server: Kind) -> &[Figures] {
        match server {
            Kind::Keelson => &self.keelson,
            Kind::Etcd => &self.etcd,
        }
    }

    /// Of all rounds in which there was such a figure.
    fn median(&self, server: Kind, metric: &Metric) -> Option<f64> {
        median(self.of(server).iter().filter_map(metric.of).collect())
    }

    /// Ours to etcd's.
    fn ratio(&self, metric: &Metric) -> Option<f64> {
        quotient(self.median(Kind::Keelson, metric), self.median(Kind::Etcd, metric))
    }

    /// A figure of what goes on beside something else, divided by that of `put` without it.
    fn undisturbed(&self, all: &[Outcome], server: Kind, metric: &Metric) -> Option<f64> {
        let same = |other: &&Outcome| circumstances(&other.case) == circumstances(&self.case);
        let alone = all.iter().filter(same).find(|outcome| outcome.case.workload.name == "put");
        let alone = alone.filter(|_| self.case.workload.is_beside())?;
        quotient(self.median(server, metric), alone.median(server, metric))
    }
}

fn circumstances(case: &Case) -> (Environment, usize, On, Option<f64>) {
    (case.environment, case.clients, case.on, case.rate)
}

fn quotient(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let (one, other) = (one?, other?);
    (one > 0.0 && other > 0.0).then(|| one / other)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Writes all forms into `folder`, and says which files these are.
pub fn write(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    let chart = svg::chart(&report.outcomes, Outcome::ratio);
    let forms = [("json", json::text(report)), ("md", table::markdown(report)), ("svg", chart)];
    write_forms(&forms, folder, &report.started.format(NAME).to_string())
}

/// Names of files are times.
const NAME: &str = "%Y%m%dT%H%M%SZ";

fn write_forms(forms: &[(&str, String)], folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let write = |(extension, text): &(&str, String)| {
        let path = folder.join(format!("{name}.{extension}"));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    forms.iter().map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::Workload;

    /// A case of two rounds on etcd, and of one on ours.
    pub fn outcome() -> Outcome {
        let workload = Workload::find("put").expect("a workload");
        let environment = Environment { members: 3, tls: false, keys: 1000, value_bytes: 256 };
        let case = Case { workload, environment, clients: 100, on: On::Leader, rate: None };
        let figures =
            |per_second, p99_ms| Figures { per_second: Some(per_second), p99_ms: Some(p99_ms), ..Figures::default() };
        let failed = Figures { failed: 2, error: Some("a <bad> thing".to_owned()), ..figures(30_000.0, 4.0) };
        Outcome { case, keelson: vec![failed], etcd: vec![figures(9000.0, 20.0), figures(11_000.0, 12.0)] }
    }

    pub fn report() -> Report {
        let machine = Machine::look(&std::env::temp_dir()).expect("a machine");
        let options = <crate::options::Options as clap::Parser>::parse_from(["bench", "--quick"]);
        Report { outcomes: vec![outcome()], ..Report::new(machine, Vec::new(), options.settings()) }
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 9.0, 1.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_of_medians_ours_to_theirs() {
        let outcome = outcome();
        assert_eq!(outcome.ratio(metric::find("per_second")), Some(3.0));
        assert_eq!(outcome.ratio(metric::find("p99_ms")), Some(0.25));
        assert_eq!(outcome.ratio(metric::find("seconds")), None);
    }

    #[test]
    fn what_goes_on_beside_something_is_compared_with_puts_alone() {
        let mut report = report();
        let case = report.outcomes[0].case.clone();
        let joining = Workload::find("put-while-joining").expect("a workload");
        for (clients, per_second) in [(100, 24_000.0), (7, 1.0)] {
            let figures = Figures { per_second: Some(per_second), p99_ms: Some(10.0), ..Figures::default() };
            report.add(&Case { workload: joining, clients, ..case.clone() }, Kind::Keelson, figures);
        }
        let all = &report.outcomes;
        let per_second = metric::find("per_second");
        let found: Vec<_> = all.iter().map(|outcome| outcome.undisturbed(all, Kind::Keelson, per_second)).collect();
        assert_eq!(found, [None, Some(0.8), None]);
        let text = table::markdown(&report);
        assert!(text.contains("\n- put-while-joining, 100 clients: keelson 80 %, p99 2.50 times\n"), "{text}");
    }

    #[test]
    fn later_rounds_join_the_case_of_the_first() {
        let mut report = report();
        let case = report.outcomes[0].case.clone();
        let other = Case { environment: Environment { members: 1, ..case.environment }, ..case.clone() };
        report.add(&other, Kind::Etcd, Figures::default());
        report.add(&Case { clients: 7, ..case.clone() }, Kind::Etcd, Figures::default());
        report.add(&case, Kind::Etcd, Figures::default());
        let found: Vec<_> = report.outcomes.iter().map(|outcome| (outcome.case.clients, outcome.etcd.len())).collect();
        assert_eq!(found, [(100, 3), (7, 1), (100, 1)]);
        assert_eq!(groups(&report.outcomes).count(), 2);
    }
}
