//! Things that are made of files, and made anew when the files' contents change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::{LOCK, TlsError};

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, TlsError> + Send + Sync>;

/// A thing and the files that it is made of. Contents are compared, not times: a Kubernetes volume is changed by moving
/// a symlink, and two writes may have one time.
pub struct Reloaded<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    digest: [u8; 32],
    current: Arc<T>,
    /// Why the files cannot be used now, as it was told.
    failure: Option<String>,
}

impl<T> Reloaded<T> {
    /// Reads the files, in the order given; they must be good.
    pub fn load(what: &'static str, files: &[&Path], make: Make<T>) -> Result<Self, TlsError> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.to_path_buf()).collect();
        let contents = read(&files)?;
        let current = make(&contents).map_err(|error| named(&files, &error))?;
        let state = State { digest: digest(&contents), current: Arc::new(current), failure: None };
        Ok(Reloaded { what, files, make, state: Mutex::new(state) })
    }

    /// The thing as it was last good.
    pub fn current(&self) -> Arc<T> {
        self.state.lock().expect(LOCK).current.clone()
    }

    /// Looks at the files again; whether the thing is another one now.
    pub fn refresh(&self) -> bool {
        let found = self.look();
        let mut state = self.state.lock().expect(LOCK);
        match found {
            Ok(None) => {
                state.failure = None;
                false
            }
            Ok(Some((digest, thing))) => {
                tracing::info!(files = names(&self.files), "{} reloaded", self.what);
                *state = State { digest, current: Arc::new(thing), failure: None };
                true
            }
            Err(error) => {
                let error = error.to_string();
                if state.failure.as_ref() != Some(&error) {
                    tracing::warn!(error, "{} cannot be reloaded; what was last good stays in use", self.what);
                    state.failure = Some(error);
                }
                false
            }
        }
    }

    fn look(&self) -> Result<Option<([u8; 32], T)>, TlsError> {
        let contents = read(&self.files)?;
        let digest = digest(&contents);
        if digest == self.state.lock().expect(LOCK).digest {
            return Ok(None);
        }
        let thing = (self.make)(&contents).map_err(|error| named(&self.files, &error))?;
        Ok(Some((digest, thing)))
    }
}

fn names(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

fn named(files: &[PathBuf], error: &TlsError) -> TlsError {
    TlsError::Content(format!("{}: {error}", names(files)))
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, TlsError> {
    let read = |file: &PathBuf| {
        std::fs::read(file).map_err(|error| TlsError::File { file: file.display().to_string(), error })
    };
    files.iter().map(read).collect()
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, TlsError> {
        let text = String::from_utf8_lossy(&contents[0]);
        text.parse().map_err(|_| TlsError::Content("not a number".to_owned()))
    }

    #[test]
    fn what_was_last_good_stays_until_something_better_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        assert!(Reloaded::load("number", &[&file], Box::new(number)).is_err());
        std::fs::write(&file, "1").expect("written");
        let reloaded = Reloaded::load("number", &[&file], Box::new(number)).expect("loaded");
        for (content, changed, current) in
            [("1", false, 1), ("x", false, 1), ("2", true, 2), ("", false, 2), ("2", false, 2), ("1", true, 1)]
        {
            std::fs::write(&file, content).expect("written");
            assert_eq!((reloaded.refresh(), *reloaded.current()), (changed, current), "{content}");
        }
        std::fs::remove_file(&file).expect("removed");
        assert!(!reloaded.refresh());
        assert_eq!(*reloaded.current(), 1);
    }

    #[test]
    fn a_symlink_that_moves_is_noticed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("v1", "1"), ("v2", "2")] {
            std::fs::create_dir(at(version)).expect("made");
            std::fs::write(at(version).join("file"), content).expect("written");
        }
        symlink("v1", at("..data")).expect("linked");
        symlink("..data/file", at("file")).expect("linked");
        let reloaded = Reloaded::load("number", &[&at("file")], Box::new(number)).expect("loaded");
        assert_eq!(*reloaded.current(), 1);
        symlink("v2", at("..data_tmp")).expect("linked");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        assert!(reloaded.refresh());
        assert_eq!(*reloaded.current(), 2);
    }
}
