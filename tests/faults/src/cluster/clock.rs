//! A member's time of day, which Debian's libfaketime sets; its timers go on as they were, as on a machine whose clock is set.
//! A program that does not ask the C library for the time, as Go's do not, keeps the machine's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the library reads how far the clock is off.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// The library, where it is installed.
    pub fn library() -> Option<PathBuf> {
        let name = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        Some(PathBuf::from(name)).filter(|library| library.is_file())
    }

    /// A clock that is right, kept in this file.
    pub fn new(library: PathBuf, file: &Path) -> io::Result<Self> {
        let clock = Self { library, file: file.to_owned() };
        clock.set(false, Duration::ZERO)?;
        Ok(clock)
    }

    /// From now on it is so much before or behind the machine's.
    pub fn set(&self, behind: bool, by: Duration) -> io::Result<()> {
        let sign = if behind { '-' } else { '+' };
        // Read at any moment: it is there whole, or not yet.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{sign}{}\n", by.as_secs()))?;
        fs::rename(next, &self.file)
    }

    /// A command that runs another one with this clock.
    pub fn enter(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]
    }
}

/// What the library keeps in memory that processes share, for the one with this id; one that is killed leaves it behind. It is
/// removed with this.
pub struct Shared(pub u32);

impl Drop for Shared {
    fn drop(&mut self) {
        for name in ["faketime_shm", "sem.faketime_sem"] {
            // One that has ended in order has removed them.
            let _ = fs::remove_file(format!("/dev/shm/{name}_{}", self.0));
        }
    }
}
