//! The columns of the table.

use crate::workloads::Figures;

pub struct Metric {
    /// In JSON.
    pub key: &'static str,
    /// In the table.
    pub column: &'static str,
    /// In the chart's legend; none if it has no place in the chart.
    pub legend: Option<&'static str>,
    pub more_is_better: bool,
    pub of: fn(&Figures) -> Option<f64>,
}

pub fn find(key: &str) -> &'static Metric {
    METRICS.iter().find(|metric| metric.key == key).expect("a key of the table")
}

pub const METRICS: &[Metric] = &[
    Metric {
        key: "per_second",
        column: "per second",
        legend: Some("throughput"),
        more_is_better: true,
        of: |figures| figures.per_second,
    },
    Metric { key: "p50_ms", column: "p50 ms", legend: None, more_is_better: false, of: |figures| figures.p50_ms },
    Metric {
        key: "p99_ms",
        column: "p99 ms",
        legend: Some("p99 latency, or duration"),
        more_is_better: false,
        of: |figures| figures.p99_ms,
    },
    Metric { key: "p999_ms", column: "p99.9 ms", legend: None, more_is_better: false, of: |figures| figures.p999_ms },
    Metric {
        key: "cpu_us",
        column: "CPU µs",
        legend: Some("server CPU"),
        more_is_better: false,
        of: |figures| figures.cpu_us,
    },
    Metric {
        key: "resident_mib",
        column: "RSS MiB",
        legend: Some("memory"),
        more_is_better: false,
        of: |figures| figures.resident_mib,
    },
    Metric {
        key: "written_per_byte",
        column: "written",
        legend: None,
        more_is_better: false,
        of: |figures| figures.written_per_byte,
    },
    Metric { key: "seconds", column: "seconds", legend: None, more_is_better: false, of: |figures| figures.seconds },
];
