//! Which directory holds the state, and how it is replaced as one.
//!
//! The state lives in `state-N`, and the file `ACTIVE` names it. A new state is moved to `state-N+1` and made durable,
//! then `ACTIVE` is replaced by renaming a file over it. Whatever `ACTIVE` does not name is left over and removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{StorageError, io_error};

const ACTIVE: &str = "ACTIVE";

/// The directory that holds the states.
pub struct Place {
    root: PathBuf,
    generation: AtomicU64,
}

/// A state that is about to replace the current one.
pub struct Next {
    /// Where it is.
    pub dir: PathBuf,
    generation: u64,
}

impl Place {
    /// Finds the current state, or makes room for a first one.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        fs::create_dir_all(root).map_err(|error| io_error(root, error))?;
        let active = root.join(ACTIVE);
        let place = Self { root: root.to_owned(), generation: AtomicU64::new(1) };
        match fs::read_to_string(&active) {
            Ok(name) => {
                let generation = parse(name.trim())
                    .ok_or_else(|| io_error(&active, std::io::Error::other("does not name a state")))?;
                place.generation.store(generation, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !place.states()?.is_empty() {
                    return Err(io_error(&active, std::io::Error::other("is missing, though there are states")));
                }
                place.write_active(1)?;
            }
            Err(error) => return Err(io_error(&active, error)),
        }
        let (dir, may_be_missing) = place.current();
        if !dir.exists() {
            if !may_be_missing || !place.states()?.is_empty() {
                return Err(io_error(&active, std::io::Error::other("names a state that is not there")));
            }
            fs::create_dir(&dir).map_err(|error| io_error(&dir, error))?;
        }
        place.remove_others()?;
        // RocksDB syncs what is in the state's directory. Without a name on disk that would be lost with it.
        sync(root)?;
        root.parent().map_or(Ok(()), sync)?;
        Ok(place)
    }

    /// The current state's directory, and whether it may be created: only the first one may be missing.
    pub fn current(&self) -> (PathBuf, bool) {
        let generation = self.generation.load(Ordering::Relaxed);
        (self.dir(generation), generation == 1)
    }

    /// Moves a new state beside the current one and makes its files durable.
    pub fn prepare(&self, received: &Path) -> Result<Next, StorageError> {
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        let dir = self.dir(generation);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|error| io_error(&dir, error))?;
        }
        for entry in fs::read_dir(received).map_err(|error| io_error(received, error))? {
            let path = entry.map_err(|error| io_error(received, error))?.path();
            sync(&path)?;
        }
        sync(received)?;
        fs::rename(received, &dir).map_err(|error| io_error(received, error))?;
        sync(&self.root)?;
        Ok(Next { dir, generation })
    }

    /// From now on the new state is the current one, also after a crash.
    pub fn switch(&self, next: &Next) -> Result<(), StorageError> {
        self.write_active(next.generation)?;
        self.generation.store(next.generation, Ordering::Relaxed);
        Ok(())
    }

    fn dir(&self, generation: u64) -> PathBuf {
        self.root.join(format!("state-{generation}"))
    }

    fn write_active(&self, generation: u64) -> Result<(), StorageError> {
        let new = self.root.join("ACTIVE.new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            writeln!(file, "state-{generation}")?;
            file.sync_all()?;
            fs::rename(&new, self.root.join(ACTIVE))
        };
        write().map_err(|error| io_error(&new, error))?;
        sync(&self.root)
    }

    /// All states, by generation.
    fn states(&self) -> Result<Vec<(u64, PathBuf)>, StorageError> {
        let mut states = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(|error| io_error(&self.root, error))? {
            let entry = entry.map_err(|error| io_error(&self.root, error))?;
            if let Some(generation) = entry.file_name().to_str().and_then(parse) {
                states.push((generation, entry.path()));
            }
        }
        states.sort();
        Ok(states)
    }

    fn remove_others(&self) -> Result<(), StorageError> {
        let current = self.generation.load(Ordering::Relaxed);
        for (generation, path) in self.states()? {
            if generation != current {
                fs::remove_dir_all(&path).map_err(|error| io_error(&path, error))?;
            }
        }
        Ok(())
    }
}

fn parse(name: &str) -> Option<u64> {
    name.strip_prefix("state-")?.parse().ok()
}

fn sync(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| io_error(path, error))
}
