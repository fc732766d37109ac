//! Where a backup is kept: a URL of an object store, or of a file. Credentials and whatever else a store needs are
//! environment variables, under the names that are usual for it.

use std::fs::File;
use std::path::{Path, PathBuf};

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::{BackupError, io_error};

/// The variables that stores look at begin with one of these.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// One file in a store.
pub struct Place {
    /// The store.
    pub store: Box<dyn ObjectStore>,
    /// The file in it.
    pub key: Key,
    /// Its path, if the store is a file system.
    file: Option<PathBuf>,
}

impl Place {
    /// Of a URL: `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `az://CONTAINER/NAME`, `file:///PATH`.
    pub fn open(location: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, BackupError> {
        let wrong = |why: &dyn std::fmt::Display| BackupError::Location(location.to_owned(), why.to_string());
        let url = Url::parse(location).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "s3" | "gs" | "az" | "file") {
            return Err(wrong(&"neither s3://, gs://, az:// nor file://"));
        }
        let options = variables.into_iter().filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        let options = options.map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, key) = object_store::parse_url_opts(&url, options)?;
        if key.as_ref().is_empty() {
            return Err(wrong(&"no file is named"));
        }
        let file = (url.scheme() == "file").then(|| Path::new("/").join(key.as_ref()));
        Ok(Self { store, key, file })
    }

    /// Deletes the file. One that is not there is no error.
    pub async fn delete(&self) -> Result<(), BackupError> {
        match self.store.delete(&self.key).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes sure that what was written survives a loss of power: object stores see to that, file systems do not.
    pub(super) fn sync(&self) -> Result<(), BackupError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        for path in file.ancestors().take_while(|path| path.parent().is_some()) {
            match File::open(path).and_then(|opened| opened.sync_all()) {
                // Further up belongs to somebody else.
                Err(error) if path != file && error.kind() == std::io::ErrorKind::PermissionDenied => break,
                other => other.map_err(io_error(path))?,
            }
        }
        Ok(())
    }
}
