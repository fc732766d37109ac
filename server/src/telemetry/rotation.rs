//! A log file that begins anew when it is large, as etcd's does: `etcd.log` becomes `etcd-2026-01-31T23-59-59.000.log`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};
use file_rotate::compression::Compression;
use file_rotate::suffix::{Representation, SuffixScheme};
use file_rotate::{ContentLimit, FileRotate, SuffixInfo};

use crate::config::LogRotation;

/// A file that rotates.
pub type Rotating = FileRotate<Names>;

const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const DEFAULT_MEGABYTES: u32 = 100;

/// Opens `path` for appending, creating its folder if need be.
pub fn open(path: &Path, rotation: &LogRotation) -> io::Result<Rotating> {
    // An absolute path has a parent, which the library asks for.
    let path = std::path::absolute(path)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(&path)?;
    let megabytes = if rotation.maxsize == 0 { DEFAULT_MEGABYTES } else { rotation.maxsize };
    Ok(open_with_limit(&path, rotation, megabytes as usize * 1024 * 1024))
}

fn open_with_limit(path: &Path, rotation: &LogRotation, bytes: usize) -> Rotating {
    let compression = if rotation.compress { Compression::OnRotate(0) } else { Compression::None };
    let names = Names { rotation: rotation.clone() };
    FileRotate::new(path, names, ContentLimit::BytesSurpassed(bytes), compression, None)
}

/// How old files are named, and which of them go.
#[derive(Debug)]
pub struct Names {
    rotation: LogRotation,
}

impl Names {
    fn now(&self) -> NaiveDateTime {
        let now: DateTime<Utc> = Utc::now();
        if self.rotation.localtime { now.with_timezone(&Local).naive_local() } else { now.naive_utc() }
    }
}

/// When a file was closed; the newest is the smallest, as the library wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed(NaiveDateTime);

impl Ord for Closed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Closed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.format(FORMAT))
    }
}

impl Representation for Closed {
    fn to_path(&self, path: &Path) -> PathBuf {
        let (stem, extension) = split(path);
        path.with_file_name(format!("{stem}-{self}{extension}"))
    }
}

/// A file's name up to its extension, and that with its dot.
fn split(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name, String::new()),
    }
}

impl SuffixScheme for Names {
    type Repr = Closed;

    fn rotate_file(&mut self, _: &Path, newest: Option<&Closed>, _: &Option<Closed>) -> io::Result<Closed> {
        // Never the name of a file that is there.
        let after = newest.map_or(NaiveDateTime::MIN, |newest| newest.0 + TimeDelta::milliseconds(1));
        let now = NaiveDateTime::parse_from_str(&self.now().format(FORMAT).to_string(), FORMAT);
        Ok(Closed(now.map_err(io::Error::other)?.max(after)))
    }

    fn parse(&self, text: &str) -> Option<Closed> {
        NaiveDateTime::parse_from_str(text, FORMAT).ok().map(Closed)
    }

    fn too_old(&self, closed: &Closed, number: usize) -> bool {
        let LogRotation { maxage, maxbackups, .. } = self.rotation;
        let too_many = maxbackups > 0 && number >= maxbackups as usize;
        too_many || (maxage > 0 && closed.0 < self.now() - TimeDelta::days(maxage.into()))
    }

    fn scan_suffixes(&self, path: &Path) -> BTreeSet<SuffixInfo<Closed>> {
        let (stem, extension) = split(path);
        let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        let names = entries.into_iter().flatten().flatten();
        let found = names.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (name, compressed) = match name.strip_suffix(".gz") {
                Some(name) => (name, true),
                None => (name.as_str(), false),
            };
            let time = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
            Some(SuffixInfo { suffix: self.parse(time)?, compressed })
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).expect("listed");
        let mut names: Vec<_> =
            names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_gets_the_time_into_its_name_and_old_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etcd.log");
        let old = "etcd-2001-01-01T00-00-00.000.log";
        std::fs::write(folder.path().join(old), "old").expect("written");
        std::fs::write(folder.path().join("etcd-other.log"), "foreign").expect("written");
        let rotation = LogRotation { maxbackups: 2, ..LogRotation::default() };
        let mut file = open_with_limit(&path, &rotation, 10);
        for line in ["one two three\n", "four\n", "five six seven\n", "eight\n"] {
            file.write_all(line.as_bytes()).expect("written");
        }
        let left = names(folder.path());
        assert_eq!(left.len(), 4, "{left:?}");
        assert_eq!(left[2..], ["etcd-other.log", "etcd.log"]);
        assert!(!left.contains(&old.to_owned()), "{left:?}");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
        assert_eq!(
            [read(&left[0]), read(&left[1]), read("etcd.log")],
            ["one two three\n", "four\nfive six seven\n", "eight\n"]
        );
    }

    #[test]
    fn old_files_are_compressed_and_go_by_age() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        std::fs::write(folder.path().join("log-2001-01-01T00-00-00.000.gz"), "old").expect("written");
        let rotation = LogRotation { maxage: 1, compress: true, localtime: true, ..LogRotation::default() };
        let mut file = open_with_limit(&path, &rotation, 1);
        file.write_all(b"one\n").expect("written");
        file.write_all(b"two\n").expect("written");
        let left = names(folder.path());
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[1].ends_with(".gz") && !left[1].contains("2001"), "{left:?}");
    }
}
