//! Several runs in one table: how they differ says what a ratio is worth.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::table::{aligned, beside, figure, head, missing};
use super::{METRICS, Machine, Metric, NAME, Outcome, add, groups, median, metric, quotient, svg, write_forms};
use crate::case::{Case, Environment, On};
use crate::cluster::{Kind, Server};
use crate::progress::grouped;
use crate::workloads::{Figures, Workload};

/// Runs with their outcomes; of each outcome, every run is a round.
pub struct Merged {
    started: Vec<DateTime<Utc>>,
    /// Of each run: when, where and what.
    heads: Vec<String>,
    outcomes: Vec<Outcome>,
    failures: Vec<String>,
}

/// What of a run's JSON is needed.
#[derive(Deserialize)]
struct Run {
    started: String,
    machine: Machine,
    servers: Vec<Server>,
    settings: Settings,
    outcomes: Vec<Measured>,
    failures: Vec<String>,
}

#[derive(Deserialize)]
struct Settings {
    length: f64,
}

#[derive(Deserialize)]
struct Measured {
    case: Named,
    keelson: Rounds,
    etcd: Rounds,
}

#[derive(Deserialize)]
struct Named {
    workload: String,
    #[serde(flatten)]
    environment: Environment,
    clients: usize,
    on: On,
    rate: Option<f64>,
}

#[derive(Deserialize)]
struct Rounds {
    rounds: Vec<Figures>,
    median: Figures,
}

impl Rounds {
    fn figures(self) -> Figures {
        Figures { failed: self.rounds.iter().map(|figures| figures.failed).sum(), ..self.median }
    }
}

/// Puts together the newest reports of folders, or those that are named.
///
/// # Errors
/// One cannot be read, or tells of a workload that there is not.
pub fn read(paths: &[PathBuf]) -> Result<Merged> {
    let mut merged = Merged { started: Vec::new(), heads: Vec::new(), outcomes: Vec::new(), failures: Vec::new() };
    for path in paths {
        let path = newest(path)?;
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        merged.add(&text).with_context(|| path.display().to_string())?;
    }
    Ok(merged)
}

fn newest(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).max();
    newest.with_context(|| format!("{}: there is no report in it", path.display()))
}

impl Merged {
    fn add(&mut self, json: &str) -> Result<()> {
        let run: Run = serde_json::from_str(json)?;
        let started = DateTime::parse_from_rfc3339(&run.started)?.with_timezone(&Utc);
        self.started.push(started);
        self.heads.push(head(started, &run.machine, &run.servers, run.settings.length));
        for Measured { case, keelson, etcd } in run.outcomes {
            let Named { workload, environment, clients, on, rate } = case;
            let found = Workload::find(&workload).with_context(|| format!("{workload}: no such workload"))?;
            let case = Case { workload: found, environment, clients, on, rate };
            // Both, so that those of one run stand side by side.
            add(&mut self.outcomes, &case, Kind::Keelson, keelson.figures());
            add(&mut self.outcomes, &case, Kind::Etcd, etcd.figures());
        }
        for failure in run.failures {
            if !self.failures.contains(&failure) {
                self.failures.push(failure);
            }
        }
        Ok(())
    }

    /// The runs, and one table for all of them.
    pub fn markdown(&self) -> String {
        let mut text = format!("{} runs:\n\n", self.heads.len());
        self.heads.iter().for_each(|head| text += &format!("- {head}\n"));
        text += "\nOurs divided by etcd's, but for what each does in a second: the medians of the runs. Under \"runs\" stand the \
                 least and the greatest ratio of what is done in a second, or of the seconds of what is done once.\n\n";
        text += &aligned(&rows(&self.outcomes));
        for (environment, outcomes) in groups(&self.outcomes) {
            let beside = beside(outcomes);
            if !beside.is_empty() {
                text += &format!("\n{}.{beside}", environment.title());
            }
        }
        text + &missing(&self.failures)
    }

    /// Writes the table and the chart of medians into `folder`, and says which files these are.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let forms = [("md", self.markdown()), ("svg", svg::chart(&self.outcomes, ratio))];
        let last = self.started.iter().max().context("no runs")?;
        write_forms(&forms, folder, &format!("{}-{}-runs", last.format(NAME), self.started.len()))
    }
}

/// Of one metric: ours to etcd's in each run that has both.
fn ratios(outcome: &Outcome, metric: &Metric) -> Vec<f64> {
    let pairs = outcome.keelson.iter().zip(&outcome.etcd);
    pairs.filter_map(|(ours, etcd)| quotient((metric.of)(ours), (metric.of)(etcd))).collect()
}

fn ratio(outcome: &Outcome, metric: &Metric) -> Option<f64> {
    median(ratios(outcome, metric))
}

fn rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let (per_second, seconds) = (metric::find("per_second"), metric::find("seconds"));
    let others = METRICS.iter().filter(|metric| metric.key != "per_second");
    // Ratios have no units.
    let columns = others.clone().map(|metric| metric.column.split(' ').next().unwrap_or_default());
    let header =
        ["cluster", "workload", "ours a second", "etcd's", per_second.column, "runs"].into_iter().chain(columns);
    let mut rows = vec![header.map(str::to_owned).collect::<Vec<_>>()];
    let cell = |value: Option<f64>| value.map_or(String::new(), figure);
    for outcome in outcomes {
        let mut title = outcome.case.title();
        for server in [Kind::Keelson, Kind::Etcd] {
            let failed: u64 = outcome.of(server).iter().map(|figures| figures.failed).sum();
            if failed > 0 {
                title += &format!("; {}: {} failed", server.name(), grouped(failed));
            }
        }
        let mut found = ratios(outcome, per_second);
        if found.is_empty() {
            found = ratios(outcome, seconds);
        }
        found.sort_by(f64::total_cmp);
        let range = found.first().zip(found.last());
        let range = range.map_or(String::new(), |(least, most)| format!("{}–{}", figure(*least), figure(*most)));
        let start = [outcome.case.environment.title(), title];
        let rates = [Kind::Keelson, Kind::Etcd].map(|server| cell(outcome.median(server, per_second)));
        let ratios = others.clone().map(|metric| cell(ratio(outcome, metric)));
        let per_second = [cell(ratio(outcome, per_second)), range];
        rows.push(start.into_iter().chain(rates).chain(per_second).chain(ratios).collect());
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A run in which ours does so many puts a second, and restarts in so many seconds; etcd does 1,000, and takes 2 s.
    fn run(day: u32, per_second: Option<f64>, seconds: Option<f64>, failure: &str) -> String {
        let case = |workload: &str, clients: usize| {
            json!({ "workload": workload, "members": 1, "tls": false, "keys": 1000, "value_bytes": 256,
                    "clients": clients, "on": "leader", "rate": null })
        };
        let rounds = |median: Value, failed: u64| json!({ "rounds": [{ "failed": failed }], "median": median });
        let figures = |key: &str, value: Option<f64>| value.map_or(json!({}), |value| json!({ key: value }));
        let outcomes = json!([
            { "case": case("put", 100), "keelson": rounds(figures("per_second", per_second), 0),
              "etcd": rounds(json!({ "per_second": 1000.0 }), 2) },
            { "case": case("restart", 0), "keelson": rounds(figures("seconds", seconds), 0),
              "etcd": rounds(json!({ "seconds": 2.0 }), 0) },
        ]);
        let machine = json!({ "cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "kernel": "Linux", "file_system": "ext4",
                              "sync_us": 100.0, "load": 0.1 });
        let servers = json!([{ "kind": "keelson", "version": "3.7.1", "build": "one", "flags": [] }]);
        let run = json!({ "started": format!("2026-11-{day}T21:47:46.967870721+00:00"), "machine": machine,
                          "servers": servers, "settings": { "length": 2.5, "rounds": 1 }, "outcomes": outcomes,
                          "failures": [failure] });
        run.to_string()
    }

    #[test]
    fn several_runs_are_told_by_the_median_and_the_range_of_their_ratios() {
        let folder = tempfile::tempdir().expect("a folder");
        let runs = [
            run(27, Some(3000.0), Some(1.0), "a signal"),
            run(28, Some(1000.0), None, "a signal"),
            run(29, Some(2000.0), Some(0.5), "a disk"),
        ];
        let folders = runs.iter().enumerate().map(|(number, json)| {
            let run = folder.path().join(number.to_string());
            fs::create_dir(&run).expect("a folder");
            fs::write(run.join("20261127T000000Z.json"), "an older one").expect("written");
            fs::write(run.join("20261127T214746Z.json"), json).expect("written");
            run
        });
        let merged = read(&folders.collect::<Vec<_>>()).expect("reports");
        let text = merged.markdown();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| 1 member"))
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let cluster = "1 member, 1,000 keys of 256 B";
        let put = [cluster, "put, 100 clients; etcd: 6 failed", "2,000", "1,000", "2.00", "1.00–3.00"];
        assert_eq!(rows, [&put[..], &[cluster, "restart", "0.25–0.50", "0.38"]]);
        assert!(text.starts_with("3 runs:\n\n- 2026-11-27; 2 cores of a CPU"), "{text}");
        assert!(text.ends_with("Missing:\n- a signal\n- a disk\n"), "{text}");
        let written = merged.write(&folder.path().join("merged")).expect("written");
        assert!(written[0].ends_with("merged/20261129T214746Z-3-runs.md"), "{written:?}");
        let chart = fs::read_to_string(&written[1]).expect("a chart");
        assert!(chart.contains(">put, 100 clients</text>") && chart.contains(">restart</text>"), "{chart}");
    }

    #[test]
    fn what_is_no_report_is_refused_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = read(&[folder.path().to_owned()]).err().expect("an error");
        assert!(error.to_string().ends_with("there is no report in it"), "{error}");
        let file = folder.path().join("run.json");
        fs::write(&file, run(27, None, None, "x").replace("restart", "nonsense")).expect("written");
        let error = read(&[file]).err().expect("an error");
        assert!(format!("{error:#}").ends_with("nonsense: no such workload"), "{error:#}");
    }
}
