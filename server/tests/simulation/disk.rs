//! What a loss of power would leave of the directory of a log: of each file its content at its last sync, and of the names
//! those at the last sync of the directory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes that are written whole or not at all.
const SECTOR: usize = 512;

/// What an end leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was written: the process was killed.
    Nothing,
    /// What was synced.
    Unsynced,
    /// What was synced, and of the rest some sectors.
    Torn,
}

/// A directory of files, as far as it is durable.
pub struct Disk {
    dir: PathBuf,
    names: BTreeMap<OsString, u64>,
    contents: HashMap<u64, Vec<u8>>,
    /// Syncs do nothing: the planted bug.
    lies: bool,
    /// After so many syncs the power is lost.
    pub power_ends_in: Option<u32>,
}

fn list(dir: &Path) -> BTreeMap<OsString, u64> {
    let files = fs::read_dir(dir).expect("the log's directory");
    let entry = |file: fs::DirEntry| (file.file_name(), file.metadata().expect("a file").ino());
    files.map(|file| entry(file.expect("an entry"))).collect()
}

impl Disk {
    /// The directory as it is now, which counts as durable.
    pub fn of(dir: &Path, lies: bool) -> Self {
        fs::create_dir_all(dir).expect("made");
        let names = list(dir);
        let contents = names.iter().map(|(name, inode)| (*inode, fs::read(dir.join(name)).expect("read"))).collect();
        Disk { dir: dir.to_owned(), names, contents, lies, power_ends_in: None }
    }

    /// Hears of a sync; whether the power is lost now, before it has done anything.
    pub fn synced(&mut self, path: &Path) -> bool {
        if let Some(left) = &mut self.power_ends_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return true;
            }
        }
        if path == self.dir && !self.lies {
            self.names = list(path);
        } else if path.parent() == Some(self.dir.as_path()) && !self.lies {
            let inode = fs::metadata(path).expect("an open file that has a name").ino();
            self.contents.insert(inode, fs::read(path).expect("read"));
        }
        false
    }

    /// Whether a path is of this disk.
    pub fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// Writes what is left to another directory. `kept` decides for each sector that was not synced.
    pub fn end(&self, loss: Loss, into: &Path, mut kept: impl FnMut() -> bool) {
        fs::create_dir_all(into).expect("made");
        if loss == Loss::Nothing {
            for name in list(&self.dir).keys() {
                fs::copy(self.dir.join(name), into.join(name)).expect("copied");
            }
            return;
        }
        let written: HashMap<u64, Vec<u8>> = list(&self.dir)
            .into_iter()
            .map(|(name, inode)| (inode, fs::read(self.dir.join(name)).expect("read")))
            .collect();
        for (name, inode) in &self.names {
            let mut content = self.contents.get(inode).cloned().unwrap_or_default();
            if let (Loss::Torn, Some(written)) = (loss, written.get(inode)) {
                content.resize(content.len().max(written.len()), 0);
                for (sector, now) in content.chunks_mut(SECTOR).zip(written.chunks(SECTOR)) {
                    if sector[..now.len()] != *now && kept() {
                        sector[..now.len()].copy_from_slice(now);
                    }
                }
            }
            fs::write(into.join(name), content).expect("written");
        }
    }
}
