//! Where backups are kept: a URL of an object store, or of a file system. Credentials and whatever else a store needs are
//! environment variables, under the names that are usual for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::{BackupError, io_error};

/// The variables that stores look at begin with one of these.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// One file in a store, or one folder.
#[derive(Clone)]
pub struct Place {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
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
        Ok(Self { store: store.into(), key, file })
    }

    /// What has this name in this folder.
    pub fn within(&self, name: &str) -> Self {
        self.at(self.key.clone().join(name))
    }

    /// What has the same name with this behind it.
    pub fn with(&self, suffix: &str) -> Result<Self, BackupError> {
        let key = Key::parse(format!("{}{suffix}", self.key)).map_err(object_store::Error::from)?;
        Ok(self.at(key))
    }

    /// The folder that it is in.
    pub fn folder(&self) -> Self {
        self.at(self.key.parent().unwrap_or_default())
    }

    fn at(&self, key: Key) -> Self {
        let file = self.file.as_ref().map(|_| Path::new("/").join(key.as_ref()));
        Self { store: Arc::clone(&self.store), key, file }
    }

    /// The names of the files in this folder.
    pub async fn names(&self) -> Result<Vec<String>, BackupError> {
        let listed = self.store.list_with_delimiter(Some(&self.key)).await?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// The whole file; nothing if there is none.
    pub async fn read(&self) -> Result<Option<Bytes>, BackupError> {
        match self.store.get(&self.key).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the whole file, so that it is there as a whole or as it was before.
    pub async fn write(&self, bytes: Bytes) -> Result<(), BackupError> {
        self.store.put(&self.key, bytes.into()).await?;
        self.sync()
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

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}
