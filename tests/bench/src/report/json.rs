//! Everything, for programs.

use serde_json::{Map, Value, json};

use super::{METRICS, Outcome, Report};
use crate::cluster::Kind;

pub fn text(report: &Report) -> String {
    let value = json!({
        "started": report.started.to_rfc3339(),
        "machine": report.machine,
        "servers": report.servers,
        "settings": report.settings,
        "outcomes": report.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "failures": report.failures,
    });
    serde_json::to_string_pretty(&value).expect("JSON of strings and numbers") + "\n"
}

fn outcome(outcome: &Outcome) -> Value {
    let of = |server| {
        let medians = METRICS.iter().map(|metric| (metric.key, outcome.median(server, metric)));
        json!({ "rounds": outcome.of(server), "median": object(medians) })
    };
    json!({
        "case": outcome.case,
        "keelson": of(Kind::Keelson),
        "etcd": of(Kind::Etcd),
        "ratio": object(METRICS.iter().map(|metric| (metric.key, outcome.ratio(metric)))),
    })
}

fn object<'a>(figures: impl Iterator<Item = (&'a str, Option<f64>)>) -> Value {
    let present = figures.filter_map(|(key, figure)| Some((key.to_owned(), figure?.into())));
    Value::Object(present.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn all_figures_are_there() {
        let value: Value = serde_json::from_str(&text(&report())).expect("JSON");
        let outcome = &value["outcomes"][0];
        assert_eq!(outcome["case"]["workload"], "put");
        assert_eq!(outcome["case"]["members"], 3);
        assert_eq!(outcome["etcd"]["rounds"][1]["per_second"], 11_000.0);
        assert_eq!(outcome["keelson"]["rounds"][0]["error"], "a <bad> thing");
        assert_eq!(outcome["ratio"], json!({ "per_second": 3.0, "p99_ms": 0.25 }));
    }
}
