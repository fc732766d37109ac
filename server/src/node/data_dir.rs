//! The data directory: who may use it, and which member of which cluster it belongs to.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::mvcc::WAY_OUT;

/// Format of the directory that this program writes and reads. 2: the sums of the Raft log have a salt.
pub const FORMAT: u32 = 2;
/// The file that tells whose a directory is.
pub const IDENTITY: &str = "keelson.json";
const LOCK: &str = "keelson.lock";

/// Which member of which cluster a directory belongs to; written once, before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the directory.
    pub format: u32,
    /// Id of the cluster, in hexadecimal.
    #[serde(with = "hex")]
    pub cluster_id: u64,
    /// Id of the member, in hexadecimal.
    #[serde(with = "hex")]
    pub member_id: u64,
    /// Members of a new cluster and their peer URLs, by id in hexadecimal; none in one that was joined.
    pub initial_members: BTreeMap<String, Vec<String>>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    identity: Identity,
    /// Of the identity without spaces; files of old have none.
    crc32c: Option<u32>,
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

impl Identity {
    fn sum(&self) -> Result<u32, serde_json::Error> {
        Ok(crc32c::crc32c(&serde_json::to_vec(self)?))
    }

    /// The members of a new cluster by id.
    pub fn members(&self) -> Result<BTreeMap<u64, Vec<String>>, StartError> {
        let members = self.initial_members.iter().map(|(id, urls)| {
            let id = u64::from_str_radix(id, 16);
            id.map(|id| (id, urls.clone()))
                .map_err(|_| StartError::DataDir(format!("{IDENTITY} is damaged: bad member id. {WAY_OUT}")))
        });
        members.collect()
    }
}

/// A locked data directory. Dropping it releases the lock; so does the end of the process.
pub struct DataDir {
    path: PathBuf,
    wal: PathBuf,
    _lock: File,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let context = path.display().to_string();
    move |source| StartError::Io { context, source }
}

impl DataDir {
    /// Creates the directory if need be, and locks it.
    pub fn open(path: &Path, wal_dir: Option<&Path>) -> Result<DataDir, StartError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        if let Some(parent) = path.canonicalize().map_err(io_error(path))?.parent() {
            let sync = File::open(parent).and_then(|dir| dir.sync_all());
            sync.map_err(io_error(parent))?;
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let message = format!("{} is in use by another process; stop that one first", path.display());
                return Err(StartError::DataDir(message));
            }
            Err(fs::TryLockError::Error(source)) => return Err(io_error(&lock_path)(source)),
        }
        let wal = wal_dir.map_or_else(|| path.join("wal"), Path::to_path_buf);
        let dir = DataDir { path: path.into(), wal, _lock: lock };
        match fs::remove_dir_all(dir.snapshots()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&dir.snapshots())(error)),
            _ => Ok(dir),
        }
    }

    /// Directory of the Raft log.
    pub fn wal(&self) -> &Path {
        &self.wal
    }

    /// Directory of the store.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Directory of snapshots on their way; empty at start.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// The identity written at the first start, or nothing in a directory that was never used.
    pub fn identity(&self) -> Result<Option<Identity>, StartError> {
        let path = self.path.join(IDENTITY);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.refuse_leftovers();
            }
            Err(error) => return Err(io_error(&path)(error)),
        };
        let damaged = |error: &dyn Display| {
            StartError::DataDir(format!(
                "{} is damaged: {error}. If there is no copy of this file: {WAY_OUT}",
                path.display()
            ))
        };
        let format: Format = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        let way_out = match format.format {
            FORMAT => {
                let Stored { identity, crc32c } = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
                let sum = identity.sum().map_err(|error| damaged(&error))?;
                return if crc32c.is_none_or(|stored| stored == sum) {
                    Ok(Some(identity))
                } else {
                    Err(damaged(&"wrong sum"))
                };
            }
            ..FORMAT => "save a snapshot with the version that wrote it, and restore that with this one",
            _ => "start a newer keelson-server",
        };
        Err(StartError::DataDir(format!(
            "{} has format {}, but this version knows format {FORMAT}; {way_out}",
            self.path.display(),
            format.format
        )))
    }

    fn refuse_leftovers(&self) -> Result<Option<Identity>, StartError> {
        for dir in [self.wal.clone(), self.store(), self.path.join("member")] {
            if dir.is_dir() && fs::read_dir(&dir).map_err(io_error(&dir))?.next().is_some() {
                return Err(StartError::DataDir(format!(
                    "{} holds data, but {} has no {IDENTITY} that tells whose; restore that file, or start with an \
                     empty directory (etcd's own data directories cannot be used). If that file is lost: {WAY_OUT}",
                    dir.display(),
                    self.path.display()
                )));
            }
        }
        Ok(None)
    }

    /// Writes the identity so that after a crash it is there as a whole or not at all.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), StartError> {
        let path = self.path.join(IDENTITY);
        let write = || {
            let temporary = self.path.join(format!("{IDENTITY}.new"));
            let mut file = File::create(&temporary)?;
            let stored = Stored { identity: identity.clone(), crc32c: Some(identity.sum()?) };
            file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_error(&path))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(format: u32) -> Identity {
        let initial_members = BTreeMap::from([("7".to_string(), vec!["http://a:2380".to_string()])]);
        Identity { format, cluster_id: u64::MAX, member_id: 7, initial_members }
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path(), None).unwrap();
        let error = DataDir::open(dir.path(), None).err().unwrap();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        drop(held);
        assert!(DataDir::open(dir.path(), None).is_ok());
    }

    #[test]
    fn the_identity_survives_and_other_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), None).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        data.write_identity(&identity(FORMAT)).unwrap();
        assert_eq!(data.identity().unwrap(), Some(identity(FORMAT)));
        for (format, way_out) in [(FORMAT + 1, "start a newer keelson-server"), (FORMAT - 1, "save a snapshot")] {
            data.write_identity(&identity(format)).unwrap();
            assert!(data.identity().unwrap_err().to_string().contains(way_out));
        }
    }

    /// Whatever bit of the file is another one: it is noticed, or makes no difference.
    #[test]
    fn no_other_identity_is_read_from_a_damaged_file() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), None).unwrap();
        data.write_identity(&identity(FORMAT)).unwrap();
        let path = dir.path().join(IDENTITY);
        let text = fs::read(&path).unwrap();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).unwrap();
            match data.identity() {
                Ok(read) => assert_eq!(read, Some(identity(FORMAT)), "bit {bit}"),
                Err(error) => assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}"),
            }
        }
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("member/wal")).unwrap();
        let data = DataDir::open(dir.path(), None).unwrap();
        assert!(data.identity().unwrap_err().to_string().contains("etcd's own"));
    }
}
