//! The salt of a log: a secret in its directory. Clients choose what is written into segments, and files of segments are
//! used again; without it they could write what passes for records one day.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::LogError;
use super::writer::sync_dir;

/// Eight bytes, and their sum.
const FILE: &str = "salt";

/// The salt of the log in `dir`. A log without segments gets one.
pub fn salt(dir: &Path, has_segments: bool) -> Result<u64, LogError> {
    let path = dir.join(FILE);
    let fail = |source| LogError::Io { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or(LogError::Corrupt { path, offset: 0 }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_segments => Err(LogError::Missing { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let salt = rand::random();
            write(dir, salt).map_err(fail)?;
            Ok(salt)
        }
        Err(error) => Err(fail(error)),
    }
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let (salt, sum) = bytes.split_first_chunk()?;
    (sum == crc32c::crc32c(salt).to_le_bytes()).then(|| u64::from_le_bytes(*salt))
}

fn write(dir: &Path, salt: u64) -> io::Result<()> {
    let salt = salt.to_le_bytes();
    let written = dir.join(format!("{FILE}.tmp"));
    let mut file = File::create(&written)?;
    file.write_all(&salt)?;
    file.write_all(&crc32c::crc32c(&salt).to_le_bytes())?;
    file.sync_all()?;
    fs::rename(&written, dir.join(FILE))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_drawn_once_and_missed_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let drawn = salt(dir.path(), false).unwrap();
        assert_eq!(salt(dir.path(), true).unwrap(), drawn);
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        bytes[3] ^= 1;
        fs::write(dir.path().join(FILE), bytes).unwrap();
        assert!(matches!(salt(dir.path(), true), Err(LogError::Corrupt { .. })));
        fs::write(dir.path().join(FILE), [7; 3]).unwrap();
        assert!(matches!(salt(dir.path(), true), Err(LogError::Corrupt { .. })));
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(matches!(salt(dir.path(), true), Err(LogError::Missing { .. })));
        assert_ne!(salt(dir.path(), false).unwrap(), drawn);
    }
}
