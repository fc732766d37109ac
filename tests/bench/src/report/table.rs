//! Markdown that reads well on a terminal too.

use chrono::{DateTime, Utc};

use super::{METRICS, Machine, Outcome, Report, groups, metric};
use crate::cluster::{Kind, Server};
use crate::progress::grouped;

/// What was measured on what, and a table for each environment.
pub fn markdown(report: &Report) -> String {
    let seconds = report.settings.length.as_secs_f64();
    let mut text = head(report.started, &report.machine, &report.servers, seconds) + "; medians.\n";
    for (environment, outcomes) in groups(&report.outcomes) {
        let rounds = outcomes.iter().flat_map(|outcome| [outcome.keelson.len(), outcome.etcd.len()]).max().unwrap_or(0);
        let rounds = if rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds") };
        text += &format!("\n### {}: {rounds}\n\n", environment.title());
        text += &aligned(&rows(outcomes));
        text += &beside(outcomes);
    }
    text + &missing(&report.failures)
}

/// When, where and what.
pub fn head(started: DateTime<Utc>, machine: &Machine, servers: &[Server], seconds: f64) -> String {
    let servers = servers.iter().map(|server| {
        let named = [server.kind.name(), &server.version].into_iter().map(str::to_owned);
        let build =
            (!server.build.contains(' ') || server.kind == Kind::Keelson).then(|| format!("({})", server.build));
        named.chain(build).chain(server.flags.clone()).collect::<Vec<_>>().join(" ")
    });
    let servers = servers.collect::<Vec<_>>().join(", ");
    format!("{}; {machine}. {servers}; rounds of {seconds} s", started.format("%Y-%m-%d"))
}

/// What went on beside something else, and how much of what goes on alone that was.
pub fn beside(outcomes: &[Outcome]) -> String {
    let line = |outcome: &Outcome| {
        let of = |server| {
            let [part, p99] =
                ["per_second", "p99_ms"].map(|name| outcome.undisturbed(outcomes, server, metric::find(name)));
            let p99 = p99.map_or(String::new(), |p99| format!(", p99 {} times", figure(p99)));
            Some(format!("{} {:.0} %{p99}", server.name(), part? * 100.0))
        };
        let parts: Vec<_> = [Kind::Keelson, Kind::Etcd].into_iter().filter_map(of).collect();
        (!parts.is_empty()).then(|| format!("- {}: {}\n", outcome.case.title(), parts.join("; ")))
    };
    let lines: String = outcomes.iter().filter_map(line).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\nOperations a second, and the p99 of them, against those of `put` alone:\n{lines}")
    }
}

pub fn missing(failures: &[String]) -> String {
    if failures.is_empty() { String::new() } else { format!("\nMissing:\n- {}\n", failures.join("\n- ")) }
}

fn rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let header = ["workload", "server"].into_iter().chain(METRICS.iter().map(|metric| metric.column));
    let mut rows = vec![header.map(str::to_owned).collect()];
    for outcome in outcomes {
        let mut title = outcome.case.title();
        for server in [Kind::Keelson, Kind::Etcd] {
            let rounds = outcome.of(server);
            if rounds.is_empty() {
                continue;
            }
            let failed: u64 = rounds.iter().map(|figures| figures.failed).sum();
            let failed = if failed > 0 { format!(", {} failed", grouped(failed)) } else { String::new() };
            let figures = METRICS.iter().map(|metric| outcome.median(server, metric).map_or(String::new(), figure));
            let start = [std::mem::take(&mut title), format!("{}{failed}", server.name())];
            rows.push(start.into_iter().chain(figures).collect());
        }
        let ratios: Vec<_> = METRICS.iter().map(|metric| outcome.ratio(metric)).collect();
        if ratios.iter().any(Option::is_some) {
            let ratios =
                ratios.iter().map(|ratio| ratio.map_or(String::new(), |ratio| format!("**{}**", figure(ratio))));
            rows.push([String::new(), "**ratio**".to_owned()].into_iter().chain(ratios).collect());
        }
    }
    rows
}

/// Three significant digits, or all of a large number.
pub fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 99.5 => grouped(value.round() as u64),
        tens if tens >= 9.95 => format!("{value:.1}"),
        ones if ones >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The first row is the header; figures stand to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text += &if column < 2 { format!("| {cell:width$} ") } else { format!("| {cell:>width$} ") };
        }
        text += "|\n";
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                text += &if column < 2 { format!("|{dashes}-") } else { format!("|{dashes}:") };
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn figures_have_three_digits_that_matter() {
        let cases = [(12_345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.0123, "0.0123")];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn the_table_has_medians_ratios_and_failures() {
        let text = markdown(&report());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(rows[2], ["put, 100 clients", "keelson, 2 failed", "30,000", "4.00"]);
        assert_eq!(rows[3], ["etcd", "10,000", "16.0"]);
        assert_eq!(rows[4], ["**ratio**", "**3.00**", "**0.25**"]);
        assert!(text.contains("### 3 members, 1,000 keys of 256 B: 2 rounds\n"), "{text}");
    }
}
