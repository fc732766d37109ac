//! The commands `snapshot restore`, `snapshot status` and `hashkv`, with etcdutl's flags, outputs and exit codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::output::{self, Format};
use super::progress::Progress;
use super::restore::{self, Restore};
use super::source::Source;
use super::{SnapshotError, status};
use crate::config::check_advertised;

/// What these commands are, for `--help`.
pub const USAGE: &str = "\
Usage:

  keelson-server snapshot restore FILE --data-dir DIR [flags]
    Make the data directory of a new cluster's member out of a snapshot.
      --data-dir                     directory to make; NAME.etcd by default
      --wal-dir                      directory of the Raft log, if not in the former
      --name                         the member's name (default)
      --initial-advertise-peer-urls  where its peers reach it (http://localhost:2380)
      --initial-cluster              all members: a=URL,b=URL (default=http://localhost:2380)
      --initial-cluster-token        keeps clusters apart (etcd-cluster)
      --skip-hash-check              take a file without checksum, such as a copied one
      --bump-revision                add this to the revision; needs --mark-compacted
      --mark-compacted               mark the resulting revision as compacted

  keelson-server snapshot status FILE [-w simple|fields|json|table]
    Check a snapshot and tell its hash, revision, keys, size and version.

  keelson-server hashkv FILE [--rev N] [-w simple|fields|json|table]
    Tell the hash of a snapshot's history, as a member's HashKV call does.
";

/// Exit code for an output format that does not exist.
const BAD_FEATURE: u8 = 4;
/// Exit code for wrong arguments.
const BAD_ARGUMENTS: u8 = 128;
/// How often each command reads the whole file.
const PASSES: u64 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For the person.
    pub message: String,
    /// For the shell.
    pub exit_code: u8,
}

pub(crate) fn bad_arguments(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), exit_code: BAD_ARGUMENTS }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Failure { message: error.to_string(), exit_code: 1 }
    }
}

/// Runs the command if the arguments (without the program's name) are one; answers what to print.
pub fn run(arguments: &[String]) -> Option<Result<String, Failure>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let wants_help = words.iter().any(|word| matches!(*word, "-h" | "--help"));
    Some(match words.as_slice() {
        ["snapshot" | "hashkv", ..] if wants_help => Ok(USAGE.to_owned()),
        ["snapshot", "restore", rest @ ..] => Given::read(rest, RESTORE).and_then(|given| restore(&given)),
        ["snapshot", "status", rest @ ..] => Given::read(rest, PRINTED).and_then(|given| snapshot_status(&given)),
        ["hashkv", rest @ ..] => Given::read(rest, HASH_KV).and_then(|given| hash_kv(&given)),
        ["snapshot"] => Ok(USAGE.to_owned()),
        ["snapshot", other, ..] => {
            Err(bad_arguments(format!("unknown command {other:?} for \"keelson-server snapshot\"")))
        }
        _ => return None,
    })
}

/// Flags of a command, and whether they need a value.
pub(crate) type Flags = &'static [(&'static str, bool)];

pub(crate) const RESTORE: Flags = &[
    ("data-dir", true),
    ("wal-dir", true),
    ("name", true),
    ("initial-advertise-peer-urls", true),
    ("initial-cluster", true),
    ("initial-cluster-token", true),
    ("skip-hash-check", false),
    ("initial-memory-map-size", true),
    ("bump-revision", true),
    ("mark-compacted", false),
    ("write-out", true),
    ("timeout", true),
];
const PRINTED: Flags = &[("write-out", true), ("timeout", true)];
const HASH_KV: Flags = &[("rev", true), ("write-out", true), ("timeout", true)];

/// What follows a command: files, and flags anywhere between them.
pub(crate) struct Given {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) flags: BTreeMap<&'static str, String>,
}

impl Given {
    /// Reads the words behind a command.
    pub(crate) fn read(words: &[&str], known: &[(&'static str, bool)]) -> Result<Self, Failure> {
        let mut given = Given { files: Vec::new(), flags: BTreeMap::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|flag| !flag.is_empty());
            let Some(flag) = flag else {
                given.files.push(word.into());
                continue;
            };
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let name = if name == "w" { "write-out" } else { name };
            let found = known.iter().find(|(known, _)| *known == name);
            let (name, needs_value) = *found.ok_or_else(|| bad_arguments(format!("unknown flag: --{name}")))?;
            let value = match value {
                Some(value) => value,
                None if !needs_value => "true",
                None => words.next().ok_or_else(|| bad_arguments(format!("flag needs an argument: --{name}")))?,
            };
            given.flags.insert(name, value.to_owned());
        }
        Ok(given)
    }

    pub(crate) fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.flags.get(name).map_or(default, String::as_str)
    }

    fn boolean(&self, name: &str) -> Result<bool, Failure> {
        match self.text(name, "false") {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(bad_arguments(format!("invalid argument {other:?} for \"--{name}\" flag"))),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<i64, Failure> {
        let text = self.text(name, "0");
        text.parse().map_err(|_| bad_arguments(format!("invalid argument {text:?} for \"--{name}\" flag")))
    }

    pub(crate) fn file(&self, command: &str) -> Result<&Path, Failure> {
        match self.files.as_slice() {
            [file] => Ok(file),
            _ => Err(bad_arguments(format!("{command} requires exactly one argument"))),
        }
    }

    fn format(&self) -> Result<Format, Failure> {
        let unsupported = || Failure { message: "unsupported output format".into(), exit_code: BAD_FEATURE };
        Format::parse(self.text("write-out", "simple")).ok_or_else(unsupported)
    }
}

fn printed(text: Option<String>) -> Result<String, Failure> {
    let message = "protobuf not supported as output format".to_owned();
    text.ok_or(Failure { message, exit_code: BAD_FEATURE })
}

/// Does something with a file, and shows meanwhile how far it is.
fn watched<T>(
    what: &'static str,
    file: &Path,
    work: impl FnOnce(&Arc<AtomicU64>) -> Result<T, SnapshotError>,
) -> Result<T, SnapshotError> {
    let size = std::fs::metadata(file).map_or(0, |file| file.len());
    let read_bytes = Arc::default();
    let _shown = Progress::show(what, size * PASSES, &read_bytes);
    work(&read_bytes).map_err(|error| error.of(file))
}

fn snapshot_status(given: &Given) -> Result<String, Failure> {
    let file = given.file("snapshot status")?;
    let format = given.format()?;
    let told = watched("reading", file, |read| status::status(&Source::open(file, read)?))?;
    printed(output::status(&told, format))
}

fn hash_kv(given: &Given) -> Result<String, Failure> {
    let file = given.file("hashkv")?;
    let format = given.format()?;
    let revision = given.number("rev")?;
    let told = watched("reading", file, |read| status::hash_kv(&Source::open(file, read)?, revision))?;
    printed(output::hash_kv(&told, format))
}

fn restore(given: &Given) -> Result<String, Failure> {
    let settings = restore_settings(given)?;
    let outcome = watched("restoring", &settings.snapshot, |read| restore::restore(&settings, read))?;
    eprintln!(
        "restored snapshot {} to {}: member {:x} of cluster {:x}, revision {}",
        settings.snapshot.display(),
        settings.data_dir.display(),
        outcome.restored.member_id,
        outcome.restored.cluster_id,
        outcome.revision
    );
    Ok(String::new())
}

pub(crate) fn restore_settings(given: &Given) -> Result<Restore, Failure> {
    let snapshot = given.file("snapshot restore")?.to_owned();
    let bump = given.number("bump-revision")?;
    if bump < 0 || (bump > 0) != given.boolean("mark-compacted")? {
        return Err(bad_arguments("--mark-compacted required if --revision-bump > 0"));
    }
    let name = given.text("name", "default").to_owned();
    let data_dir = match given.text("data-dir", "") {
        "" => PathBuf::from(format!("{name}.etcd")),
        folder => PathBuf::from(folder),
    };
    let mut initial_cluster = BTreeMap::<String, Vec<String>>::new();
    for member in given.text("initial-cluster", "default=http://localhost:2380").split(',') {
        let (member, url) = member
            .split_once('=')
            .ok_or_else(|| bad_arguments(format!("--initial-cluster: {member:?} is not NAME=URL")))?;
        initial_cluster.entry(member.trim().to_owned()).or_default().push(url.trim().to_owned());
    }
    let peer_urls = given.text("initial-advertise-peer-urls", "http://localhost:2380");
    let peer_urls: Vec<String> = peer_urls.split(',').map(|url| url.trim().to_owned()).collect();
    for url in initial_cluster.values().flatten().chain(&peer_urls) {
        check_advertised(url).map_err(|error| bad_arguments(error.to_string()))?;
    }
    Ok(Restore {
        snapshot,
        data_dir,
        wal_dir: Some(given.text("wal-dir", "")).filter(|folder| !folder.is_empty()).map(PathBuf::from),
        name,
        peer_urls,
        initial_cluster,
        initial_cluster_token: given.text("initial-cluster-token", "etcd-cluster").to_owned(),
        skip_hash_check: given.boolean("skip-hash-check")?,
        bump_revision: (bump > 0).then_some(bump),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(line: &str) -> (u8, String) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let failure = run(&words).expect("a command").expect_err("fails");
        (failure.exit_code, failure.message)
    }

    #[test]
    fn wrong_arguments_are_told_as_etcdutl_does() {
        for (line, code, message) in [
            ("snapshot restore", 128, "snapshot restore requires exactly one argument"),
            ("snapshot status a b", 128, "snapshot status requires exactly one argument"),
            ("snapshot restore a --bump-revision 5", 128, "--mark-compacted required if --revision-bump > 0"),
            ("snapshot restore a --mark-compacted", 128, "--mark-compacted required if --revision-bump > 0"),
            ("snapshot restore a --bump-revision x", 128, "invalid argument \"x\" for \"--bump-revision\" flag"),
            ("snapshot restore a --name", 128, "flag needs an argument: --name"),
            ("snapshot restore a --what", 128, "unknown flag: --what"),
            ("snapshot status a -w yaml", 4, "unsupported output format"),
            ("snapshot status /does/not/exist", 1, "/does/not/exist: No such file or directory (os error 2)"),
            ("hashkv", 128, "hashkv requires exactly one argument"),
            ("snapshot save a", 128, "unknown command \"save\" for \"keelson-server snapshot\""),
        ] {
            assert_eq!(fails(line), (code, message.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_member_is_run_without_a_command() {
        assert!(run(&["--name".to_owned(), "snapshot".to_owned()]).is_none());
        assert!(run(&[]).is_none());
    }
}
