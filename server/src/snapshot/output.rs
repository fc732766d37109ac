//! How the answers of `snapshot status` and `hashkv` are printed: etcdutl's formats, which scripts read.

use std::fmt::Write;

use super::status::Status;
use crate::mvcc::hash::KeyValueHash;

/// `--write-out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Values, comma-separated.
    Simple,
    /// A line for each value.
    Fields,
    /// One object.
    Json,
    /// etcdutl knows it, and cannot print these answers in it.
    Protobuf,
    /// For a person.
    Table,
}

impl Format {
    /// The format of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "simple" => Format::Simple,
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "table" => Format::Table,
            _ => return None,
        })
    }
}

/// What is told of a snapshot; nothing in a format that cannot tell it.
pub fn status(status: &Status, format: Format) -> Option<String> {
    let Status { hash, revision, total_keys, total_bytes, version } = status;
    let row = [
        ("hash", format!("{hash:x}")),
        ("revision", revision.to_string()),
        ("total keys", total_keys.to_string()),
        ("total size", human_bytes(*total_bytes)),
        ("version", version.clone()),
    ];
    match format {
        Format::Json => Some(format!(
            "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{total_keys},\"totalSize\":{total_bytes},\
             \"version\":\"{version}\"}}\n"
        )),
        Format::Fields => Some(format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\"Size\" : {total_bytes}\n\
             \"Version\" : {version}\n"
        )),
        _ => listed(&row, format),
    }
}

/// What is told of a history's hash, likewise.
pub fn hash_kv(sum: &KeyValueHash, format: Format) -> Option<String> {
    let KeyValueHash { hash, hash_revision, compact_revision } = sum;
    let row = [
        ("hash", hash.to_string()),
        ("hash revision", hash_revision.to_string()),
        ("compact revision", compact_revision.to_string()),
    ];
    match format {
        Format::Json => Some(format!(
            "{{\"hash\":{hash},\"hashRevision\":{hash_revision},\"compactRevision\":{compact_revision}}}\n"
        )),
        Format::Fields => Some(format!(
            "\"Hash\" : {hash}\n\"Hash revision\" : {hash_revision}\n\"Compact revision\" : {compact_revision}\n"
        )),
        _ => listed(&row, format),
    }
}

fn listed(row: &[(&str, String)], format: Format) -> Option<String> {
    match format {
        Format::Table => Some(table(row)),
        Format::Simple => {
            let values: Vec<&str> = row.iter().map(|(_, value)| value.as_str()).collect();
            Some(format!("{}\n", values.join(", ")))
        }
        _ => None,
    }
}

/// One row below its names.
fn table(row: &[(&str, String)]) -> String {
    let widths: Vec<usize> = row.iter().map(|(name, value)| name.len().max(value.len()) + 2).collect();
    let rule = |left, middle, right| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let mut out = rule("┌", "┬", "┐");
    for ((name, _), width) in row.iter().zip(&widths) {
        // Writing to a String cannot fail.
        let _ = write!(out, "│{:^width$}", name.to_uppercase());
    }
    out += "│\n";
    out += &rule("├", "┼", "┤");
    for ((_, value), width) in row.iter().zip(&widths) {
        let _ = write!(out, "│{value:>width$} ", width = width - 1);
    }
    out += "│\n";
    out + &rule("└", "┴", "┘")
}

/// A size in powers of 1000, with one decimal below ten.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog10() / 3) as usize;
    let value = (bytes as f64 / 1000_f64.powi(unit as i32) * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_etcdutls() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (24576, "25 kB"),
            (9_950_000, "10 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn every_format_of_a_status() {
        let told = Status { hash: 0xab, revision: 7, total_keys: 3, total_bytes: 24576, version: "3.7.0".into() };
        let print = |format| status(&told, format);
        assert_eq!(print(Format::Simple).unwrap(), "ab, 7, 3, 25 kB, 3.7.0\n");
        assert_eq!(
            print(Format::Json).unwrap(),
            "{\"hash\":171,\"revision\":7,\"totalKey\":3,\"totalSize\":24576,\"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            print(Format::Fields).unwrap(),
            "\"Hash\" : 171\n\"Revision\" : 7\n\"Keys\" : 3\n\"Size\" : 24576\n\"Version\" : 3.7.0\n"
        );
        assert_eq!(print(Format::Protobuf), None);
        assert_eq!(
            print(Format::Table).unwrap(),
            "┌──────┬──────────┬────────────┬────────────┬─────────┐\n\
             │ HASH │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │\n\
             ├──────┼──────────┼────────────┼────────────┼─────────┤\n\
             │   ab │        7 │          3 │      25 kB │   3.7.0 │\n\
             └──────┴──────────┴────────────┴────────────┴─────────┘\n"
        );
    }
}
